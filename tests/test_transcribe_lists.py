"""Test lists as they occur in practice: encodings, compression, separators, fields and spellings of paths."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import select
import subprocess
import sys
import tracemalloc
import unicodedata

import pytest

from hubert_fast import audio, demo
from hubert_fast.audio import names
from hubert_fast.audio.standard_input import StandardInput
from hubert_fast.jobs import inputs
from hubert_fast.jobs.list_text import Text
from hubert_fast.jobs.manifests import ManifestError
from hubert_fast.jobs.tables import split_line
from hubert_fast.transcribe import Inputs, Utterance

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n"
RAW = audio.raw_format.RawFormat("s8", 8000)
WAV = next(iter(sorted(demo.RECORDINGS.glob("*.wav")))).read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a temporary working folder with the empty files a.wav, b.wav and sub/c.wav."""
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _rows(name, content, **options):
    """Write a list; return (audio, reference) or the error of each row."""
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return [utterance.error or (utterance.audio, utterance.reference) for utterance in Inputs([name], **options)]


def _paths(name, content):
    return [row if isinstance(row, str) else row[0] for row in _rows(name, content)]


AB = [("a.wav", None), ("b.wav", None)]
AB_WITH_TEXT = [("a.wav", "one"), ("b.wav", "two")]


@pytest.mark.parametrize(
    "content",
    {
        "plain": b"a.wav\nb.wav\n",
        "no end of line": b"a.wav\nb.wav",
        "CRLF": b"a.wav\r\nb.wav\r\n",
        "CR alone": b"a.wav\rb.wav\r",
        "UTF-8 with a byte order mark": b"\xef\xbb\xbfa.wav\nb.wav\n",
        "UTF-16 with a byte order mark": "a.wav\nb.wav\n".encode("utf-16"),
        "UTF-16 big-endian with a byte order mark": b"\xfe\xff" + "a.wav\r\nb.wav\r\n".encode("utf-16-be"),
        "UTF-16 without a byte order mark": "a.wav\nb.wav\n".encode("utf-16-le"),
        "UTF-32": "a.wav\nb.wav\n".encode("utf-32"),
        "NUL": b"a.wav\0b.wav\0",
        "NUL between paths": b"a.wav\0b.wav",
        "trailing spaces": b"a.wav \nb.wav\t\n",
        "leading spaces": b"  a.wav\n\tb.wav\n",
        "quotes": b"\"a.wav\"\n'b.wav'\n",
        "a comma-separated header": b"path,duration\na.wav,\nb.wav,\n",
        "a header alone": b"filename\na.wav\nb.wav\n",
        "JSON lines": b'{"audio": "a.wav"}\n{"path": "b.wav"}\n',
        "JSON array": b'["a.wav", "b.wav"]',
        "JSON array over lines": b'[\n"a.wav",\n"b.wav"\n]\n',
        "JSON lines between paths": b'a.wav\n{"path": "b.wav"}\n',
        "gzip": gzip.compress(b"a.wav\nb.wav\n"),
        "bzip2": bz2.compress(b"a.wav\nb.wav\n"),
        "xz": lzma.compress(b"a.wav\nb.wav\n"),
        "gzip of UTF-16": gzip.compress("a.wav\nb.wav\n".encode("utf-16")),
        "blank lines": b"\n\na.wav\n  \n\nb.wav\n\n",
    }.items(),
    ids=lambda case: case[0],
)
def test_lists_in_many_encodings_and_compressions_are_read(folder, monkeypatch, content):
    assert _rows("list.txt", content[1]) == AB
    with open("list.txt", "rb") as file:
        monkeypatch.setattr(inputs, "standard_input", StandardInput(file.fileno()))
        assert [(each.audio, each.reference) for each in Inputs(["-"])] == AB


