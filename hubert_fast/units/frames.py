"""Define access to more frames than fit in memory: in blocks in a random order, and as a uniform random sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from .codebook import CentroidsError
from .frame_source import FrameSource

NEAR_ROWS = 16  # drawn frames that are at most so far apart are read together


class Frames(ABC):
    """A sequence of frames `[N, C]`, of which parts are read.

    Attributes:
        count: The number of frames, N.
        channels: The number of channels, C.
        source: Where the frames come from; `None` if that is unknown.
    """

    count: int
    channels: int
    source: FrameSource | None = None

    @abstractmethod
    def read(self, start: int, end: int) -> np.ndarray:
        """Return the frames from `start` to `end`, float32 `[end - start, C]`."""

    def blocks(self, rows: int, seed: int, epoch: int = 0, limit: int | None = None) -> Iterator[np.ndarray]:
        """Yield frames in blocks of `rows` consecutive ones (the last block may have fewer), in a random order, float32.

        Args:
            rows: The frames in a block.
            seed: The seed of the choice and the order.
            epoch: Yields the same blocks in another order for each number.
            limit: The number of frames to choose, rounded up to whole blocks; `None` for all.
        """
        starts, _ = self.chosen(rows, seed, limit)
        for start in np.random.default_rng([seed, epoch]).permutation(starts):
            yield self.read(int(start), min(int(start) + rows, self.count))

    def chosen(self, rows: int, seed: int, limit: int | None = None) -> tuple[np.ndarray, int]:
        """Return the first frame of each block that `blocks` yields, int64 `[blocks]`, and the number of frames in them."""
        starts = np.random.default_rng(seed).permutation(np.arange(0, self.count, rows))
        ends = np.cumsum(np.minimum(rows, self.count - starts))  # of the blocks, one after the other
        if limit is not None:
            starts = starts[: int(np.searchsorted(ends, limit)) + 1]
        return starts, int(ends[len(starts) - 1])

    def sample(self, rows: int, seed: int) -> np.ndarray:
        """Return distinct frames that are drawn uniformly, in their order in the sequence: float32 `[min(rows, N), C]`."""
        rows = min(rows, self.count)
        # without shuffling, the memory is that of the drawn numbers, not of all
        chosen = np.sort(np.random.default_rng(seed).choice(self.count, rows, replace=False, shuffle=False))
        frames = np.empty((rows, self.channels), np.float32)
        done = 0
        while done < rows:
            near = chosen[done : done + 1024]
            together = int(np.argmax(np.append(np.diff(near) > NEAR_ROWS, True))) + 1
            first = int(near[0])
            frames[done : done + together] = self.read(first, int(near[together - 1]) + 1)[near[:together] - first]
            done += together
        return frames


def joined(parts: Sequence[Frames]) -> Frames:
    """Return the frames of several places, such as the shards of a job, as one sequence.

    Raises:
        CentroidsError: They have other numbers of channels, or come from other models, layers or settings.
    """
    return parts[0] if len(parts) == 1 else _JoinedFrames(parts)


class _JoinedFrames(Frames):
    def __init__(self, parts: Sequence[Frames]):
        self._parts, self.channels = parts, parts[0].channels
        known = [part.source for part in parts if part.source is not None]
        self.source = known[0] if len(known) == len(parts) else None
        for part in parts:
            if part.channels != self.channels:
                raise CentroidsError(
                    f"all frames must have equally many channels, but have {self.channels} and {part.channels}"
                )
            if part.source is not None and part.source.differences(known[0]):
                raise CentroidsError("all frames must come from the same model, layer and settings, but they come from several")
        self._starts = [0, *accumulate(part.count for part in parts)]
        self.count = self._starts[-1]

    def read(self, start: int, end: int) -> np.ndarray:
        """Return the frames from `start` to `end`, float32 `[end - start, C]`."""
        pieces = [
            part.read(max(start - first, 0), min(end - first, part.count))
            for part, first in zip(self._parts, self._starts)
            if first < end and start < first + part.count
        ]
        return np.concatenate(pieces) if pieces else np.empty((0, self.channels), np.float32)


class ArrayFrames(Frames):
    """The frames of an array `[N, C]` in memory. Raises `CentroidsError` for another shape or dtype."""

    def __init__(self, frames: np.ndarray, source: FrameSource | None = None):
        if not isinstance(frames, np.ndarray) or frames.dtype.kind != "f" or frames.ndim != 2 or 0 in frames.shape:
            found = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise CentroidsError(f"frames must be a floating-point array [N, C], each at least 1, but are {found}")
        self._frames, self.source = frames, source
        self.count, self.channels = frames.shape

    def read(self, start: int, end: int) -> np.ndarray:
        """Return the frames from `start` to `end`, float32 `[end - start, C]`."""
        frames = self._frames[start:end].astype(np.float32)
        if not np.isfinite(frames).all():
            raise CentroidsError(f"frames must be finite in float32, but some from {start} to {end} are not")
        return frames
