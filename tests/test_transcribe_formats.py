"""Transcripts as text: each format as its readers expect it."""

import argparse
import csv
import io
import json
import re

import pytest

from hubert_fast import cli
from hubert_fast.ctc import Word
from hubert_fast.transcribe import Result, Transcript, Utterance, formats, normalizers
from hubert_fast.transcribe.outputs import _safe, encoded
from hubert_fast.transcribe.textgrid import textgrid

WORDS = (Word("HELLO", 0.5, 0.9, 0.91234), Word("WORLD", 1.0, 1.46, 0.5))
HELLO = Transcript("HELLO WORLD", 2.00049, 0.7123456, WORDS)
SILENCE = Transcript("", 1.0)


def _result(*transcripts, **values):
    return Result(Utterance(**{"id": "a b/c.wav", "audio": "a b/c.wav", **values}), transcripts or (HELLO,))


def test_jsonl():
    row = json.loads(formats.jsonl(_result(reference="hello", offset_seconds=3.5)))
    assert row == {
        "id": "a b/c.wav",
        "audio": "a b/c.wav",
        "offset_seconds": 3.5,
        "duration_seconds": 2.0,
        "text": "HELLO WORLD",
        "confidence": 0.7123,
        "words": [
            {"word": "HELLO", "start_seconds": 0.5, "end_seconds": 0.9, "confidence": 0.9123},
            {"word": "WORLD", "start_seconds": 1.0, "end_seconds": 1.46, "confidence": 0.5},
        ],
        "reference": "hello",
    }
    assert json.loads(formats.jsonl(_result(SILENCE)))["confidence"] is None
    rows = [json.loads(line) for line in formats.jsonl(_result(HELLO, SILENCE)).splitlines()]
    assert [(row["id"], row["channel"]) for row in rows] == [("a b/c.wav#1", 1), ("a b/c.wav#2", 2)]


def test_names_that_are_no_utf8_come_back_from_json():
    name = "a\udcff.wav"
    line = encoded(formats.jsonl(_result(id=name, audio=name)))
    assert json.loads(line)["id"] == name and json.loads(encoded(formats.error_row(_result(id=name))))["id"] == name


def test_txt_is_a_line_an_utterance():
    assert formats.txt(_result(id="a\tb\nc")) == "a b c\tHELLO WORLD\n"
    assert formats.txt(_result(HELLO, SILENCE)) == "a b/c.wav#1\tHELLO WORLD\na b/c.wav#2\t\n"


def test_tsv_reads_back():
    table = formats.ROWS["tsv"].head + formats.tsv(_result(id='"a"\tb')) + formats.tsv(_result(SILENCE))
    rows = list(csv.DictReader(io.StringIO(table), delimiter="\t"))
    assert rows[0] == {
        "id": '"a"\tb', "audio": "a b/c.wav", "start_seconds": "0.000", "duration_seconds": "2.000", "confidence": "0.7123",
        "text": "HELLO WORLD",
    }  # fmt: skip
    assert rows[1]["confidence"] == "" and rows[1]["text"] == ""


def test_csv_is_rfc_4180():
    text = 'SAY "HI", THEN\nGO'
    result = _result(Transcript(text, 1.0, 0.5), id='a,"b"', audio="ü.wav", offset_seconds=2.5)
    assert formats.ROWS["csv"].head == "id,audio,start_seconds,duration_seconds,confidence,text\r\n"
    assert formats.comma_separated(result) == '"a,""b""",ü.wav,2.500,1.000,0.5000,"SAY ""HI"", THEN\nGO"\r\n'
    table = io.StringIO(formats.ROWS["csv"].head + formats.comma_separated(result) + formats.comma_separated(_result(SILENCE)))
    rows = list(csv.DictReader(table))
    assert [(row["id"], row["text"], row["confidence"]) for row in rows] == [('a,"b"', text, "0.5000"), ("a b/c.wav", "", "")]


def test_json_is_an_array_of_the_objects_of_json_lines():
    format = formats.ROWS["json"]
    results = [_result(reference="hello"), _result(HELLO, SILENCE)]
    text = format.head + format.between.join(format.text(result) for result in results) + format.end(is_empty=False)
    assert json.loads(text) == [json.loads(line) for result in results for line in formats.jsonl(result).splitlines()]
    assert [line[:6] for line in text.splitlines()] == ["[", '{"id":', '{"id":', '{"id":', "]"]
    assert format.head + format.end(is_empty=True) == "[]\n"


def test_notes_are_in_rows_that_are_json():
    notes = ("a.wav: the header says 5.0 s, but there are 103.2 s: all are transcribed",)
    noted = Result(Utterance("a", "a.wav"), (HELLO,), notes=notes)
    assert json.loads(formats.jsonl(noted))["notes"] == json.loads(formats.json_items(noted))["notes"] == [*notes]
    assert json.loads(formats.error_row(Result(Utterance("a", "a.wav"), (), "no", notes)))["notes"] == [*notes]
    assert "notes" not in json.loads(formats.jsonl(_result())) and "notes" not in json.loads(formats.error_row(_result()))


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 2 
tiers? <exists> 
size = 1 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "words" 
        xmin = 0 
        xmax = 2 
        intervals: size = 4 
        intervals [1]:
            xmin = 0 
            xmax = 0.46 
            text = "" 
        intervals [2]:
            xmin = 0.46 
            xmax = 0.9 
            text = "SAY" 
        intervals [3]:
            xmin = 0.9 
            xmax = 1.46 
            text = \"\"\"HÉ\"\"\" 
        intervals [4]:
            xmin = 1.46 
            xmax = 2 
            text = "" 
