"""Prepare waveforms for a model, and turn its output into text, in the file formats of transformers' Wav2Vec2Processor."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batch_feature import BatchFeature
from .feature_extractor import HubertFeatureExtractor
from .pretrained_options import split_options
from .tokenizer import CTCTokenizer
from .tokenizer_outputs import CTCTokenizerOutput


class HubertProcessor:
    """A feature extractor and a CTC tokenizer: from waveforms to the input of a model, and from its output to text.

    It takes the arguments of transformers' `Wav2Vec2Processor` and returns its values.

    Args:
        feature_extractor: Normalises and pads waveforms.
        tokenizer: Converts between token ids and text.

    Attributes:
        current_processor: The feature extractor, or the tokenizer within `as_target_processor`.
    """

    def __init__(self, feature_extractor: HubertFeatureExtractor, tokenizer: CTCTokenizer):
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.current_processor: HubertFeatureExtractor | CTCTokenizer = feature_extractor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubertProcessor:
        """Load a feature extractor and a tokenizer.

        Args:
            pretrained_model_name_or_path: A folder, or a repository of the Hugging Face hub.
            options: Arguments of the constructors of `HubertFeatureExtractor` and `CTCTokenizer`, which replace values of the
                files; and `revision`, `cache_dir`, `token`, `local_files_only` and so on, as in `huggingface_hub`.

        Raises:
            CheckpointError: There is no `vocab.json`, or a file cannot be read.
            TypeError: An option is unknown.
        """
        names = [HubertFeatureExtractor.__dataclass_fields__, CTCTokenizer.option_names()]
        (of_extractor, of_tokenizer), hub = split_options(cls.__name__, options, names)
        return cls(
            HubertFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **of_extractor, **hub),
            CTCTokenizer.from_pretrained(pretrained_model_name_or_path, **of_tokenizer, **hub),
        )

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> HubertProcessor:
        """Create a processor for a new model, which normalises waveforms and returns an attention mask.

        Args:
            tokens: The vocabulary: token `i` has id `i`.
        """
        vocabulary = {token: id for id, token in enumerate(tokens)}
        return cls(HubertFeatureExtractor(return_attention_mask=True), CTCTokenizer(vocabulary))

    @property
    def model_input_names(self) -> list[str]:
        """The names of the model's inputs, as in transformers 4.34.1, which does not count labels among them."""
        return self.feature_extractor.model_input_names

    def save_pretrained(self, save_directory: str | Path) -> list[str]:
        """Write the files of the feature extractor and the tokenizer, and return their paths.

        Args:
            save_directory: The folder, which is created if it does not exist.
        """
        return self.feature_extractor.save_pretrained(save_directory) + self.tokenizer.save_pretrained(save_directory)

    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        raw_speech: Any = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        text_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Prepare waveforms for a model, text for training, or both.

        Args:
            audio: Waveforms. See `HubertFeatureExtractor.__call__`.
            text: See `CTCTokenizer.__call__`. Becomes `input_ids` and `attention_mask`, or `labels` if there is audio, too.
            raw_speech: The former name of `audio`.
            audio_kwargs: Arguments of `HubertFeatureExtractor.__call__` alone.
            text_kwargs: Arguments of `CTCTokenizer.__call__` alone.
            options: Arguments of either or both, such as `sampling_rate`, `padding` and `return_tensors`. Those that both have
                go to both.

        Raises:
            ValueError: Neither audio nor text is given, or a value is not supported.
            TypeError: An option is unknown.
        """
        if self.current_processor is self.tokenizer:  # within as_target_processor
            return self.tokenizer(text if audio is None else audio, **options, **(text_kwargs or {}))  # type: ignore[arg-type]
        if audio is None:
            audio = raw_speech
        elif raw_speech is not None:
            raise ValueError("audio and raw_speech are two names of one argument, but both are given")
        if audio is None and text is None:
            raise ValueError("expected audio, text or both, but got neither")
        parts = [self.feature_extractor, self.tokenizer]
        of_audio, of_text = _split_call_options(options, parts, [audio is not None, text is not None])
        if audio is None:
            return self.tokenizer(text, **of_text, **(text_kwargs or {}))  # type: ignore[arg-type]
        batch = self.feature_extractor(audio, **of_audio, **(audio_kwargs or {}))
        if text is not None:
            batch["labels"] = self.tokenizer(text, **of_text, **(text_kwargs or {}))["input_ids"]
        return batch

    def pad(
        self,
        input_features: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        labels: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Pad features, label sequences or both to a batch, as a data collator does.

        Args:
            input_features: See `HubertFeatureExtractor.pad`.
            labels: See `CTCTokenizer.pad`. If features are given too, the padded ids become `labels` of the batch. They are
                padded with `pad_token_id`: replace it by -100 before computing a loss.
            options: Arguments of `HubertFeatureExtractor.pad` and `CTCTokenizer.pad`, such as `padding` and `return_tensors`.
                With both features and labels they must be arguments of both, and go to both.
        """
        if self.current_processor is self.tokenizer:  # within as_target_processor
            return self.tokenizer.pad(labels if input_features is None else input_features, **options)  # type: ignore[arg-type]
        if input_features is None and labels is None:
            raise ValueError("expected input_features, labels or both, but got neither")
        if input_features is None:
            return self.tokenizer.pad(labels, **options)  # type: ignore[arg-type]
        batch = self.feature_extractor.pad(input_features, **options)
        if labels is not None:
            batch["labels"] = self.tokenizer.pad(labels, **options)["input_ids"]
        return batch

    @contextmanager
    def as_target_processor(self) -> Generator[None]:
        """Let calls and `pad` go to the tokenizer. transformers deprecated it: pass `text=` or `labels=` instead."""
        warnings.warn("as_target_processor is deprecated: pass text= or labels= instead", FutureWarning, stacklevel=3)
        self.current_processor = self.tokenizer
        try:
            yield
        finally:
            self.current_processor = self.feature_extractor

    def decode(self, token_ids: Any, *args: Any, **options: Any) -> str | CTCTokenizerOutput:
        """Turn the most probable id of each frame into text. See `CTCTokenizer.decode`."""
        return self.tokenizer.decode(token_ids, *args, **options)

    def batch_decode(self, sequences: Any, *args: Any, **options: Any) -> list[str] | CTCTokenizerOutput:
        """Turn the most probable ids of a batch into texts. See `CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(sequences, *args, **options)


def _split_call_options(options: dict[str, Any], parts: Sequence[Any], wanted: Sequence[bool]) -> list[dict[str, Any]]:
    """Return the options for the call of each part. Raises `TypeError` for those that no wanted part takes."""
    names = [_arguments_of(part.__class__) if is_wanted else () for part, is_wanted in zip(parts, wanted)]
    if unknown := [name for name in options if not any(name in known for known in names)]:
        known = sorted({name for part in names for name in part} - {"raw_speech", "text"})
        raise TypeError(f"HubertProcessor got unknown options: {', '.join(unknown)}. This call takes {', '.join(known)}")
    return [{name: value for name, value in options.items() if name in known} for known in names]


@cache
def _arguments_of(part: type) -> tuple[str, ...]:
    """Return the names of the arguments of a call of an object of a class."""
    return tuple(inspect.signature(part.__call__).parameters)[1:]
