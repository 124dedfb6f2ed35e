"""Test the Parquet files of `hubert-fast transcribe`, whose rows say the same as those of `--format jsonl`."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from pyarrow import parquet

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.ctc import Word
from hubert_fast.jobs import parquet_format
from hubert_fast.transcribe import Result, Transcript, Utterance
from hubert_fast.transcribe.formats import FORMATS, jsonl
from hubert_fast.transcribe.parquet_columns import transcript_columns

NAMES = ["row", "id", "audio", "channel", "offset_seconds", "duration_seconds"]
NAMES += ["text", "confidence", "words", "reference", "notes"]
ABSENT = {"channel": None, "offset_seconds": 0.0, "reference": None, "notes": []}
pytestmark = pytest.mark.usefixtures("two_threads")


def transcribe(*arguments) -> int:
    return main(["transcribe", *map(str, arguments), "--device", "cpu", "--dtype", "float32", "--ordered"])


def parquet_of(folder) -> list[dict]:
    """Return the rows of all parts, without their numbers, which are those of their order."""
    assert {path.suffix for path in folder.iterdir()} == {".parquet"}
    rows = [row for path in sorted(folder.iterdir()) for row in parquet.read_table(path).to_pylist()]
    assert [row.pop("row") for row in rows] == [*range(len(rows))]
    return rows


def jsonl_of(path) -> list[dict]:
    return [ABSENT | json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a list with four recordings: one has a reference, one an offset, one two channels, one a wrong header."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [str(recording.path) for recording in demo.recordings()[:2]]
    samples, rate_hz = soundfile.read(demo.RECORDINGS / "steps.wav")
    soundfile.write(folder / "stereo.wav", np.stack([samples, samples[::-1]], 1), rate_hz)
    content = bytearray((demo.RECORDINGS / "steps.wav").read_bytes())
    content[40:44] = (len(content) // 4).to_bytes(4, "little")  # the size of the samples
    (folder / "header.wav").write_bytes(content)
    rows = [
        {"audio_filepath": paths[0], "text": "not what it says"},
        {"audio_filepath": paths[1], "offset": 0.4, "duration": 1.5},
        {"audio_filepath": str(folder / "stereo.wav")},
        {"audio_filepath": str(folder / "header.wav")},
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


@pytest.mark.parametrize("channels", ["mix", "each"])
def test_rows_are_those_of_json_lines(manifest, channels, tmp_path):
    options = [manifest, "--channels", channels]
    assert transcribe(*options, "-o", tmp_path / "out.jsonl") == 0
    assert transcribe(*options, "-o", tmp_path / "out.parquet", "--format", "parquet") == 0, "the name is that of a folder"
    rows = parquet_of(tmp_path / "out.parquet")
    assert rows == jsonl_of(tmp_path / "out.jsonl")
    stereo = [row["channel"] for row in rows if "stereo" in row["id"]]
    assert stereo == ([1, 2] if channels == "each" else [None])
    assert {row["offset_seconds"] for row in rows} == {0.0, 0.4}
    assert {row["reference"] for row in rows} == {None, "not what it says"}
    assert ["header.wav" in row["id"] for row in rows] == [bool(row["notes"]) for row in rows]
    assert parquet.read_schema(tmp_path / "out.parquet" / "part-00000.parquet").names == NAMES


def test_values_and_types():
    columns = transcript_columns()
    word = Word("HELLO", 0.5, 0.90049, 0.91234)
    hello = Transcript("HELLO", 2.00049, 0.7123456, (word,))
    results = [
        Result(Utterance("a.wav", "a.wav", offset_seconds=3.5, reference="hello"), (hello,)),
        Result(Utterance("b.wav", "b.wav"), (Transcript("", 1.0), hello), notes=("b.wav: a note",)),
    ]
    for result in results:
        rows = [dict(zip(columns.schema.names, (array[0].as_py() for array in arrays))) for arrays in columns.rows(result)]
        assert rows == [ABSENT | json.loads(line) for line in jsonl(result).splitlines()]
    types = {field.name: str(field.type) for field in columns.schema}
    number = "double"
    assert types == {
        "id": "string", "audio": "string", "channel": "int32", "offset_seconds": number, "duration_seconds": number,
        "text": "string", "confidence": number, "reference": "string", "notes": types["notes"], "words": types["words"],
    }  # fmt: skip
    assert [(field.name, str(field.type)) for field in columns.schema.field("words").type.value_type] == [
        ("word", "string"), ("start_seconds", number), ("end_seconds", number), ("confidence", number),
    ]  # fmt: skip
    assert str(columns.schema.field("notes").type.value_type) == "string"


def test_names_that_are_not_utf8_are_escaped():
    name = "a\udcff.wav"
    result = Result(Utterance(name, name, reference="\udcfe"), (Transcript("A", 1.0),), notes=(f"{name}: a note",))
    (arrays,) = transcript_columns().rows(result)
    row = dict(zip(transcript_columns().schema.names, (array[0].as_py() for array in arrays)))
    assert (row["id"], row["audio"]) == (r"a\udcff.wav", r"a\udcff.wav")
    assert (row["reference"], row["notes"]) == (r"\udcfe", [r"a\udcff.wav: a note"])


def test_parts_are_bounded_and_a_run_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parquet_format, "PART_BYTES", 1)
    folder, out, lines = tmp_path / "in", tmp_path / "out", tmp_path / "out.jsonl"
    folder.mkdir()
    names = sorted(recording.path.name for recording in demo.recordings())
    for name in names[:2]:
        shutil.copy(demo.RECORDINGS / name, folder)
    assert transcribe(folder, "-o", out, "--format", "parquet") == 0
    for name in names[2:4]:
        shutil.copy(demo.RECORDINGS / name, folder)
    assert transcribe(folder, "-o", out, "--format", "parquet") == 0
    assert "continuing" in capsys.readouterr().err
    assert len([*out.iterdir()]) == 2
    assert transcribe(folder, "-o", lines) == 0
    by_id = lambda row: row["id"]  # noqa: E731
    assert sorted(parquet_of(out), key=by_id) == sorted(jsonl_of(lines), key=by_id)


def test_another_format_replaces_its_files(tmp_path, capsys):
    recording, out = demo.RECORDINGS / "steps.wav", tmp_path / "out"
    assert transcribe(recording, "-o", out, "--format", "parquet") == 0
    assert transcribe(recording, "-o", out, "--format", "srt") == 2
    assert "format was parquet, is srt" in capsys.readouterr().err
    assert [row["text"] for row in parquet_of(out)] == ["MOVE FORWARD ELEVEN STEPS"]
    assert transcribe(recording, "-o", out, "--format", "srt", "--overwrite") == 0
    (subtitles,) = out.iterdir()
    assert subtitles.suffix == ".srt" and "MOVE FORWARD ELEVEN STEPS" in subtitles.read_text()


def test_it_is_refused_where_it_cannot_be_written(tmp_path, capsys, monkeypatch):
    recording = demo.RECORDINGS / "steps.wav"
    assert transcribe(recording, "--format", "parquet") == 2
    assert "parquet writes a folder: name a folder with -o" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert transcribe(recording, "-o", tmp_path / "file", "--format", "parquet", "--overwrite") == 2
    assert "parquet writes a folder, but" in capsys.readouterr().err
    monkeypatch.setattr("hubert_fast.jobs.formats.find_spec", lambda name: None)
    assert transcribe(recording, "-o", tmp_path / "out", "--format", "parquet") == 2
    assert "parquet needs pyarrow: pip install 'hubert_fast[parquet]'" in capsys.readouterr().err


def test_the_tables_of_formats_need_neither_torch_nor_pyarrow():
    code = (
        "import sys; from hubert_fast import job_options; from hubert_fast.transcribe.formats import TABLE; "
        "from hubert_fast.units.formats import FEATURES, UNITS; "
        "print([table.formats['parquet'].columns is None for table in (TABLE, FEATURES, UNITS)], "
        "'torch' in sys.modules, 'pyarrow' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "[False, False, False] False False\n", process.stderr
    assert FORMATS["parquet"].description == "a folder of Parquet files of bounded size"