TABLES = {
    "jsonl": ("m.jsonl", '{"audio": "a.wav", "text": "one"}\n{"audio": "b.wav", "text": "two"}\n'),
    "array": (
        "m.json",
        '[\n  {"audio_filepath": "a.wav", "text": "one"},\n  {"audio_filepath": "b.wav", "text": "two"}\n]\n',
    ),
    "array in a line": ("m.jsonl", '[{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}]'),
    "array with a comma at its end": (
        "m.json",
        '[{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"},\n]',
    ),
    "SpeechBrain": (
        "m.json",
        '{\n "u1": {"wav": "{data_root}/a.wav", "length": 2.5, "wrd": "one"},\n'
        ' "u2": {"wav": "$root/b.wav", "length": 2.5, "wrd": "two"}\n}\n',
    ),
    "SpeechBrain in a line": ("m.json", '{"u1": {"wav": "a.wav", "wrd": "one"}, "u2": {"wav": "b.wav", "wrd": "two"}}'),
    "rows under a name": (
        "m.json",
        '{"version": 1, "data": [{"audio": "a.wav", "text": "one"},\n {"audio": "b.wav", "text": "two"}]}',
    ),
    "rows under a name in a line": (
        "m.json",
        '{"audios": [{"path": "a.wav", "text": "one"}, {"path": "b.wav", "text": "two"}]}',
    ),
    "objects with commas between": (
        "m.jsonl",
        '{"audio": "a.wav", "text": "one"},\n{"audio": "b.wav", "text": "two"},\n',
    ),
    "texts by file": ("m.json", '{"a.wav": "one", "b.wav": "two"}'),
    "texts by file over lines": ("m.json", '{\n"a.wav": "one",\n"b.wav": "two"\n}'),
    "objects by file": ("m.json", '{\n"a.wav": {"text": "one"},\n"b.wav": {"text": "two"}\n}'),
    "pairs": ("m.json", '[["a.wav", "one"], ["b.wav", "two"]]'),
    "pandas by columns": ("m.json", '{"path":{"0":"a.wav","1":"b.wav"},"text":{"0":"one","1":"two"}}'),
    "pandas by columns over lines": (
        "m.json",
        '{\n"path": {"x": "a.wav", "y": "b.wav"},\n"text": {"x": "one", "y": "two"}\n}',
    ),
    "lists by column": ("m.json", '{"audio": ["a.wav", "b.wav"], "text": ["one", "two"]}'),
    "pandas split": ("m.json", '{"columns":["path","text"],"index":[0,1],"data":[["a.wav","one"],["b.wav","two"]]}'),
    "Label Studio": (
        "m.json",
        '[{"id": 1, "data": {"audio": "a.wav", "text": "one"}}, {"id": 2, "data": {"audio": "b.wav", "text": "two"}}]',
    ),
    "Label Studio in lines": (
        "m.jsonl",
        '{"id": 1, "data": {"audio": "a.wav", "text": "one"}}\n{"id": 2, "data": {"audio": "b.wav", "text": "two"}}\n',
    ),
    "objects over lines": ("m.json", '{\n"audio": "a.wav",\n"text": "one"\n}\n{\n"audio": "b.wav",\n"text": "two"\n}\n'),
    "Hugging Face": (
        "m.jsonl",
        '{"audio": {"path": "a.wav", "bytes": null}, "text": "one"}\n'
        '{"audio": {"path": "b.wav", "array": [0.0], "sampling_rate": 16000}, "text": "two"}\n',
    ),
    "lists of one": ("m.jsonl", '{"audio": ["a.wav"], "text": "one"}\n{"audio": [{"path": "b.wav"}], "text": "two"}\n'),
    "WeNet": ("data.list", '{"key": "u1", "wav": "a.wav", "txt": "one"}\n{"key": "u2", "wav": "b.wav", "txt": "two"}\n'),
    "AudioFolder": ("metadata.csv", "file_name,transcription\na.wav,one\nb.wav,two\n"),
    "capitals": ("m.csv", "ID,Audio Path,Sentence\n1,a.wav,one\n2,b.wav,two\n"),
    "DeepSpeech": ("m.csv", "wav_filename,wav_filesize,transcript\na.wav,10,one\nb.wav,10,two\n"),
    "semicolons": ("m.csv", "path;text\na.wav;one\nb.wav;two\n"),
    "Excel": ("m.csv", b"\xef\xbb\xbfsep=;\r\npath;text\r\na.wav;one\r\nb.wav;two\r\n"),
    "Excel's Unicode text": ("m.csv", "path\ttext\r\na.wav\tone\r\nb.wav\ttwo\r\n".encode("utf-16")),
    "tabs in csv": ("m.csv", "path\ttext\na.wav\tone\nb.wav\ttwo\n"),
    "pandas' index": ("m.csv", ",path,text\n0,a.wav,one\n1,b.wav,two\n"),
    "no header": ("m.csv", "a.wav,one\nb.wav,two\n"),
    "no header, tabs": ("m.tsv", "a.wav\tone\nb.wav\ttwo\n"),
    "bars": ("m.csv", "a.wav|one\nb.wav|two\n"),
    "bars with a speaker": ("m.txt", "a.wav|7|one\nb.wav|7|two\n"),
    "tabs in a list": ("m.txt", "a.wav\tone\nb.wav\ttwo\n"),
    "spaces in a list": ("m.txt", "a.wav one\nb.wav two\n"),
    "a table named as a list": ("m.txt", "path\tsentence\na.wav\tone\nb.wav\ttwo\n"),
    "gzip": ("m.csv.gz", gzip.compress(b"path,text\na.wav,one\nb.wav,two\n")),
    "jsonl.gz": ("m.jsonl.gz", gzip.compress(b'{"audio": "a.wav", "text": "one"}\n{"audio": "b.wav", "text": "two"}\n')),
    "named gz, but not compressed": ("m.tsv.gz", "path\ttext\na.wav\tone\nb.wav\ttwo\n"),
    "quotes and a comma": ("m.csv", 'path,text\n"a.wav","one"\n"b.wav","two"\n'),
}


@pytest.mark.parametrize("name, content", TABLES.values(), ids=TABLES)
def test_rows_in_many_formats_are_read(folder, name, content):
    assert _rows(name, content) == AB_WITH_TEXT


