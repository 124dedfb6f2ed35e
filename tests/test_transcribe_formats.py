"""Test that every output format is written as its readers expect it."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.ctc import Word
from hubert_fast.jobs.formats import error_row
from hubert_fast.jobs.sinks import encoded, safe_name
from hubert_fast.transcribe import Result, Transcript, Utterance, formats
from hubert_fast.transcribe.textgrid import textgrid

STEPS, PI = demo.RECORDINGS / "steps.wav", demo.RECORDINGS / "pi.wav"
WORDS = (Word("HELLO", 0.5, 0.9, 0.91234), Word("WORLD", 1.0, 1.46, 0.5))
HELLO = Transcript("HELLO WORLD", 2.00049, 0.7123456, WORDS)
SILENCE = Transcript("", 1.0)


def _result(*transcripts, **values):
    return Result(Utterance(**{"id": "a b/c.wav", "audio": "a b/c.wav", **values}), transcripts or (HELLO,))


def test_jsonl_has_all_fields_and_a_row_per_channel():
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


def test_names_that_are_not_utf8_can_be_read_back_from_json():
    name = "a\udcff.wav"
    line = encoded(formats.jsonl(_result(id=name, audio=name)))
    assert json.loads(line)["id"] == name and json.loads(encoded(error_row(_result(id=name))))["id"] == name


def test_txt_has_a_line_per_utterance():
    assert formats.txt(_result(id="a\tb\nc")) == "a b c\tHELLO WORLD\n"
    assert formats.txt(_result(HELLO, SILENCE)) == "a b/c.wav#1\tHELLO WORLD\na b/c.wav#2\t\n"


def test_tsv_can_be_read_back():
    table = formats.FORMATS["tsv"].head + formats.tsv(_result(id='"a"\tb')) + formats.tsv(_result(SILENCE))
    rows = list(csv.DictReader(io.StringIO(table), delimiter="\t"))
    assert rows[0] == {
        "id": '"a"\tb', "audio": "a b/c.wav", "start_seconds": "0.000", "duration_seconds": "2.000", "confidence": "0.7123",
        "text": "HELLO WORLD",
    }  # fmt: skip
    assert rows[1]["confidence"] == "" and rows[1]["text"] == ""


def test_csv_is_rfc_4180():
    text = 'SAY "HI", THEN\nGO'
    result = _result(Transcript(text, 1.0, 0.5), id='a,"b"', audio="ü.wav", offset_seconds=2.5)
    assert formats.FORMATS["csv"].head == "id,audio,start_seconds,duration_seconds,confidence,text\r\n"
    assert formats.comma_separated(result) == '"a,""b""",ü.wav,2.500,1.000,0.5000,"SAY ""HI"", THEN\nGO"\r\n'
    table = io.StringIO(
        formats.FORMATS["csv"].head + formats.comma_separated(result) + formats.comma_separated(_result(SILENCE))
    )
    rows = list(csv.DictReader(table))
    assert [(row["id"], row["text"], row["confidence"]) for row in rows] == [('a,"b"', text, "0.5000"), ("a b/c.wav", "", "")]


def test_json_is_an_array_of_the_objects_of_json_lines():
    format = formats.FORMATS["json"]
    results = [_result(reference="hello"), _result(HELLO, SILENCE)]
    text = format.head + format.between.join(format.text(result) for result in results) + format.end(is_empty=False)
    assert json.loads(text) == [json.loads(line) for result in results for line in formats.jsonl(result).splitlines()]
    assert [line[:6] for line in text.splitlines()] == ["[", '{"id":', '{"id":', '{"id":', "]"]
    assert format.head + format.end(is_empty=True) == "[]\n"


def test_json_rows_contain_notes():
    notes = ("a.wav: the header says 5.0 s, but there are 103.2 s: all are transcribed",)
    noted = Result(Utterance("a", "a.wav"), (HELLO,), notes=notes)
    assert json.loads(formats.jsonl(noted))["notes"] == json.loads(formats.json_items(noted))["notes"] == [*notes]
    assert json.loads(error_row(Result(Utterance("a", "a.wav"), (), "no", notes)))["notes"] == [*notes]
    assert "notes" not in json.loads(formats.jsonl(_result())) and "notes" not in json.loads(error_row(_result()))


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
        ([("A", 10.2, 10.4)], 1.0, 10.0, [(0, 10.2, ""), (10.2, 10.4, "A"), (10.4, 11, "")]),  # a part of a file
        ([("A", 0.0, 0.5), ("B", 0.4, 0.7)], 1.0, 0.0, [(0, 0.5, "A"), (0.5, 0.7, "B"), (0.7, 1, "")]),  # overlapping
        ([("A", 0.5, 0.5)], 1.0, 0.0, [(0, 0.5, ""), (0.5, 0.501, "A"), (0.501, 1, "")]),  # no duration
        ([("A", 0.1, 0.5), ("B", 0.5002, 1.0)], 1.0, 0.0, [(0, 0.1, ""), (0.1, 0.5, "A"), (0.5, 1, "B")]),
        ([("A", 0.5, 1.02)], 1.0, 0.0, [(0, 0.5, ""), (0.5, 1.02, "A")]),  # longer than the audio
        ([("A", 1 / 3, 2 / 3)], 1.0, 0.0, [(0, 0.33333, ""), (0.33333, 0.66667, "A"), (0.66667, 1, "")]),
    ],
)
def test_textgrid_intervals_cover_the_whole_duration_once(words, duration, offset, expected):
    text = textgrid(Transcript("", duration, 1.0, tuple(Word(*word, 1.0) for word in words)), offset)
    assert _intervals(text) == expected
    assert f"xmax = {expected[-1][1]:g} \ntiers" in text and f"size = {len(expected)} \n" in text


