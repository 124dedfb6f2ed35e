"""Define the plan of a file: which decoder reads which of its bytes, and what is known to be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

TOLERATED_SECONDS = 0.1  # difference in duration that is no fault: encoders pad, and some writers miscount slightly
MAX_RECORDINGS = 10_000


@dataclass
class Part:
    """A range of bytes for one decoder.

    Attributes:
        decoder: `"libsndfile"` or `"ffmpeg"`.
        container: Name of the container, from `probing`, which selects FFmpeg's demuxer.
        start: Offset of the first byte.
        end: Offset after the last byte.
        raw: Keyword arguments with which soundfile reads the range as headerless samples; `None` if it has a header.
        is_whole_file: Whether the range covers the whole file, so that a decoder may open it by its path.
        seconds: Expected duration, `None` if unknown.
        delay: Samples to drop at the beginning of libsndfile's output.
        options: Options for FFmpeg's demuxer.
    """

    decoder: str
    container: str
    start: int
    end: int
    raw: dict[str, Any] | None = None
    is_whole_file: bool = True
    seconds: float | None = None
    delay: int = 0
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """The parts of a file to decode, in order, and what is known to be wrong with it.

    Attributes:
        parts: The parts to decode, in order.
        truncation: The evidence that the file is cut off, which completes "cut off: ..."; `None` if there is none.
        undecodable_seconds: Approximate duration of the stretches that cannot be decoded.
        notes: Faults that decoding works around, each a sentence for the user.
        end: Offset at which the recording ends, where another may begin; `None` if it extends to the end of the file.
    """

    parts: list[Part]
    truncation: str | None = None
    undecodable_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    end: int | None = None

    def append(self, other: Plan, start: int) -> None:
        """Add the plan of a recording that begins at offset `start`; `other` counts its offsets from there."""
        for part in other.parts:
            self.parts.append(replace(part, start=part.start + start, end=part.end + start))
        self.truncation = self.truncation or other.truncation
        self.undecodable_seconds += other.undecodable_seconds
        self.notes += other.notes
        self.end = None if other.end is None else other.end + start
        for part in self.parts:
            part.is_whole_file = False

    def note_joined(self, count: int) -> None:
        """Add a note that the file holds `count` recordings, if there are several."""
        if count > 1:
            self.notes.append(f"this file holds {count} recordings joined end to end: all of them are decoded, in order")
