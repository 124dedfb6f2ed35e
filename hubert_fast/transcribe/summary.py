"""The outcome of a transcription: that of any job, and error rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..jobs.journal import Totals
from ..jobs.summary import Summary
from . import normalizers


@dataclass
class TranscriptionSummary(Summary):
    """The outcome of a transcription.

    Attributes:
        wer: Word error rate over all utterances with a reference, as a fraction; `None` if none has one.
        cer: Character error rate over the same utterances.
        normalizer: How texts were normalized before they were compared.
        normalizer_does: A description of the normalizer.
    """

    verb: ClassVar[str] = "transcribe"
    participle: ClassVar[str] = "transcribed"
    wer: float | None = None
    cer: float | None = None
    reference_words: int = 0
    word_errors: int = 0
    reference_characters: int = 0
    character_errors: int = 0
    normalizer: str = normalizers.DEFAULT
    normalizer_does: str = ""

    def count(self, totals: Totals, wall_seconds: float) -> None:
        super().count(totals, wall_seconds)
        self.normalizer_does = normalizers.description(self.normalizer)
        errors = totals.errors
        self.reference_words, self.word_errors = errors.words, errors.word_errors
        self.reference_characters, self.character_errors = errors.characters, errors.character_errors
        if errors.words:
            self.wer = round(errors.word_errors / errors.words, 6)
            self.cer = round(errors.character_errors / errors.characters, 6)

    def findings(self) -> list[str]:
        if self.wer is None or self.cer is None:
            return []
        return [
            f"word error rate {100 * self.wer:.2f} % of {self.reference_words} words, "
            f"character error rate {100 * self.cer:.2f} % (normalizer {self.normalizer}: {self.normalizer_does})"
        ]
