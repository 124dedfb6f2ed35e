"""Prepare waveforms for a model, and turn its output into text, in the file formats of transformers' Wav2Vec2Processor."""

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
    """The input of a model: a dictionary from names to tensors whose entries are also attributes."""

    def __getattr__(self, name: str) -> torch.Tensor:
        if name in self:
            return self[name]
        raise AttributeError(f"this input has {', '.join(self)}, but no {name}")

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> BatchFeature:
        """Return a copy on `device`, with floating-point tensors in `dtype`."""
        return BatchFeature({name: self._move(value, device, dtype) for name, value in self.items()})

    @staticmethod
    def _move(value: Any, device: str | torch.device | None, dtype: torch.dtype | None) -> Any:
        if not isinstance(value, torch.Tensor):  # labels that have not been padded
            return value
        return value.to(device, dtype if value.is_floating_point() else None)


@dataclass
class FeatureExtractor:
    """Normalise waveforms and pad them to a batch, as `preprocessor_config.json` specifies.

    Args:
        sampling_rate: The sampling rate that the model expects, in Hz.
        do_normalize: Scale each waveform to zero mean and unit variance.
        return_attention_mask: Return a mask, and ignore padding when normalising. Models with a group norm take none.
        padding_value: The value of padded samples.
    """

    sampling_rate: int = 16000
    do_normalize: bool = True
    return_attention_mask: bool = False
    padding_value: float = 0.0

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> FeatureExtractor:
        """Read `preprocessor_config.json`, or the part of `processor_config.json` that replaces it in transformers 5.

        Args:
            name_or_path: A folder, or a repository of the Hugging Face hub. Without either file the defaults apply.
            hub_options: `revision`, `cache_dir`, `token` and `local_files_only` of `huggingface_hub`.

        Raises:
            CheckpointError: A file cannot be read, or a field has the wrong type.
        """
        values = read_optional_json(name_or_path, PREPROCESSOR_NAME, hub_options)
        if not values:
            values = read_optional_json(name_or_path, PROCESSOR_NAME, hub_options).get("feature_extractor", {})
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name, value in known.items():
            if type(value) is not type(getattr(cls, name)) and not (name == "padding_value" and type(value) is int):
                raise CheckpointError(
                    f"{name} in {PREPROCESSOR_NAME} of {name_or_path} must be {type(getattr(cls, name)).__name__}, but is "
                    f"{value!r}"
                )
        return cls(**known)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into an existing folder."""
        values = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right"}
        write_json(Path(folder, PREPROCESSOR_NAME), values | asdict(self))

    def __call__(
        self,
        waveforms: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Turn waveforms into a batch.

        With `return_attention_mask` each utterance is normalised over its own samples; without it over its whole padded row,
        as in transformers.

        Args:
            waveforms: A 1-D array, or a sequence of 1-D arrays of any lengths.
            sampling_rate: The sampling rate of the waveforms, in Hz. It is checked if given.
            padding: `True` or `"longest"`: batches are always padded to their longest utterance.
            return_tensors: `"pt"`: tensors are always PyTorch's.

        Returns:
            `input_values`, float32 `[B, S]`, and with `return_attention_mask` also `attention_mask`, int64 `[B, S]`.

        Raises:
            ValueError: The sampling rate is not the model's, or a waveform is not 1-D or has NaN or infinite samples.
        """
        _check_padding(padding, return_tensors)
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"this model takes {self.sampling_rate} Hz audio, but got {sampling_rate} Hz: resample it first")
        is_single = waveforms.ndim == 1 if hasattr(waveforms, "ndim") else len(waveforms) and np.isscalar(waveforms[0])
        rows = self._check_all([waveforms] if is_single else waveforms)
        if self.do_normalize and self.return_attention_mask:
            rows = [normalize(row) for row in rows]
        batch = self._pad(rows)
        if self.do_normalize and not self.return_attention_mask:
            for row in batch["input_values"].numpy():
                row[:] = normalize(row)
        return batch

    def pad(self, features: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> BatchFeature:
        """Pad waveforms that are already normalised to a batch, as a data collator does.

        Args:
            features: A sequence of `{"input_values": waveform}`, or one such dictionary with a list of waveforms.
        """
        rows = features["input_values"] if isinstance(features, Mapping) else [row["input_values"] for row in features]
        return self._pad(self._check_all(rows))

    def _pad(self, rows: list[np.ndarray]) -> BatchFeature:
        lengths = torch.tensor([len(row) for row in rows])
        padded = np.full((len(rows), int(lengths.max())), self.padding_value, dtype=np.float32)
        for out, row in zip(padded, rows):
            out[: len(row)] = row
        batch = BatchFeature(input_values=torch.from_numpy(padded))
        if self.return_attention_mask:
            batch["attention_mask"] = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return batch

    def _check_all(self, waveforms: Iterable[Any]) -> list[np.ndarray]:
        rows = [self.checked(waveform, index) for index, waveform in enumerate(waveforms)]
        if not rows:
            raise ValueError("expected at least one waveform, but got none")
        return rows

    @staticmethod
    def checked(waveform: Any, index: int = 0) -> np.ndarray:
        """Return a waveform as float32 `[S]`. Raises `ValueError` if it is not 1-D or has samples that are not finite numbers.

        Args:
            waveform: The waveform.
            index: Its position in the batch, for messages.
        """
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
    """Scale a waveform `[S]` to zero mean and unit variance. As in transformers, 1e-7 is added to the variance."""
    if not len(waveform):
        return waveform
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)


