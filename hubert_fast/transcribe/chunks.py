"""Long audio in pieces: cut on the grid of frames with an overlap, and put together again frame by frame.

Piece k begins at frame ``k * (L - V)`` of the whole recording and has L frames, of which it shares V with its neighbour. Since
it begins on a frame, its frames are frames of the recording. At a seam the pieces have read the same audio, each with the
context that the other lacks; the seam is put where they agree for the longest time, so that no token can lie on both sides or
on neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Cutter:
    """How recordings are cut.

    frames: L, of a piece. overlap: V, frames that two pieces share.
    hop, field: of the model, in samples: from one frame to the next, and what one reads.
    sample_rate_hz: of the model.
    """

    frames: int
    overlap: int
    hop: int = 320
    field: int = 400
    sample_rate_hz: int = 16000

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.frames or self.frames < 1:
            raise ValueError(
                f"pieces must be of one frame or more and overlap by half at most, but are {self.frames} frames "
                f"and overlap by {self.overlap}"
            )

    @classmethod
    def of_seconds(cls, chunk: float, overlap: float, sample_rate_hz: int, hop: int, field: int) -> Cutter:
        """Round seconds to frames. Raises ``ValueError`` when the overlap is more than half of the chunk."""
        if not 0 <= 2 * overlap <= chunk or not chunk * sample_rate_hz >= field:
            raise ValueError(
                f"chunk seconds must be {field / sample_rate_hz:g} or more and overlap by half at most, but are {chunk:g} "
                f"and overlap by {overlap:g}"
            )
        frames = max(int(chunk * sample_rate_hz - field) // hop + 1, 1)
        return cls(frames, min(round(overlap * sample_rate_hz / hop), frames // 2), hop, field, sample_rate_hz)

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Cut a recording that comes in blocks ``[C, S_i]``: the first frame of each piece, and its samples ``[C, S]``.

        It holds no more than a piece and a block. A recording of one piece or less comes whole, be it too short for a frame.
        """
        step = (self.frames - self.overlap) * self.hop
        size = (self.frames - 1) * self.hop + self.field
        start, held, parts = 0, 0, []
        for block in blocks:
            parts.append(block)
            held += block.shape[1]
            while held >= size + self.hop:  # there is at least one frame after this piece's
                whole = _joined(parts)
                yield start, whole[:, :size]
                start += self.frames - self.overlap
                parts = [whole[:, step:]]
                held -= step
        if parts:
            yield start, _joined(parts)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Frames(NamedTuple):
    """The best tokens of a piece: its first frame in the recording, ids and log-probabilities ``[T]``."""

    start: int
    ids: np.ndarray
    log_probs: np.ndarray


def stitch(pieces: Sequence[Frames], blank_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Put pieces together, in order of their starts: ids and log-probabilities of the recording ``[T]``."""
    if len(pieces) == 1:
        return pieces[0].ids, pieces[0].log_probs
    begins, ends = [0], []
    for left, right in pairwise(pieces):
        shared = left.start + len(left.ids) - right.start
        at = _seam(left.ids[len(left.ids) - shared :], right.ids[:shared], blank_id) if shared else 0
        ends.append(len(left.ids) - shared + at)
        begins.append(at)
    ends.append(len(pieces[-1].ids))
    spans = list(zip(pieces, begins, ends))
    return tuple(np.concatenate([getattr(p, name)[begin:end] for p, begin, end in spans]) for name in ("ids", "log_probs"))


def _seam(left: np.ndarray, right: np.ndarray, blank_id: int) -> int:
    """Return the frame, of those that two pieces share, from which on the right one is believed.

    It lies in the longest run of frames with equal tokens, the one next to the overlap's middle among equally long ones: at a
    blank, as near to the middle as the run's inner half allows. Without such a run, it is the middle.
    """
    middle = len(left) // 2
    changes = np.flatnonzero(np.diff(np.concatenate(([False], left == right, [False]))))
    begins, ends = changes[::2], changes[1::2]
    if not len(begins):
        return middle
    # a run counts up to a second: beyond that, being near the middle, where both have context, is worth more
    lengths = np.minimum(ends - begins, 50)
    off_middle = np.maximum(np.maximum(begins - middle, middle - ends), 0)
    best = np.lexsort((off_middle, -lengths))[0]
    begin, end = int(begins[best]), int(ends[best])
    aim = min(max(middle, begin + (end - begin) // 4), end - (end - begin) // 4)
    blanks = begin + np.flatnonzero(left[begin:end] == blank_id)
    return int(blanks[np.abs(blanks - aim).argmin()]) if len(blanks) else aim
