"""Between sound and model, and between model and text, in the file formats of transformers' Wav2Vec2Processor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ctc import collapse
from .hub import CheckpointError, FileAbsentError, read_json, resolve_file

PREPROCESSOR_NAME = "preprocessor_config.json"
PROCESSOR_NAME = "processor_config.json"
VOCABULARY_NAME = "vocab.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_TOKENS_NAME = "added_tokens.json"


def _read_optional(name_or_path: str | Path, filename: str, hub_options: dict) -> dict[str, Any]:
    try:
        return read_json(resolve_file(name_or_path, filename, **hub_options))
    except FileAbsentError:
        return {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class BatchFeature(dict):
    """Model input, name to tensor: a dictionary whose entries are attributes too."""

    def __getattr__(self, name: str) -> torch.Tensor:
        if name in self:
            return self[name]
        raise AttributeError(f"this input has {', '.join(self)}, and no {name}")

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> BatchFeature:
        """Return it on ``device``, what is floating point in ``dtype``."""
        return BatchFeature(
            {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in self.items()}
        )


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
        values = _read_optional(name_or_path, PREPROCESSOR_NAME, hub_options)
        if not values:
            values = _read_optional(name_or_path, PROCESSOR_NAME, hub_options).get("feature_extractor", {})
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name, value in known.items():
            if type(value) is not type(getattr(cls, name)) and not (name == "padding_value" and type(value) is int):
                raise CheckpointError(
                    f"{name} in {PREPROCESSOR_NAME} of {name_or_path} must be {type(getattr(cls, name)).__name__}, is {value!r}"
                )
        return cls(**known)

    def save_pretrained(self, folder: str | Path) -> None:
        values = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right"}
        _write_json(Path(folder, PREPROCESSOR_NAME), values | asdict(self))

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
        if padding not in (True, "longest") or return_tensors != "pt":
            raise ValueError(f"expected padding=True and return_tensors='pt', but got {padding!r} and {return_tensors!r}")
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"this model takes {self.sampling_rate} Hz audio, but got {sampling_rate} Hz: resample it first")
        is_one = waveforms.ndim == 1 if hasattr(waveforms, "ndim") else len(waveforms) and np.isscalar(waveforms[0])
        if is_one:
            waveforms = [waveforms]
        rows = [self._checked(waveform, index) for index, waveform in enumerate(waveforms)]
        if not rows:
            raise ValueError("expected at least one waveform, but got none")
        lengths = [len(row) for row in rows]
        padded = np.full((len(rows), max(lengths)), self.padding_value, dtype=np.float32)
        for out, row in zip(padded, rows):
            out[: len(row)] = row
            if self.do_normalize:
                part = out[: len(row)] if self.return_attention_mask else out
                part[:] = normalize(part)
        batch = BatchFeature(input_values=torch.from_numpy(padded))
        if self.return_attention_mask:
            mask = torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]
            batch["attention_mask"] = mask.long()
        return batch

    @staticmethod
    def _checked(waveform: Any, index: int) -> np.ndarray:
        row = np.asarray(waveform)
        if row.ndim != 1:
            raise ValueError(f"waveform {index} must be 1-D (mono), but has shape {list(row.shape)}")
        if not (np.issubdtype(row.dtype, np.floating) or np.issubdtype(row.dtype, np.integer)):
            raise ValueError(f"waveform {index} must hold numbers, but holds {row.dtype}")
        row = row.astype(np.float32, copy=False)
        if not np.isfinite(row).all():
            raise ValueError(f"waveform {index} has NaN or infinite samples")
        return row


def normalize(waveform: np.ndarray) -> np.ndarray:
    """Scale ``[S]`` to zero mean and unit variance, with transformers' 1e-7 below the root."""
    if not len(waveform):
        return waveform
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)


