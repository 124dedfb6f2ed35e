"""Between sound and model, and between model and text, in the file formats of transformers' Wav2Vec2Processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .hub import CheckpointError, read_optional_json, write_json
from .tokenizer import CTCTokenizer, CTCTokenizerOutput

PREPROCESSOR_NAME = "preprocessor_config.json"
PROCESSOR_NAME = "processor_config.json"


class BatchFeature(dict):
    """Model input, name to tensor: a dictionary whose entries are attributes too."""

    def __getattr__(self, name: str) -> torch.Tensor:
        if name in self:
            return self[name]
        raise AttributeError(f"this input has {', '.join(self)}, and no {name}")

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> BatchFeature:
        """Return it on ``device``, what is floating point in ``dtype``."""
        return BatchFeature({name: self._moved(value, device, dtype) for name, value in self.items()})

    @staticmethod
    def _moved(value: Any, device: str | torch.device | None, dtype: torch.dtype | None) -> Any:
        if not isinstance(value, torch.Tensor):  # labels that are not padded yet
            return value
        return value.to(device, dtype if value.is_floating_point() else None)


@dataclass
class FeatureExtractor:
    """Normalises waveforms and pads them to one batch, as ``preprocessor_config.json`` says."""

    sampling_rate: int = 16000
    do_normalize: bool = True
    return_attention_mask: bool = False
    padding_value: float = 0.0

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> FeatureExtractor:
        """Read ``preprocessor_config.json``, or the part of transformers 5's ``processor_config.json`` that replaces it.

        A checkpoint with neither gets the defaults.
        """
        values = read_optional_json(name_or_path, PREPROCESSOR_NAME, hub_options)
        if not values:
            values = read_optional_json(name_or_path, PROCESSOR_NAME, hub_options).get("feature_extractor", {})
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name, value in known.items():
            if type(value) is not type(getattr(cls, name)) and not (name == "padding_value" and type(value) is int):
                raise CheckpointError(
                    f"{name} in {PREPROCESSOR_NAME} of {name_or_path} must be {type(getattr(cls, name)).__name__}, is {value!r}"
                )
        return cls(**known)

    def save_pretrained(self, folder: str | Path) -> None:
        values = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right"}
        write_json(Path(folder, PREPROCESSOR_NAME), values | asdict(self))

    def __call__(
        self,
        waveforms: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Return ``input_values``, float32 ``[B, S]``, and ``attention_mask``, int64 ``[B, S]``, when it is configured.

        waveforms: one 1-D array or a sequence of them, any lengths, in Hz ``sampling_rate`` (checked when given).
        With a mask each utterance is normalised over its own samples; without one over its whole padded row, as
        transformers does. ``padding`` and ``return_tensors`` are there for code written for transformers: batches are always
        padded to their longest, and tensors are PyTorch's.

        Raises ``ValueError`` for another sampling rate, another shape, or NaN and infinite samples.
        """
        _check_padding(padding, return_tensors)
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"this model takes {self.sampling_rate} Hz audio, but got {sampling_rate} Hz: resample it first")
        is_one = waveforms.ndim == 1 if hasattr(waveforms, "ndim") else len(waveforms) and np.isscalar(waveforms[0])
        if is_one:
            waveforms = [waveforms]
        rows = self._checked(waveforms)
        if self.do_normalize and self.return_attention_mask:
            rows = [normalize(row) for row in rows]
        batch = self._padded(rows)
        if self.do_normalize and not self.return_attention_mask:
            for row in batch["input_values"].numpy():
                row[:] = normalize(row)
        return batch

    def pad(self, features: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> BatchFeature:
        """Pad waveforms that are normalised already, ``{"input_values": waveform}`` each, to one batch, as a collator does."""
        rows = features["input_values"] if isinstance(features, Mapping) else [row["input_values"] for row in features]
        return self._padded(self._checked(rows))

    def _padded(self, rows: list[np.ndarray]) -> BatchFeature:
        lengths = torch.tensor([len(row) for row in rows])
        padded = np.full((len(rows), int(lengths.max())), self.padding_value, dtype=np.float32)
        for out, row in zip(padded, rows):
            out[: len(row)] = row
        batch = BatchFeature(input_values=torch.from_numpy(padded))
        if self.return_attention_mask:
            batch["attention_mask"] = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return batch

    def _checked(self, waveforms: Iterable[Any]) -> list[np.ndarray]:
        rows = [self.checked(waveform, index) for index, waveform in enumerate(waveforms)]
        if not rows:
            raise ValueError("expected at least one waveform, but got none")
        return rows

    @staticmethod
    def checked(waveform: Any, index: int = 0) -> np.ndarray:
        row = np.asarray(waveform)
        if row.ndim != 1:
            raise ValueError(f"waveform {index} must be 1-D (mono), but has shape {list(row.shape)}")
        if not (np.issubdtype(row.dtype, np.floating) or np.issubdtype(row.dtype, np.integer)):
            raise ValueError(f"waveform {index} must hold numbers, but holds {row.dtype}")
        row = row.astype(np.float32, copy=False)
        if not np.isfinite(row).all():
            raise ValueError(f"waveform {index} has NaN or infinite samples")
        return row


def _check_padding(padding: bool | str, return_tensors: str) -> None:
    if padding not in (True, "longest") or return_tensors != "pt":
        raise ValueError(f"expected padding=True and return_tensors='pt', but got {padding!r} and {return_tensors!r}")


def normalize(waveform: np.ndarray) -> np.ndarray:
    """Scale ``[S]`` to zero mean and unit variance, with transformers' 1e-7 below the root."""
    if not len(waveform):
        return waveform
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)


