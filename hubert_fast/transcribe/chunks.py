"""Cut long audio into overlapping pieces at frame boundaries, and stitch their outputs together frame by frame.

Piece k begins at frame `k * (L - V)` of the recording and has L frames; it shares V of them with each neighbour. Because it
begins at a frame boundary, its frames coincide with frames of the recording. Where two pieces overlap, each has context that
the other lacks. The seam lies in the longest run of frames on which both agree, so that no token is lost or repeated there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Cutter:
    """Cuts recordings into pieces.

    Attributes:
        frames: Number of frames in a piece (L).
        overlap: Number of frames that consecutive pieces share (V).
        hop: Samples from one frame to the next.
        field: Samples that one frame covers.
        sample_rate_hz: Sampling rate of the model.
    """

    frames: int
    overlap: int
    hop: int = 320
    field: int = 400
    sample_rate_hz: int = 16000

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.frames or self.frames < 1:
            raise ValueError(
                f"pieces must have at least one frame and overlap by at most half of that, but have {self.frames} frames "
                f"and overlap by {self.overlap}"
            )

    @classmethod
    def of_seconds(cls, chunk: float, overlap: float, sample_rate_hz: int, hop: int, field: int) -> Cutter:
        """Create a cutter from lengths in seconds.

        Args:
            chunk: Seconds of audio in a piece.
            overlap: Seconds of audio that consecutive pieces share.
            sample_rate_hz: Sampling rate of the model.
            hop: Samples from one frame to the next.
            field: Samples that one frame covers.

        Raises:
            ValueError: If the overlap is more than half of the chunk, or the chunk is too short for a frame.
        """
        if not 0 <= 2 * overlap <= chunk or not chunk * sample_rate_hz >= field:
            raise ValueError(
                f"chunk seconds must be at least {field / sample_rate_hz:g} and overlap seconds at most half the "
                f"chunk seconds, but they are {chunk:g} and {overlap:g}"
            )
        frames = max(int(chunk * sample_rate_hz - field) // hop + 1, 1)
        return cls(frames, min(round(overlap * sample_rate_hz / hop), frames // 2), hop, field, sample_rate_hz)

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Cut a recording given as blocks `[C, S_i]`; yield the first frame of each piece and its samples `[C, S]`.

        Holds at most a piece and a block in memory. A recording no longer than a piece is yielded whole, even if it is too
        short for a single frame.
        """
        step = (self.frames - self.overlap) * self.hop
        size = (self.frames - 1) * self.hop + self.field
        start, held = 0, 0
        parts: list[np.ndarray] = []
        for block in blocks:
            parts.append(block)
            held += block.shape[1]
            while held >= size + self.hop:  # the recording has at least one more frame after this piece
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
