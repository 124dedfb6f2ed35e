"""Replace the C++ extension (csrc/ctc_collapse.cpp) in Python, with the same names, arguments and results."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import groupby, islice
from operator import add
from typing import Any

import numpy as np

from .vocabulary import DELIMITER, DROPPED, KINDS, UNNAMED


class Table:
    """The tokens of a vocabulary, each with its kind."""

    def __init__(self, tokens: list[str], kinds: list[int]):
        if len(tokens) != len(kinds):
            raise ValueError(f"expected as many kinds as tokens, {len(tokens)}, but got {len(kinds)}")
        for id, kind in enumerate(kinds):
            if kind not in KINDS:
                raise ValueError(f"the kind of token {id} must be 0 to 3, but is {kind}")
        self.tokens, self.kinds = tokens, kinds


def decode(
    ids: np.ndarray,
    begins: np.ndarray,
    lengths: np.ndarray,
    table: Table,
    blank: int,
    log_probs: np.ndarray | None = None,
    group: bool = True,
    tokens: bool = False,
    words: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Decode as the C++ function of this name does, but always on one thread."""
    columns = _Columns(table, tokens, words)
    for utterance, (begin, length) in enumerate(zip(begins.tolist(), lengths.tolist())):
        if begin < 0 or length < 0 or begin + length > len(ids):
            raise ValueError(
                f"utterance {utterance} has {length} frames from frame {begin} on, but there are {len(ids)} frames"
            )
        probs = None if log_probs is None else log_probs[begin : begin + length].astype(np.float64)
        columns.utterance(utterance, ids[begin : begin + length].tolist(), probs, blank, group)
    return columns.result()


def rows(row_type: type, counts: np.ndarray, *columns: list | np.ndarray) -> list[list]:
    """Turn columns into lists of rows of a named tuple, `counts[i]` of them in the i-th list."""
    fields = row_type._fields  # type: ignore[attr-defined]
    if len(fields) != len(columns):
        raise ValueError(f"rows need a column for each of their {len(fields)} fields, but got {len(columns)}")
    values = [column if isinstance(column, list) else column.tolist() for column in columns]
    total = int(counts.sum())
    for column in values:
        if len(column) != total:
            raise ValueError(f"a column must be a list or an array of {total} entries, but has {len(column)}")
    result = map(row_type._make, zip(*values))  # type: ignore[attr-defined]
    return [list(islice(result, count)) for count in counts.tolist()]


class _Columns:
    """Collect the columns of the result."""

    def __init__(self, table: Table, tokens: bool, words: bool):
        self.table, self.want_tokens, self.want_words = table, tokens, words
        self.texts: list[str] = []
        self.text_means: list[float] = []
        self.token_counts: list[int] = []
        self.tokens: list[tuple[int, int, int, float]] = []  # id, begin, end, mean
        self.word_counts: list[int] = []
        self.words: list[tuple[str, int, int, float]] = []  # text, begin, end, mean

    def utterance(self, number: int, ids: list[int], probs: np.ndarray | None, blank: int, group: bool) -> None:
        kept = list(self._kept(number, ids, probs, blank, group))
        self.texts.append("".join(self.table.tokens[id] for id, *_ in kept))
        self.text_means.append(_mean(kept))
        self.token_counts.append(len(kept))
        self.tokens += [(id, begin, end, total / (end - begin)) for id, begin, end, total in kept]
        before = len(self.words)
        for is_word, run in groupby(kept, key=lambda part: self.table.kinds[part[0]] != DELIMITER):
            if is_word:
                parts = list(run)
                text = "".join(self.table.tokens[id] for id, *_ in parts)
                self.words.append((text, parts[0][1], parts[-1][2], _mean(parts)))
        self.word_counts.append(len(self.words) - before)

    def _kept(self, number: int, ids: list[int], probs: np.ndarray | None, blank: int, group: bool):
        """Yield id, begin, end and the sum of log-probabilities of each token that appears."""
        kinds, end = self.table.kinds, 0
        for id, run in groupby(ids) if group else ((id, (id,)) for id in ids):
            begin, end = end, end + len(list(run))
            if id == blank:
                continue
            if not 0 <= id < len(kinds) or kinds[id] == UNNAMED:
                raise ValueError(
                    f"frame {begin} of utterance {number} has token id {id}, "
                    f"which is not in the vocabulary of {len(kinds)} tokens"
                )
            if kinds[id] != DROPPED:
                yield id, begin, end, float("nan") if probs is None else _total(probs[begin:end].tolist())

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = {"texts": self.texts, "text_means": np.array(self.text_means, np.float32)}
        if self.want_tokens:
            result["token_counts"] = np.array(self.token_counts, np.int64)
            for column, name in enumerate(("token_ids", "token_begins", "token_ends", "token_means")):
                result[name] = np.array([row[column] for row in self.tokens], np.float32 if column == 3 else np.int32)
        if self.want_words:
            result["word_counts"] = np.array(self.word_counts, np.int64)
            result["words"] = [row[0] for row in self.words]
            for column, name in enumerate(("word_begins", "word_ends", "word_means"), 1):
                result[name] = np.array([row[column] for row in self.words], np.float32 if column == 3 else np.int32)
        return result


def _mean(parts: list[tuple[int, int, int, float]]) -> float:
    frames = sum(end - begin for _, begin, end, _ in parts)
    return _total(total for *_, total in parts) / frames if frames else float("nan")


def _total(values: Iterable[float]) -> float:
    """Add from the left, as C++ does; `sum` compensates for rounding errors from Python 3.12 on."""
    return reduce(add, values, 0.0)
