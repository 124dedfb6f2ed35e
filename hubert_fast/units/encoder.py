"""Compute the frames of some layers of a HuBERT, or their units, for any number of audio files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import demo
from ..checkpoints import Source, load
from ..config import HubertConfig
from ..devices import resolve_devices, resolve_dtype
from ..feature_extractor import HubertFeatureExtractor
from ..jobs.cutting import join_at_middles
from ..jobs.options import Options
from ..jobs.pipeline import Ticket
from ..jobs.runner import NOT_FINITE, Runner
from ..jobs.utterances import Utterance
from ..modeling import HubertModel
from ..packed import PackedAudio
from .centroids import Centroids
from .checkpoint import check_complete, final_projection
from .codebook import Projection, digest
from .encodings import Encoding, EncodingResult, merged
from .frame_model import FRAME_DTYPES, FrameModel
from .frame_source import FrameSource, fingerprint

POOLS = ("frames", "mean")
DEMO = "demo"  # name of the bundled model, whose folder differs from machine to machine
TOO_LARGE = "some values are beyond float16, whose largest number is 65504: store frames as float32"


class Encoder(Runner):
    """A HuBERT that turns audio into the hidden states of some of its layers, or into the k-means units of one of them.

    Utterances run in packed batches: none is padded, and none affects the result of another. Layers above the highest one that
    is asked for are not computed.

    Args:
        model: The encoder, on the first of the devices.
        feature_extractor: Says how waveforms are prepared for the model.
        layers: The layers whose states are computed: the state after the 9th block is that of layer 9, 0 is the input of the
            first block, and -1 the last layer. By default the layer of the centroids.
        final_norm: Whether states are taken after the final norm of a pre-LN model; `None` does so for the last layer alone.
        frame_dtype: `"float32"` or `"float16"`, the dtype of returned frames.
        pool: `"frames"`, or `"mean"` for the mean over all frames of an utterance.
        projection: A linear map to apply to the states, such as the `final_proj` of pre-training.
        centroids: The centroids of k-means. With them, units are computed in place of frames.
        merge: Whether runs of equal units are merged into one unit and its duration.
        devices: The devices to run on, either the CPU or several GPUs; by default the model's own.
        name: The model's name or folder, for files and messages.

    Attributes:
        sources: Where the frames of each layer come from.
        note: Why it could not be checked that the centroids fit the model; `None` if it was checked.

    Raises:
        CentroidsError: If the centroids are for frames of another model, layer or normalisation.
        ValueError: If there is no such layer, or options contradict each other.
    """

    FOR_MANY = "encode_many"

    def __init__(
        self,
        model: HubertModel,
        feature_extractor: HubertFeatureExtractor,
        layers: Sequence[int] | None = None,
        *,
        final_norm: bool | None = None,
        frame_dtype: str = "float32",
        pool: str = "frames",
        projection: Projection | None = None,
        centroids: Centroids | None = None,
        merge: bool = False,
        devices: Sequence[torch.device] | None = None,
        name: str = "",
    ):
        if centroids is not None and centroids.source is not None:
            layers = [centroids.source.layer] if layers is None else layers
            final_norm = centroids.source.final_norm if final_norm is None else final_norm
        if layers is None:
            raise ValueError(
                "layers must name the layers to encode, such as [9]"
                + ("" if centroids is None else ": the file of the centroids does not name theirs")
            )
        if frame_dtype not in FRAME_DTYPES:
            raise ValueError(f"the dtype of frames must be {' or '.join(FRAME_DTYPES)}, but is {frame_dtype!r}")
        if pool not in POOLS:
            raise ValueError(f"pool must be {' or '.join(POOLS)}, but is {pool!r}")
        if centroids is not None and (len(layers) != 1 or pool != "frames"):
            raise ValueError(f"units are computed from the frames of one layer, but layers are {[*layers]} and pool is {pool}")
        if merge and centroids is None:
            raise ValueError("merge applies to units, which need centroids")
        if projection is not None and projection.weight.shape[1] != model.config.hidden_size:
            raise ValueError(
                f"the projection takes {projection.weight.shape[1]} channels, but the model has {model.config.hidden_size}"
            )
        frames = FrameModel(model.eval(), layers, final_norm, frame_dtype, projection, centroids)
        super().__init__(frames.to(model.device), feature_extractor, devices)
        self.layers, self.frame_dtype, self.pool, self.merge = frames.layers, frame_dtype, pool, merge
        self.projection, self.centroids = projection, centroids
        normed = model.encoder.select(None, layers, final_norm).normed
        self.sources = tuple(
            FrameSource(
                name, fingerprint(model, layer), layer, layer in normed, feature_extractor.do_normalize, _name(projection)
            )
            for layer in frames.layers
        )
        self.note = None if centroids is None else centroids.check(self.sources[0], self.channels)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        layers: Sequence[int] | None = None,
        final_norm: bool | None = None,
        normalize: bool | None = None,
        frame_dtype: str = "float32",
        pool: str = "frames",
        project: bool = False,
        kmeans: str | Path | Centroids | None = None,
        merge: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        **hub_options: Any,
    ) -> Encoder:
        """Load a HuBERT, with or without a head, from a checkpoint folder or a Hugging Face hub repository.

        Args:
            name_or_path: Folder, or name on the hub.
            layers, final_norm, frame_dtype, pool, merge: See the class.
            normalize: Whether waveforms are scaled to zero mean and unit variance; `None` does what the file of centroids
                says, or else the checkpoint's `preprocessor_config.json`.
            project: Whether to apply the checkpoint's `final_proj` to the states, as is done if the file of centroids says so.
            kmeans: The centroids, or a file that `Centroids.load` reads.
            device: `"auto"` (CUDA if available), `"cpu"`, `"cuda"`, `"cuda:1"`, or several GPUs as `"cuda:0,1"`.
            dtype: `"auto"` (see `hubert_fast.devices.resolve_dtype`), `"float32"`, `"bfloat16"` or `"float16"`.
            hub_options: Passed on to the hub: `revision`, `token`, `cache_dir` and others.

        Raises:
            CheckpointError: If the checkpoint cannot be read, lacks weights, or has no `final_proj` although `project` is set.
            CentroidsError: If the centroids cannot be read, or are for frames of another model, layer or normalisation.
            ValueError: If the device or dtype is unavailable, there is no such layer, or options contradict each other.
        """
        devices = resolve_devices(device)
        number_format = resolve_dtype(dtype, devices[0])
        centroids = kmeans if kmeans is None or isinstance(kmeans, Centroids) else Centroids.load(kmeans)
        # small files first, so that errors in them show before the weights are downloaded
        config = HubertConfig.from_pretrained(name_or_path, **hub_options)
        feature_extractor = HubertFeatureExtractor.from_pretrained(name_or_path, **hub_options)
        learnt = None if centroids is None else centroids.source
        if learnt is not None:
            normalize = learnt.normalize if normalize is None else normalize
            project = project or learnt.projection is not None
        if normalize is not None:
            feature_extractor.do_normalize = normalize
        source = Source.of(name_or_path, hub_options=hub_options)
        state = source.read()
        model, info = load(lambda: HubertModel(config), Source(source.name, lambda: state), number_format)
        check_complete(name_or_path, model, info)
        return cls(
            model.to(devices[0]),
            feature_extractor,
            layers,
            final_norm=final_norm,
            frame_dtype=frame_dtype,
            pool=pool,
            projection=final_projection(name_or_path, state) if project else None,
            centroids=centroids,
            merge=merge,
            devices=devices,
            name=_lasting_name(name_or_path),
        )

    @staticmethod
    def compute(model: FrameModel, audio: PackedAudio) -> tuple[torch.Tensor, ...]:
        """Return the frames of each layer, or units and whether frames are finite: see `FrameModel.forward`."""
        return model(audio)

    @property
    def channels(self) -> int:
        """The number of channels of frames."""
        width: int = self.model.config.hidden_size
        return width if self.projection is None else len(self.projection.weight)

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        hop: int = self.model.config.inputs_to_logits_ratio
        return hop / self.sample_rate_hz

    def identity(self) -> dict[str, Any]:
        """Return what determines the results: the model up to its highest layer, and what is made of its frames."""
        deepest = max(self.sources, key=lambda source: source.layer)
        units = None if self.centroids is None else digest(self.centroids.values)
        return {
            "model": deepest.fingerprint,
            "layers": [*self.layers],
            "final norm": [source.final_norm for source in self.sources],
            "normalized": deepest.normalize,
            "projection": deepest.projection,
            "frames": self.frame_dtype if units is None else None,
            "pool": self.pool,
            "k-means": units,
            "merged": self.merge,
        }

    def encode(self, waveform: np.ndarray) -> Encoding:
        """Encode one waveform, which runs as a single chunk.

        Args:
            waveform: Mono samples `[S]` at `sample_rate_hz`.

        Raises:
            ValueError: If the waveform is not 1-D, is too short for one frame (400 samples), or has NaN or infinite samples.
            RuntimeError: If the model's outputs are not finite.
        """
        arrays = self.run_waveform(waveform)
        if problem := self._problem(arrays):
            raise RuntimeError(problem)
        return self._encoding(arrays, len(waveform) / self.sample_rate_hz)

    def encode_file(self, path: str | Path, **options: Any) -> Encoding:
        """Decode, mix down, resample and encode one audio file.

        Args:
            path: A file, or a URL that fsspec can open.
            options: Fields of `Options`; `channels` must be `"mix"`, since one encoding is returned.

        Raises:
            AudioError: If the file cannot be decoded or encoded.
            ValueError: If options are invalid.
        """
        encoding: Encoding = self.result_of_file(path, options).encodings[0]
        return encoding

    def encode_many(self, inputs: Iterable[Utterance | str | Path], **options: Any) -> Iterator[EncodingResult]:
        """Encode any number of files; yield an `EncodingResult` for each as it is finished.

        A file that cannot be encoded yields a result with an `error`.

        Args:
            inputs: `Utterance` objects, or anything that `Inputs` accepts: files, folders, patterns, lists. They are read
                as results are consumed, so memory does not grow with their number.
            options: Fields of `Options`.

        Raises:
            ValueError: If options are invalid.
            ManifestError: If a list cannot be read at all.
            RuntimeError: If the device fails.
        """
        return self.run(inputs, Options(**options)).results()

    def results_of(self, tickets: Sequence[Ticket]) -> list[EncodingResult]:
        """Join the pieces of each completed ticket and return its result."""
        return [self._result(ticket) for ticket in tickets]

    def _result(self, ticket: Ticket) -> EncodingResult:
        encodings, error, seconds, frames = [], ticket.error, ticket.samples / self.sample_rate_hz, 0
        for pieces in () if error else ticket.channels:
            arrays = join_at_middles(sorted(pieces, key=lambda piece: piece[0]))
            if problem := self._problem(arrays):
                error = f"{ticket.utterance.audio}: {problem}"
                break
            encodings.append(self._encoding(arrays, seconds))
            frames += len(arrays[0])
        notes = tuple(dict.fromkeys(ticket.notes))
        if error:
            return EncodingResult(ticket.utterance, (), error, notes)
        return EncodingResult(ticket.utterance, tuple(encodings), None, notes, frames)

    def _problem(self, arrays: Sequence[np.ndarray]) -> str | None:
        """Return why the arrays that the model returned cannot be used, `None` if they can."""
        if self.centroids is not None:
            return None if arrays[1].all() else NOT_FINITE
        if all(np.isfinite(array).all() for array in arrays):
            return None
        is_overflow = self.frame_dtype == "float16" and not any(np.isnan(array).any() for array in arrays)
        return TOO_LARGE if is_overflow else NOT_FINITE

    def _encoding(self, arrays: Sequence[np.ndarray], seconds: float) -> Encoding:
        if self.centroids is not None:
            units, durations = merged(arrays[0]) if self.merge else (arrays[0], None)
            return Encoding(seconds, units=units, durations=durations)
        if self.pool == "mean":
            arrays = [array.mean(axis=0, keepdims=True, dtype=np.float64).astype(array.dtype) for array in arrays]
        return Encoding(seconds, dict(zip(self.layers, arrays)))


def _name(projection: Projection | None) -> str | None:
    if projection is None:
        return None
    return f"final_proj {digest(projection.weight, *([] if projection.bias is None else [projection.bias]))}"


def _lasting_name(model: str | Path) -> str:
    """Return a name by which a model is found from any working folder."""
    if Path(model) == demo.MODEL:
        return DEMO
    return str(Path(model).absolute()) if os.path.isdir(model) else str(model)
