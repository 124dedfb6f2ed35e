"""What a plan is: which decoder takes which bytes of a file, what is missing, and what was not as it should be."""

from __future__ import annotations

from dataclasses import dataclass, field

MISSING_SECONDS = 0.1  # encoders pad, and some writers count wrong by a little
MOST_JOINED = 10_000


@dataclass
class Part:
    """A range of bytes that one decoder takes.

    decoder: ``"libsndfile"`` or ``"ffmpeg"``. container: for FFmpeg, and options. raw: how libsndfile reads samples without a
    header. is_all: the range is the whole file. seconds: how long it is, where that is known. delay: samples that libsndfile
    gives before the sound.
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
    """Parts, one after the other.

    cut: what of the file is not there, by its header. broken_seconds: for how long it cannot be decoded, about. notes: what was
    not as it should be, and is decoded all the same.
    """

    parts: list[Part]
    cut: str | None = None
    broken_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note_joined(self) -> None:
        """Note that several recordings follow each other in the file."""
        if len(self.parts) > 1:
            self.notes.append(f"{len(self.parts)} recordings were joined in this file: all of them are taken")
