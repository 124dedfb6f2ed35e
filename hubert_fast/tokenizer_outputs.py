"""Prepare the input and output of decoding with a tokenizer: a flat array of ids, offsets of characters and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

from .outputs import ModelOutput


class CTCTokenizerOutput(ModelOutput):
    """The output of decoding with offsets. After `batch_decode`, each field is a list with one entry per utterance.

    Attributes:
        text: The text.
        char_offsets: For each character a dictionary of `char`, `start_offset` and `end_offset` (exclusive), in frames.
        word_offsets: For each word a dictionary of `word`, `start_offset` and `end_offset` (exclusive), in frames.
    """

    text: str | list[str]
    char_offsets: list | None
    word_offsets: list | None


def flat(frame_ids: torch.Tensor | np.ndarray | Sequence[Iterable[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all ids in one array, int64 `[N]`, and the length of each sequence, int64 `[B]`."""
    if isinstance(frame_ids, torch.Tensor):
        frame_ids = frame_ids.detach().cpu().numpy()
    if isinstance(frame_ids, np.ndarray):
        if frame_ids.ndim != 2 or not (np.issubdtype(frame_ids.dtype, np.integer) or frame_ids.size == 0):
            hint = ": pass logits.argmax(-1)" if np.issubdtype(frame_ids.dtype, np.floating) else ""
            raise ValueError(f"frame ids must be integers [B, T], but are {frame_ids.dtype} {list(frame_ids.shape)}{hint}")
        return frame_ids.astype(np.int64, copy=False).reshape(-1), np.full(len(frame_ids), frame_ids.shape[1], np.int64)
    rows = [np.asarray(row.cpu() if isinstance(row, torch.Tensor) else row) for row in frame_ids]
    for row in rows:
        if row.ndim != 1 or not (np.issubdtype(row.dtype, np.integer) or row.size == 0):
            raise ValueError(f"frame ids must be sequences of integers, but one is {row.dtype} {list(row.shape)}")
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.concatenate([np.zeros(0, np.int64), *(row.astype(np.int64) for row in rows)]), lengths


def offsets(name: str, texts: list[str], begins: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> list[list[dict]]:
    """Return for each sequence `counts[i]` dictionaries with the keys `name`, `start_offset` and `end_offset`."""
    rows = (
        {name: text, "start_offset": begin, "end_offset": end}
        for text, begin, end in zip(texts, begins.tolist(), ends.tolist())
    )
    return [[next(rows) for _ in range(count)] for count in counts.tolist()]


def words_of(char_offsets: Iterable[Mapping[str, Any]], delimiter: str = " ") -> list[dict[str, Any]]:
    """Return the words of offsets of characters, as `CTCTokenizerOutput` has them. Words end at `delimiter`."""
    words = []
    for is_delimiter, run in groupby(char_offsets, key=lambda offset: offset["char"] == delimiter):
        characters = [] if is_delimiter else list(run)
        if characters:
            text = "".join(offset["char"] for offset in characters)
            begin, end = characters[0]["start_offset"], characters[-1]["end_offset"]
            words.append({"word": text, "start_offset": begin, "end_offset": end})
    return words