@pytest.mark.parametrize(
    "text, reference",
    [
        ("NaN", None), ("5", "5"), ("2.5", "2.5"), ("null", None), ("[1]", None), ("{}", None), ("true", None), ('""', None),
        ("-Infinity", None), ('"\\ud83d x"', "? x"), ('"NaN"', "NaN"), ("1" * 5000, None),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_a_faulty_reference_does_not_prevent_transcription(folder, text, reference):
    assert _rows("m.jsonl", f'{{"audio": "a.wav", "text": {text}}}\n') == [("a.wav", reference)]


def test_a_missing_reference_falls_back_to_the_next_field(folder):
    assert _rows("m.jsonl", '{"audio": "a.wav", "text": NaN, "sentence": "one"}\n') == [("a.wav", "one")]


def test_a_latin_1_table_is_read(folder):
    with open(b"caf\xe9.wav", "wb"), open("th\xe9.wav", "wb"):
        pass
    rows = _rows("m.csv", b"path,text\ncaf\xe9.wav,d\xe9j\xe0\nth\xe9.wav,vu\n")
    assert rows == [("caf\udce9.wav", "déjà"), ("thé.wav", "vu")]


def test_paths_match_files_in_the_other_unicode_form(folder):
    (folder / unicodedata.normalize("NFD", "é.wav")).write_bytes(b"")
    (folder / unicodedata.normalize("NFC", "ü.wav")).write_bytes(b"")
    paths = _paths("m.txt", f"{unicodedata.normalize('NFC', 'é.wav')}\n{unicodedata.normalize('NFD', 'ü.wav')}\n")
    assert paths == [unicodedata.normalize("NFD", "é.wav"), unicodedata.normalize("NFC", "ü.wav")]


@pytest.mark.parametrize(
    "spelled, audio",
    [
        ("sub\\c.wav", "sub/c.wav"),
        (".\\sub\\c.wav", "./sub/c.wav"),
        ("file://{folder}/a.wav", "file://{folder}/a.wav"),
        ("file://localhost{folder}/a.wav", "{folder}/a.wav"),
        ("file://{folder}/my%20song.wav", "{folder}/my song.wav"),
        ("my%20song.wav", "my song.wav"),
        ("~/a.wav", "{folder}/a.wav"),
        ("{folder}/a.wav ", "{folder}/a.wav"),
        ("{{data_root}}/sub/c.wav", "sub/c.wav"),
        ("$DATA/sub/c.wav", "sub/c.wav"),
        (" kept.wav ", " kept.wav "),
        ("#1.wav", "#1.wav"),
        ("{{1}}.wav", "{{1}}.wav"),
        ("[1] take.wav", "[1] take.wav"),
        ("gone.wav", "gone.wav"),
        ("-", "./-"),
        ("raw:s16le:16000:1:-", "./raw:s16le:16000:1:-"),
    ],
)
def test_other_spellings_of_a_path_are_resolved(folder, monkeypatch, spelled, audio):
    monkeypatch.setenv("HOME", str(folder))
    for name in ("my song.wav", " kept.wav ", "#1.wav", "{1}.wav", "[1] take.wav"):
        (folder / name).write_bytes(b"")
    assert _paths("m.lst", f"{spelled.format(folder=folder)}\na.wav\n") == [audio.format(folder=folder), "a.wav"]


def test_the_id_is_the_spelling_that_exists(folder):
    (folder / "m.txt").write_text("a.wav \n")
    assert list(Inputs(["m.txt"])) == [Utterance("a.wav", "a.wav", name="a")]


def test_offsets_in_other_fields_and_units_are_read(folder):
    lines = [
        '{"audio": "a.wav", "start": 1.5, "end": 4}',
        '{"audio": "a.wav", "start_time": "2", "duration": 0.5}',
        '{"audio": "a.wav", "start": 16000, "stop": 40000, "duration": 1.5}',
        '{"audio": "a.wav", "start": 1000, "stop": 2500, "duration": 1.5}',
        '{"audio": "b.wav", "start_time": "2024-01-01 10:00", "end_time": "2024-01-01 10:05"}',
    ]
    (folder / "m.jsonl").write_text("\n".join(lines))
    parts = [(each.offset_seconds, each.duration_seconds) for each in Inputs(["m.jsonl"])]
    assert parts == [(1.5, 2.5), (2.0, 0.5), (1.0, 1.5), (1.0, 1.5), (0.0, None)]


@pytest.mark.parametrize(
    "value, message",
    [
        ('{"audio": ["a.wav", "b.wav"]}', "must name one audio file, but has a list of 2: write one row per file"),
        ('{"audio": []}', "must name one audio file, but has a list of 0"),
        (
            '{"audio": {"array": [0.1], "sampling_rate": 16000}}',
            ": its audio is stored in the list itself (array or bytes): write it to",
        ),
        (
            '{"audio": {"bytes": "UklGRg==", "path": null}}',
            ": its audio is stored in the list itself (array or bytes): write it to",
        ),
        ('{"wav": {"file": "a.wav", "start": 0, "stop": 16000}}', ": its part is given in samples (start, stop): use offset"),
        ("7", "must be a JSON object, but is int"),
    ],
)
def test_the_error_for_an_unusable_row_says_why(folder, value, message):
    separator = "" if message.startswith(":") else " "
    assert _rows("m.jsonl", f'{{"audio": "a.wav"}}\n{value}\n{{"audio": "b.wav"}}\n')[1].startswith(
        f"m.jsonl, line 2{separator}{message}"
    )
    first, bad, last = _rows("m.json", f'[{{"audio": "a.wav"}},\n{value},\n{{"audio": "b.wav"}}]')
    assert bad.startswith(f"m.json, row 2{separator}{message}") and [first, last] == AB


def test_bad_rows_of_an_array_have_distinct_ids(folder):
    (folder / "m.json").write_text('[{"text": "x"}, {"text": "y"}, {"audio": "a.wav"}]')
    assert [each.id for each in Inputs(["m.json"])] == ["m.json:1", "m.json:2", "a.wav"]


@pytest.mark.parametrize(
    "content, good, message",
    [
        (
            '[{"audio": "a.wav"}, {"audio": "b.w',
            1,
            "row 2 is not JSON: the list is truncated (Unterminated string starting at)",
        ),
        ('[{"audio": "a.wav"}', 1, "row 2 is not JSON: expected , or ], but the list ends here: it is truncated"),
        ('[{"audio": "a.wav"}\n{"audio": "b.wav"}]', 1, "row 2 is not JSON: expected , or ], but found '{'"),
        ('[{"audio": "a.wav"}, {"audio" "b.wav"}, {"audio": "b.wav"}]', 1, "row 2 is not JSON: Expecting ':' delimiter"),
        ('[{"audio": "a.wav"}] trailing', 1, "row 2 is not JSON: expected an array or an object, but found 't'"),
        ("[" * 100_000, 0, "row 1 is not JSON"),
    ],
)
def test_invalid_json_is_an_error_after_the_rows_before_it(folder, content, good, message):
    *rows, last = _rows("m.json", content)
    assert rows == AB[:good] and last.startswith(f"m.json, {message}"), last
    assert last.endswith("the rest of the list is not read")


def test_a_truncated_compressed_list_is_an_error_after_its_rows(folder):
    lines = b"".join(b'{"audio": "%06d.wav"}\n' % index for index in range(20_000))
    *rows, last = _rows("m.jsonl.gz", gzip.compress(lines)[:-2000])
    assert 0 < len(rows) < 20_000 and last.startswith(f"m.jsonl.gz, the list cannot be read after row {len(rows)}:")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("m.jsonl", LFS_POINTER, "a Git LFS pointer to a file of 1,234 bytes"),
        ("m.csv", b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page, not a list"),
        ("m.txt", b"PK\x03\x04" + bytes(100), "a zip archive, not a list"),
        ("m.txt", b"PAR1" + bytes(range(100)), "a Parquet table, not a list"),
        ("m.txt", bytes(range(1, 200)), "but the data are binary: pass a text file"),
        ("m.jsonl.gz", gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"a.wav")))), "a gzip file, not a list"),
        ("m.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\na.ts\n", "the playlist of an HLS stream"),
        ("m.csv", b"name,words\nx,y\n", "m.csv must begin with a header that has a column such as audio_filepath"),
    ],
)  # fmt: skip
def test_the_error_for_a_file_that_is_not_a_list_says_why(folder, name, content, message):
    with pytest.raises(ManifestError) as raised:
        _rows(name, content)
    assert message in str(raised.value) and "\n" not in str(raised.value), raised.value


