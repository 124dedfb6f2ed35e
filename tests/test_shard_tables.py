"""Test the utterances in Parquet and Arrow files: which column is read, bytes and paths, damage, and memory."""

import io
import json
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import ipc, parquet

from hubert_fast.audio.contained import Contained
from hubert_fast.cli import main
from hubert_fast.demo import recordings
from hubert_fast.jobs.shards import table_rows
from hubert_fast.jobs.shards.retries import StorageError
from hubert_fast.transcribe import Inputs

FILES = {each.path.stem: each for each in recordings()[:4]}
STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
FEATURES = {"audio": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}


def _table(**columns):
    """Return a table as datasets writes it: structs of bytes and path, texts, and the features in the metadata."""
    audio = [{"bytes": each.path.read_bytes(), "path": each.path.name} for each in FILES.values()]
    texts = [each.reference for each in FILES.values()]
    table = pyarrow.table({"audio": pyarrow.array(audio, STRUCT), "text": texts, **columns})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def _write(table, path, **options):
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
    elif path.suffix == ".arrow":
        with ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, **options)
    else:
        with ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, **options)
    return str(path)


def _rows(source, column=None):
    return list(table_rows.utterances(source, column))


def _only_error(source, column=None):
    (utterance,) = _rows(source, column)
    return utterance.error


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_rows_have_the_bytes_text_and_name_of_their_audio(suffix, tmp_path):
    source = _write(_table(duration=[0.1] * 4, offset=[2.0] * 4), tmp_path / f"a{suffix}")
    rows = _rows(source)
    assert [row.id for row in rows] == [row.audio for row in rows] == [f"parquet://{index}::{source}" for index in range(4)]
    assert [row.audio.content for row in rows] == [each.path.read_bytes() for each in FILES.values()]
    assert [row.reference for row in rows] == [each.reference for each in FILES.values()]
    assert [row.name for row in rows] == list(FILES)
    assert {(row.offset_seconds, row.duration_seconds, row.error) for row in rows} == {(0.0, None, None)}