"""


def test_textgrid_is_praats_long_text_format():
    assert textgrid(Transcript("", 2.0, 1.0, (Word("SAY", 0.46, 0.9, 1.0), Word('"HÉ"', 0.9, 1.46, 1.0)))) == TEXTGRID


def _intervals(text):
    pattern = r'intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"'
    return [(float(start), float(end), words) for start, end, words in re.findall(pattern, text)]


@pytest.mark.parametrize(
    "words, duration, offset, expected",
    [
        ([], 1.5, 0.0, [(0, 1.5, "")]),
        ([], 0.0, 0.0, [(0, 0.001, "")]),
        ([("A", 0.0, 1.0)], 1.0, 0.0, [(0, 1, "A")]),
        ([("A", 10.2, 10.4)], 1.0, 10.0, [(0, 10.2, ""), (10.2, 10.4, "A"), (10.4, 11, "")]),  # of a part
        ([("A", 0.0, 0.5), ("B", 0.4, 0.7)], 1.0, 0.0, [(0, 0.5, "A"), (0.5, 0.7, "B"), (0.7, 1, "")]),  # they overlap
        ([("A", 0.5, 0.5)], 1.0, 0.0, [(0, 0.5, ""), (0.5, 0.501, "A"), (0.501, 1, "")]),  # no time at all
        ([("A", 0.1, 0.5), ("B", 0.5002, 1.0)], 1.0, 0.0, [(0, 0.1, ""), (0.1, 0.5, "A"), (0.5, 1, "B")]),
        ([("A", 0.5, 1.02)], 1.0, 0.0, [(0, 0.5, ""), (0.5, 1.02, "A")]),  # longer than the audio
        ([("A", 1 / 3, 2 / 3)], 1.0, 0.0, [(0, 0.33333, ""), (0.33333, 0.66667, "A"), (0.66667, 1, "")]),
    ],
)
def test_intervals_cover_all_the_time_once(words, duration, offset, expected):
    text = textgrid(Transcript("", duration, 1.0, tuple(Word(*word, 1.0) for word in words)), offset)
    assert _intervals(text) == expected
    assert f"xmax = {expected[-1][1]:g} \ntiers" in text and f"size = {len(expected)} \n" in text


def test_the_command_lists_all_formats_and_normalizers():
    """By hand, since its help needs no torch."""
    (commands,) = (action for action in cli._parser()._actions if action.dest == argparse.SUPPRESS or action.choices)
    options = {action.dest: action for action in commands.choices["transcribe"]._actions}
    assert tuple(options["format"].choices) == formats.FORMATS
    assert tuple(options["normalizer"].choices) == normalizers.NORMALIZERS and options["normalizer"].default == "basic"


def test_ctm():
    assert formats.ctm(_result()) == "a%20b/c.wav 1 0.50 0.40 HELLO 0.912\na%20b/c.wav 1 1.00 0.46 WORLD 0.500\n"
    assert formats.ctm(_result(SILENCE, HELLO)).startswith("a%20b/c.wav 2 0.50")


def test_srt_and_vtt():
    assert formats.srt(HELLO) == "1\n00:00:00,500 --> 00:00:01,460\nHELLO WORLD\n"
    late = Transcript("A <B> & C", 4000.0, 1.0, (Word("A", 3599.9996, 3661.0, 1.0), Word("<B>&", 3661.01, 3661.5, 1.0)))
    assert formats.vtt(late) == (
        "WEBVTT\n\n01:00:00.000 --> 01:01:01.000\nA\n\n01:01:01.010 --> 01:01:01.500\n&lt;B&gt;&amp;\n"
    )
    assert formats.srt(SILENCE) == "" and formats.vtt(SILENCE) == "WEBVTT\n"


def test_subtitles_are_short_in_letters_and_seconds_and_break_at_pauses():
    words = [Word("WORD" * (1 + index % 3), 0.5 * index, 0.5 * index + 0.4, 1.0) for index in range(60)]
    words += [Word("PAUSE", 40.0, 40.5, 1.0), Word("X" * 100, 40.6, 41.0, 1.0)]
    cues = [block.split("\n") for block in formats.srt(Transcript("", 50.0, 1.0, tuple(words))).strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    shown = " ".join(" ".join(cue[2:]) for cue in cues).split()
    assert "".join(shown) == "".join(word.word for word in words), "every word is shown once"
    for cue in cues[:-1]:
        assert len(cue) <= 4 and all(len(line) <= 42 for line in cue[2:]), cue
    assert any(cue[2] == "PAUSE" for cue in cues)


@pytest.mark.parametrize(
    "name, safe",
    [
        ("a/b", "a/b"), ("/etc/passwd", "etc/passwd"), ("../../x", "x"), ("..", "unnamed"), ("", "unnamed"),
        ("a//b/./c", "a/b/c"),
    ],
)  # fmt: skip
def test_names_of_files_stay_below_their_folder(name, safe):
    assert _safe(name) == safe


def test_names_that_are_too_long_are_shortened_and_stay_apart():
    one, other = _safe("ä" * 300 + "1"), _safe("ä" * 300 + "2")
    assert one != other and len(one.encode("utf-8", "surrogateescape")) <= 200