def test_audio_with_the_suffix_of_a_list_is_audio(folder):
    (folder / "a.txt").write_bytes(WAV)
    assert list(Inputs(["a.txt"])) == [Utterance("a.txt", "a.txt", name="a")] and Inputs(["a.txt"]).is_one_file


def test_comments_in_a_playlist_are_skipped(folder):
    content = "#EXTM3U\r\n#EXTINF:123,Artist - Title\r\na.wav\r\nsub\\c.wav\r\nhttps://x.example/b.mp3\r\n"
    assert _paths("m.m3u8", content) == ["a.wav", "sub/c.wav", "https://x.example/b.mp3"]


@pytest.mark.parametrize(
    "content, expected",
    [
        ('path,text\na.wav,"one, two\nb.wav,three\n', [("a.wav", '"one, two'), ("b.wav", "three")]),
        ('path,text\na.wav,"one\ntwo"\nb.wav,three\n', [("a.wav", "one\ntwo"), ("b.wav", "three")]),
        ('path,text\na.wav,"Hm" he said\nb.wav,three\n', [("a.wav", "Hm he said"), ("b.wav", "three")]),
        ("path,text\na.wav,one, two\nb.wav\n", [("a.wav", "one, two"), ("b.wav", None)]),
        ("path,text,\na.wav,one,\nb.wav,two,\n", AB_WITH_TEXT),
    ],
    ids=["a quote that is not closed", "a line end in a text", "a quote within", "a comma in a text", "a comma at the end"],
)
def test_stray_quotes_and_commas_lose_no_rows(folder, content, expected):
    assert _rows("m.csv", content) == expected


