"""Jobs with an output for each shard: the rows of the files themselves, whatever is killed, missing, damaged or changed."""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import refuse_folder, wait_until

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.jobs.shards import tar_members
from hubert_fast.jobs.shards.finding import Found
from hubert_fast.jobs.shards.manifest import Entry, Manifest
from hubert_fast.jobs.shards.retries import StorageError
from hubert_fast.jobs.shards.shard_job import find_all, named, part_of
from hubert_fast.jobs.shards.storage import UNFINISHED, Storage
from hubert_fast.jobs.utterances import Shard
from hubert_fast.transcribe import Transcriber
from hubert_fast.units import Centroids, Encoder

FLOAT32 = ["--device", "cpu", "--dtype", "float32"]
CLIPS = 6  # in a shard
pytestmark = pytest.mark.usefixtures("two_threads")


def write_shard(path: Path, first: int, count: int = CLIPS) -> None:
    """Write a tar archive with recordings and their references, as WebDataset does."""
    with tarfile.open(path, "w") as archive:
        for index, recording in enumerate(recordings(first, count), first):
            name = f"{index:04d}"
            content = {recording.path.suffix: recording.path.read_bytes(), ".txt": recording.reference.encode()}
            for suffix, data in content.items():
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Work in a folder with four shards, `a-000.tar` and so on."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        write_shard(tmp_path / f"a-{number:03d}.tar", number * CLIPS)
    return tmp_path


def recordings(first: int, count: int) -> list:
    """Return the recordings in a shard that begins with the one of this number."""
    every = demo.recordings()
    return [every[index % len(every)] for index in range(first, first + count)]


def audio_names(path: str) -> list[str]:
    with tarfile.open(path) as archive:
        return [name for name in archive.getnames() if not name.endswith(".txt")]


def run(*arguments: str) -> int:
    return main(["transcribe", *arguments, "-o", "out", "--per-shard", *FLOAT32])


def rows(folder: str = "out") -> dict[str, list[dict]]:
    """Return the rows of each output."""
    return {
        path.relative_to(folder).as_posix(): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(Path(folder).rglob("*.jsonl"))
        if not path.relative_to(folder).parts[0].startswith("_")
    }


def summary() -> dict:
    return json.loads(Path("out/_summary.json").read_text())


def test_the_rows_are_those_of_the_files(shards):
    assert run("a-{000..003}.tar") == 0
    found = rows()
    assert [*found] == [f"a-{number:03d}.jsonl" for number in range(4)]
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    texts = {each.path.read_bytes(): transcriber.transcribe_file(each.path).text for each in demo.recordings()}
    references = {each.path.read_bytes(): each.reference for each in demo.recordings()}
    for number, name in enumerate(found):
        with tarfile.open(f"a-{number:03d}.tar") as archive:
            names = audio_names(f"a-{number:03d}.tar")
            content = [archive.extractfile(each).read() for each in names]
        expected = [(f"tar://{each}::a-{number:03d}.tar", texts[data], references[data]) for each, data in zip(names, content)]
        assert [(row["id"], row["text"], row["reference"]) for row in found[name]] == expected
    assert main(["transcribe", "a-{000..003}.tar", "-o", "one.jsonl", "--ordered", *FLOAT32]) == 0
    assert Path("one.jsonl").read_text() == "".join(Path("out", name).read_text() for name in found)
    counts = summary()
    assert (counts["transcribed"], counts["failed"], counts["complete"]) == (4 * CLIPS, 0, True)
    one = json.loads(Path("one.jsonl.summary.json").read_text())
    assert 0 < counts["wer"] == one["wer"] and counts["reference_words"] == one["reference_words"]
    assert counts["shards"] == {"total": 4, "already_done": 0, "done_this_run": 4, "failed": 0, "errors": []}


