"""Count word and character errors of a transcript against its reference, with jiwer."""

from __future__ import annotations

from importlib.util import find_spec

from ..jobs.journal import Errors
from . import normalizers
from .results import Result


def can_score() -> bool:
    """Return whether jiwer is installed."""
    return find_spec("jiwer") is not None


def score(reference: str, text: str, normalizer: str = normalizers.DEFAULT) -> Errors:
    """Count the word and character edits between a reference and a text after normalizing both.

    Raises:
        ValueError: If there is no such normalizer, or the package that it needs is not installed.
    """
    import jiwer

    normalize = normalizers.normalizer(normalizer)
    expected, hypothesis = normalize(reference), normalize(text)
    if not expected:  # every word of the text is an insertion
        return Errors(0, len(hypothesis.split()), 0, len(hypothesis))
    words, characters = jiwer.process_words(expected, hypothesis), jiwer.process_characters(expected, hypothesis)
    return Errors(
        len(expected.split()),
        words.substitutions + words.deletions + words.insertions,
        len(expected),
        characters.substitutions + characters.deletions + characters.insertions,
    )


class Scorer:
    """Counts the errors of results against the references of their utterances.

    Args:
        normalizer: Name of the normalizer to apply to both, see `normalizers`.

    Attributes:
        unscored: Transcripts with a reference that could not be scored because jiwer is missing.
    """

    def __init__(self, normalizer: str):
        self._normalizer, self._can_score, self.unscored = normalizer, can_score(), 0

    def __call__(self, result: Result) -> Errors:
        """Return the errors. With several channels none are counted: no channel has its own reference."""
        if result.utterance.reference is None or len(result.transcripts) != 1:
            return Errors()
        if not self._can_score:
            self.unscored += 1
            return Errors()
        return score(result.utterance.reference, result.transcripts[0].text, self._normalizer)
