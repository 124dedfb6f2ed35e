"""The outcome of a run: counts, speed and error rates."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import __version__
from ..jobs.journal import Totals
from . import normalizers
from .sinks import replace


@dataclass
class Summary:
    """The outcome of a run. Counts cover all runs on this output; those that end in `_this_run` cover the last one only.

    Attributes:
        output: The output's path, `None` for standard output.
        already_done: Inputs that were done in an earlier run or named twice.
        changed_this_run: Inputs that were done again because their file had changed.
        with_notes: Inputs with a note, for instance about a wrong header.
        batch_seconds: Seconds of audio in a batch, at the end of the run.
        wer: Word error rate over all utterances with a reference, as a fraction; `None` if none has one.
        cer: Character error rate over the same utterances.
        normalizer: How texts were normalized before they were compared.
        normalizer_does: A description of the normalizer.
        complete: Whether all inputs were processed.
    """

    output: str | None
    model: str
    device: str
    dtype: str
    transcribed: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    transcribed_this_run: int = 0
    failed_this_run: int = 0
    already_done: int = 0
    changed_this_run: int = 0
    with_notes: int = 0
    with_notes_this_run: int = 0
    audio_seconds_this_run: float = 0.0
    wall_seconds_this_run: float = 0.0
    times_real_time: float | None = None
    batch_seconds: float = 0.0
    wer: float | None = None
    cer: float | None = None
    reference_words: int = 0
    word_errors: int = 0
    reference_characters: int = 0
    character_errors: int = 0
    normalizer: str = normalizers.DEFAULT
    normalizer_does: str = ""
    complete: bool = False
    version: str = field(default=__version__)

    def count(self, totals: Totals, wall_seconds: float) -> None:
        """Fill in the totals, speed and error rates."""
        self.with_notes = totals.with_notes
        self.normalizer_does = normalizers.description(self.normalizer)
        self.transcribed, self.failed, self.audio_seconds = totals.transcribed, totals.failed, round(totals.audio_seconds, 3)
        self.audio_seconds_this_run = round(self.audio_seconds_this_run, 3)
        self.wall_seconds_this_run = round(wall_seconds, 3)
        if self.audio_seconds_this_run and wall_seconds > 0:
            self.times_real_time = round(self.audio_seconds_this_run / wall_seconds, 2)
        errors = totals.errors
        self.reference_words, self.word_errors = errors.words, errors.word_errors
        self.reference_characters, self.character_errors = errors.characters, errors.character_errors
        if errors.words:
            self.wer = round(errors.word_errors / errors.words, 6)
            self.cer = round(errors.character_errors / errors.characters, 6)


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON."""
    replace(path, json.dumps(asdict(summary), indent=1) + "\n")