def test_a_second_run_does_what_is_missing(shards, capsys):
    assert run("a-{000..002}.tar") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("a-*")}
    os.remove("out/a-001.jsonl")
    Path("out/_shards/a-002.json").unlink()  # as if the run had been killed before it was written
    capsys.readouterr()
    assert run("a-{000..003}.tar") == 0
    assert "continuing out: 1 of 4 shards are finished" in capsys.readouterr().err
    assert summary()["shards"] == {"total": 4, "already_done": 1, "done_this_run": 3, "failed": 0, "errors": []}
    assert summary()["transcribed"] == 4 * CLIPS and summary()["already_done"] == CLIPS
    assert Path("out/a-000.jsonl").stat().st_mtime_ns == before[Path("out/a-000.jsonl")]
    assert {name: len(each) for name, each in rows().items()} == {f"a-{number:03d}.jsonl": CLIPS for number in range(4)}


def test_a_shard_that_has_changed_is_done_again(shards):
    assert run("a-000.tar", "a-001.tar") == 0
    write_shard(shards / "a-001.tar", 50, 3)
    assert run("a-000.tar", "a-001.tar") == 0
    assert [row["id"][6:10] for row in rows()["a-001.jsonl"]] == ["0050", "0051", "0052"]
    assert summary()["transcribed"] == CLIPS + 3 and summary()["changed_this_run"] == 1
    assert run("a-000.tar", "a-001.tar") == 0 and summary()["shards"]["already_done"] == 2


