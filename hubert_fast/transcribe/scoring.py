"""Count word and character errors of a transcript against its reference, with jiwer."""

from __future__ import annotations

from importlib.util import find_spec

from ..jobs.journal import Errors
from . import normalizers


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