def test_datasets_writes_the_files_that_these_tests_write(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the layout is also tested with files written by hand")
    data = {"audio": [str(each.path) for each in FILES.values()], "text": [each.reference for each in FILES.values()]}
    made = datasets.Dataset.from_dict(data).cast_column("audio", datasets.Audio())
    made = made.with_format("arrow").map(datasets.table.embed_table_storage, batched=True)  # as push_to_hub does
    made.to_parquet(str(tmp_path / "real.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    (saved,) = (tmp_path / "saved").glob("*.arrow")
    real, own = parquet.read_table(tmp_path / "real.parquet"), _table()
    assert real.schema.field("audio").type == own.schema.field("audio").type == STRUCT
    assert real.column("audio").to_pylist() == own.column("audio").to_pylist()
    features = json.loads(real.schema.metadata[b"huggingface"])["info"]["features"]
    assert {name: each["_type"] for name, each in features.items()} == {"audio": "Audio", "text": "Value"}
    expected = [(each.path.read_bytes(), each.reference) for each in FILES.values()]
    for source in (tmp_path / "real.parquet", saved):
        assert [(row.audio.content, row.reference) for row in _rows(str(source))] == expected


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view(), pyarrow.binary(4)], ids=str)
def test_a_column_of_bytes_holds_audio_files(kind, tmp_path):
    table = pyarrow.table({"wav": pyarrow.array([b"RIFF", b"OggS"], kind), "id": [7, None], "sentence": ["one", None]})
    suffix = ".arrow" if kind == pyarrow.binary_view() else ".parquet"
    source = _write(table, tmp_path / f"talks{suffix}")
    first, second = _rows(source)
    assert (first.id, first.name, first.reference, first.audio.content) == ("7", "7", "one", b"RIFF")
    assert (second.id, second.name, second.reference) == (f"parquet://1::{source}", "talks-000001", None)
    assert first.audio == f"parquet://0::{source}" and second.audio.content == b"OggS"


def test_paths_are_relative_to_the_table_and_have_parts(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    columns = {
        "audio_filepath": ["a.wav", "s3://b/c.wav", "a.wav"],
        "offset": ["1.5", None, "soon"],
        "duration": [2.0, None, 1.0],
    }
    source = _write(pyarrow.table(columns), tmp_path / "a.parquet")
    first, second, third = _rows(source)
    assert (first.id, first.name) == ("a.wav#1.5-3.5", "a.1.5-3.5")
    assert (first.audio, first.offset_seconds, first.duration_seconds) == (str(tmp_path / "a.wav"), 1.5, 2.0)
    assert type(first.audio) is str and (second.id, second.audio, second.name) == ("s3://b/c.wav", "s3://b/c.wav", "s3://b/c")
    expected = f"parquet://2::{source}: offset must be a number of seconds or a time such as 0:01:02.5, but is 'soon'"
    assert (third.error, third.audio) == (expected, f"parquet://2::{source}")


def test_the_path_counts_where_the_bytes_are_null_and_a_row_without_either_is_an_error(tmp_path):
    audio = [{"bytes": None, "path": "a.wav"}, None, {"bytes": None, "path": None}, {"bytes": b"RIFF", "path": "x/b.wav"}]
    table = pyarrow.table({"audio": pyarrow.array(audio, STRUCT), "duration": [1.0] * 4, "id": ["a", "b", None, None]})
    (tmp_path / "a.wav").write_bytes(b"")
    source = _write(table, tmp_path / "a.parquet")
    path, null, empty, embedded = _rows(source)
    assert (path.id, path.audio, path.duration_seconds, path.error) == ("a", str(tmp_path / "a.wav"), 1.0, None)
    assert (null.id, null.error) == ("b", f"parquet://1::{source}: the column audio has no audio in this row")
    assert (empty.id, empty.error) == (
        f"parquet://2::{source}",
        f"parquet://2::{source}: the column audio has no audio in this row",
    )
    assert (embedded.name, embedded.duration_seconds, embedded.audio.content) == ("b", None, b"RIFF")


def test_texts_that_are_not_utf8_keep_their_bytes_and_dictionaries_are_read(tmp_path):
    text = pyarrow.array([b"caf\xe9", b"tea"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    table = pyarrow.table(
        {"audio": pyarrow.array([b"a", b"b"]), "text": text, "id": pyarrow.array(["x", "y"]).dictionary_encode()}
    )
    rows = [(row.id, row.reference) for row in _rows(_write(table, tmp_path / "a.arrow"))]
    assert rows == [("x", "café"), ("y", "tea")]


COLUMNS = {
    "two structs": ({"left": STRUCT, "right": STRUCT}, "several columns may hold the audio (left, right): choose one with"),
    "two names": ({"path": pyarrow.string(), "url": pyarrow.string()}, "several columns may hold the audio (path, url)"),
    "none": (
        {"sentence": pyarrow.string(), "audio": pyarrow.int64()},
        "no column is known to hold audio among sentence, audio",
    ),
    "no columns": ({}, "no column is known to hold audio among none: choose one with --audio-column NAME"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_table_without_one_column_for_audio_is_an_error_that_names_the_columns(case, tmp_path):
    types, message = COLUMNS[case]
    table = pyarrow.table({name: pyarrow.array([None], type) for name, type in types.items()})
    source = _write(table, tmp_path / "a.parquet")
    assert _only_error(source).startswith(f"{source}: {message}")


def test_the_audio_column_can_be_chosen(tmp_path):
    columns = {"left": pyarrow.array([{"bytes": b"l"}]), "right": pyarrow.array([{"bytes": b"r"}]), "n": [1]}
    source = _write(pyarrow.table(columns), tmp_path / "a.parquet")
    (row,) = Inputs([source], column="right")
    assert row.audio.content == b"r"
    assert _only_error(source, "middle") == f"{source}: there is no column 'middle', only left, right, n"
    expected = "the column 'n' cannot hold audio: expected bytes, paths, or a struct with one of them, but it has int64"
    assert _only_error(source, "n") == f"{source}: {expected}"


def test_the_features_of_hugging_face_decide_between_audio_and_images(tmp_path):
    columns = {name: pyarrow.array([{"bytes": name.encode(), "path": None}], STRUCT) for name in ("cover", "talk")}
    features = {"cover": {"_type": "Image"}, "talk": {"_type": "Audio"}}
    for written in (features, {"cover": {"_type": "Image"}}):
        table = pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": written}})})
        (row,) = _rows(_write(table, tmp_path / "a.parquet"))
        assert row.audio.content == b"talk"


NOT_TABLES = {
    b"": "this is an empty file (0 bytes), not a table: download or write it again",
    b"<html><body>": "this is an HTML page, not a table",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n": "this is a Git LFS pointer to a file of 5 bytes",
    b"\x01\x02\x03": "this is neither a Parquet nor an Arrow file",
}


@pytest.mark.parametrize("content", NOT_TABLES, ids=["empty", "html", "lfs", "binary"])
def test_a_file_of_another_kind_is_named(content, tmp_path):
    (tmp_path / "a.parquet").write_bytes(content)
    assert _only_error(str(tmp_path / "a.parquet")).startswith(f"{tmp_path / 'a.parquet'}: {NOT_TABLES[content]}")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_a_table_without_rows_is_an_error(suffix, tmp_path):
    source = _write(_table().slice(0, 0), tmp_path / f"a{suffix}")
    assert _only_error(source) == f"{source}: no rows in this table"


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_the_rows_before_the_end_of_an_arrow_file_that_was_cut_off_are_read(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    source = _write(_table(), path, max_chunksize=1)
    whole, names = path.read_bytes(), list(FILES)
    start = whole.index(FILES[names[2]].path.read_bytes())  # within the third row
    path.write_bytes(whole[: start + 100])
    *rows, last = _rows(source)
    assert [row.name for row in rows] == names[:2] and (last.id, last.audio) == (source, source)
    assert last.error.startswith(f"{source}: the table is damaged after row 1 (")
    assert last.error.endswith("): 2 rows before that were read, and the rest is lost")
    path.write_bytes(whole[: whole.rindex(b"\xff\xff\xff\xff\0\0\0\0")])  # between the last row and the end mark
    *rows, last = _rows(source)
    assert [row.name for row in rows] == names
    assert "(its end mark is missing, so it may be cut off): 4 rows before that were read" in last.error


def test_a_damaged_parquet_file_yields_the_rows_before_the_damage(tmp_path):
    path = tmp_path / "a.parquet"
    source = _write(_table(), path, row_group_size=1, write_page_checksum=True, compression="none")
    whole, names = path.read_bytes(), list(FILES)
    start = whole.index(FILES[names[2]].path.read_bytes())
    path.write_bytes(whole[:start] + b"damage" + whole[start + 6 :])
    *rows, last = _rows(source)
    assert [row.name for row in rows] == names[:2]
    assert last.error.startswith(f"{source}: the table is damaged after row 1 (") and "2 rows before that were" in last.error
    path.write_bytes(whole[:-100])
    assert _only_error(source).startswith(f"{source}: the table is damaged at its beginning, or its end is missing: ")


def test_a_failure_of_the_storage_is_not_taken_for_damage(tmp_path, monkeypatch):
    for suffix in (".parquet", ".arrow"):
        source = _write(_table(), tmp_path / f"a{suffix}")
        data = (tmp_path / f"a{suffix}").read_bytes()

        class Failing(io.BytesIO):
            def peek(self, size, data=data):
                return data[:size]

            def read(self, size=-1):
                if self.tell() < 100_000:
                    return super().read(size)
                raise StorageError("the server is gone")

        monkeypatch.setattr(table_rows.streams, "opened", lambda source, data=data: Failing(data))
        with pytest.raises(StorageError, match=r"^the server is gone$"):
            _rows(source)
        *_, row = Inputs([str(tmp_path / f"a{suffix}")])
        assert row.error.startswith("the server is gone") and row.id == source


def test_a_server_without_random_access_is_named(tmp_path, monkeypatch):
    source = _write(_table(), tmp_path / "a.parquet")
    monkeypatch.setattr(table_rows._File, "seekable", lambda self: False)
    with pytest.raises(
        StorageError, match=r"a\.parquet: this server gives no random access, which Parquet files need: download"
    ):
        _rows(source)
    assert [row.name for row in _rows(_write(_table(), tmp_path / "a.feather"))] == list(FILES)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    source = _write(_table(), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected = f"{source}: reading Parquet and Arrow files needs pyarrow: pip install 'hubert_fast[parquet]'"
    assert _only_error(source) == expected


def test_memory_is_bounded_by_a_batch_and_not_by_the_row_group(tmp_path):
    audio = pyarrow.array([bytes([index]) * (1 << 20) for index in range(200)], pyarrow.binary())
    options = dict(compression="none", use_dictionary=False, write_batch_size=1)
    source = _write(pyarrow.table({"audio": audio}), tmp_path / "a.parquet", **options)
    assert parquet.ParquetFile(source).num_row_groups == 1
    code = (
        "import sys, resource, pyarrow.parquet\nfrom hubert_fast.jobs.shards import table_rows\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\nbefore = peak()\n"
        "rows = [row.audio.content[:1] for row in table_rows.utterances(sys.argv[1])]\n"
        "print(len(rows), rows[199] == bytes([199]), peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, check=True)
    count, is_right, megabytes = done.stdout.split()
    assert (count, is_right) == ("200", "True") and int(megabytes) < 80, megabytes


def test_tables_of_a_remote_folder_and_pattern_are_read_in_sorted_order(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for name in ("b", "a"):
        table = pyarrow.table({"audio": pyarrow.array([f"{name}{index}".encode() for index in range(2)])})
        _write(table, tmp_path / f"{name}.parquet")
        system.pipe(f"/tables/data/{name}.parquet", (tmp_path / f"{name}.parquet").read_bytes())
    system.pipe("/tables/README.md", b"# Talks")
    notes = []
    for source in ("memory://tables", "memory://tables/data/*.parquet"):
        rows = list(Inputs([source], note=notes.append))
        assert [row.audio.content for row in rows] == [b"a0", b"a1", b"b0", b"b1"]
        assert rows[2].id == "parquet://0::memory:///tables/data/b.parquet"
        assert isinstance(rows[0].audio, Contained)
    assert notes == ["memory://tables: skipped 1 file that does not appear to be audio: 1 .md"]


def test_rows_of_a_table_are_transcribed_as_their_files(tmp_path):
    source = _write(_table(), tmp_path / "a.parquet")
    texts = []
    for given in ([source], [str(each.path) for each in FILES.values()]):
        output = tmp_path / f"{len(given)}.jsonl"
        assert main(["transcribe", *given, "-o", str(output), "--ordered", "--quiet", "--audio-column", "audio"]) == 0
        texts.append([json.loads(line)["text"] for line in output.read_text().splitlines()])
    assert texts[0] == texts[1] and len(texts[0]) == len(FILES) and all(texts[0])
