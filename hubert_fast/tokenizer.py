"""Convert between CTC token ids and text, with the tokenizer files of transformers.

Tokens are letters (`Wav2Vec2CTCTokenizer`) or phones (`Wav2Vec2PhonemeCTCTokenizer`). These differ in the separator between
tokens in text, and in the way text is split into tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ctc import decode_raw
from .ctc.vocabulary import Vocabulary
from .hub import write_json
from .tokenizer_files import LETTERS, PHONES, SPECIAL_TOKENS_NAME, TOKENIZER_CONFIG_NAME, VOCABULARY_NAME, read_tokenizer
from .tokenizer_outputs import CTCTokenizerOutput, flat, offsets


@dataclass
class CTCTokenizer:
    """A CTC vocabulary, which converts between token ids and text.

    Args:
        vocabulary: The id of each token.
        pad_token: The token that is CTC's blank.
        unk_token: The token for characters and ids that are not in the vocabulary.
        bos_token: A special token, left out by `skip_special_tokens`.
        eos_token: A special token, left out by `skip_special_tokens`.
        word_delimiter_token: The token between words, if there is one.
        replace_word_delimiter_char: The text for the word delimiter.
        do_lower_case: Decode to lower case, and encode from upper case.
        tokenizer_class: `Wav2Vec2CTCTokenizer`; or `Wav2Vec2PhonemeCTCTokenizer`, whose tokens are phones: as in transformers,
            text has a space between phones, no word delimiters, and each phone counts as a word.
        phone_delimiter_token: The separator of phones in transformers' phonemizer. Saved, but not used here.
        do_phonemize: Whether transformers turns words into phones. It must be `False` to encode text here.
        phonemizer_lang: The language of transformers' phonemizer. Saved, but not used here.
        phonemizer_backend: The backend of transformers' phonemizer. Saved, but not used here.
        additional_special_tokens: Further tokens that `skip_special_tokens` leaves out.

    Raises:
        ValueError: The vocabulary lacks `pad_token`, or an id is not an integer.
    """

    vocabulary: dict[str, int]
    pad_token: str = "<pad>"
    unk_token: str = "<unk>"
    bos_token: str = "<s>"
    eos_token: str = "</s>"
    word_delimiter_token: str | None = "|"
    replace_word_delimiter_char: str = " "
    do_lower_case: bool = False
    tokenizer_class: str = LETTERS
    phone_delimiter_token: str | None = " "
    do_phonemize: bool = True
    phonemizer_lang: str = "en-us"
    phonemizer_backend: str = "espeak"
    additional_special_tokens: tuple[str, ...] = ()
    tokens: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cache: dict[Any, Vocabulary] = {}
        self._cached_vocabulary: dict[str, int] | None = None  # the vocabulary that _cache was filled for
        for token, id in self.vocabulary.items():
            if type(id) is not int:
                raise ValueError(f"the vocabulary must map tokens to integers, but maps {token!r} to {id!r}")
        self.tokens = {id: token for token, id in self.vocabulary.items()}
        if self.pad_token not in self.vocabulary:
            raise ValueError(f"the vocabulary lacks the pad token {self.pad_token!r}, which is CTC's blank")

    @property
    def pad_token_id(self) -> int:
        """The id of CTC's blank."""
        return self.vocabulary[self.pad_token]

    @property
    def is_of_phones(self) -> bool:
        """Whether tokens are phones, which are separated by spaces in text."""
        return self.tokenizer_class == PHONES

    @property
    def special_ids(self) -> set[int]:
        """The ids that `skip_special_tokens` leaves out. The word delimiter is not one of them, even if it is special."""
        names = {self.pad_token, self.unk_token, self.bos_token, self.eos_token, *self.additional_special_tokens}
        return {self.vocabulary[name] for name in names - {self.word_delimiter_token} if name in self.vocabulary}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> CTCTokenizer:
        """Load a tokenizer from `vocab.json` and, if they exist, the files with its configuration, special and added tokens.

        Args:
            name_or_path: A folder, or a repository of the Hugging Face hub.
            hub_options: `revision`, `cache_dir`, `token` and `local_files_only` of `huggingface_hub`.

        Raises:
            CheckpointError: There is no `vocab.json`, or a file cannot be read.
        """
        vocabulary, options = read_tokenizer(name_or_path, set(cls.__dataclass_fields__), hub_options)
        return cls(vocabulary, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vocab.json`, `tokenizer_config.json` and `special_tokens_map.json` into an existing folder."""
        special = {name: getattr(self, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        config = special | {
            "word_delimiter_token": self.word_delimiter_token,
            "replace_word_delimiter_char": self.replace_word_delimiter_char,
            "do_lower_case": self.do_lower_case,
            "tokenizer_class": self.tokenizer_class,
        }
        if self.is_of_phones:
            names = ("phone_delimiter_token", "do_phonemize", "phonemizer_lang", "phonemizer_backend")
            config |= {name: getattr(self, name) for name in names}
        if self.additional_special_tokens:
            config["additional_special_tokens"] = list(self.additional_special_tokens)
        write_json(Path(folder, VOCABULARY_NAME), self.vocabulary)
        write_json(Path(folder, TOKENIZER_CONFIG_NAME), config)
        write_json(Path(folder, SPECIAL_TOKENS_NAME), special)

    def vocabulary_of(self, skip_special_tokens: bool) -> Vocabulary:
        """Return the vocabulary in the form that `hubert_fast.ctc` takes. It is cached until the tokenizer changes."""
        special: frozenset[int] = frozenset(self.special_ids) if skip_special_tokens else frozenset()
        lower_case = self.do_lower_case and not self.is_of_phones
        delimiter, delimiter_text = self.word_delimiter_token, self.replace_word_delimiter_char
        key = special, delimiter, delimiter_text, lower_case, self.unk_token, self.is_of_phones
        if self._cached_vocabulary != self.vocabulary:
            self._cache, self._cached_vocabulary = {}, dict(self.vocabulary)
        vocabulary = self._cache.get(key)
        if vocabulary is None:
            tokens, unknown = Vocabulary.of(self.vocabulary).tokens, self.vocabulary.get(self.unk_token)
            if unknown is None and self.unk_token is not None:  # transformers outputs it even if the vocabulary lacks it
                tokens, unknown = (*tokens, self.unk_token), len(tokens)
                special = special | {unknown} if skip_special_tokens else special
            vocabulary = Vocabulary(tokens, special, delimiter, delimiter_text, lower_case, unknown, self.is_of_phones)
            self._cache[key] = vocabulary
        return vocabulary

    def decode(
        self,
        frame_ids: Iterable[int],
        skip_special_tokens: bool = False,
        *,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> str | CTCTokenizerOutput:
        """Turn the most probable id of each frame, `[T]`, into text. See `batch_decode` for the arguments."""
        frame_ids = frame_ids if isinstance(frame_ids, (torch.Tensor, np.ndarray)) else list(frame_ids)
        decoded = self.batch_decode(
            [frame_ids],
            skip_special_tokens,
            group_tokens=group_tokens,
            output_char_offsets=output_char_offsets,
            output_word_offsets=output_word_offsets,
        )
        if isinstance(decoded, list):
            return decoded[0]
        return CTCTokenizerOutput({name: values[0] for name, values in decoded.items()})

    def batch_decode(
        self,
        frame_ids: torch.Tensor | np.ndarray | Sequence[Iterable[int]],
        skip_special_tokens: bool = False,
        *,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> list[str] | CTCTokenizerOutput:
        """Turn the most probable ids of a batch into texts.

        As in transformers, an id that is not in the vocabulary becomes `unk_token`: the output layer may have more rows than
        there are tokens.

        Args:
            frame_ids: The id of each frame: `[B, T]`, or a sequence of sequences of any lengths.
            skip_special_tokens: Leave out special tokens. Unlike in transformers, doubled letters are preserved.
            group_tokens: Merge runs of one id, as CTC does; `False` for ids that are already merged.
            output_char_offsets: Return a `CTCTokenizerOutput` with the frames of each character.
            output_word_offsets: Return a `CTCTokenizerOutput` with the frames of each word.

        Returns:
            A list of texts, or a `CTCTokenizerOutput` if offsets are requested.

        Raises:
            ValueError: An id is not in the vocabulary, and `unk_token` is `None`.
        """
        ids, lengths = flat(frame_ids)
        raw = decode_raw(
            ids,
            np.cumsum(lengths) - lengths,
            lengths,
            self.vocabulary_of(skip_special_tokens),
            self.pad_token_id,
            group=group_tokens,
            tokens=output_char_offsets,
            words=output_word_offsets,
        )
        if not (output_char_offsets or output_word_offsets):
            return raw["texts"]
        output = CTCTokenizerOutput(text=raw["texts"])
        if output_char_offsets:
            written, _ = self.vocabulary_of(skip_special_tokens).written()
            characters = [written[id] for id in raw["token_ids"].tolist()]
            output.char_offsets = offsets("char", characters, raw["token_begins"], raw["token_ends"], raw["token_counts"])
        if output_word_offsets:
            output.word_offsets = offsets("word", raw["words"], raw["word_begins"], raw["word_ends"], raw["word_counts"])
        return output

    def __call__(self, text: str | Sequence[str]) -> dict[str, list]:
        """Turn text into token ids, the labels of training.

        Tokens of several letters are matched first, longest first, together with the spaces around them. Every other character
        is a token: a space becomes the word delimiter, and a character that is not in the vocabulary `unk_token`. Phones must
        be separated by spaces.

        Args:
            text: A text, or a sequence of texts.

        Returns:
            `input_ids`: a list of ids, or one such list for each text.

        Raises:
            ValueError: Neither a character nor `unk_token` is in the vocabulary, or `do_phonemize` is set.
        """
        if isinstance(text, str):
            return {"input_ids": self._encode(text)}
        return {"input_ids": [self._encode(entry) for entry in text]}

    def _encode(self, text: str) -> list[int]:
        if self.is_of_phones:
            return self._ids_of(self._split_phones(text))
        multi_letter = sorted((token for token in self.vocabulary if len(token) > 1), key=len, reverse=True)
        parts = re.split(rf"\s*({'|'.join(map(re.escape, multi_letter))})\s*", text) if multi_letter else [text]
        tokens: list[str] = []
        for index, part in enumerate(parts):  # re.split alternates text and tokens of several letters
            if index % 2:
                tokens.append(part)
            else:
                part = part.upper() if self.do_lower_case else part
                tokens += part if self.word_delimiter_token is None else part.replace(" ", self.word_delimiter_token)
        return self._ids_of(tokens)

    def _split_phones(self, text: str) -> list[str]:
        """Split a text of phones that are separated by spaces."""
        if self.do_phonemize:
            raise ValueError(
                "do_phonemize is True, but turning words into phones (as transformers does with the package phonemizer) is not "
                "supported: set do_phonemize to False and give phones with spaces between them"
            )
        return [phone for phone in text.strip().split(" ") if phone.strip()]

    def _ids_of(self, tokens: list[str]) -> list[int]:
        unknown = self.vocabulary.get(self.unk_token)
        ids = []
        for token in tokens:
            id = self.vocabulary.get(token, unknown)
            if id is None:
                raise ValueError(f"{token!r} is not in the vocabulary, and neither is the unknown token {self.unk_token!r}")
            ids.append(id)
        return ids

    def pad(self, labels: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad label sequences to a batch.

        Args:
            labels: A sequence of `{"input_ids": ids}`, or one such dictionary with a list of label sequences.

        Returns:
            `input_ids` and `attention_mask`, int64 `[B, L]`.
        """
        rows = labels["input_ids"] if isinstance(labels, Mapping) else [row["input_ids"] for row in labels]
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.full((len(rows), int(max(lengths, default=0))), self.pad_token_id)
        for out, row in zip(padded, rows):
            out[: len(row)] = torch.as_tensor(row)
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}