class HubertProcessor:
    """A feature extractor and a CTC tokenizer: from waveforms to the input of a model, and from its output to text.

    Args:
        feature_extractor: Normalises and pads waveforms.
        tokenizer: Converts between token ids and text.
    """

    def __init__(self, feature_extractor: FeatureExtractor, tokenizer: CTCTokenizer):
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> HubertProcessor:
        """Load a feature extractor and a tokenizer.

        Args:
            name_or_path: A folder, or a repository of the Hugging Face hub.
            hub_options: `revision`, `cache_dir`, `token` and `local_files_only` of `huggingface_hub`.

        Raises:
            CheckpointError: There is no `vocab.json`, or a file cannot be read.
        """
        return cls(
            FeatureExtractor.from_pretrained(name_or_path, **hub_options),
            CTCTokenizer.from_pretrained(name_or_path, **hub_options),
        )

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> HubertProcessor:
        """Create a processor for a new model, which normalises waveforms and returns an attention mask.

        Args:
            tokens: The vocabulary: token `i` has id `i`.
        """
        vocabulary = {token: id for id, token in enumerate(tokens)}
        return cls(FeatureExtractor(return_attention_mask=True), CTCTokenizer(vocabulary))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the feature extractor and the tokenizer into `folder`, which is created if it does not exist."""
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
        """Prepare waveforms for a model, text for training, or both.

        Args:
            waveforms: See `FeatureExtractor.__call__`.
            sampling_rate: See `FeatureExtractor.__call__`.
            text: See `CTCTokenizer.__call__`. Becomes `input_ids`, or `labels` if waveforms are given too.
            options: Further arguments of `FeatureExtractor.__call__`.

        Raises:
            ValueError: Neither waveforms nor text are given, or options are given with text alone.
        """
        if waveforms is None and text is None:
            raise ValueError("expected waveforms, text or both, but got neither")
        if waveforms is None and options:
            raise ValueError(f"text alone takes no options, but got {', '.join(options)}; pad(labels=...) makes tensors")
        if waveforms is None:
            assert text is not None
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
        """Pad features, label sequences or both to a batch, as a data collator does.

        Args:
            input_features: See `FeatureExtractor.pad`.
            labels: See `CTCTokenizer.pad`. If features are given too, the padded ids become `labels` of the batch. They are
                padded with `pad_token_id`: replace it by -100 before computing a loss.
            padding: `True` or `"longest"`: batches are always padded to their longest sequence.
            return_tensors: `"pt"`: tensors are always PyTorch's.
        """
        _check_padding(padding, return_tensors)
        if input_features is None and labels is None:
            raise ValueError("expected input_features, labels or both, but got neither")
        if input_features is None:
            assert labels is not None
            return BatchFeature(self.tokenizer.pad(labels))
        batch = self.feature_extractor.pad(input_features)
        if labels is not None:
            batch["labels"] = self.tokenizer.pad(labels)["input_ids"]
        return batch

    def decode(self, frame_ids: Iterable[int], skip_special_tokens: bool = False, **options: Any) -> str | CTCTokenizerOutput:
        """Turn the most probable id of each frame into text. See `CTCTokenizer.decode`."""
        return self.tokenizer.decode(frame_ids, skip_special_tokens, **options)

    def batch_decode(
        self,
        frame_ids: torch.Tensor | np.ndarray | Sequence[Iterable[int]],
        skip_special_tokens: bool = False,
        **options: Any,
    ) -> list[str] | CTCTokenizerOutput:
        """Turn the most probable ids of a batch into texts. See `CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(frame_ids, skip_special_tokens, **options)
