"""The options of a job, whatever it computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

CHANNELS = ("mix", "each")


@dataclass(frozen=True)
class Options:
    """Options of a job.

    Attributes:
        batch_seconds: Seconds of audio in a batch; by default 64 on a CPU, and 16 for each GiB of a GPU's memory up to 1,280.
        workers: Threads that decode audio; by default one for each CPU that the process may use, at most 16.
        chunk_seconds: Length of the chunks that longer audio is cut into.
        overlap_seconds: Seconds of audio that consecutive chunks share.
        channels: `"mix"` averages the channels of a file, `"each"` processes them separately.
        ordered: Return results in the order of the inputs instead of the order in which they finish.
        keep_truncated: Process what is left of truncated files, instead of reporting them as failures.

    Raises:
        ValueError: If a value is out of range.
    """

    batch_seconds: float | None = None
    workers: int | None = None
    chunk_seconds: float = 40.0
    overlap_seconds: float = 4.0
    channels: str = "mix"
    ordered: bool = False
    keep_truncated: bool = False

    def __post_init__(self) -> None:
        if self.channels not in CHANNELS:
            raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, but is {self.channels!r}")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise ValueError(f"batch seconds must be above 0, but are {self.batch_seconds!r}")
        chunk, overlap = self.chunk_seconds, self.overlap_seconds
        if not (0 < chunk < math.inf and 0 <= 2 * overlap <= chunk):
            raise ValueError(
                f"chunk seconds must be above 0 and overlap seconds at most half the chunk seconds, but they are {chunk:g} "
                f"and {overlap:g}"
            )
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 1):
            raise ValueError(f"workers must be an integer of at least 1, but is {self.workers!r}")
