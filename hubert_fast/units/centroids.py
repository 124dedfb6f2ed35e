"""Hold the centroids of frames with what is known about them, save and load them, and refuse frames of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..jobs import sinks
from .codebook import CentroidsError, Codebook, Projection, checked
from .frame_source import FrameSource

FORMAT = "hubert_fast centroids"
VERSION = "1"
SOURCE, TRAINING = "source.", "training."  # prefixes in the metadata


@dataclass(frozen=True, eq=False)
class Centroids:
    """The centroids of k-means: the unit of a frame is the row whose Euclidean distance to the frame is smallest.

    Attributes:
        values: The centroids, float32 `[K, C]`.
        source: The frames of which they were learnt; `None` if the file does not say.
        projection: A linear map that is applied to frames first; `None` without one.
        training: How they were learnt (clusters, frames, seed, algorithm, inertia per frame, versions), as text.

    Raises:
        CentroidsError: An array has another shape or dtype, or is not finite.
    """

    values: np.ndarray
    source: FrameSource | None = None
    projection: Projection | None = None
    training: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", checked(self.values, 2, "the centroids"))
        if self.projection is None:
            return
        weight = checked(self.projection.weight, 2, "the weights of the projection")
        bias = self.projection.bias
        bias = None if bias is None else checked(bias, 1, "the biases of the projection")
        if len(weight) != self.values.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
            biases = "" if bias is None else f" and biases of shape {list(bias.shape)}"
            raise CentroidsError(
                f"the projection must have {self.values.shape[1]} outputs, as the centroids have channels, but it has weights "
                f"of shape {list(weight.shape)}{biases}"
            )
        object.__setattr__(self, "projection", replace(self.projection, weight=weight, bias=bias))

    @property
    def clusters(self) -> int:
        """The number of centroids, K."""
        return len(self.values)

    @property
    def channels(self) -> int:
        """The number of channels that frames must have: those of the projection's input, if there is a projection."""
        return (self.values if self.projection is None else self.projection.weight).shape[1]

    def check(self, source: FrameSource | None, channels: int | None = None) -> str | None:
        """Check that these centroids fit frames.

        Args:
            source: Where the frames come from; `None` if that is unknown.
            channels: The number of channels of the frames, if known.

        Returns:
            A note for the user if the sources cannot be compared, because one of them is unknown; otherwise `None`.

        Raises:
            CentroidsError: The frames have another number of channels, or come from another model or layer, or were processed
                otherwise.
        """
        if channels is not None and channels != self.channels:
            learnt = "" if self.source is None else f" (they were learnt with {self.source.model}, layer {self.source.layer})"
            raise CentroidsError(
                f"the centroids are for frames of {self.channels} channels{learnt}, but these frames have {channels}: use the "
                f"model for which the centroids were made{self._and_projection()}"
            )
        if self.source is None:
            return "the file of the centroids does not name their model and layer, so it is not checked that they fit"
        if source is None:
            return (
                f"the source of the frames is unknown, so it is not checked that the centroids fit: they were learnt with "
                f"{self.source.model}, layer {self.source.layer}"
            )
        if differences := source.differences(self.source):
            raise CentroidsError(
                f"these centroids do not fit the frames: {'; '.join(differences)}: use the same settings as in learning, or "
                f"learn centroids for these frames"
            )
        return None

    def _and_projection(self) -> str:
        """Return advice on the projection of the frames, if they had one."""
        return "" if self.source is None or self.source.projection is None else ", and its final_proj (--project)"

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, from which `load` restores everything. A file of that name is replaced only when the new
        one is complete.

        Raises:
            OSError: The file cannot be written.
        """
        from safetensors.numpy import save

        tensors = {"centroids": self.values}
        if self.projection is not None:
            tensors["projection.weight"] = self.projection.weight
            if self.projection.bias is not None:
                tensors["projection.bias"] = self.projection.bias
        metadata = {"format": FORMAT, "version": VERSION}
        metadata |= {TRAINING + key: value for key, value in self.training.items()}
        if self.source is not None:
            metadata |= {SOURCE + key: value for key, value in self.source.to_metadata().items()}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sinks.replace(path, save(tensors, metadata=metadata), is_synced=True)

    @classmethod
    def load(cls, path: str | Path, speaker: str | None = None) -> Centroids:
        """Read centroids in any known format, which the file's content decides, not its name.

        The formats are those of this package, of scikit-learn through joblib or pickle (fairseq, textlesslib), of `torch.save`
        (hubert-soft, so-vits-svc), NumPy's `.npy` and `.npz`, safetensors, and faiss. No code in a file is run.

        Args:
            path: The file.
            speaker: The speaker, for a file with centroids of several speakers.

        Raises:
            CentroidsError: The file is missing, damaged or in another format, or holds no centroids or several sets of them.
        """
        from .centroid_readers import read_codebook

        try:
            codebook = read_codebook(Path(path), speaker)
            return cls._from(codebook)
        except CentroidsError as error:
            raise CentroidsError(f"{path} cannot be used as centroids: {error}") from None

    @classmethod
    def _from(cls, codebook: Codebook) -> Centroids:
        metadata = codebook.metadata
        if metadata.get("format") != FORMAT:
            return cls(codebook.values, None, codebook.projection, _without_prefix(metadata, TRAINING))
        if metadata.get("version") != VERSION:
            raise CentroidsError(
                f"expected version {VERSION} of the format, but it has version {metadata.get('version')}: update hubert_fast"
            )
        described = _without_prefix(metadata, SOURCE)
        try:
            source = FrameSource.from_metadata(described) if described else None
        except ValueError as error:
            raise CentroidsError(f"its metadata is damaged: {error}") from None
        return cls(codebook.values, source, codebook.projection, _without_prefix(metadata, TRAINING))


def _without_prefix(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
