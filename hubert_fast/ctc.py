"""Greedy CTC decoding: the best token of each frame, repeats merged, blanks dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Token(NamedTuple):
    """One token and the frames it was best in, both ends included."""

    id: int
    first_frame: int
    last_frame: int


def collapse(frame_ids: Sequence[int], blank_id: int) -> list[Token]:
    """Merge runs of the same id, then drop blanks (Graves et al. 2006): a letter said twice needs a blank between.

    frame_ids: the best id of each frame, ``[T]``.
    """
    tokens: list[Token] = []
    previous = blank_id
    for frame, id in enumerate(frame_ids):
        if id == previous and id != blank_id:
            tokens[-1] = tokens[-1]._replace(last_frame=frame)
        elif id != blank_id:
            tokens.append(Token(int(id), frame, frame))
        previous = id
    return tokens