class HubertProcessor:
    """A feature extractor and a CTC tokenizer: waveforms to model input, model output to text."""

    def __init__(self, feature_extractor: FeatureExtractor, tokenizer: CTCTokenizer):
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> HubertProcessor:
        """Read both from a folder or hub repository. Raises ``CheckpointError`` when there is no ``vocab.json``."""
        return cls(
            FeatureExtractor.from_pretrained(name_or_path, **hub_options),
            CTCTokenizer.from_pretrained(name_or_path, **hub_options),
        )

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> HubertProcessor:
        """Make one for a new model: token ``i`` of the list has id ``i``, utterances are normalised and masked."""
        vocabulary = {token: id for id, token in enumerate(tokens)}
        return cls(FeatureExtractor(return_attention_mask=True), CTCTokenizer(vocabulary))

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.feature_extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def __call__(
        self,
        waveforms: np.ndarray | Sequence[np.ndarray] | None = None,
        sampling_rate: int | None = None,
        *,
        text: str | Sequence[str] | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Prepare waveforms for a model (see :meth:`FeatureExtractor.__call__`), text for training, or both.

        text: becomes ``input_ids`` (see :meth:`CTCTokenizer.__call__`), or ``labels`` beside waveforms.

        Raises ``ValueError`` when there is neither.
        """
        if waveforms is None and text is None:
            raise ValueError("expected waveforms, text or both, but got neither")
        if waveforms is None and options:
            raise ValueError(f"text alone takes no options, but got {', '.join(options)}; pad(labels=...) makes tensors")
        if waveforms is None:
            return BatchFeature(self.tokenizer(text))
        batch = self.feature_extractor(waveforms, sampling_rate, **options)
        if text is not None:
            batch["labels"] = self.tokenizer(text)["input_ids"]
        return batch

    def pad(
        self,
        input_features: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        labels: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Pad features, label sequences or both to one batch, as a data collator does.

        input_features: ``{"input_values": waveform}`` each. labels: ``{"input_ids": ids}`` each. With both, the padded ids are
            ``labels`` of the batch, and their padding is ``pad_token_id``: replace it by -100 where ``attention_mask`` is 0.
        """
        _check_padding(padding, return_tensors)
        if input_features is None and labels is None:
            raise ValueError("expected input_features, labels or both, but got neither")
        if input_features is None:
            return BatchFeature(self.tokenizer.pad(labels))
        batch = self.feature_extractor.pad(input_features)
        if labels is not None:
            batch["labels"] = self.tokenizer.pad(labels)["input_ids"]
        return batch

    def decode(self, frame_ids: Iterable[int], skip_special_tokens: bool = False, **options: Any) -> str | CTCTokenizerOutput:
        """See :meth:`CTCTokenizer.decode`."""
        return self.tokenizer.decode(frame_ids, skip_special_tokens, **options)

    def batch_decode(
        self, frame_ids: Iterable[Iterable[int]], skip_special_tokens: bool = False, **options: Any
    ) -> list[str] | CTCTokenizerOutput:
        """See :meth:`CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(frame_ids, skip_special_tokens, **options)
