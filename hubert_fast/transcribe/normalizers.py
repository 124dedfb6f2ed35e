"""Normalize reference and transcript before they are compared, so that case or punctuation alone does not count as an error."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

# Characters used as an apostrophe: single quotation marks (left, right, high-reversed), the letters turned comma, apostrophe
# and saltillo (both cases), the Hebrew geresh, the prime, the acute and grave accents, and the full-width form.
APOSTROPHES = "\u2018\u2019\u201b\u02bb\u02bc\ua78b\ua78c\u05f3\u2032\u00b4\u0060\uff07"

DESCRIPTIONS = {
    "none": "compares texts as they are, apart from white space",
    "basic": "ignores case, punctuation, symbols and invisible characters; keeps combining marks and apostrophes within words",
    "english": "Whisper's EnglishTextNormalizer: unifies contractions and numbers; ignores case, punctuation and fillers",
}
NORMALIZERS = tuple(DESCRIPTIONS)
DEFAULT = "basic"

Normalize = Callable[[str], str]


class _Translation(dict[int, "str | None"]):
    """A table for `str.translate` that is filled as characters occur.

    It keeps letters, marks and numbers. It drops invisible characters: format characters such as soft hyphens and joiners,
    variation selectors, and enclosing marks such as those of keycaps. Anything else becomes a space.
    """

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character == "'" or character in APOSTROPHES:
            new = "'"
        elif category in ("Cf", "Me") or _is_selector(code):
            new = None
        else:
            new = character if category[0] in "LMN" else " "
        self[code] = new
        return new


def _is_selector(code: int) -> bool:
    """Return whether a character only selects a variant of the character before it, or joins two characters."""
    return code == 0x034F or 0x180B <= code <= 0x180F or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF


_TRANSLATION = _Translation()


def _fold_case(text: str) -> str:
    """Return the text case-folded (ß becomes ss, and a final sigma an inner one) and in NFC, without the dot of a Turkish İ."""
    folded = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", folded.replace("i\u0307", "i"))


def _trim(word: str) -> str:
    """Strip apostrophes, which look like quotation marks at the edges of a word, and leading marks that have no letter."""
    word = word.strip("'")
    while word and unicodedata.category(word[0])[0] == "M":
        word = word[1:].lstrip("'")
    return word


def none(text: str) -> str:
    """Return the text with its words separated by single spaces."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Return the text case-folded and without punctuation, symbols and invisible characters.

    Combining marks, such as the vowel signs of Indic and Thai scripts, are kept. Apostrophes of all kinds become `'` within
    words (`don't`, `l'école`) and are dropped at their edges. Hyphens and underscores separate words.
    """
    words = _fold_case(text).translate(_TRANSLATION).split()
    return " ".join(filter(None, map(_trim, words)))


def _straighten(text: str) -> str:
    """Return the text in NFC with straight apostrophes, which Whisper's contractions need, and no format characters."""
    text = unicodedata.normalize("NFC", text).translate(dict.fromkeys(map(ord, APOSTROPHES), "'"))
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


@cache
def normalizer(name: str) -> Normalize:
    """Return the normalizer of that name.

    Raises:
        ValueError: If there is no such normalizer, or the package that it needs is not installed.
    """
    if name not in DESCRIPTIONS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, but is {name!r}")
    if name == "english":
        english, _ = _english()
        return lambda text: none(english(_straighten(text)))
    return {"none": none, "basic": basic}[name]


@cache
def description(name: str) -> str:
    """Return a description of a normalizer, including the package that implements it."""
    return DESCRIPTIONS[name] + (f" ({_english()[1]})" if name == "english" else "")


@cache
def _english() -> tuple[Normalize, str]:
    """Return Whisper's English normalizer and a description of the package it comes from."""
    try:
        import transformers
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        # the table of British spellings is part of Whisper's checkpoints, not of the package
        return EnglishTextNormalizer({}), f"transformers {transformers.__version__}, British spellings unchanged"
    except ImportError:
        pass
    try:
        from whisper_normalizer.english import EnglishTextNormalizer as WithSpellings

        return WithSpellings(), "whisper_normalizer, British spellings converted to American"
    except ImportError:
        raise ValueError(
            "the normalizer english needs transformers or whisper_normalizer, and neither is installed: "
            "pip install transformers, or choose --normalizer basic"
        ) from None