@dataclass
class CTCTokenizer:
    """A CTC vocabulary: token ids to text.

    vocabulary: token to id. The word delimiter is written as ``replace_word_delimiter_char``.
    """

    vocabulary: dict[str, int]
    pad_token: str = "<pad>"
    unk_token: str = "<unk>"
    bos_token: str = "<s>"
    eos_token: str = "</s>"
    word_delimiter_token: str = "|"
    replace_word_delimiter_char: str = " "
    do_lower_case: bool = False
    tokens: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self):
        for token, id in self.vocabulary.items():
            if type(id) is not int:
                raise ValueError(f"the vocabulary must map tokens to whole numbers, but maps {token!r} to {id!r}")
        self.tokens = {id: token for token, id in self.vocabulary.items()}
        if self.pad_token not in self.vocabulary:
            raise ValueError(f"the vocabulary lacks the pad token {self.pad_token!r}, which is CTC's blank")

    @property
    def pad_token_id(self) -> int:
        """The blank."""
        return self.vocabulary[self.pad_token]

    @property
    def special_ids(self) -> set[int]:
        names = (self.pad_token, self.unk_token, self.bos_token, self.eos_token)
        return {self.vocabulary[name] for name in names if name in self.vocabulary}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> CTCTokenizer:
        """Read ``vocab.json`` and, where there are any, the tokenizer configuration, special and added tokens."""
        vocabulary = read_json(resolve_file(name_or_path, VOCABULARY_NAME, **hub_options))
        special = _read_optional(name_or_path, SPECIAL_TOKENS_NAME, hub_options)
        config = special | _read_optional(name_or_path, TOKENIZER_CONFIG_NAME, hub_options)
        if any(isinstance(entry, dict) for entry in vocabulary.values()):  # MMS: one vocabulary per language
            language = config.get("target_lang")
            if language not in vocabulary:
                raise CheckpointError(
                    f"{VOCABULARY_NAME} of {name_or_path} has a vocabulary per language ({', '.join(vocabulary)}), "
                    f"and target_lang in {TOKENIZER_CONFIG_NAME} is {language!r}"
                )
            vocabulary = vocabulary[language]
        added = {entry["content"]: int(id) for id, entry in config.get("added_tokens_decoder", {}).items()}
        added |= _read_optional(name_or_path, ADDED_TOKENS_NAME, hub_options)
        options = {}
        for name in cls.__dataclass_fields__:
            value = config.get(name)
            if name not in ("vocabulary", "tokens") and value is not None:
                options[name] = value["content"] if isinstance(value, dict) else value
        return cls({**vocabulary, **added}, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        special = {name: getattr(self, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        config = special | {
            "word_delimiter_token": self.word_delimiter_token,
            "replace_word_delimiter_char": self.replace_word_delimiter_char,
            "do_lower_case": self.do_lower_case,
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
        }
        _write_json(Path(folder, VOCABULARY_NAME), self.vocabulary)
        _write_json(Path(folder, TOKENIZER_CONFIG_NAME), config)
        _write_json(Path(folder, SPECIAL_TOKENS_NAME), special)

    def decode(self, frame_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Turn the best id of each frame, ``[T]``, into text.

        Raises ``ValueError`` naming an id that is not in the vocabulary.
        """
        frame_ids = frame_ids.tolist() if isinstance(frame_ids, (torch.Tensor, np.ndarray)) else list(frame_ids)
        dropped = self.special_ids if skip_special_tokens else set()
        pieces = []
        for id, *_ in collapse(frame_ids, self.pad_token_id):
            if id not in self.tokens:
                raise ValueError(f"token id {id} is not in the vocabulary of {len(self.tokens)} tokens")
            if id not in dropped:
                token = self.tokens[id]
                pieces.append(self.replace_word_delimiter_char if token == self.word_delimiter_token else token)
        text = "".join(pieces).strip()
        return text.lower() if self.do_lower_case else text


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

    def __call__(self, waveforms, sampling_rate: int | None = None, **options: Any) -> BatchFeature:
        """See :meth:`FeatureExtractor.__call__`."""
        return self.feature_extractor(waveforms, sampling_rate, **options)

    def decode(self, frame_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """See :meth:`CTCTokenizer.decode`."""
        return self.tokenizer.decode(frame_ids, skip_special_tokens)

    def batch_decode(self, frame_ids: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Decode each row of ``[B, T]``."""
        return [self.decode(row, skip_special_tokens) for row in frame_ids]
