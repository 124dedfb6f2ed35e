"""Test which utterances files, folders, patterns and lists contain, and how shards divide them."""

import json
import os
import subprocess
import sys
import tracemalloc
from itertools import chain

import pytest
from conftest import refuse_folder

from hubert_fast.jobs.manifests import ManifestError, is_manifest
from hubert_fast.transcribe import Inputs, Shard, Utterance


@pytest.fixture
def folder(tmp_path):
    for name in ("b.WAV", "a.flac", "sub/c.mp3", "notes.txt", ".d.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


def _ids(*sources, shard=None):
    return [utterance.id for utterance in Inputs(sources, shard)]


def test_a_folder_yields_its_audio_sorted_with_relative_names(folder):
    utterances = list(Inputs([folder]))
    assert [os.path.relpath(utterance.audio, folder) for utterance in utterances] == [".d.ogg", "a.flac", "b.WAV", "sub/c.mp3"]
    assert [utterance.name for utterance in utterances] == [".d", "a", "b", "sub/c"]
    assert all(utterance.id == utterance.audio and utterance.error is None for utterance in utterances)


def test_files_and_patterns_are_found_and_missing_sources_are_errors(folder):
    assert _ids(folder / "a.flac") == [str(folder / "a.flac")]
    assert _ids(f"{folder}/**/*.[mf]*") == [str(folder / "a.flac"), str(folder / "sub/c.mp3")]
    errors = {
        folder / "gone.wav": "no such file or folder",
        folder / "empty": "no audio files in this folder",
        f"{folder}/*.xyz": "nothing matches this pattern",
        folder / ("x" * 300): "cannot be opened: File name too long",
    }
    for source, message in errors.items():
        (utterance,) = Inputs([source])
        assert utterance.error.startswith(f"{source}: {message}")


def test_an_existing_name_with_brackets_is_not_a_pattern(tmp_path):
    (tmp_path / "take [1].wav").write_bytes(b"")
    assert _ids(tmp_path / "take [1].wav") == [str(tmp_path / "take [1].wav")]


def test_a_folder_without_permission_is_an_error_and_the_others_are_searched(folder, monkeypatch):
    refuse_folder(monkeypatch, "sub")
    *good, bad = Inputs([folder])
    assert [utterance.name for utterance in good] == [".d", "a", "b"]
    assert bad.error == f"{folder}/sub: cannot be opened: Permission denied"


def test_rows_of_a_nemo_manifest_become_utterances(folder):
    rows = [
        {"audio_filepath": "a.flac", "duration": 2.5, "text": "hello"},
        {"audio_filepath": "b.WAV", "offset": 1.5, "duration": 0.25, "text": ""},
        {"audio_filepath": "b.WAV", "offset": 2},
        {"audio_filepath": "s3://bucket/x.wav", "id": "named/x", "duration": 0},
        {"audio_filepath": str(folder / "sub/c.mp3"), "id": 7},
    ]
    (folder / "m.json").write_text("\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n")
    utterances = list(Inputs([folder / "m.json"]))
    assert utterances == [
        Utterance("a.flac", f"{folder}/a.flac", 0.0, 2.5, "hello", "a"),
        Utterance("b.WAV#1.5-1.75", f"{folder}/b.WAV", 1.5, 0.25, None, "b.1.5-1.75"),
        Utterance("b.WAV#2-", f"{folder}/b.WAV", 2.0, None, None, "b.2-"),
        Utterance("named/x", "s3://bucket/x.wav", 0.0, None, None, "named/x"),
        Utterance("7", f"{folder}/sub/c.mp3", 0.0, None, None, "7"),
    ]


def test_manifest_paths_are_tried_in_the_working_folder_first(folder, monkeypatch):
    (folder / "sub" / "m.jsonl").write_text('{"audio_filepath": "a.flac"}\n{"audio_filepath": "c.mp3"}\n')
    monkeypatch.chdir(folder)
    assert [utterance.audio for utterance in Inputs(["sub/m.jsonl"])] == ["a.flac", "sub/c.mp3"]


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("m.csv", 'path,text\na.flac,"hello, you"\n\nb.WAV,\n', [("a.flac", "hello, you"), ("b.WAV", None)]),
        ("m.tsv", 'client\tpath\tsentence\n1\ta.flac\t"Hm" he said\n', [("a.flac", '"Hm" he said')]),
        ("m.txt", "a.flac\n\n b.WAV\r\n", [("a.flac", None), ("b.WAV", None)]),
    ],
)
def test_tables_and_lists_yield_paths_and_references(folder, name, text, expected):
    (folder / name).write_text(text, newline="")
    assert [(utterance.id, utterance.reference) for utterance in Inputs([folder / name])] == expected


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"audio_filepath": "a.flac"', "line 2 is not a JSON object"),
        ("[1, 2]", "line 2 must be a JSON object, but is list"),
        ('{"audio": 3}', "line 2 must name its audio in a text field such as audio_filepath, audio, path"),
        ('{"text": "hello"}', "line 2 must name its audio in a text field such as audio_filepath"),
        (
            '{"audio_filepath": "a.flac", "offset": "soon"}',
            "line 2: offset must be a number of seconds or a time such as 0:01:02.5, but is 'soon'",
        ),
        ('{"audio_filepath": "a.flac", "duration": -2}', "line 2: duration must be a number of seconds"),
        ('{"audio_filepath": "a.flac", "duration": Infinity}', "line 2: duration must be a number of seconds"),
        ('{"audio_filepath": "a.flac", "offset": 1' + "0" * 400 + "}", "line 2: offset must be a number of seconds"),
        ('{"audio_filepath": "\\ud83d.wav"}', "line 2: audio_filepath is not a valid file name"),
        ('{"audio_filepath": "a.flac", "id": "a\\u0000b"}', "line 2: id is not a valid file name"),
    ],
)
def test_a_bad_line_becomes_an_error_and_reading_continues(folder, line, message):
    manifest = folder / "m.jsonl"
    manifest.write_text(f'{{"audio_filepath": "a.flac"}}\n{line}\n{{"audio_filepath": "b.WAV"}}\n')
    first, bad, last = Inputs([manifest])
    assert (first.id, last.id) == ("a.flac", "b.WAV") and bad.id == f"{manifest}:2"
    assert bad.error.startswith(f"{manifest}, {message}"), bad.error


