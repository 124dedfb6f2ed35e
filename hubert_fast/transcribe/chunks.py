"""Stitch the tokens of overlapping pieces of a recording together, frame by frame.

Where two pieces overlap, each has context that the other lacks. The seam lies in the longest run of frames on which both agree,
so that no token is lost or repeated there. `jobs.cutting` cuts the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Frames(NamedTuple):
    """The best tokens of a piece.

    Attributes:
        start: First frame of the piece, counted from the beginning of the recording.
        ids: Ids of the best tokens `[T]`.
        log_probs: Log-probabilities of the best tokens `[T]`.
    """

    start: int
    ids: np.ndarray
    log_probs: np.ndarray


def stitch(pieces: Sequence[Frames], blank_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Join pieces, sorted by start; return ids and log-probabilities `[T]` of the whole recording."""
    if len(pieces) == 1:
        return pieces[0].ids, pieces[0].log_probs
    begins, ends = [0], []
    for left, right in pairwise(pieces):
        shared = left.start + len(left.ids) - right.start
        seam = _seam(left.ids[len(left.ids) - shared :], right.ids[:shared], blank_id) if shared else 0
        ends.append(len(left.ids) - shared + seam)
        begins.append(seam)
    ends.append(len(pieces[-1].ids))
    spans = list(zip(pieces, begins, ends))
    ids = np.concatenate([piece.ids[begin:end] for piece, begin, end in spans])
    return ids, np.concatenate([piece.log_probs[begin:end] for piece, begin, end in spans])


def _seam(left: np.ndarray, right: np.ndarray, blank_id: int) -> int:
    """Return the frame, counted from the start of the overlap, at which to switch from the left piece to the right one.

    The seam lies in the longest run of frames with equal tokens; among runs of equal length, in the one nearest to the middle
    of the overlap. Within the run it is at a blank, as near to the middle as the inner half of the run allows. Without any
    equal frames it is the middle.
    """
    middle = len(left) // 2
    changes = np.flatnonzero(np.diff(np.concatenate(([False], left == right, [False]))))
    begins, ends = changes[::2], changes[1::2]
    if not len(begins):
        return middle
    # runs of 50 frames (1 s) or more count as equally long: beyond that, context on both sides matters more than length
    lengths = np.minimum(ends - begins, 50)
    off_middle = np.maximum(np.maximum(begins - middle, middle - ends), 0)
    best = np.lexsort((off_middle, -lengths))[0]
    begin, end = int(begins[best]), int(ends[best])
    aim = min(max(middle, begin + (end - begin) // 4), end - (end - begin) // 4)
    blanks = begin + np.flatnonzero(left[begin:end] == blank_id)
    return int(blanks[np.abs(blanks - aim).argmin()]) if len(blanks) else aim
