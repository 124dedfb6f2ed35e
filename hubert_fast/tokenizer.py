"""A CTC vocabulary in the file formats of transformers' Wav2Vec2CTCTokenizer: ids to text and offsets, text to ids.

Letters and phones: Wav2Vec2PhonemeCTCTokenizer differs in what it writes between tokens, and in how text becomes ids.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ctc import Vocabulary, decode_raw
from .hub import CONFIG_NAME, CheckpointError, listed, read_json, read_optional_json, resolve_file, write_json
from .tokenizer_outputs import CTCTokenizerOutput, flat, offsets

logger = logging.getLogger(__name__)

LETTERS, PHONES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
SAME_AS_LETTERS = {LETTERS, "Wav2Vec2Tokenizer"}  # the name that it had first
VOCABULARY_NAME = "vocab.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_TOKENS_NAME = "added_tokens.json"


MAY_BE_NONE = {"bos_token", "eos_token", "unk_token", "word_delimiter_token", "phone_delimiter_token"}
READ_APART = {"vocabulary", "tokens", "additional_special_tokens", "tokenizer_class"}


@dataclass
class CTCTokenizer:
    """A CTC vocabulary: token ids to text.

    vocabulary: token to id. The word delimiter is written as ``replace_word_delimiter_char``.
    tokenizer_class: ``Wav2Vec2CTCTokenizer``, or ``Wav2Vec2PhonemeCTCTokenizer``: its text has a space between phones, each of
        which is a word, and no word delimiters, as transformers writes it.
    phone_delimiter_token, do_phonemize, phonemizer_lang, phonemizer_backend: how transformers makes phones of text; kept and
        saved, and not used here.
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

    def __post_init__(self):
        self._made: dict[Any, Any] = {}
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
    def is_of_phones(self) -> bool:
        """Whether tokens are phones, with spaces between them in text."""
        return self.tokenizer_class == PHONES

    @property
    def special_ids(self) -> set[int]:
        """Ids of tokens that are no text. The word delimiter is text, whatever else it is."""
        names = {self.pad_token, self.unk_token, self.bos_token, self.eos_token, *self.additional_special_tokens}
        return {self.vocabulary[name] for name in names - {self.word_delimiter_token} if name in self.vocabulary}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> CTCTokenizer:
        """Read ``vocab.json`` and, where there are any, the tokenizer configuration, special and added tokens."""
        vocabulary = read_json(resolve_file(name_or_path, VOCABULARY_NAME, **hub_options))
        special = read_optional_json(name_or_path, SPECIAL_TOKENS_NAME, hub_options)
        config = special | read_optional_json(name_or_path, TOKENIZER_CONFIG_NAME, hub_options)
        if any(isinstance(entry, dict) for entry in vocabulary.values()):  # MMS: one vocabulary per language
            language = config.get("target_lang")
            if language not in vocabulary:
                raise CheckpointError(
                    f"{VOCABULARY_NAME} of {name_or_path} has a vocabulary per language ({listed(list(vocabulary))}), "
                    f"and target_lang in {TOKENIZER_CONFIG_NAME} is {language!r}"
                )
            vocabulary = vocabulary[language]
        added = {entry["content"]: int(id) for id, entry in config.get("added_tokens_decoder", {}).items()}
        added |= read_optional_json(name_or_path, ADDED_TOKENS_NAME, hub_options)
        named = config.get("tokenizer_class")
        named = named or read_optional_json(name_or_path, CONFIG_NAME, hub_options).get("tokenizer_class")
        options: dict[str, Any] = {"tokenizer_class": _class_of(name_or_path, named)}
        if options["tokenizer_class"] == PHONES:
            options["word_delimiter_token"] = None  # unless the file names one
        for name in cls.__dataclass_fields__:
            value = config.get(name)
            if name in MAY_BE_NONE and name in config and value is None:
                options[name] = None  # there is none, which is not the same as the default
            if name not in READ_APART and value is not None:
                options[name] = _content(value)
        more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
        options["additional_special_tokens"] = tuple(map(_content, more.values() if isinstance(more, dict) else more))
        return cls({**vocabulary, **added}, **options)

    def save_pretrained(self, folder: str | Path) -> None:
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
        """Return the vocabulary for :mod:`hubert_fast.ctc`; made anew when the tokenizer was changed."""
        special = frozenset(self.special_ids) if skip_special_tokens else frozenset()
        key = (
            special,
            self.word_delimiter_token,
            self.replace_word_delimiter_char,
            self.do_lower_case and not self.is_of_phones,
        )
        key += (self.unk_token, self.is_of_phones)
        if self._made.get("of") != self.vocabulary:
            self._made = {"of": dict(self.vocabulary)}
        if key not in self._made:
            tokens, unknown = Vocabulary.of(self.vocabulary).tokens, self.vocabulary.get(self.unk_token)
            if unknown is None and self.unk_token is not None:  # the vocabulary has none, and text has it nevertheless
                tokens, unknown = (*tokens, self.unk_token), len(tokens)
                special = special | {unknown} if skip_special_tokens else special
            self._made[key] = Vocabulary(tokens, special, *key[1:4], unknown, self.is_of_phones)
        return self._made[key]

    def decode(
        self,
        frame_ids: Iterable[int],
        skip_special_tokens: bool = False,
        *,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> str | CTCTokenizerOutput:
        """Turn the best id of each frame, ``[T]``, into text. See :meth:`batch_decode`."""
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
        """Turn the best ids of a batch, ``[B, T]`` or sequences of any lengths, into texts.

        skip_special_tokens: leave out padding, unknown, beginning and end tokens; a letter said twice stays twice.
        group_tokens: merge runs, as CTC does; ``False`` for ids that are merged already.
        output_char_offsets, output_word_offsets: return a :class:`CTCTokenizerOutput` with them.

        An id that is not in the vocabulary is ``unk_token``, as in transformers: an output layer may have more rows than there
        are tokens. Raises ``ValueError`` naming it when ``unk_token`` is ``None``.
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
        """Turn text into ``input_ids``, the labels of training: a list of ids, or one for each text.

        Tokens of several letters are found first, the longest first, and take the spaces around them; every other character
        is a token. Spaces are the word delimiter; what is not in the vocabulary is ``unk_token``. Phones must have spaces
        between them.

        Raises ``ValueError`` when there is neither, or when phones would have to be made of words (``do_phonemize``).
        """
        if isinstance(text, str):
            return {"input_ids": self._encode(text)}
        return {"input_ids": [self._encode(one) for one in text]}

    def _encode(self, text: str) -> list[int]:
        if self.is_of_phones:
            return self._ids_of(self._phones_in(text))
        long = sorted((token for token in self.vocabulary if len(token) > 1), key=len, reverse=True)
        parts = re.split(rf"\s*({'|'.join(map(re.escape, long))})\s*", text) if long else [text]
        tokens: list[str] = []
        for index, part in enumerate(parts):  # text and long tokens in turn
            if index % 2:
                tokens.append(part)
            else:
                part = part.upper() if self.do_lower_case else part
                tokens += part if self.word_delimiter_token is None else part.replace(" ", self.word_delimiter_token)
        return self._ids_of(tokens)

    def _phones_in(self, text: str) -> list[str]:
        """Return the phones of a text that has spaces between them."""
        if self.do_phonemize:
            raise ValueError(
                "do_phonemize is True, which makes phones of words with the package phonemizer, and that is not done here: set "
                "do_phonemize to False and give phones with spaces between them"
            )
        return [phone for phone in text.strip().split(" ") if phone.strip()]

    def _ids_of(self, tokens: list[str]) -> list[int]:
        unknown = self.vocabulary.get(self.unk_token)
        ids = [self.vocabulary.get(token, unknown) for token in tokens]
        if None in ids:
            raise ValueError(f"{tokens[ids.index(None)]!r} is not in the vocabulary, and neither is {self.unk_token!r} for it")
        return ids

    def pad(self, labels: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad label sequences, ``{"input_ids": ids}`` each, to ``input_ids`` and ``attention_mask``, int64 ``[B, L]``."""
        rows = labels["input_ids"] if isinstance(labels, Mapping) else [row["input_ids"] for row in labels]
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.full((len(rows), int(max(lengths, default=0))), self.pad_token_id)
        for out, row in zip(padded, rows):
            out[: len(row)] = torch.as_tensor(row)
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


def _class_of(name_or_path: str | Path, name: str | None) -> str:
    """Return the tokenizer class that is served here for the one that a checkpoint names."""
    if name == PHONES:
        return PHONES
    if name is not None and name not in SAME_AS_LETTERS:
        logger.warning(
            "%s: tokenizer_class is %s, which is not known here: text is written as %s does, which may be wrong",
            name_or_path,
            str(name)[:80],
            LETTERS,
        )
    return LETTERS


def _content(token: str | dict[str, Any]) -> str:
    """Return the text of a token that a file may describe at length."""
    return token["content"] if isinstance(token, dict) else token