def test_an_overlong_field_fails_only_its_row(folder):
    (folder / "m.csv").write_text("path,text\na.flac," + "x" * 200_000 + "\nb.WAV,x\n")
    bad, good = Inputs([folder / "m.csv"])
    assert "line 2: field larger than field limit" in bad.error and good.id == "b.WAV"


def test_a_row_with_more_columns_than_the_header_is_an_error(folder):
    (folder / "m.csv").write_text("path,speaker\na.flac,hello,you\nb.WAV,x\n")
    bad, good = Inputs([folder / "m.csv"])
    assert "line 2 has 3 columns, but the header has 2" in bad.error and good.id == "b.WAV"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("m.csv", "name,text\na,b\n", "must begin with a header that has a column such as audio_filepath, audio, path"),
        ("m.csv", "", "must begin with a header"),
        ("gone.jsonl", None, "cannot be read: No such file or directory"),
    ],
)
def test_an_unreadable_manifest_raises(folder, name, text, message):
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ManifestError, match=message):
        list(Inputs([folder / name]))


def test_a_list_is_read_from_standard_input_once(folder):
    code = "from hubert_fast.transcribe import Inputs; print([utterance.id for utterance in Inputs(['-'])])"
    text = b'a.flac\n{"audio_filepath": "b.WAV", "offset": 1}\nbad\xff.wav\n'
    run = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, check=True)
    assert run.stdout.decode().strip() == str(["a.flac", "b.WAV#1-", "bad\udcff.wav"])
    with pytest.raises(ValueError, match="standard input can only be read once"):
        Inputs(["-", "-"])


