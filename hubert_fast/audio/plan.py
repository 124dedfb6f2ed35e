"""Describe how a file is decoded: which decoder takes which bytes, what is missing, and which faults decoding works around."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

MISSING_SECONDS = 0.1  # encoders pad, and some writers count wrong by a little
MOST_JOINED = 10_000


@dataclass
class Part:
    """A range of bytes that one decoder takes.

    decoder: ``"libsndfile"`` or ``"ffmpeg"``. container: the name that selects FFmpeg's demuxer. options: for that demuxer.
    raw: how libsndfile reads samples without a header. is_all: whether the range is the whole file. seconds: how long it is,
    ``None`` when unknown. delay: samples to drop at the beginning of what libsndfile decodes.
    """

    decoder: str
    container: str
    start: int
    end: int
    raw: dict[str, object] | None = None
    is_all: bool = True
    seconds: float | None = None
    delay: int = 0
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """Parts to decode one after the other.

    cut: why the file is incomplete according to its header, ``None`` when it is not. broken_seconds: the approximate length of
    the stretches that cannot be decoded. notes: faults of the file that decoding works around. end: where the recording ends in
    the file, ``None`` for its last byte.
    """

    parts: list[Part]
    cut: str | None = None
    broken_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    end: int | None = None

    def append(self, other: Plan, start: int) -> None:
        """Add the plan of a recording that begins at ``start`` in the file, with places counted from there."""
        for part in other.parts:
            self.parts.append(replace(part, start=part.start + start, end=part.end + start))
        self.cut = self.cut or other.cut
        self.broken_seconds += other.broken_seconds
        self.notes += other.notes
        self.end = None if other.end is None else other.end + start
        for part in self.parts:
            part.is_all = False

    def note_joined(self, count: int) -> None:
        """Note that ``count`` recordings follow each other in the file."""
        if count > 1:
            self.notes.append(f"{count} recordings were joined in this file: all are decoded, one after the other")
