"""Normalise waveforms and pad them to a batch, with the file of transformers' Wav2Vec2FeatureExtractor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .batch_feature import (
    MAX_LENGTH,
    BatchFeature,
    Padding,
    check_tensors,
    columns,
    converted,
    kind_of,
    on_host,
    one_array,
)
from .hub import CheckpointError, read_json, read_optional_json, write_json
from .pretrained_options import split_options

PREPROCESSOR_NAME = "preprocessor_config.json"
PROCESSOR_NAME = "processor_config.json"


@dataclass
class HubertFeatureExtractor:
    """Normalise waveforms and pad them to a batch, as `preprocessor_config.json` specifies.

    It takes the arguments of transformers' `Wav2Vec2FeatureExtractor` and returns its values. Samples are always float32, also
    those of integer and float16 waveforms, and must be finite.

    Args:
        feature_size: Always 1: a model takes one value per sample.
        sampling_rate: The sampling rate that the model expects, in Hz.
        padding_value: The value of padded samples.
        return_attention_mask: Return a mask by default, and ignore padding when normalising. Models with a group norm take
            none.
        do_normalize: Scale each waveform to zero mean and unit variance.
        padding_side: Always `"right"`: a model takes padding after the samples only.

    Raises:
        ValueError: A value has the wrong type, or is not supported.
    """

    feature_size: int = 1
    sampling_rate: int = 16000
    padding_value: float = 0.0
    return_attention_mask: bool = False
    do_normalize: bool = True
    padding_side: str = "right"

    _processor_class: ClassVar[str] = "Wav2Vec2Processor"  # transformers' pipelines read it

    def __post_init__(self) -> None:
        self.model_input_names = ["input_values", "attention_mask"]
        for field in fields(self):
            if problem := _problem(field.name, getattr(self, field.name)):
                raise ValueError(problem)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubertFeatureExtractor:
        """Read `preprocessor_config.json`, or the part of `processor_config.json` that replaces it in transformers 5.

        Args:
            pretrained_model_name_or_path: A folder, a repository of the Hugging Face hub, or a JSON file. A folder or
                repository without either file has the defaults.
            options: Arguments of the constructor, which replace values of the file; and `revision`, `cache_dir`, `token`,
                `local_files_only` and so on, as in `huggingface_hub`.

        Raises:
            CheckpointError: A file cannot be read, or a value in it is not supported.
            TypeError: An option is unknown.
        """
        (own,), hub = split_options(cls.__name__, options, [cls.__dataclass_fields__])
        name_or_path, source = pretrained_model_name_or_path, PREPROCESSOR_NAME
        if str(name_or_path).endswith(".json") and Path(name_or_path).is_file():
            values = read_json(name_or_path)
        else:
            values = read_optional_json(name_or_path, PREPROCESSOR_NAME, hub)
        if not values:
            values, source = read_optional_json(name_or_path, PROCESSOR_NAME, hub), PROCESSOR_NAME
        if isinstance(values.get("feature_extractor"), dict):
            values = values["feature_extractor"]
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values and name not in own}
        for name, value in known.items():
            if problem := _problem(name, value):
                raise CheckpointError(f"{source} of {name_or_path}: {problem}")
        return cls(**known, **own)

    def save_pretrained(self, save_directory: str | Path) -> list[str]:
        """Write `preprocessor_config.json` into a folder, which is created if it does not exist, and return its path."""
        path = Path(save_directory, PREPROCESSOR_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return [str(path)]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `preprocessor_config.json`."""
        names = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "processor_class": self._processor_class}
        return names | asdict(self)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[Any],
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Turn waveforms into a batch.

        With a mask and padding, each utterance is normalised over its own samples. Without a mask it is normalised over its
        whole padded row, as in transformers.

        Args:
            raw_speech: A waveform, `[S]`; several of equal length, `[B, S]`; or a sequence of waveforms of any lengths.
                Arrays, tensors and lists of numbers are accepted.
            padding: `True` or `"longest"` pads to the longest utterance, `"max_length"` to `max_length` samples, `False` or
                `"do_not_pad"` not at all.
            max_length: The length of `"max_length"`, and the limit of truncation, in samples.
            truncation: Cut waveforms to `max_length`, rounded up to a multiple of `pad_to_multiple_of`.
            pad_to_multiple_of: Round the padded length up to a multiple of this number of samples.
            return_attention_mask: Return a mask. Default: the attribute of the same name.
            return_tensors: `"pt"` or `"tf"` for tensors, `"np"` for arrays, `None` for a list with an array for each utterance.
            sampling_rate: The sampling rate of the waveforms, in Hz. It is checked if given.

        Returns:
            `input_values`, float32 `[B, S]`, and with a mask also `attention_mask`, int32 `[B, S]`. Without tensors, both are
            sequences of B arrays.

        Raises:
            ValueError: The sampling rate is not the model's, a waveform is not 1-D or has NaN or infinite samples, or rows of
                different lengths should become a tensor.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"this model takes {self.sampling_rate} Hz audio, but got {sampling_rate} Hz: resample it first")
        check_tensors(return_tensors)
        layout = self._layout(padding, max_length, truncation, pad_to_multiple_of)
        rows = self._truncated(self._check_all(_rows_of(raw_speech)), layout, truncation)
        with_mask = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        lengths = [len(row) for row in rows]
        padded = self._padded(rows, layout, self.padding_value, np.float32)
        if self.do_normalize:
            for row, length in zip(padded, lengths):
                _normalize_in_place(row[:length] if with_mask else row)
        if return_tensors is None:  # in transformers, too, only waveforms as they came are one array
            padded = list(padded) if self.do_normalize else one_array(padded)
        batch = BatchFeature(input_values=converted("input_values", padded, return_tensors))
        if with_mask:
            masks = self._padded([_ones(length) for length in lengths], layout, 0, np.int32)
            batch["attention_mask"] = list(masks) if return_tensors is None else converted("masks", masks, return_tensors)
        return batch

    def pad(
        self,
        processed_features: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pad waveforms that are already normalised to a batch, as a data collator does.

        Args:
            processed_features: A sequence of `{"input_values": waveform}`, or one such dictionary with a sequence of
                waveforms. An `attention_mask` beside them is padded, too.
            padding: See `__call__`. Here the default is to pad to the longest.
            max_length: See `__call__`.
            truncation: See `__call__`.
            pad_to_multiple_of: See `__call__`.
            return_attention_mask: See `__call__`.
            return_tensors: `"pt"`, `"tf"` or `"np"`. Default: tensors if the waveforms are tensors, else arrays.

        Raises:
            ValueError: There are other entries, which cannot be padded, or see `__call__`.
        """
        table = columns(processed_features, "input_values", ("input_values", "attention_mask"))
        check_tensors(return_tensors)
        values = table["input_values"]
        layout = self._layout(padding, max_length, truncation, pad_to_multiple_of)
        rows = self._check_all(values)
        kind = return_tensors or kind_of(values) or kind_of(values[0]) or "np"
        with_mask = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        masks = [_ones(len(row)) for row in rows] if with_mask else None
        if "attention_mask" in table:
            masks = [np.asarray(on_host(mask)).astype(np.int32, copy=False) for mask in table["attention_mask"]]
            if [len(mask) for mask in masks] != [len(row) for row in rows]:
                raise ValueError("each attention_mask must have the length of its input_values")
        rows = self._truncated(rows, layout, truncation)
        padded = self._padded(rows, layout, self.padding_value, np.float32)
        batch = BatchFeature(input_values=converted("input_values", padded, kind))
        if masks is not None:
            masks = self._truncated(masks, layout, truncation)
            batch["attention_mask"] = converted("masks", self._padded(masks, layout, 0, np.int32), kind)
        return batch

    @staticmethod
    def _layout(padding: bool | str, max_length: int | None, truncation: bool, pad_to_multiple_of: int | None) -> Padding:
        layout = Padding.of(padding, max_length, pad_to_multiple_of)
        if truncation not in (True, False, None):
            raise ValueError(f"truncation of waveforms must be True or False, but is {truncation!r}")
        if max_length is None and (truncation or layout.strategy == MAX_LENGTH):
            wanted = "truncation=True" if truncation else "padding='max_length'"
            raise ValueError(f"{wanted} needs max_length, the number of samples")
        return layout

    @staticmethod
    def _truncated(rows: list[np.ndarray], layout: Padding, truncation: bool) -> list[np.ndarray]:
        if not truncation or layout.max_length is None:
            return rows
        return [row[: layout.rounded(layout.max_length)] for row in rows]

    @staticmethod
    def _padded(rows: list[np.ndarray], layout: Padding, value: float, dtype: Any) -> np.ndarray | list[np.ndarray]:
        """Return padded rows: an array `[B, L]` if they have one length, else a list."""
        targets = layout.targets([len(row) for row in rows])
        padded: Any = [np.full(target, value, dtype) for target in targets] if len({*targets}) > 1 else None
        if padded is None:
            padded = np.full((len(rows), targets[0]), value, dtype)
        for out, row in zip(padded, rows):
            out[: len(row)] = row
        return padded

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
        row = np.asarray(on_host(waveform))
        if row.ndim != 1:
            raise ValueError(f"waveform {index} must be 1-D (mono), but has shape {list(row.shape)}")
        if not (np.issubdtype(row.dtype, np.floating) or np.issubdtype(row.dtype, np.integer)):
            raise ValueError(f"waveform {index} must hold numbers, but holds {row.dtype}")
        row = row.astype(np.float32, copy=False)
        if not np.isfinite(row).all():
            raise ValueError(f"waveform {index} has NaN or infinite samples")
        return row


def normalize(waveform: np.ndarray) -> np.ndarray:
    """Scale a waveform `[S]` to zero mean and unit variance. As in transformers, 1e-7 is added to the variance."""
    row = waveform.copy()
    _normalize_in_place(row)
    return row


def _normalize_in_place(row: np.ndarray) -> None:
    if len(row):
        mean, deviation = row.mean(), np.sqrt(row.var() + 1e-7)
        row -= mean
        row /= deviation


def _ones(length: int) -> np.ndarray:
    """Return the mask of a whole waveform, int32 `[S]`, which takes no memory."""
    return np.broadcast_to(np.int32(1), length)


def _rows_of(waveforms: Any) -> Iterable[Any]:
    """Return one waveform in a list, and several as they are."""
    if isinstance(waveforms, (str, bytes, Mapping)):
        hint = "pass its samples" if isinstance(waveforms, Mapping) else "hubert_fast.audio.load returns the samples of a file"
        raise ValueError(f"waveforms must be arrays, tensors or lists of samples, but are a {type(waveforms).__name__}: {hint}")
    if not hasattr(waveforms, "ndim"):
        return [waveforms] if len(waveforms) and np.isscalar(waveforms[0]) else waveforms
    if waveforms.ndim > 2:
        raise ValueError(f"waveforms must be [S] or [B, S] (mono), but have shape {list(waveforms.shape)}")
    return waveforms if waveforms.ndim == 2 else [waveforms]


def _problem(name: str, value: Any) -> str | None:
    """Return what is wrong with the value of a field; `None` if nothing is."""
    default = HubertFeatureExtractor.__dataclass_fields__[name].default
    if type(value) is not type(default) and not (name == "padding_value" and type(value) is int):
        return f"{name} must be {type(default).__name__}, but is {value!r}"
    if name in ("feature_size", "padding_side") and value != default:
        return f"{name} must be {default!r} for HuBERT models, but is {value!r}"
    return None