def test_a_row_without_its_offset_and_duration_is_an_error(folder):
    assert _rows("m.csv", "path,text,offset,duration\na.wav,x\nb.wav,y,1,2\n") == [
        "m.csv, line 2 has 2 columns, but the header has 4",
        ("b.wav", "y"),
    ]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a.wav\thello", [("a.wav", None, "hello")]),
        ("a.wav|x|hello", [("a.wav", None, "hello")]),
        ("u1\ta.wav", [("a.wav", "u1", None)]),
        ("a.wav\t18928", [("a.wav", None, None)]),
        ("a.wav hello you", [("a.wav", None, "hello you")]),
        ("u1 a.wav", [("a.wav", "u1", None)]),
        ("a.wav", []),
    ],
)
def test_a_line_is_split_into_path_id_and_text(line, expected):
    assert list(split_line(line))[:1] == expected


def test_json_may_map_ids_to_files(folder):
    for content in ('{"u1": "a.wav", "u2": "b.wav"}', '{\n"u1": "a.wav",\n"u2": "b.wav"\n}'):
        assert _rows("m.json", content) == AB and [each.id for each in Inputs(["m.json"])] == ["u1", "u2"]


@pytest.mark.parametrize("content", ["{'audio': 'a.wav'}", "[{'audio': 'a.wav'}]", "{\n'audio': 'a.wav'\n}"])
def test_the_error_for_a_printed_dict_suggests_json(folder, content):
    message = "it has single quotes, like a Python dict that was printed: write it with json.dumps"
    assert message in _rows("m.jsonl", content)[0]


@pytest.mark.parametrize(
    "content, rows",
    [
        ("file 'a.wav'\nfile 'sub/c.wav'\n", [("a.wav", 0.0, None), ("sub/c.wav", 0.0, None)]),
        ("ffconcat version 1.0\n# x\nfile a.wav\nduration 3\n", [("a.wav", 0.0, None)]),
        ("file 'it'\\''s.wav'\n", [("it's.wav", 0.0, None)]),
        ("file 'a.wav'\ninpoint 1\noutpoint 00:00:03\nfile 'b.wav'\n", [("a.wav", 1.0, 2.0), ("b.wav", 0.0, None)]),
        ("file 'a.wav'\noutpoint 3\n", [("a.wav", 0.0, 3.0)]),
        ("file 'a.wav'\ninpoint soon\nfile 'b.wav'\n", [None, ("b.wav", 0.0, None)]),
        ("file a.wav\n", [("a.wav", 0.0, None)]),
    ],
)  # fmt: skip
def test_ffmpeg_concat_lists_are_read(folder, content, rows):
    (folder / "it's.wav").write_bytes(b"")
    (folder / "m.txt").write_text(content)
    utterances = list(Inputs(["m.txt"]))
    parts = [None if each.error else (each.audio, each.offset_seconds, each.duration_seconds) for each in utterances]
    assert parts == rows and "file" not in [each.id for each in utterances]


@pytest.mark.parametrize(
    "name, content, reference",
    [
        ("m.txt", "a.wav|Hello you|1\n", "Hello you"),
        ("m.txt", "a.wav|1|Hello you\n", "Hello you"),
        ("m.txt", "a.wav|Hello you|anna\n", "Hello you"),
        ("m.csv", "a.wav|In 1455|In fourteen fifty-five\n", "In fourteen fifty-five"),
        ("m.tsv", "7\ta.wav\tHello, you.\thello you\th e l l o | y o u\t18000\tMALE\n", "Hello, you."),
    ],
)
def test_the_reference_is_recognized_without_a_header(folder, name, content, reference):
    assert _rows(name, content) == [("a.wav", reference)]


def test_ignored_texts_without_a_header_are_reported(folder):
    notes = []
    assert _rows("m.csv", "a.wav,anna,Hello you\nb.wav,ben,Hi\n", note=notes.append) == AB
    assert notes == [
        "m.csv: its rows have several texts and no header, so references are ignored: add a header with path and text"
    ]
    assert _rows("m.csv", "a.wav,1\nb.wav,2\n", note=notes.append) == AB and len(notes) == 1


def test_a_name_in_another_case_is_found_if_unambiguous(folder):
    (folder / "X.wav").write_bytes(b"")
    (folder / "x.WAV").write_bytes(b"")
    assert _paths("m.txt", "A.WAV\nsub/C.wav\nx.wav\nX.wav\n") == ["a.wav", "sub/c.wav", "x.wav", "X.wav"]
    assert [each.id for each in Inputs(["m.txt"])] == ["a.wav", "sub/c.wav", "x.wav", "X.wav"]


def test_a_path_followed_by_a_range_of_samples_is_an_error(folder):
    assert _paths("m.tsv", "id\taudio\nu\ta.wav:0:4000\nv\tgone.wav:0:4000\n") == [
        "m.tsv, line 2: 'a.wav:0:4000' gives its part in samples or bytes: use offset and duration in seconds",
        "gone.wav:0:4000",
    ]


