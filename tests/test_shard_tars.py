"""Test tar archives that are read as streams: their texts, damage at each place, and memory."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc

import pytest

from hubert_fast.audio import contained
from hubert_fast.demo import recordings
from hubert_fast.jobs.shards import tar_members
from hubert_fast.transcribe import Inputs

AUDIO = {f"{number}.flac": bytes([number]) * 3000 for number in range(3)}  # a header and six blocks of 512 bytes each
MEMBER_BYTES = 512 + 6 * 512


def _archive(members):
    """Return an archive with members of these names and contents, without the padding to 10,240 bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        end = archive.offset
    return file.getvalue()[: end + 1024]


def _read(path, content, notes=None):
    path.write_bytes(content)
    return list(tar_members.utterances(str(path), (lambda message: None) if notes is None else notes.append))


WHOLE = _archive(AUDIO.items())
CUTS = {  # the length, the files that are read, and what the error says
    "in the first header": (100, 0, "the archive is damaged at its beginning: |this is not a tar archive: "),
    "in the first file": (
        2000,
        0,
        "the archive is damaged in or after 0.flac (unexpected end of data): 0 audio files before that were read",
    ),
    "between files": (
        MEMBER_BYTES,
        1,
        "in or after 0.flac (its end mark is missing, so it may be cut off): 1 audio file before",
    ),
    "in a header": (MEMBER_BYTES + 100, 1, "the archive is damaged in or after 0.flac ("),
    "in the second file": (2 * MEMBER_BYTES - 1000, 1, "the archive is damaged in or after 1.flac ("),
    "before the end mark": (3 * MEMBER_BYTES, 3, "the archive is damaged in or after 2.flac (its end mark is missing"),
}


@pytest.mark.parametrize("place", CUTS)
def test_an_archive_that_was_cut_off_yields_what_is_there_and_an_error(place, tmp_path):
    length, count, message = CUTS[place]
    *rows, last = _read(tmp_path / "a.tar", WHOLE[:length])
    assert [row.audio.content for row in rows] == list(AUDIO.values())[:count]
    assert last.id == str(tmp_path / "a.tar")
    texts = [text.split(" ... ") for text in message.split("|")]
    assert any(all(part in last.error for part in text) for text in texts), last.error


def test_a_whole_archive_and_joined_ones_are_read_to_their_ends(tmp_path):
    other = _archive([("x/y.z.flac", b"y")])
    rows = _read(tmp_path / "a.tar", WHOLE + other)
    assert [row.audio.content for row in rows] == [*AUDIO.values(), b"y"]
    assert rows[3].audio == f"tar://x/y.z.flac::{tmp_path}/a.tar" and rows[3].name == "x/y.z" and rows[3].error is None


def test_a_hole_in_an_archive_is_an_error(tmp_path):
    hole = WHOLE[:MEMBER_BYTES] + bytes(range(256)) * (MEMBER_BYTES // 256) + WHOLE[2 * MEMBER_BYTES :]
    first, last = _read(tmp_path / "a.tar", hole)
    assert first.audio.content == AUDIO["0.flac"]
    expected = f"the archive is damaged in or after 0.flac (no member begins at byte {MEMBER_BYTES}: "
    assert expected in last.error and last.error.endswith("): 1 audio file before that was read, and the rest is lost")


def test_of_files_with_the_same_name_the_first_is_read_and_the_others_are_errors(tmp_path):
    second, third, first = _read(tmp_path / "a.tar", _archive([("a.wav", b"1"), ("a.wav", b"2"), ("a.wav", b"3")]))
    url = f"tar://a.wav::{tmp_path}/a.tar"
    assert first.audio.content == b"1" and first.error is None
    assert second.error == third.error == f"{url}: the archive has several files of this name, of which only the first is read"
    assert len({first.key, second.key}) == 2


def test_texts_count_before_and_after_their_audio_and_a_note_counts_those_apart(tmp_path):
    members = {
        "a.txt": b"before\n",
        "a.wav": b"1",
        "b.wav": b"2",
        "b.json": json.dumps({"text": "after"}).encode(),
        "c.left.wav": b"3",
        "c.right.wav": b"4",
        "c.txt": b"both",
        "d.wav": b"5",
        "e.wav": b"6",
        "d.txt": b"apart",
        "e.json": b"{",
        "f.txt": b"alone",
    }
    notes = []
    rows = _read(tmp_path / "a.tar", _archive(members.items()), notes)
    assert [row.reference for row in rows] == ["before", "after", "both", "both", None, None]
    assert [row.audio.content for row in rows] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert "2 texts are not used, since they do not stand beside their audio: sort the archive by name" in notes
    assert notes[0].startswith("skipped 3 files that do not appear to be audio: 2 .txt, 1 .json")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_compressed_archive_is_read_and_damage_in_it_is_an_error(compress, tmp_path):
    compressed = compress(_archive(AUDIO.items()))
    rows = _read(tmp_path / "a.tar", compressed)
    assert [row.audio.content for row in rows] == list(AUDIO.values())
    *rows, last = _read(tmp_path / "a.tar", compressed[:-20])
    assert [row.audio.content for row in rows] == list(AUDIO.values())[: len(rows)] and "damaged" in last.error


def test_large_members_wait_on_disk_with_the_same_content(tmp_path, monkeypatch):
    monkeypatch.setattr(contained, "SPOOL_BYTES", 1000)
    rows = _read(tmp_path / "a.tar", WHOLE)
    assert not any(isinstance(row.audio._content, bytes) for row in rows)
    assert [row.audio.content for row in rows] == [row.audio.content for row in rows] == list(AUDIO.values())


NOT_TARS = {
    "html": (b"<!DOCTYPE html><html>", "this is an HTML page, not an archive that can be read by its name"),
    "empty": (b"", "this is an empty file (0 bytes), not an archive"),
    "binary": (bytes(range(1, 256)) * 8, "this is not a tar archive: "),
    "no audio": (_archive([("a.md", b"")]), "no audio files here, only 1 file that does not appear to be audio: 1 .md"),
}


@pytest.mark.parametrize("case", NOT_TARS)
def test_what_is_not_an_archive_of_audio_is_named(case, tmp_path):
    content, message = NOT_TARS[case]
    (row,) = _read(tmp_path / "a.tar", content)
    assert row.error.startswith(f"{tmp_path}/a.tar: {message}")


def test_memory_does_not_grow_with_the_number_of_members(tmp_path):
    def peak(count):
        (tmp_path / "a.tar").write_bytes(_archive((f"{number:05}.flac", b"x" * 100) for number in range(count)))
        tracemalloc.start()
        read = sum(1 for _ in tar_members.utterances(str(tmp_path / "a.tar")))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert read == count
        return peak_bytes

    growth = (peak(3000) - peak(1000)) / 2000
    assert growth < 500, growth  # bytes for each member: its name, to recognise duplicates


def test_archives_of_a_remote_pattern_are_read_as_streams(tmp_path):
    system = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("b", "a"):
        system.pipe(f"/tars/{name}.tar", _archive([(f"{name}.wav", name.encode())]))
    for source in ("memory://tars/*.tar", "memory://tars", "memory://tars/{a,b}.tar"):
        assert [row.audio.content for row in Inputs([source])] == [b"a", b"b"], source


def test_recordings_in_an_archive_keep_their_bytes(tmp_path):
    files = {each.path.name: each.path.read_bytes() for each in recordings()[:3]}
    rows = _read(tmp_path / "a.tar", _archive(files.items()))
    assert {row.audio.split("::")[0].removeprefix("tar://"): row.audio.content for row in rows} == files