def test_folders_patterns_and_lists_at_urls_are_expanded():
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("/listed/a.wav", "/listed/sub/b.flac", "/listed/notes.md"):
        system.pipe(name, b"x")
    system.pipe("/listed/m.jsonl", b'{"audio_filepath": "sub/b.flac"}\n')
    expected = ["memory:///listed/a.wav", "memory:///listed/sub/b.flac"]
    assert _ids("memory://listed") == expected and _ids("memory://listed/*.wav") == expected[:1]
    assert [utterance.name for utterance in Inputs(["memory://listed"])] == ["a", "sub/b"]
    assert _ids("memory://listed/a.wav") == ["memory://listed/a.wav"]
    assert [utterance.audio for utterance in Inputs(["memory://listed/m.jsonl"])] == ["memory://listed/sub/b.flac"]
    assert Inputs(["memory://listed/a.wav"]).is_one_file and not Inputs(["memory://listed"]).is_one_file
    assert not Inputs(["memory://listed/*.wav"]).is_one_file and not Inputs(["memory://listed/m.jsonl"]).is_one_file
    (none,) = Inputs(["nosuch://speech/*.wav"])
    assert none.error == ("nosuch://speech/*.wav: nosuch:// URLs are not supported: download the file and pass its path")


def test_patterns_within_an_archive_are_expanded(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x/1.wav", "x/2.wav", "x/notes"):
            archive.writestr(name, b"x")
    expected = [f"zip://x/{index}.wav::{tmp_path}/a.zip" for index in (1, 2)]
    assert _ids(f"zip://x/*.wav::{tmp_path}/a.zip") == expected


def test_inputs_with_a_pipe_cannot_repeat(tmp_path):
    os.mkfifo(tmp_path / "files.txt")
    assert not Inputs([tmp_path / "files.txt"]).can_repeat and not Inputs(["-"]).can_repeat
    assert Inputs([tmp_path, tmp_path / "gone.txt", "memory://listed"]).can_repeat


def test_manifests_are_recognized_by_their_suffix():
    assert all(map(is_manifest, ("a.jsonl", "a.JSON", "s3://b/a.tsv", "a.csv", "a.txt", "a.lst")))
    assert not any(map(is_manifest, ("a.wav", "a", "folder/", "https://x/a.flac")))


def test_shards_partition_the_inputs(folder):
    (folder / "m.txt").write_text("".join(f"{index}.wav\n" for index in range(3000)))
    parts = [_ids(folder / "m.txt", shard=Shard(index, 7)) for index in range(1, 8)]
    assert sorted(chain(*parts)) == sorted(f"{index}.wav" for index in range(3000))
    assert all(350 < len(part) < 510 for part in parts), [len(part) for part in parts]
    # when files are added, the others stay in their shards
    with open(folder / "m.txt", "a") as manifest:
        manifest.write("more.wav\n")
    assert [set(part) <= set(_ids(folder / "m.txt", shard=Shard(index, 7))) for index, part in enumerate(parts, 1)] == [
        True
    ] * 7


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/3", "1/2/3", ""])
def test_an_invalid_shard_raises(text):
    with pytest.raises(ValueError, match="a shard must be I/N with I from 1 to N"):
        Shard.parse(text)


def test_keys_distinguish_utterances():
    first = Utterance("a", "a.wav", 0.0, None)
    others = [Utterance("b", "a.wav"), Utterance("a", "b.wav"), Utterance("a", "a.wav", 1.0), Utterance("a", "a.wav", 0.0, 1.0)]
    assert first.key == Utterance("a", "a.wav", reference="x", name="y").key
    assert len({first.key, *(other.key for other in others)}) == 5
    assert len({Utterance("a\udcff", "a.wav").key, Utterance("a\udcfe", "a.wav").key}) == 2


def test_memory_does_not_grow_with_a_manifest(tmp_path):
    line = json.dumps({"audio_filepath": "some/folder/with/a/name.wav", "duration": 3.2, "text": "what is said in it"}) + "\n"
    (tmp_path / "m.jsonl").write_text(line * 10_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in Inputs([tmp_path / "m.jsonl"])) == 10_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20, f"{peak_bytes / 1e6:.1f} MB for a manifest of {10_000 * len(line) / 1e6:.1f} MB"
