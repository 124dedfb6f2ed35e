"""Word and character errors of transcripts whose reference is known, counted by jiwer."""

from __future__ import annotations

from importlib.util import find_spec

from . import normalizers
from .journal import Errors


def can_score() -> bool:
    """Return whether jiwer is installed."""
    return find_spec("jiwer") is not None


def score(reference: str, text: str, normalizer: str = normalizers.DEFAULT) -> Errors:
    """Count the edits from reference to text after both were normalised: see :mod:`.normalizers`.

    Raises ``ValueError`` for a normaliser that does not exist or cannot run.
    """
    import jiwer

    normalize = normalizers.normalizer(normalizer)
    expected, heard = normalize(reference), normalize(text)
    if not expected:  # nothing to compare with: all that was heard is too much
        return Errors(0, len(heard.split()), 0, len(heard))
    words, characters = jiwer.process_words(expected, heard), jiwer.process_characters(expected, heard)
    return Errors(
        len(expected.split()),
        words.substitutions + words.deletions + words.insertions,
        len(expected),
        characters.substitutions + characters.deletions + characters.insertions,
    )
