"""Cut long audio into overlapping pieces at frame boundaries.

Piece k begins at frame `k * (L - V)` of the recording and has L frames; it shares V of them with each neighbour. Because it
begins at a frame boundary, its frames coincide with frames of the recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


def join_at_middles(pieces: Sequence[tuple[int, tuple[np.ndarray, ...]]]) -> tuple[np.ndarray, ...]:
    """Join arrays with a row for each frame. Each frame comes from the piece in which it has more context on both sides.

    Args:
        pieces: The first frame of each piece, in ascending order, and its arrays `[T, ...]`.

    Returns:
        Arrays with a row for each frame of the recording.
    """
    if len(pieces) == 1:
        return pieces[0][1]
    begins, ends = [0], []
    for (start, arrays), (next_start, _) in pairwise(pieces):
        shared = start + len(arrays[0]) - next_start
        ends.append(len(arrays[0]) - shared + shared // 2)
        begins.append(shared // 2)
    ends.append(len(pieces[-1][1][0]))
    spans = list(zip(pieces, begins, ends))
    return tuple(
        np.concatenate([arrays[index][begin:end] for (_, arrays), begin, end in spans]) for index in range(len(pieces[0][1]))
    )