def _lines_of(result):
    return "".join(f"<{result.utterance.id}> {transcript.text}\n" for transcript in result.transcripts)


def test_a_row_format_is_added_by_one_entry_in_the_table(tmp_path, monkeypatch, capsys):
    """Options, help, suffixes and errors follow from the entry, as do the header, the separator and the end of the output."""
    added = formats.RowFormat(
        "Lines", "a made-up format", text=_lines_of, head="# header\n", between="--\n", tail="# end\n", is_json=True
    )
    monkeypatch.setitem(formats.FORMATS, "made-up", added)
    options = ["--device", "cpu", "--dtype", "float32"]
    row = f"<{STEPS}> MOVE FORWARD ELEVEN STEPS\n"
    assert main(["transcribe", str(STEPS), *options, "--format", "made-up"]) == 0
    assert capsys.readouterr().out == f"# header\n{row}# end\n"
    out = tmp_path / "out.LINES"
    for inputs in ([STEPS], [STEPS, PI]):  # the second run continues the first
        assert main(["transcribe", *map(str, inputs), *options, "-o", str(out)]) == 0
    assert out.read_text() == f"# header\n{row}--\n<{PI}> THREE POINT ONE FOUR ONE\n# end\n"
    assert main(["transcribe", str(STEPS), "-o", str(tmp_path / "out.other")]) == 2
    assert ".TextGrid, .Lines, or pass --format" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["transcribe", "--help"])
    assert "made-up (a made-up format)" in " ".join(capsys.readouterr().out.split())


def test_a_file_format_is_added_by_one_entry_in_the_table(tmp_path, monkeypatch, capsys):
    text = lambda transcript, offset_seconds: f"{offset_seconds} {transcript.text}"  # noqa: E731
    monkeypatch.setitem(
        formats.FORMATS, "made-up", formats.FileFormat("note", "a made-up format", contents=formats.each_transcript(text))
    )
    command = ["transcribe", str(STEPS), "--device", "cpu", "--dtype", "float32"]
    assert main([*command, "--format", "made-up"]) == 2
    assert "made-up writes a file for each input: name a folder with -o" in capsys.readouterr().err
    assert main([*command, "--format", "made-up", "-o", str(tmp_path / "folder")]) == 0
    assert main([*command, "-o", str(tmp_path / "one.note")]) == 0
    texts = [path.read_text() for path in (tmp_path / "folder" / "steps.note", tmp_path / "one.note")]
    assert texts == ["0.0 MOVE FORWARD ELEVEN STEPS"] * 2
    with pytest.raises(SystemExit):
        main(["transcribe", "--help"])
    assert "a file for each input (srt, vtt, textgrid, made-up)" in " ".join(capsys.readouterr().out.split())


def test_the_table_of_formats_needs_no_torch():
    code = "import sys; from hubert_fast.transcribe import formats; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_ctm_has_a_line_per_word():
    assert formats.ctm(_result()) == "a%20b/c.wav 1 0.50 0.40 HELLO 0.912\na%20b/c.wav 1 1.00 0.46 WORLD 0.500\n"
    assert formats.ctm(_result(SILENCE, HELLO)).startswith("a%20b/c.wav 2 0.50")


def test_srt_and_vtt_format_times_and_text():
    assert formats.srt(HELLO) == "1\n00:00:00,500 --> 00:00:01,460\nHELLO WORLD\n"
    late = Transcript("A <B> & C", 4000.0, 1.0, (Word("A", 3599.9996, 3661.0, 1.0), Word("<B>&", 3661.01, 3661.5, 1.0)))
    assert formats.vtt(late) == (
        "WEBVTT\n\n01:00:00.000 --> 01:01:01.000\nA\n\n01:01:01.010 --> 01:01:01.500\n&lt;B&gt;&amp;\n"
    )
    assert formats.srt(SILENCE) == "" and formats.vtt(SILENCE) == "WEBVTT\n"


def test_subtitles_are_short_and_break_at_pauses():
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
def test_names_of_output_files_stay_within_their_folder(name, safe):
    assert safe_name(name) == safe


def test_long_names_are_shortened_and_stay_distinct():
    first, second = safe_name("ä" * 300 + "1"), safe_name("ä" * 300 + "2")
    assert first != second and len(first.encode("utf-8", "surrogateescape")) <= 200
