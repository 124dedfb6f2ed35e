"""Check what counts as a word or character error in various scripts, and what the normalizers ignore."""
# ruff: noqa: RUF001 - the tests need quotation marks that look alike

import sys
import unicodedata

import pytest

from hubert_fast.jobs.journal import Errors
from hubert_fast.transcribe.normalizers import DESCRIPTIONS, NORMALIZERS, basic, description, normalizer
from hubert_fast.transcribe.scoring import score

pytest.importorskip("jiwer", reason="jiwer counts the word errors")

NFD = "NFD"


@pytest.mark.parametrize(
    "reference, text, expected",
    [
        ("Hello, World!", "HELLO WORLD", Errors(2, 0, 11, 0)),
        ("don't stop", "DON'T STOP", Errors(2, 0, 10, 0)),
        ("one two three", "ONE TOO THREE FOUR", Errors(3, 2, 13, 6)),
        ("dont stop", "DON'T STOP", Errors(2, 1, 9, 1)),
        ("", "HEARD", Errors(0, 1, 0, 5)),
        ("said", "", Errors(1, 1, 4, 4)),
        ("", "", Errors(0, 0, 0, 0)),
        ("... !?", "HEARD", Errors(0, 1, 0, 5)),
        ("... !?", "", Errors(0, 0, 0, 0)),
        ("😀", "", Errors(0, 0, 0, 0)),
        # apostrophes and combining marks
        ("DON’T STOP", "DON'T STOP", Errors(2, 0, 10, 0)),
        ("l’école", "L'ÉCOLE", Errors(1, 0, 7, 0)),
        (unicodedata.normalize(NFD, "école là"), "ÉCOLE LÀ", Errors(2, 0, 8, 0)),
        ("किताब", "किताब", Errors(1, 0, 5, 0)),
        ("किताब", "कताब", Errors(1, 1, 5, 1)),
        ("สวัสดีครับ", "สวัสดีครับ", Errors(1, 0, 10, 0)),
    ],
)
def test_scores(reference, text, expected):
    assert score(reference, text) == expected


@pytest.mark.parametrize(
    "reference, text",
    [
        *((f"don{sign}t", "DON'T") for sign in "’‘‛ʻʼ＇ꞌ′´`"),
        ("‘single quoted’ words", "SINGLE QUOTED WORDS"),
        ("“double” «quoted» „words‟", "DOUBLE QUOTED WORDS"),
        ("``plain'' quotes", "PLAIN QUOTES"),
        ("’tis the dogs’ dinner", "'TIS THE DOGS' DINNER"),
        ("rock ’n’ roll", "ROCK 'N' ROLL"),
        ("Mother-in-law, snake_case", "MOTHER IN LAW SNAKE CASE"),
        ("1,000.5 %", "1 000 5"),
        ("no\u00a0break\u2009thin\u3000wide\tspace", "NO BREAK THIN WIDE SPACE"),
        ("soft\u00adhy\u00adphen zero\u200bwidth \ufeffmark", "SOFTHYPHEN ZEROWIDTH MARK"),
        ("می\u200cروم", "میروم"),  # Persian with and without the zero-width non-joiner
        ("क्\u200dष", "क्ष"),  # a conjunct with and without the joiner
        ("Straße", "STRASSE"),
        ("STRAẞE", "straße"),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
        ("İstanbul", "istanbul"),
        (unicodedata.normalize(NFD, "İstanbul"), "i̇stanbul"),
        ("I ❤️ you 👩‍👩‍👧 1️⃣ 🏳️‍🌈", "I YOU 1"),
        ("¿Qué? ¡Sí!", "QUÉ SÍ"),
        ("नमस्ते। कैसे हैं?", "नमस्ते कैसे हैं"),
        ("한국어", unicodedata.normalize(NFD, "한국어")),
        ("Việt Nam", unicodedata.normalize(NFD, "VIỆT NAM")),
        ("п’ять", "п'ять"),
        ("你好，世界。", "你好 世界"),
        ("", " \u0301 "),  # a mark without a letter
    ],
)
def test_differences_that_basic_ignores(reference, text):
    assert basic(reference) == basic(text)
    errors = score(reference, text)
    assert (errors.word_errors, errors.character_errors) == (0, 0)


@pytest.mark.parametrize(
    "reference, text",
    [
        ("किताब", "कताब"), ("ไม้", "ไม"), ("ไม่", "ไม้"), ("தமிழ்", "தமழ்"), ("école", "ecole"), ("кит", "кіт"), ("its", "it's"),
        ("й", "и"), ("が", "か"), ("well", "we'll"), ("2", "3"), ("x²", "x"),
    ],
)  # fmt: skip
def test_differences_that_count_as_errors(reference, text):
    assert score(reference, text).word_errors == score(text, reference).word_errors == 1


@pytest.mark.parametrize("word", "किताब हिन्दी தமிழ் മലയാളം বাংলা ไทย สวัสดีครับ ລາວ မြန်မာ ខ្មែរ עִבְרִית العَرَبِيَّة සිංහල ਪੰਜਾਬੀ བོད".split())
def test_combining_marks_are_kept_and_do_not_split_words(word):
    assert basic(word) == unicodedata.normalize("NFC", word)
    assert score(word, word) == Errors(1, 0, len(basic(word)), 0)


def test_normalizer_none_changes_only_white_space():
    assert score("Don’t  stop.", "Don’t\tstop.", "none") == Errors(2, 0, 11, 0)
    assert score("Don't stop", "DON'T STOP", "none").word_errors == 2
    assert score("stop.", "stop", "none") == Errors(1, 1, 5, 1)


def test_normalizer_english_matches_whispers():
    pytest.importorskip("transformers", reason="the normalizer comes from transformers")
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    theirs, ours = EnglishTextNormalizer({}), normalizer("english")
    for text in ("DON'T stop, uh, twenty five men", "Mr. Smith's 1,000 €", "[noise] I'd've (laughs) gone", "", "café"):
        assert ours(text) == " ".join(theirs(text).split()), text
    assert ours("don’t stop") == theirs("don't stop") == "do not stop"
    assert score("He’s got twenty-five", "HE HAS GOT 25", "english").word_errors == 0
    assert description("english").startswith(DESCRIPTIONS["english"]) and "transformers" in description("english")


def test_normalizer_english_without_its_packages(monkeypatch):
    from hubert_fast.transcribe import normalizers

    for cached in (normalizers.normalizer, normalizers._english, normalizers.description):
        cached.cache_clear()
    for name in ("transformers", "whisper_normalizer", "whisper_normalizer.english"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="neither is installed: pip install transformers, or choose --normalizer basic"):
        normalizer("english")


def test_unknown_normalizers_are_refused():
    with pytest.raises(ValueError, match="normalizer must be one of none, basic, english, but is 'french'"):
        score("a", "a", "french")
    assert NORMALIZERS == ("none", "basic", "english")