def test_missing_folders_are_checked_only_once(folder, monkeypatch):
    (folder / "m.txt").write_text("".join(f"gone/with/{n}\n" for n in range(100)))
    calls, real = [], os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: calls.append(path) or real(path))
    assert len(list(Inputs(["m.txt"]))) == 100
    assert len(calls) < 300, len(calls)


@pytest.mark.parametrize("line", ["/ x", "// d", ". x", ".. x", "sub some words", "z.zip x", "~ x"])
def test_a_line_that_begins_with_a_folder_or_archive_is_not_split(folder, monkeypatch, line):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "z.zip").write_bytes(b"PK")
    assert _paths("m.txt", f"a.wav\n{line}\nb.wav\n") == ["a.wav", *([] if line.startswith("//") else [line]), "b.wav"]


@pytest.mark.parametrize("line", ["/", "//", '"/"', "/."])
def test_a_line_cannot_name_the_root_folder(folder, line):
    assert _paths("m.txt", f"a.wav\n{line}\n") == [
        "a.wav",
        "m.txt, line 2 is the root of the file system: use a folder below it",
    ]


def test_comments_are_skipped_and_counted(folder):
    (folder / "#1.wav").write_bytes(b"")
    notes = []
    content = "# my list\na.wav\n; c\n // d e\n#1.wav\n#gone.wav\n"
    assert _rows("m.txt", content, note=notes.append) == [("a.wav", None), ("#1.wav", None)]
    assert notes == ["m.txt: skipped 4 comment lines, which begin with #, ; or //"]
    assert _paths("m.jsonl", '{"audio": "#gone.wav"}\n') == ["#gone.wav"]
    assert _paths("m.txt", "#gone.wav\0a.wav\0") == ["#gone.wav", "a.wav"]  # as find -print0 writes names


def _parts(name, content):
    """Write a list; return (offset, duration) or the error of each row."""
    with open(name, "w") as file:
        file.write(content)
    return [each.error or (each.offset_seconds, each.duration_seconds) for each in Inputs([name])]


@pytest.mark.parametrize("unknown", ["", "nan", "NaN", "N/A", "NA", "null", "None", "-", " "])
def test_missing_times_in_a_table_are_ignored(folder, unknown):
    header = "path,offset,duration,start,end"
    assert _parts("m.csv", f"{header}\na.wav,{unknown},{unknown},{unknown},{unknown}\n") == [(0.0, None)]
    assert _parts("m.csv", f"{header}\na.wav,1,{unknown},{unknown},{unknown}\n") == [(1.0, None)]
    assert _parts("m.csv", f"{header}\na.wav,{unknown},,1,{unknown}\n") == [(1.0, None)]


@pytest.mark.parametrize("unknown", ["NaN", "null", '""', '"nan"'])
def test_missing_times_in_json_are_ignored(folder, unknown):
    fields = "".join(f', "{name}": {unknown}' for name in ("offset", "duration", "start", "end", "id"))
    (folder / "m.jsonl").write_text(f'{{"audio": "a.wav"{fields}}}\n')
    (row,) = Inputs(["m.jsonl"])
    assert (row.error, row.offset_seconds, row.duration_seconds) == (None, 0.0, None)
    assert row.id == ("nan" if unknown == '"nan"' else "a.wav")


@pytest.mark.parametrize("name, value", [("duration", -1), ("duration", "-1"), ("duration", 0), ("end", -1), ("end", 0)])
def test_minus_one_and_zero_mean_an_unknown_duration(folder, name, value):
    assert _parts("m.jsonl", json.dumps({"audio": "a.wav", name: value})) == [(0.0, None)]


@pytest.mark.parametrize(
    "header, cells, part",
    [
        ("start,end", "00:00.5,00:00.75", (0.5, 0.25)),
        ("start,end", "00:01:02,0:01:03.25", (62.0, 1.25)),
        ("start,end", "90:00,1:31:00", (5400.0, 60.0)),
        ("begin_time,end_time", "1.5s,2 s", (1.5, 0.5)),
        ("offset,duration", "00:00:01,0:00.5", (1.0, 0.5)),
        ("offset,end", "1,3", (1.0, 2.0)),
        ("end", "3", (0.0, 3.0)),
        ("start,end", "0,0", (0.0, None)),
        ("start_time,end_time", "2024-01-01 10:00,2024-01-01 10:05", (0.0, None)),
        ("start_time,end_time", "1700000000,1700000300", (0.0, None)),
        ("start,end", "soon,3", "start must be a number of seconds or a time such as 0:01:02.5, but is 'soon'"),
        ("start,end", "1,later", "end must be a number of seconds or a time such as 0:01:02.5, but is 'later'"),
        ("start,end", "00:90,00:95", "start must be a number of seconds or a time such as 0:01:02.5, but is '00:90'"),
        ("start,end", "-3,2", "start must be a number of seconds or a time such as 0:01:02.5, but is '-3'"),
        ("start,end", "3,2", "must end after it starts, but runs from 3 to 2 s"),
        ("start,end", "inf,2", "start must be a number of seconds or a time such as 0:01:02.5, but is 'inf'"),
        ("offset,end", "3,2", "must end after it starts, but runs from 3 to 2 s"),
    ],
)
def test_times_are_read_or_an_error_says_why_not(folder, header, cells, part):
    separator = " " if str(part).startswith("must") else ": "
    expected = f"m.csv, line 2{separator}{part}" if isinstance(part, str) else part
    assert _parts("m.csv", f"path,{header}\na.wav,{cells}\n") == [expected]


