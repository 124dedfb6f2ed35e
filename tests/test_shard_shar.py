"""Test the shards of Lhotse Shar, folders of shards, and the names of shards in folders and patterns."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy
import pytest
import soundfile

from hubert_fast.demo import recordings
from hubert_fast.jobs.shards import finding, lhotse_shar
from hubert_fast.jobs.shards.retries import StorageError
from hubert_fast.transcribe import Inputs

FILES = {each.path.stem: each for each in recordings() if each.path.suffix == ".flac"}
NAMES = list(FILES)[:3]


def _cut(id, **values):
    """Return a cut as Lhotse writes it to a shard."""
    recording = {"id": id, "sources": [{"type": "shar", "channels": [0], "source": ""}], "sampling_rate": 16000}
    recording |= {"num_samples": 16000, "duration": 1.0, "channel_ids": [0]}
    supervision = {"id": id, "recording_id": id, "start": 0, "duration": 1.0, "channel": 0, "text": f"text of {id}"}
    cut = {"id": id, "start": 0, "duration": 1.0, "channel": 0, "supervisions": [supervision], "recording": recording}
    return {**cut, "type": "MonoCut", **values}


def _write_cuts(folder, cuts, number="000000"):
    path = folder / f"cuts.{number}.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode()))
    return str(path)


def _write_tar(folder, members, number="000000"):
    path = folder / f"recording.{number}.tar"
    with tarfile.open(path, "w|", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def _names(path):
    with tarfile.open(path) as archive:
        return archive.getnames()


def _members(names):
    """Return the members of a tar for ids with the content of recordings, or `None` for a cut without audio."""
    for id, content in names:
        if content is None:
            yield from ((f"{id}.nodata", b""), (f"{id}.nometa", b""))
        else:
            yield from ((f"{id}.flac", content), (f"{id}.json", json.dumps(_cut(id)["recording"]).encode()))


def _shard(folder, cuts=None, audio=None, number="000000"):
    audio = [(name, FILES[name].path.read_bytes()) for name in NAMES] if audio is None else audio
    tar = _write_tar(folder, _members(audio), number)
    return _write_cuts(folder, [_cut(name) for name in NAMES] if cuts is None else cuts, number), tar


def _errors(source):
    return [utterance.error for utterance in lhotse_shar.utterances(source) if utterance.error is not None]


def test_each_cut_has_its_audio_from_the_tar_and_the_text_of_its_supervisions(tmp_path):
    source, tar = _shard(tmp_path)
    cuts = list(Inputs([source]))
    assert lhotse_shar.is_shar(source) and not Inputs([source]).is_one_file
    assert [cut.id for cut in cuts] == [cut.name for cut in cuts] == NAMES
    assert [cut.audio for cut in cuts] == [f"tar://{name}.flac::{tar}" for name in NAMES]
    assert [cut.audio.content for cut in cuts] == [FILES[name].path.read_bytes() for name in NAMES]
    assert [cut.reference for cut in cuts] == [f"text of {name}" for name in NAMES]
    parts = {(cut.offset_seconds, cut.duration_seconds, cut.channel, cut.error) for cut in cuts}
    assert parts == {(0.0, None, None, None)}


def test_lhotse_writes_the_files_that_these_tests_write(tmp_path):
    lhotse = pytest.importorskip("lhotse", reason="the layout is also tested with files written by hand")
    from lhotse.shar import SharWriter

    (tmp_path / "real").mkdir()
    (tmp_path / "own").mkdir()
    path = str(FILES[NAMES[0]].path)
    plain = lhotse.Recording.from_file(path, recording_id="talks/a.b").to_cut().with_id("talks/a.b")
    plain.supervisions = [lhotse.SupervisionSegment("s", "talks/a.b", 0.0, 1.0, text="text")]
    truncated = plain.with_id("part").truncate(offset=0.5, duration=1.0)
    truncated = truncated.with_id("part")
    with SharWriter(str(tmp_path / "real"), fields={"recording": "flac"}, shard_size=2) as writer:
        for cut in (plain, truncated):
            writer.write(cut)
        writer.write(lhotse.MonoCut("none", 0.0, 1.0, 0))
        writer.write(plain.with_id("last"))
    real = tmp_path / "real" / "cuts.000000.jsonl.gz"
    first, part = Inputs([str(real)])
    assert (first.id, first.reference, first.error, part.id, part.error) == ("talks/a.b", "text", None, "part", None)
    assert first.audio == f"tar://talks/a.b.flac::{tmp_path}/real/recording.000000.tar"
    assert (part.offset_seconds, part.duration_seconds) == (0.0, None)  # the tar holds the part alone
    (whole, rate), (cut, _) = (soundfile.read(io.BytesIO(each.audio.content)) for each in (first, part))
    numpy.testing.assert_array_equal(cut, whole[rate // 2 : rate // 2 + rate])
    rows = list(lhotse_shar.utterances(str(real).replace("000000", "000001")))
    assert [row.error and row.error.partition(": ")[2] for row in rows] == ["the cut none has no audio", None]

    written = [json.loads(line) for line in gzip.decompress(real.read_bytes()).splitlines()]
    assert written[0].keys() == _cut("a").keys() and written[0]["recording"].keys() == _cut("a")["recording"].keys()
    (file,) = written[0]["recording"]["sources"]
    assert (
        file == {"type": "shar", "channels": [0, 1], "source": ""}
        and file.keys() == _cut("a")["recording"]["sources"][0].keys()
    )
    for number, ids in (("000000", ["talks/a.b", "part"]), ("000001", ["none", "last"])):
        _write_tar(tmp_path / "own", _members([(id, None if id == "none" else b"x") for id in ids]), number)
        assert _names(tmp_path / "real" / f"recording.{number}.tar") == _names(tmp_path / "own" / f"recording.{number}.tar")


def test_a_part_of_a_recording_and_one_of_its_channels_are_selected(tmp_path):
    cut = _cut("a", start=0.25, duration=0.5, channel=1)
    cut["recording"]["sources"][0]["channels"] = cut["recording"]["channel_ids"] = [0, 1]
    source, _ = _shard(tmp_path, [cut], [("a", b"x")])
    (row,) = Inputs([source])
    assert (row.offset_seconds, row.duration_seconds, row.channel, row.id) == (0.25, 0.5, 1, "a")


def test_a_list_that_is_named_as_a_shard_stays_a_list(tmp_path):
    cut = _cut("a")
    cut["recording"]["sources"] = [{"type": "file", "channels": [0], "source": "a.wav"}]
    (tmp_path / "a.wav").write_bytes(b"")
    source = _write_cuts(tmp_path, [cut])
    (row,) = Inputs([source])
    assert (row.id, row.audio, row.error) == ("a", str(tmp_path / "a.wav"), None) and not lhotse_shar.is_shar(source)


def test_cuts_and_audio_that_do_not_correspond_are_errors(tmp_path):
    a, b, c = ((name, name.encode()) for name in "abc")
    cuts = [_cut(name) for name in "abc"]
    source, tar = _shard(tmp_path, cuts, [a, b])
    *rows, last = lhotse_shar.utterances(source)
    assert [row.audio.content for row in rows] == [b"a", b"b"]
    assert (last.id, last.error) == ("c", f"{source}: the cut c and any after it have no audio: {tar} ends before it")
    _shard(tmp_path, cuts[:2], [a, b, c])
    assert _errors(source) == [f"{source}: the cuts end before the audio: 1 recordings in {tar} have no cut"]
    _shard(tmp_path, cuts, [a, c])
    assert _errors(source) == [f"{source}: the cut b stands where the audio in {tar} is c.flac, so the rest is lost"]
    _shard(tmp_path, cuts, [a, ("b", None), c])
    first, second, third = lhotse_shar.utterances(source)
    assert second.error == f"{source}: the cut b has no audio" and (first.audio.content, third.audio.content) == (b"a", b"c")
    os.remove(tar)
    (row,) = Inputs([source])
    assert row.error == f"{source}: its audio cannot be opened: there is no {tar}"


def test_damage_of_either_file_is_an_error_that_says_where(tmp_path):
    source, tar = _shard(tmp_path)
    whole = Path(tar).read_bytes()
    with open(tar, "wb") as file:
        file.write(whole[: whole.index(FILES[NAMES[1]].path.read_bytes()) + 1000])
    first, last = lhotse_shar.utterances(source)
    assert first.id == NAMES[0] and last.id == NAMES[1]
    expected = f"{source}: the cut {NAMES[1]} and any after it have no audio: {tar} is damaged in or after {NAMES[1]}.flac ("
    assert last.error.startswith(expected) and last.error.endswith("): 1 recordings before that were read")
    _shard(tmp_path)
    content = Path(source).read_bytes()
    with open(source, "wb") as file:
        file.write(content[:-12])
    *_, last = lhotse_shar.utterances(source)
    assert last.error.startswith(
        f"{source}: the list of cuts is damaged (Compressed file ended before the end-of-stream marker"
    )
    lines = gzip.decompress(content).splitlines()
    with open(source, "wb") as file:
        file.write(gzip.compress(b"\n".join([lines[0], b"{", lines[2]])))
    first, second, third = lhotse_shar.utterances(source)
    assert (first.id, second.id, third.id) == (NAMES[0], f"{source}:2", NAMES[2])
    assert second.error.startswith(f"{source}: line 2 is not a JSON object: ")


def test_a_folder_of_shards_is_read_shard_by_shard_without_the_fields_again(tmp_path):
    (tmp_path / "train").mkdir()
    for number in ("000001", "000000"):
        audio = [(f"{number}-{name}", name.encode()) for name in "ab"]
        _shard(tmp_path / "train", [_cut(id) for id, _ in audio], audio, number)
        (tmp_path / "train" / f"features.{number}.tar").write_bytes(b"")
        (tmp_path / "train" / f"text.{number}.jsonl.gz").write_bytes(b"")
    _write_tar(tmp_path, [("z.flac", b"z")], "000000")  # no cuts in its folder have this number
    (tmp_path / "README.md").write_text("")
    notes = []
    rows = list(Inputs([tmp_path], note=notes.append))
    assert [row.audio.content for row in rows] == [b"z", b"a", b"b", b"a", b"b"]
    assert [row.id for row in rows[1:]] == ["000000-a", "000000-b", "000001-a", "000001-b"]
    assert notes == [f"{tmp_path}: skipped 1 file that does not appear to be audio: 1 .md"]
    (tmp_path / "a.wav").write_bytes(b"")
    assert [row.name for row in Inputs([tmp_path])] == ["a"]


def test_a_remote_folder_of_shar_is_read(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    source, tar = _shard(tmp_path)
    system = fsspec.filesystem("memory")
    for path in (source, tar):
        system.pipe(f"/shar/{os.path.basename(path)}", Path(path).read_bytes())
    for given in ("memory://shar", "memory://shar/cuts.000000.jsonl.gz", "memory://shar/cuts.*.jsonl.gz"):
        rows = list(Inputs([given]))
        assert [(row.id, row.audio.content) for row in rows] == [(name, FILES[name].path.read_bytes()) for name in NAMES]
    assert rows[0].audio == f"tar://{NAMES[0]}.flac::memory:///shar/recording.000000.tar"
    system.rm("/shar/recording.000000.tar")
    (row,) = Inputs(["memory://shar/cuts.000000.jsonl.gz"])
    assert row.error.startswith("memory://shar/cuts.000000.jsonl.gz: its audio cannot be opened: there is no memory://shar/rec")


@pytest.fixture(params=["local", "memory"])
def shards(request, tmp_path):
    """Return the path or URL of a folder with shards, and a function that makes found URLs relative to it."""
    names = (
        "x/train/a-1.tar",
        "x/train/a-0.tar.gz",
        "x/dev/a-2.tar",
        "x/dev/b.parquet",
        "x/dev/b.tar",
        "x/list.jsonl",
        "x/n.md",
    )
    if request.param == "local":
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return str(tmp_path), f"{tmp_path}/"
    system = pytest.importorskip("fsspec").filesystem("memory")
    for name in names:
        system.pipe(f"/found/{name}", b"")
    return "memory://found", "memory:///found/"


def test_the_shards_of_folders_and_patterns_are_found_with_names_for_their_outputs(shards):
    folder, prefix = shards
    found = {
        "x": ["dev/a-2", "dev/b.parquet", "dev/b.tar", "train/a-0", "train/a-1"],
        "x/*/a-*.tar": ["dev/a-2", "train/a-1"],
        "x/train/a-*": ["a-0", "a-1"],
        "x/*": ["dev/a-2", "dev/b.parquet", "dev/b.tar", "train/a-0", "train/a-1"],
        "x/**/*.parquet": ["dev/b"],
    }
    for source, names in found.items():
        assert [each.name for each in finding.find(f"{folder}/{source}")] == names, source
    urls = [each.url.removeprefix(prefix) for each in finding.find(f"{folder}/x")]
    assert urls == ["x/dev/a-2.tar", "x/dev/b.parquet", "x/dev/b.tar", "x/train/a-0.tar.gz", "x/train/a-1.tar"]
    for source, name in (("x/list.jsonl", "list"), ("gone.tar.gz", "gone"), ("*.zip", "*"), ("x/train/a-1.tar", "a-1")):
        assert list(finding.find(f"{folder}/{source}")) == [(f"{folder}/{source}", name)]


def test_a_remote_folder_that_cannot_be_listed_is_an_error(monkeypatch):
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe("/refused/a.tar", b"")

    def find(path):
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(system, "find", find)
    with pytest.raises(StorageError, match=r"^memory://refused cannot be listed: Access Denied$"):
        list(finding.find("memory://refused"))