def test_what_is_damaged_or_missing_does_not_stop_the_others(shards, capsys):
    content = Path("a-001.tar").read_bytes()
    Path("a-001.tar").write_bytes(content[: len(content) // 2])
    with tarfile.open("a-002.tar", "w") as archive:
        member = tarfile.TarInfo("bad.wav")
        member.size = 100
        archive.addfile(member, io.BytesIO(bytes(100)))
        archive.add(demo.recordings()[0].path, "good.flac")
    assert run("a-{000..004}.tar") == 1
    found = rows()
    assert len(found["a-000.jsonl"]) == len(found["a-003.jsonl"]) == CLIPS and "a-004.jsonl" not in found
    failures = {path.name: [json.loads(row) for row in path.read_text().splitlines()] for path in Path("out/_errors").iterdir()}
    (cut,), (bad,) = failures["a-001.jsonl"], failures["a-002.jsonl"]
    assert len(found["a-001.jsonl"]) == 3 and "3 audio files before that were read, and the rest is lost" in cut["error"]
    assert bad["id"] == "tar://bad.wav::a-002.tar" and [row["id"] for row in found["a-002.jsonl"]] == [
        "tar://good.flac::a-002.tar"
    ]
    assert summary()["failed"] == 2 and summary()["shards"]["failed"] == 1 and not summary()["complete"]
    assert summary()["shards"]["errors"] == ["a-004.tar: cannot be opened: No such file or directory"]
    assert "a-004.tar: cannot be opened: No such file or directory" in capsys.readouterr().err
    Path("a-001.tar").write_bytes(content)
    write_shard(shards / "a-004.tar", 0)
    assert run("a-{000..004}.tar", "--retry-failed") == 1  # bad.wav is as bad as before
    assert summary()["shards"] == {"total": 5, "already_done": 2, "done_this_run": 3, "failed": 0, "errors": []}
    assert len(rows()["a-001.jsonl"]) == CLIPS and not Path("out/_errors/a-001.jsonl").exists()


def test_shards_of_the_same_name_have_outputs_of_their_own(shards):
    for folder in ("x", "y"):
        os.mkdir(folder)
        shutil.copy("a-000.tar", f"{folder}/000.tar")
    assert run("x/000.tar", "y/000.tar") == 0
    names = [*rows()]
    assert all(name.startswith("000-") and len(name) == len("000-01234567.jsonl") for name in names) and len(names) == 2
    assert run("y/000.tar", "x/000.tar") == 0 and [*rows()] == names and summary()["shards"]["already_done"] == 2
    assert run("./x/000.tar", os.path.abspath("y/000.tar")) == 0 and summary()["shards"]["already_done"] == 2


def test_parts_that_run_at_the_same_time_choose_different_names(shards):
    found = [Found(f"{folder}/{number}.tar", str(number)) for folder in "xy" for number in range(8)]
    parts = [part_of(named(found, []), Shard(index, 2)) for index in (1, 2)]
    names = [shard.name for part in parts for shard in part]
    assert len(set(names)) == len(names) == 16 and all("-" in name for name in names)


def test_names_are_those_of_earlier_runs():
    entry = Entry("a", "s3://y/a.tar", "a.jsonl", 1, 1, 0, 1.0)
    found = [Found("s3://x/a.tar", "a"), Found("s3://y/a.tar", "a"), Found("s3://x/b.tar", "b")]
    first, second, third = named(found, [entry])
    assert first.name.startswith("a-") and (second.name, third.name) == ("a", "b")
    assert [each.name for each in named([found[1], found[0], found[2]], [entry])] == ["a", first.name, "b"]
    assert [each.name for each in named(found[:1], [entry])] == [first.name]  # the name belongs to another shard


@pytest.mark.parametrize(
    "name, expected",
    [
        ("../../etc/a", "etc/a"),
        ("/a/./b", "a/b"),
        ("_shards/a", "shard_shards/a"),
        ("x/_settings", "x/shard_settings"),
        (".hidden", "shard.hidden"),
        ("..", "unnamed"),
    ],
)
def test_names_stay_in_the_folder_and_apart_from_the_manifest(name, expected):
    assert [each.name for each in named([Found("s3://b/a.tar", name)], [])] == [expected]
    (long,) = named([Found("s3://b/a.tar", f"x/{'n' * 300}")], [])
    assert long.name.startswith("x/nnn") and len(long.name) < 210


def test_the_parts_of_a_job_share_a_folder(shards):
    sources = [f"a-{number:03d}.tar" for number in range(4)]
    parts = [[each.url for each in part_of(find_all(sources), Shard(index, 3))] for index in (1, 2, 3)]
    assert sorted(itertools.chain(*parts)) == sources
    for index in (1, 2, 3):
        assert run("a-{000..003}.tar", "--shard", f"{index}/3") == 0
    assert [*rows()] == [f"a-{number:03d}.jsonl" for number in range(4)]
    assert run("a-{000..003}.tar") == 0 and summary()["shards"]["already_done"] == 4
    assert Path("out/_summary.2-of-3.json").exists()
    assert run("a-{000..003}.tar", "--shard", "1/3", "--overwrite") == 2 and len(rows()) == 4


def test_other_settings_are_refused_and_overwrite_starts_over(shards, capsys):
    assert run("a-000.tar", "a-001.tar") == 0
    assert run("a-000.tar", "--chunk-seconds", "20") == 2
    assert "chunk seconds was 40.0, is 20.0" in capsys.readouterr().err
    assert run("a-000.tar", "--chunk-seconds", "20", "--overwrite", "--format", "csv") == 0
    left = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert left == ["_settings.json", "_shards.jsonl", "_shards/a-000.json", "_summary.json", "a-000.csv"]
    lines = Path("out/a-000.csv").read_text().splitlines()
    assert lines[0].startswith("id,audio,") and len(lines) == 1 + CLIPS
    os.mkdir("foreign")
    Path("foreign/a.txt").write_text("mine")
    assert main(["transcribe", "a-000.tar", "-o", "foreign", "--per-shard", *FLOAT32]) == 2
    assert "foreign holds files that are not results of this command" in capsys.readouterr().err
    assert main(["transcribe", "a-000.tar", "-o", "foreign", "--per-shard", "--overwrite", *FLOAT32]) == 2
    assert [path.name for path in Path("foreign").iterdir()] == ["a.txt"]


def test_overwrite_removes_outputs_without_an_entry(shards):
    assert run("a-000.tar", "a-001.tar") == 0
    Path("out/_shards/a-001.json").unlink()  # as if the run had been killed before it was written
    assert run("a-000.tar", "--format", "txt", "--overwrite") == 0
    assert sorted(path.name for path in Path("out").iterdir() if path.name[0] != "_") == ["a-000.txt"]


@pytest.mark.parametrize("name", ["_shards.jsonl", "_shards/a-000.json"])
def test_a_damaged_manifest_costs_no_more_than_its_shards(shards, name):
    assert run("a-000.tar", "a-001.tar") == 0
    if name != "_shards.jsonl":
        os.remove("out/_shards.jsonl")
    Path("out", name).write_text('{"name": 1}\ngarbage')
    assert run("a-000.tar", "a-001.tar") == 0
    assert summary()["shards"]["done_this_run"] == (0 if name == "_shards.jsonl" else 1)
    assert len(rows()) == 2 and summary()["transcribed"] == 2 * CLIPS
    Path("out/_settings.json").write_text("{")
    assert run("a-000.tar") == 2


def test_a_folder_that_is_missing_or_has_no_shards_is_left_for_the_next_run(shards, capsys):
    os.mkdir("audio")
    shutil.copy(recordings(0, 1)[0].path, "audio")
    assert run("later", "audio", "a-000.tar") == 1
    errors = capsys.readouterr().err
    assert "later: no such file or folder" in errors and "audio: no shards in this folder: name a list" in errors
    assert [*rows()] == ["a-000.jsonl"] and summary()["shards"]["failed"] == 2
    os.mkdir("later")
    shutil.copy("a-001.tar", "later")
    assert run("later", "a-000.tar") == 0 and [*rows()] == ["a-000.jsonl", "a-001.jsonl"]


def test_every_row_of_a_list_has_its_row(shards):
    path = recordings(0, 1)[0].path
    Path("list.txt").write_text(f"{path}\n{path}\n")
    assert run("list.txt") == 0 and len(rows()["list.jsonl"]) == 2


def test_links_are_followed_once_and_pipes_are_left_out(shards):
    os.makedirs("in/real")
    shutil.move("a-000.tar", "in/real/a.tar")
    shutil.move("a-001.tar", "elsewhere.tar")
    os.mkdir("outside")
    shutil.move("a-002.tar", "outside/c.tar")
    os.symlink("real/a.tar", "in/again.tar")
    os.symlink("../elsewhere.tar", "in/b.tar")
    os.symlink("../outside", "in/linked")
    os.symlink("..", "in/real/loop")
    os.mkfifo("in/pipe.tar")
    assert run("in") == 0
    assert {name: len(each) for name, each in rows().items()} == dict.fromkeys(
        ["b.jsonl", "linked/c.jsonl", "real/a.jsonl"], CLIPS
    )
    assert main(["transcribe", "in/pipe.tar", "-o", "piped", "--per-shard", *FLOAT32]) == 1


def test_folders_that_cannot_be_read_and_broken_links_are_errors_of_their_own(shards, capsys, monkeypatch):
    os.makedirs("in/private")
    for name in ("a-000.tar", "a-001.tar"):
        shutil.move(name, "in")
    os.symlink("nowhere.tar", "in/b.tar")
    refuse_folder(monkeypatch, "private")
    for sources, prefix in ((["in"], ""), (["i*"], "in/")):
        assert run(*sources, "--overwrite") == 1
        assert {name: len(each) for name, each in rows().items()} == {
            f"{prefix}a-{number:03d}.jsonl": CLIPS for number in range(2)
        }
        assert sorted(summary()["shards"]["errors"]) == [
            "in/b.tar: cannot be opened: No such file or directory",
            "in/private: cannot be read: Permission denied",
        ]
    capsys.readouterr()
    assert main(["transcribe", "in", "-o", "one.jsonl", *FLOAT32]) == 1
    assert len(Path("one.jsonl").read_text().splitlines()) == 2 * CLIPS
    errors = capsys.readouterr().err
    assert "in/private: cannot be opened: Permission denied" in errors and errors.count("private") == 1
    assert "in/b.tar: this is a link to nowhere.tar, which does not exist" in errors


def test_a_faulty_text_does_not_stop_a_shard(shards):
    recording = recordings(0, 1)[0]
    with tarfile.open("deep.tar", "w") as archive:
        archive.add(recording.path, f"a{recording.path.suffix}")
        for name, data in (("a.json", b"[" * 60_000), ("b.wav", b"RIFF")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert run("deep.tar") == 1
    assert len(rows()["deep.jsonl"]) == 1 and summary()["failed"] == 1


def test_an_error_in_a_reader_costs_its_shard_alone(shards, capsys, monkeypatch):
    read = tar_members.utterances

    def broken(source, note):
        yield from itertools.islice(read(source, note), 2)
        if source == "a-001.tar":
            raise KeyError("surprise")
        yield from itertools.islice(read(source, note), 2, None)

    monkeypatch.setattr(tar_members, "utterances", broken)
    assert run("a-{000..002}.tar") == 1
    assert "a-001.tar: KeyError: 'surprise'" in capsys.readouterr().err
    assert {name: len(each) for name, each in rows().items()} == {"a-000.jsonl": CLIPS, "a-002.jsonl": CLIPS}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a-000.tar", "--per-shard"], "name the folder with -o"),
        (["-", "-o", "out", "--per-shard"], "standard input is not a shard"),
        (["a-000.tar", "-o", "out", "--per-shard", "--format", "srt"], "srt cannot hold the results of a shard in one file"),
        (["a-000.tar", "-o", "out", "--per-shard", "--readers", "0"], "readers must be at least 1, but are 0"),
        (["a-000.tar", "-o", "memory://bucket/out.csv"], "memory://bucket/out.csv names a file"),
        (["a-000.tar", "-o", "nothing://bucket/out"], "nothing:// URLs are not supported"),
        (["a-000.tar", "-o", "a-001.tar", "--per-shard"], "a-001.tar is a file: name a folder with -o"),
        (["a-000.tar", "-o", "no/out", "--per-shard"], "there is no folder no"),
        (["a-000.tar", "-o", "out", "--per-shard", "--shard", "1/2", "--overwrite"], "would remove the outputs of all parts"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(shards, capsys, arguments, message):
    assert main(["transcribe", *arguments, *FLOAT32]) == 2
    assert message in capsys.readouterr().err and not Path("out").exists()


def test_a_url_is_an_output_for_each_shard(shards):
    import fsspec

    system = fsspec.filesystem("memory")
    assert main(["transcribe", "a-000.tar", "a-001.tar", "-o", "memory://results/x/", *FLOAT32]) == 0
    assert run("a-000.tar", "a-001.tar") == 0
    for name in ("a-000.jsonl", "a-001.jsonl"):
        assert system.cat_file(f"/results/x/{name}") == Path("out", name).read_bytes()
    listed = system.find("/results/x")
    assert main(["transcribe", "a-{000..002}.tar", "-o", "memory://results/x", *FLOAT32]) == 0
    assert {*system.find("/results/x")} - {*listed} == {"/results/x/a-002.jsonl", "/results/x/_shards/a-002.json"}
    assert json.loads(system.cat_file("/results/x/_summary.json"))["transcribed"] == 3 * CLIPS


def test_a_resumed_run_needs_one_listing_and_one_file(shards, monkeypatch):
    assert run("a-{000..003}.tar") == 0
    reads, storage = [], Storage.of("out")
    monkeypatch.setattr(storage, "read", lambda name: reads.append(name) or (Path("out") / name).read_bytes())
    assert len(Manifest(storage).entries) == 4 and reads == ["_shards.jsonl"]
    os.remove("out/_shards.jsonl")
    reads.clear()
    assert len(Manifest(storage).entries) == 4 and sorted(reads) == [f"_shards/a-{number:03d}.json" for number in range(4)]


def test_features_units_and_transcripts_are_written_as_parquet(shards):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow writes Parquet")
    assert run("a-000.tar", "a-001.tar", "--format", "parquet") == 0
    assert main(["transcribe", "a-000.tar", "-o", "one.jsonl", "--ordered", *FLOAT32]) == 0
    table = parquet.read_table("out/a-000.parquet").to_pylist()
    expected = [json.loads(line) for line in Path("one.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in expected[0]} for row in table] == expected

    assert main(["features", "a-{000..001}.tar", "--layer", "1,2", "-o", "features", "--per-shard", *FLOAT32]) == 0
    table = parquet.read_table("features/a-001.parquet")
    encoder = Encoder.from_pretrained(demo.MODEL, layers=[1, 2], device="cpu", dtype="float32", frame_dtype="float16")
    assert table["id"].to_pylist() == [f"tar://{name}::a-001.tar" for name in audio_names("a-001.tar")]
    for row, recording in zip(table.to_pylist(), recordings(CLIPS, CLIPS)):
        frames = encoder.encode_file(recording.path).frames
        for layer in (1, 2):
            np.testing.assert_allclose(np.array(row[f"layer{layer}"]), frames[layer], atol=0.02)

    Centroids(frames[2][::10].astype(np.float32), encoder.sources[1]).save("km.safetensors")
    command = ["units", "a-{000..001}.tar", "--kmeans", "km.safetensors", *FLOAT32]
    assert main([*command, "-o", "units", "--per-shard"]) == 0
    assert main([*command, "-o", "units.jsonl", "--ordered"]) == 0
    assert "".join(Path(f"units/a-00{n}.jsonl").read_text() for n in (0, 1)) == Path("units.jsonl").read_text()
    assert main([*command, "-o", "km", "--per-shard", "--format", "km"]) == 0
    assert Path("km/a-000.km").read_text().count("\n") == CLIPS


def test_lists_zips_and_tables_are_shards_too(shards):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet")
    from pyarrow import parquet

    chosen = recordings(0, 4)
    Path("list.jsonl").write_text(
        "".join(json.dumps({"audio": str(each.path), "id": each.path.stem}) + "\n" for each in chosen)
    )
    with zipfile.ZipFile("b.zip", "w") as archive:
        for each in chosen:
            archive.write(each.path, each.path.name)
    audio = [{"bytes": each.path.read_bytes(), "path": each.path.name} for each in chosen]
    parquet.write_table(pyarrow.table({"audio": audio, "text": [each.reference for each in chosen]}), "p.parquet")
    assert run("list.jsonl", "b.zip", "p.parquet", "a-000.tar") == 0
    found = rows()
    texts = {name: sorted(row["text"] for row in each) for name, each in found.items()}
    assert texts["list.jsonl"] == texts["b.jsonl"] == texts["p.jsonl"] and len(texts["p.jsonl"]) == 4
    assert [row["reference"] for row in found["p.jsonl"]] == [each.reference for each in chosen]


def test_a_folder_is_searched_for_shards(shards):
    for folder in ("in/x", "in/y"):
        os.makedirs(folder)
        shutil.copy("a-000.tar", f"{folder}/000.tar")
    Path("in/readme.md").write_text("text")
    assert run("in") == 0
    assert {name: len(each) for name, each in rows().items()} == {"x/000.jsonl": CLIPS, "y/000.jsonl": CLIPS}


def test_outputs_are_not_inputs_of_the_next_run(shards, capsys):
    pytest.importorskip("pyarrow", reason="pyarrow writes Parquet")
    os.mkdir("in")
    shutil.copy("a-000.tar", "in")
    command = ["transcribe", "in", "-o", "in/out", "--per-shard", "--format", "parquet", *FLOAT32]
    for done in (1, 0):
        assert main(command) == 0
        counts = json.loads(Path("in/out/_summary.json").read_text())["shards"]
        assert (counts["total"], counts["done_this_run"], counts["failed"]) == (1, done, 0)
    assert main(["transcribe", "in/a-000.tar", "-o", "in", "--per-shard", "--overwrite", *FLOAT32]) == 2
    assert "in/a-000.tar lies in the output folder in: name another folder" in capsys.readouterr().err


def test_a_file_of_an_output_appears_whole(tmp_path, monkeypatch):
    storage = Storage.of(str(tmp_path))
    storage.write("x/a.json", b"one")
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target, size: target.write(b"t") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        storage.write("x/a.json", b"two")
    assert storage.sizes() == {"x/a.json": 3} and storage.read("x/a.json") == b"one"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.json"]


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path):
    for name, seconds in (("old", 2 * 86_400), ("new", 60)):
        path = tmp_path / f".{name}.jsonl.0{UNFINISHED}"
        path.write_text("half")
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)
    storage = Storage.of(str(tmp_path))
    storage.begin()
    assert [path.name for path in tmp_path.iterdir()] == [f".new.jsonl.0{UNFINISHED}"] and storage.sizes() == {}


def test_a_file_system_without_atomic_uploads_gets_files_by_moving_them(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    moved = []
    monkeypatch.setattr("hubert_fast.jobs.shards.storage.local_path", lambda source: None)
    monkeypatch.setattr(LocalFileSystem, "mv", lambda self, a, b: moved.append((a, b)) or os.rename(a, b))
    storage = Storage.of(f"file://{tmp_path}/out")
    for content in (b"one", b"two"):
        storage.write("x/a.json", content)
    assert storage.read("x/a.json") == b"two" and storage.sizes() == {"x/a.json": 3}
    assert len(moved) == 2 and all(source.endswith(UNFINISHED) for source, _ in moved)
    storage.remove(["x/a.json", "gone.json"])
    assert storage.sizes() == {}


# The same, but the third shard waits for the end of standard input before its output is written.
HELD = """
import os, sys
from hubert_fast.cli import main
from hubert_fast.jobs.shards import engine

finish, count = engine.Part.finish, 0

def held(self, storage, stamp):
    global count
    count += 1
    if count > 2:
        print("held", flush=True)
        os.read(0, 1)
    return finish(self, storage, stamp)

engine.Part.finish = held
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("sent, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_continues(shards, sent, status):
    options = ["-o", "out", "--per-shard", "--readers", "1", *FLOAT32]
    command = [sys.executable, "-c", HELD, "transcribe", "a-{000..003}.tar", *options]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as child:
        assert child.stdout.readline() == b"held\n"
        child.send_signal(sent)
        if sent != signal.SIGKILL:
            wait_until(lambda: b"finishing" in child.stderr.peek() or b"finishing" in child.stderr.readline(), 60)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == status, errors
    finished = 2 if sent == signal.SIGKILL else 3  # the shard in work is finished
    assert len(rows()) == finished
    assert run("a-{000..003}.tar") == 0
    assert {name: len(each) for name, each in rows().items()} == {f"a-{number:03d}.jsonl": CLIPS for number in range(4)}
    assert summary()["shards"]["already_done"] == finished and summary()["transcribed"] == 4 * CLIPS


def test_a_full_disk_ends_the_run_with_the_reason(shards, capsys, monkeypatch):
    def full(self, name, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hubert_fast.jobs.shards.storage.Local.put", full)
    assert run("a-000.tar") == 2
    assert "No space left on device" in capsys.readouterr().err


def test_storage_that_stays_down_ends_the_run(shards, capsys, monkeypatch):
    def down(source, column, note):
        raise StorageError(f"{source} cannot be opened, after 6 attempts in 14 s: Service Unavailable") from ConnectionError()
        yield

    monkeypatch.setattr("hubert_fast.jobs.shards.kinds.utterances", down)
    assert run("a-{000..099}.tar") == 2
    errors = capsys.readouterr().err
    assert "8 shards in a row could not be read" in errors and errors.count("Service Unavailable") == 9


def test_a_device_that_fails_ends_the_run(shards, capsys, monkeypatch):
    def broken(model, audio):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Transcriber, "compute", staticmethod(broken))
    assert run("a-{000..003}.tar") == 2
    assert "the run failed: CUDA error: an illegal memory access" in capsys.readouterr().err and rows() == {}