def test_a_decimal_comma_is_accepted_if_it_is_unambiguous(folder):
    *good, bad = _parts("m.csv", "path;start;end\na.wav;0,5;1,25\na.wav;0,125;1\na.wav;1,500;2\n")
    assert good == [(0.5, 0.75), (0.125, 0.875)]
    assert bad == "m.csv, line 4: start must be a number of seconds or a time such as 0:01:02.5, but is '1,500'"


@pytest.mark.parametrize(
    "fields, note",
    [
        ({"channel": 1}, "the channel in its rows is ignored"),
        ({"channel": "left"}, "the channel in its rows is ignored"),
        ({"channel": "NPR"}, None),
        ({"segments": [{"begin_time": 0, "end_time": 1}]}, "the segments in its rows are ignored and whole files are"),
        ({"segments": []}, None),
    ],
)
def test_ignored_fields_are_reported_once(folder, fields, note):
    notes = []
    rows = "".join(json.dumps({"audio": audio, **fields}) + "\n" for audio in ("a.wav", "b.wav"))
    assert _rows("m.jsonl", rows, note=notes.append) == AB
    assert len(notes) == (note is not None) and (note is None or notes[0].startswith(f"m.jsonl: {note}"))


NAMES = "citywide/a dutyfree_a PAR1/a GIF8 BZh GGUF MThd TTA1 fLaC MP+ 2BIT allyTFL3".split()
NAMES_LIKE_SIGNATURES = [*(f"{name}.wav" for name in (*NAMES, "MAC 1")), "G" + "x" * 183 + "/a.wG/" + "y" * 186 + "G.wav"]


@pytest.mark.parametrize("end", ["\n", "\0"], ids=["lines", "NUL"])
@pytest.mark.parametrize("name", NAMES_LIKE_SIGNATURES, ids=lambda name: name[:12])
def test_a_list_may_begin_with_letters_of_a_file_signature(folder, monkeypatch, name, end):
    content = f"{name}{end}a.wav{end}"
    assert _paths("m.txt", content) == [name, "a.wav"]
    with open("m.txt", "rb") as file:
        monkeypatch.setattr(inputs, "standard_input", StandardInput(file.fileno()))
        assert [each.audio for each in Inputs(["-"])] == [name, "a.wav"]


