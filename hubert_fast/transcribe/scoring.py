"""Word and character errors of transcripts whose reference is known, counted by jiwer."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

from .journal import Errors


def can_score() -> bool:
    """Whether jiwer is there."""
    return find_spec("jiwer") is not None


@cache
def _normalizer() -> Any:
    import jiwer

    # models write letters of one case, and neither punctuation nor marks
    return jiwer.Compose(
        [
            jiwer.ToLowerCase(),
            jiwer.SubstituteRegexes({r"[^\w\s']|_": " "}),
            jiwer.RemoveMultipleSpaces(),
            jiwer.Strip(),
        ]
    )


def score(reference: str, text: str) -> Errors:
    """Count the edits from reference to text, without regard to case and punctuation (apostrophes count)."""
    import jiwer

    expected, found = _normalizer()(reference), _normalizer()(text)
    if not expected:  # nothing to compare with: all that was heard is too much
        return Errors(0, len(found.split()), 0, len(found))
    words, characters = jiwer.process_words(expected, found), jiwer.process_characters(expected, found)
    return Errors(
        len(expected.split()),
        words.substitutions + words.deletions + words.insertions,
        len(expected),
        characters.substitutions + characters.deletions + characters.insertions,
    )
