"""What is done to a reference and a transcript before they are compared, so that spelling alone is no error."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

# Signs that are typed or typeset for the apostrophe: single quotation marks (left, right, high-reversed), the letters turned
# comma, apostrophe and saltillo (both cases), the Hebrew geresh, the prime, the acute and grave accents, the full-width form.
APOSTROPHES = "\u2018\u2019\u201b\u02bb\u02bc\ua78b\ua78c\u05f3\u2032\u00b4\u0060\uff07"

DOES = {
    "none": "the text as it is, white space apart",
    "basic": "without regard to case, punctuation, symbols and invisible characters; marks stay with their letters, and "
    "apostrophes within words count",
    "english": "Whisper's EnglishTextNormalizer: contractions and numbers written one way, no case, punctuation or fillers",
}
NORMALIZERS = tuple(DOES)
DEFAULT = "basic"

Normalize = Callable[[str], str]


class _Signs(dict[int, "str | None"]):
    """A table for ``str.translate``, filled as characters are met.

    Letters, marks and numbers stay. What is invisible goes: format characters such as soft hyphens and joiners, selectors
    of a variant, and enclosing marks, as of keycaps. Anything else becomes a space.
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
    """Return whether a mark only chooses between shapes of the character before it, or joins two."""
    return code == 0x034F or 0x180B <= code <= 0x180F or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF


_SIGNS = _Signs()


def _caseless(text: str) -> str:
    """Fold the case as Unicode matches it (ß is SS, final sigma is sigma), composed; the dot of a Turkish İ goes."""
    folded = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", folded.replace("i\u0307", "i"))


def _word(word: str) -> str:
    """Drop apostrophes at the edges, where they cannot be told from quotation marks, and marks that have lost their letter."""
    word = word.strip("'")
    while word and unicodedata.category(word[0])[0] == "M":
        word = word[1:].lstrip("'")
    return word


def none(text: str) -> str:
    """Return the text with one space between words."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Return the text without case, punctuation, symbols and invisible characters.

    Combining marks, such as the vowel signs of Indic and Thai scripts, stay with their letters. Apostrophes of every kind are
    one, and count within words (``don't``, ``l'école``) but not at their edges. A hyphen or an underscore parts words.
    """
    words = _caseless(text).translate(_SIGNS).split()
    return " ".join(filter(None, map(_word, words)))


def _prepared(text: str) -> str:
    """Make a text ready for Whisper's normaliser, whose contractions have straight apostrophes."""
    text = unicodedata.normalize("NFC", text).translate(dict.fromkeys(map(ord, APOSTROPHES), "'"))
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


@cache
def normalizer(name: str) -> Normalize:
    """Return the function of that name. Raises ``ValueError`` when there is none, or the package that it needs is missing."""
    if name not in DOES:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, but is {name!r}")
    if name == "english":
        english, _ = _english()
        return lambda text: none(english(_prepared(text)))
    return {"none": none, "basic": basic}[name]


@cache
def does(name: str) -> str:
    """Return in words what a normaliser does, with the package that does it."""
    return DOES[name] + (f" ({_english()[1]})" if name == "english" else "")


@cache
def _english() -> tuple[Normalize, str]:
    """Return Whisper's English normaliser, and where it comes from."""
    try:
        import transformers
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        # its table of British spellings lies among a checkpoint's files, not in the package
        return EnglishTextNormalizer({}), f"transformers {transformers.__version__}, British spellings left as they are"
    except ImportError:
        pass
    try:
        from whisper_normalizer.english import EnglishTextNormalizer as WithSpellings

        return WithSpellings(), "whisper_normalizer, British spellings made American"
    except ImportError:
        raise ValueError(
            "the normalizer english is Whisper's in transformers or whisper_normalizer, and neither is installed: "
            "pip install transformers, or choose --normalizer basic"
        ) from None