@pytest.mark.parametrize(
    "url",
    ["reference://b.wav::{evil}", "simplecache::reference://b.wav::{evil}", "zip://b.wav::reference::{evil}",
     "dir://b.wav::file:///tmp", "generic://b.wav", "git://b.wav", "REFERENCE://b.wav::{evil}"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", ".txt", "/*.wav"], ids=["audio", "list", "pattern"])
def test_urls_that_can_reach_other_files_or_run_code_are_refused(folder, url, suffix):
    """fsspec before 2024.12 executes code in the templates of a file that reference:// names."""
    template = "{{cycler.__init__.__globals__.os.system('touch ran')}}"
    evil = json.dumps({"version": 1, "templates": {"u": template}, "refs": {"b.wav": ["{{u}}"], "b.wav.txt": ["{{u}}"]}})
    (folder / "evil.json").write_text(evil)
    url = url.format(evil=folder / "evil.json").replace("b.wav", f"b.wav{suffix}", 1)
    refused = "(reference|dir|generic|git|REFERENCE):// URLs are not supported: download the file"
    with pytest.raises(audio.AudioError, match=refused):
        audio.load(url, 16000)
    try:
        (row,) = Inputs([url])
    except ManifestError as error:
        assert re.search(refused, str(error))
    else:
        assert re.search(refused, row.error or "") or (suffix == "" and row.audio == url)
    assert not os.path.exists("ran")


def test_folders_and_archives_in_a_list_are_searched(folder):
    import zipfile

    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.writestr("in.wav", b"x")
    assert _paths("m.txt", "a.wav\nsub\nz.zip\n") == ["a.wav", "sub/c.wav", "zip://in.wav::z.zip"]


def test_a_list_in_a_list_is_not_followed(folder):
    assert _paths("m.txt", "m.txt\na.wav\n") == ["m.txt", "a.wav"]


def _run(code, stdin):
    command = [sys.executable, "-c", f"from hubert_fast.transcribe import Inputs, Utterance\n{code}"]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout.decode().strip()


def test_audio_on_standard_input_is_one_utterance():
    code = "inputs = Inputs(['-']); one, = inputs; print(inputs.is_one_file, one.id, one.audio, one.name, one.error)"
    assert _run(code, WAV) == "True - - stdin None"
    assert _run(code, b"a.wav\n") == "False a.wav a.wav a None"


def test_each_job_gives_standard_input_a_new_key():
    first, second = ([each.key for each in Inputs(["-"], raw=RAW)] for _ in range(2))
    assert first != second
    again = Inputs(["-"], raw=RAW)
    assert [each.key for each in again] == [each.key for each in again]


def test_raw_samples_on_standard_input_are_one_utterance():
    raw = Inputs(["-"], raw=audio.raw_format.RawFormat.parse("S16LE:8000:2"))
    (utterance,) = raw
    assert (utterance.id, utterance.audio, utterance.name, raw.is_one_file) == ("-", "raw:s16le:8000:2:-", "stdin", True)
    with pytest.raises(ValueError, match="--stdin-format describes standard input, but '-' is not among the inputs"):
        Inputs(["a.wav"], raw=RAW)


@pytest.mark.parametrize(
    "text", ["", "s16", "s16le", "s16le:", "s16le:0", "s16le:16000:0", "s16le:16000:33", "s16le:16k", "x:1"]
)
def test_an_invalid_raw_format_raises(text):
    with pytest.raises(ValueError, match="raw format"):
        audio.raw_format.RawFormat.parse(text)


@pytest.mark.parametrize("name", ["m.json", "m.jsonl", "one-line.json", "named.json"])
def test_memory_is_bounded_for_json(tmp_path, name):
    row = json.dumps({"audio": "some/folder/with/a/name.wav", "text": "what is said in it"})
    text = {
        "m.json": "[\n" + ",\n".join([row] * 4000) + "\n]",
        "m.jsonl": f"{row}\n" * 4000,
        "one-line.json": "[" + ", ".join([row] * 4000) + "]",
        "named.json": "{\n" + ",\n".join(f'"u{index}": {row}' for index in range(4000)) + "\n}",
    }[name]
    (tmp_path / name).write_text(text)
    list(Inputs([tmp_path / name], note=None))[:1]
    tracemalloc.start()
    try:
        assert sum(each.error is None for each in Inputs([tmp_path / name])) == 4000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 19, f"{peak_bytes / 1e6:.1f} MB for {len(text) / 1e6:.1f} MB of JSON"


def test_a_list_is_read_from_a_url(folder):
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/lists/m.csv.gz", gzip.compress(b"path,text\nx/a.wav,one\n/b.wav,two\n"))
    rows = [(each.audio, each.reference) for each in Inputs(["memory://lists/m.csv.gz"])]
    assert rows == [("memory://lists/x/a.wav", "one"), ("/b.wav", "two")]


def test_lines_are_yielded_as_they_arrive():
    """A list that is still being written is not read ahead."""
    code = "for each in Inputs(['-']): print(each.id, flush=True)"
    command = [sys.executable, "-c", f"from hubert_fast.transcribe import Inputs\n{code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for line in (b"a.wav\n", b"b.wav\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 60)[0], "no line within a minute"
            assert process.stdout.readline() == line
        process.stdin.close()


def test_lines_are_numbered_after_peeking():
    lines = Text(iter(["a\r\n", "\n", "long ", "line\n", "last"]))
    assert lines.peek(2) == ["a", "long "] and list(lines) == [(1, "a"), (3, "long line"), (4, "last")]


def test_the_error_for_a_refused_list_has_the_http_status(monkeypatch):
    import fsspec

    class Refused(Exception):
        status = 403

    class System(fsspec.AbstractFileSystem):
        protocol = "refusing"

        def _open(self, path, mode="rb", **options):
            raise FileNotFoundError(path) from Refused("Forbidden")

        def info(self, path, **options):
            raise FileNotFoundError(path) from Refused("Forbidden")

        def ls(self, path, detail=True, **options):
            raise FileNotFoundError(path) from Refused("Forbidden")

    fsspec.register_implementation("refusing", System, clobber=True)
    monkeypatch.setattr(names, "PROTOCOLS", names.PROTOCOLS | {"refusing"})
    with pytest.raises(ManifestError, match=r"refusing://x/m.jsonl cannot be read: the server answered 403 Forbidden"):
        list(Inputs(["refusing://x/m.jsonl"]))
    (utterance,) = Inputs(["refusing://x/a.zip"])
    assert utterance.error == "refusing://x/a.zip: cannot be opened: the server answered 403 Forbidden"


def test_a_named_pipe_can_hold_a_list(folder):
    os.mkfifo("list.txt")
    with subprocess.Popen(["sh", "-c", "printf 'a.wav\\nb.wav\\n' > list.txt"]):
        assert [each.audio for each in Inputs(["list.txt"])] == ["a.wav", "b.wav"]


def test_a_list_is_read_from_a_stream_of_bytes():
    from hubert_fast.jobs.manifests import read

    assert [entry.audio for entry in read("-", file=io.BytesIO(b"\xef\xbb\xbfa.wav\nb.wav"))] == ["a.wav", "b.wav"]
