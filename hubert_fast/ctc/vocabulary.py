"""Define `Vocabulary`: the text and kind of each CTC token id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..tokenizer import CTCTokenizer

MAX_IDS = 1_000_000  # a table has an entry for every id up to the largest
TEXT, DROPPED, DELIMITER, UNNAMED = KINDS = range(4)  # kinds of tokens, as in csrc/ctc_collapse.cpp


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a CTC model, and the way they are written.

    Attributes:
        tokens: The token of each id; `None` for an id without a token.
        special_ids: The ids, besides the blank, of tokens that never appear in text.
        word_delimiter_token: The token between words, or `None`.
        replace_word_delimiter_char: The text for the word delimiter.
        do_lower_case: Whether to write text in lower case.
        unknown_id: The id that replaces ids without a token; `None` to raise an error for such ids.
        phones: Whether tokens are phones: each counts as a word, text has a space between them, and the word delimiter is not
            written.
    """

    tokens: tuple[str | None, ...]
    special_ids: frozenset[int] = frozenset()
    word_delimiter_token: str | None = "|"
    replace_word_delimiter_char: str = " "
    do_lower_case: bool = False
    unknown_id: int | None = None
    phones: bool = False

    def __post_init__(self):
        for id, token in enumerate(self.tokens):
            if token is not None and not isinstance(token, str):
                raise ValueError(f"token {id} of the vocabulary must be text, but is {token!r}")
            try:
                (token or "").encode()
            except UnicodeEncodeError:
                raise ValueError(f"token {id} of the vocabulary is not valid Unicode: {token!r}") from None

    @classmethod
    def of(cls, tokens: Vocabulary | CTCTokenizer | Sequence[str | None] | Mapping[str, int]) -> Vocabulary:
        """Return the vocabulary of a tokenizer, of a list of tokens by id, or of a `vocab.json` dictionary."""
        if isinstance(tokens, Vocabulary):
            return tokens
        if hasattr(tokens, "vocabulary_of"):
            return tokens.vocabulary_of(skip_special_tokens=True)
        if not isinstance(tokens, Mapping):
            return cls(tuple(tokens))
        for token, id in tokens.items():
            if type(id) is not int or not 0 <= id < MAX_IDS:
                raise ValueError(f"the vocabulary must map tokens to ids from 0 to {MAX_IDS - 1}, but maps {token!r} to {id!r}")
        by_id: list[str | None] = [None] * (max(tokens.values(), default=-1) + 1)
        for token, id in tokens.items():
            by_id[id] = token
        return cls(tuple(by_id))

    def written(self) -> tuple[list[str], list[int]]:
        """Return the text and the kind of every token. The text of the word delimiter is its replacement."""
        space = self.replace_word_delimiter_char
        texts: list[str] = []
        kinds: list[int] = []
        for id, token in enumerate(self.tokens):
            is_delimiter = token is not None and token == self.word_delimiter_token
            texts.append(space if is_delimiter else token or "")
            if token is None:
                kinds.append(UNNAMED)
            elif id in self.special_ids or (self.phones and is_delimiter):
                kinds.append(DROPPED)
            else:
                kinds.append(DELIMITER if texts[-1] == space else TEXT)
        return texts, kinds

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The tables of each backend by its name, filled by `table`."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # cached properties are rebuilt when needed
        return {name: value for name, value in vars(self).items() if name not in ("tables", "_has_token")}

    def table(self, backend: ModuleType) -> Any:
        """Return the table that a backend reads, built on first use."""
        if backend.__name__ not in self.tables:
            texts, kinds = self.written()
            self.tables[backend.__name__] = backend.Table([text + " " for text in texts] if self.phones else texts, kinds)
        return self.tables[backend.__name__]

    def named(self, ids: np.ndarray) -> np.ndarray:
        """Return ids, of any shape, with those that have no token replaced by `unknown_id`."""
        if self.unknown_id is None or not ids.size:
            return ids
        has_token = self._has_token
        if has_token.all() and ids.min() >= 0 and ids.max() < len(has_token):
            return ids
        known = (ids >= 0) & (ids < len(has_token))
        known[known] = has_token[ids[known]]
        return np.where(known, ids, np.int64(self.unknown_id))

    @cached_property
    def _has_token(self) -> np.ndarray:
        return np.array([token is not None for token in self.tokens], bool)
