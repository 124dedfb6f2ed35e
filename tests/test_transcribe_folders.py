"""Test folders, patterns and archives: each file appears once, whatever the links, and skipped files are reported."""

import os
import socket
import subprocess
import tarfile
import zipfile

import pytest

from hubert_fast import demo
from hubert_fast.audio import standard_input
from hubert_fast.jobs import folders
from hubert_fast.jobs.patterns import matches, names_suffix
from hubert_fast.transcribe import Inputs

RECORDING = demo.RECORDINGS / "stop.wav"
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _write(*names, content=b""):
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)


def _expand(*sources):
    """Return the ids or errors of the utterances in sources, and the warnings. Check that a second pass gives the same."""
    notes = []
    inputs = Inputs(sources, note=notes.append)
    rows = [each.error or each.id for each in inputs]
    assert [each.error or each.id for each in inputs] == rows
    return rows, notes


def test_skipped_files_are_reported_once_by_kind():
    _write("talks/a.wav", "talks/b.m4a", "talks/c.webm", "talks/d.sph", "talks/x/e.MP4")
    _write("talks/1.txt", "talks/2.TXT", "talks/x/3.json", "talks/README", "talks/x/my notes. on it")
    assert _expand("talks") == (
        ["talks/a.wav", "talks/b.m4a", "talks/c.webm", "talks/d.sph", "talks/x/e.MP4"],
        ["talks: skipped 5 files that do not appear to be audio: 2 .txt, 2 without a suffix, 1 .json"],
    )
    _write("one/a.wav", "one/a.txt")
    assert _expand("one")[1] == ["one: skipped 1 file that does not appear to be audio: 1 .txt"]


def test_only_the_most_common_kinds_are_named():
    _write("talks/a.wav", *(f"talks/{index}.x{index:02}" for index in range(12)))
    assert _expand("talks")[1] == [
        "talks: skipped 12 files that do not appear to be audio: 1 .x00, 1 .x01, 1 .x02, 1 .x03, 1 .x04, 1 .x05, 1 .x06, "
        "1 .x07, 4 of 4 other kinds"
    ]


def test_the_error_for_a_folder_without_audio_counts_its_files():
    _write("talks/a.txt", "talks/wav.scp")
    os.makedirs("empty/below")
    assert _expand("talks", "empty")[0] == [
        "talks: no audio files in this folder, only 2 files that do not appear to be audio: 1 .scp, 1 .txt; "
        "if one of them is a list of audio files, pass that file instead",
        "empty: no audio files in this folder",
    ]


def test_files_with_unknown_suffixes_are_recognized_by_their_bytes():
    content = RECORDING.read_bytes()
    _write("talks/noname", "talks/a.wav~", "talks/b.2024", content=content)
    _write("talks/c.txt", "talks/d.part", content=content)  # suffixes of other kinds of files
    _write("talks/e.2024", "talks/f", content=b"text")
    _write("talks/g", content="text".encode("utf-16"))
    assert _expand("talks") == (
        ["talks/a.wav~", "talks/b.2024", "talks/noname"],
        ["talks: skipped 5 files that do not appear to be audio: 2 without a suffix, 1 .2024, 1 .part, 1 .txt"],
    )


def test_system_files_are_ignored():
    _write("talks/a.wav", "talks/.d.ogg")
    _write("talks/._a.wav", content=APPLE_DOUBLE)
    _write(
        "talks/._b.mp3", "talks/.DS_Store", "talks/Thumbs.db", "talks/desktop.ini", "talks/__MACOSX/._c.wav", "talks/.git/x/abc"
    )
    _write("talks/._really.wav", content=RECORDING.read_bytes())
    expected = ["talks/._really.wav", "talks/.d.ogg", "talks/a.wav"]
    assert _expand("talks") == (expected, [])
    assert _expand("talks/*.wav", "talks/**/*.mp3") == (["talks/a.wav", "talks/**/*.mp3: nothing matches this pattern"], [])
    assert _expand("talks/._a.wav") == (["talks/._a.wav"], [])  # the decoder reports what it is


def test_linked_folders_are_followed_once():
    _write("talks/a.wav", "talks/z/b.wav", "other/c.wav")
    os.symlink("../other", "talks/linked")
    os.symlink("../other", "talks/linked2")
    os.symlink("z", "talks/again")
    os.symlink("..", "talks/z/up")
    os.symlink("../talks", "other/back")
    os.symlink(".", "other/loop")
    assert _expand("talks") == (["talks/a.wav", "talks/z/b.wav", "talks/linked/c.wav"], [])


def test_links_to_files_in_the_same_tree_are_dropped():
    _write("talks/a.wav", "other/c.wav", "other/d.wav", "other/noname", content=RECORDING.read_bytes())
    os.symlink("a.wav", "talks/0.wav")
    os.symlink("../other/c.wav", "talks/1.wav")
    os.symlink("../other/c.wav", "talks/2.wav")
    os.symlink("../other/noname", "talks/3.wav")
    os.symlink("../other", "talks/linked")
    os.link("talks/a.wav", "talks/hard.wav")
    os.symlink("../elsewhere.wav", "talks/4.wav")
    os.symlink("../elsewhere.wav", "talks/5.wav")  # the target is outside the folder
    _write("elsewhere.wav")
    expected = [f"talks/{name}.wav" for name in ("1", "2", "3", "4", "5", "a", "hard", "linked/d")]
    assert _expand("talks") == (expected, [])
    assert _expand("talks/*.wav")[0] == expected[:-1]


def test_links_in_the_hub_cache_yield_each_file_once():
    _write("hub/blobs/0123", content=RECORDING.read_bytes())
    os.makedirs("hub/snapshots/x")
    os.symlink("../../blobs/0123", "hub/snapshots/x/a.wav")
    assert _expand("hub/snapshots") == (["hub/snapshots/x/a.wav"], [])
    assert _expand("hub") == (["hub/blobs/0123"], [])


def test_a_broken_link_is_an_error():
    _write("talks/a.wav")
    os.symlink("gone.wav", "talks/b.wav")
    os.symlink("/gone/disk", "talks/more")
    os.symlink("circle.wav", "talks/circle.wav")
    os.symlink("gone.txt", "talks/c.txt")
    os.symlink("user@host.1", "talks/.#a.wav")  # a lock file of Emacs
    expected = [
        "talks/a.wav",
        "talks/b.wav: this is a link to gone.wav, which does not exist",
        "talks/circle.wav: this link leads back to itself",
        "talks/more: this is a link to /gone/disk, which does not exist",
    ]
    assert _expand("talks") == (expected, [])
    assert _expand("talks/b.wav")[0] == expected[1:2]
    assert _expand("talks/*b.wav")[0] == expected[1:2]


def test_pipes_and_sockets_in_a_folder_are_not_opened(monkeypatch):
    _write("talks/a.wav")
    os.mkfifo("talks/b.wav")
    os.mkfifo("talks/c")
    os.mkfifo("talks/d.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("talks/e.wav")
        assert _expand("talks")[0] == [
            "talks/a.wav",
            "talks/b.wav: this is a pipe, not a regular file: to read it, pass it as a separate input",
            "talks/e.wav: this is a socket, not a regular file: to read it, pass it as a separate input",
        ]
    assert _expand("talks/[bc]*")[0][0] == "talks/b.wav: this is not a regular file: to read it, pass it as a separate input"


@pytest.mark.parametrize(
    "content, expected, is_audio",
    [(RECORDING.read_bytes(), ["talk"], True), (b"a.wav\nb.wav\n", ["a.wav", "b.wav"], False)],
    ids=["audio", "list"],
)
def test_a_named_pipe_is_read(content, expected, is_audio):
    _write("content", content=content)
    os.mkfifo("talk")
    with subprocess.Popen(["sh", "-c", "cat content > talk"]):
        pipe = Inputs(["talk"])
        assert pipe.is_one_file == is_audio and not pipe.can_repeat
        assert [each.audio for each in pipe] == expected
        if is_audio:  # peeking consumed nothing
            with standard_input.named_pipe("talk") as rest:
                assert b"".join(iter(lambda: rest.read(1 << 16), b"")) == content


def test_pipes_with_the_same_name_are_not_confused(tmp_path, monkeypatch):
    """The first one was peeked at, but never read to its end."""
    for name in ("one", "two"):
        os.mkdir(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        os.mkfifo("talk")
        with subprocess.Popen(["sh", "-c", f"echo {name}.wav > talk"]):
            pipe = standard_input.named_pipe("talk")
            assert pipe.peek() == f"{name}.wav\n".encode()


def test_folders_a_thousand_levels_deep_are_searched(tmp_path):
    os.mkdir("talks")
    try:
        os.chdir("talks")
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        _write("a.wav")
        os.chdir(tmp_path)
        assert _expand("talks")[0] == ["talks" + "/d" * 1100 + "/a.wav"]
    finally:
        os.chdir(tmp_path)
        # pytest cleans up with shutil.rmtree, which would recurse too deeply
        subprocess.run(["rm", "-rf", "talks"], check=True)


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("t/**/*.wav", ["t/a.wav", "t/x/b.wav", "t/x/y/c.wav"]),
        ("t/*/*.wav", ["t/x/b.wav"]),
        ("t/**/y/*.wav", ["t/x/y/c.wav"]),
        ("t/**/**/*.wav", ["t/a.wav", "t/x/b.wav", "t/x/y/c.wav"]),
        ("**/c.wav", ["t/x/y/c.wav"]),
        ("t/?.wav", ["t/a.wav"]),
        ("t/[!b].wav", ["t/a.wav"]),
        ("t/.*.wav", ["t/.h.wav"]),
        ("t/*/", ["t/x"]),
        ("./t/a.*", ["./t/a.wav"]),
        ("{here}/t/*.wav", ["{here}/t/a.wav"]),
        ("no/**/*.wav", []),
    ],
)
def test_patterns(pattern, expected):
    _write("t/a.wav", "t/x/b.wav", "t/x/y/c.wav", "t/.h.wav", "t/.hidden/d.wav", "t/x/__MACOSX/e.wav")
    here = os.getcwd()
    assert matches(pattern.replace("{here}", here)) == [path.replace("{here}", here) for path in expected]


def test_patterns_terminate_in_cycles_of_links():
    _write("other/pi.wav", "other/z/b.wav")
    for name in ("loop", "loop2", "z/up", "z/round"):
        os.symlink("." if "/" not in name else "..", f"other/{name}")
    os.symlink("z", "other/a")
    assert _expand("other/**/*.wav") == (["other/pi.wav", "other/z/b.wav"], [])
    assert _expand("other/**/**/*.wav")[0] == ["other/pi.wav", "other/z/b.wav"]
    assert len(_expand("other/*/*/*.wav")[0]) == 2  # each file once, by any of the paths


def test_files_that_a_pattern_skips_are_reported():
    _write("talks/a.wav", "talks/b.txt", "talks/c.json")
    assert _expand("talks/*") == (
        ["talks/a.wav"],
        ["talks/*: skipped 2 files that do not appear to be audio: 1 .json, 1 .txt"],
    )
    assert _expand("talks/[bc]*")[0] == [
        "talks/[bc]*: this pattern matches only 2 files that do not appear to be audio: 1 .json, 1 .txt"
    ]


def test_a_pattern_with_a_suffix_accepts_all_its_matches():
    _write("talks/a.xyz", "talks/b.xyz")
    assert _expand("talks/*.xyz") == (["talks/a.xyz", "talks/b.xyz"], [])
    assert (
        names_suffix("talks/*.xyz") and not names_suffix("talks/*") and not names_suffix("a.b/x*") and not names_suffix("*.w*")
    )


def test_lists_archives_and_folders_that_match_a_pattern_are_expanded():
    _write("one.txt", content=b"a.wav\n")
    _write("two.txt", content=b"b.wav\n")
    _write("talks_1/c.wav", "talks_2/d.wav", "talks_2/e.txt")
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.writestr("f.wav", b"x")
    assert _expand("*.txt")[0] == ["a.wav", "b.wav"]
    assert _expand("*.zip")[0] == ["zip://f.wav::z.zip"]
    assert _expand("talks_*") == (
        ["talks_1/c.wav", "talks_2/d.wav"],
        ["talks_2: skipped 1 file that does not appear to be audio: 1 .txt"],
    )
    assert _expand("**/talks_?")[0] == ["**/talks_?: this pattern matches only folders: append a file pattern, such as /*.wav"]


MEMBERS = ("x/1.wav", "x/y/2.flac", "top.mp3", "take [1].wav", "x/notes", "é ü.wav")


@pytest.fixture(params=["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def archive(request):
    """Write an archive with MEMBERS, macOS metadata and a text; return its name."""
    name = f"my a.{request.param}"
    _write(*MEMBERS, "x/read.txt", content=RECORDING.read_bytes())
    _write("__MACOSX/._top.mp3", "x/._1.wav", content=APPLE_DOUBLE)
    members = (*MEMBERS, "x/read.txt", "__MACOSX/._top.mp3", "x/._1.wav")
    if request.param == "zip":
        with zipfile.ZipFile(name, "w") as file:
            for member in members:
                file.write(member)
    else:
        mode = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[request.param]
        with tarfile.open(name, mode) as file:
            for member in members:
                file.add(member)
    return name


def test_archives_are_expanded_like_folders(archive):
    protocol = "zip" if archive.endswith("zip") else "tar"

    def urls(*names):
        return [f"{protocol}://{name}::{archive}" for name in names]

    everything = urls("take [1].wav", "top.mp3", "x/1.wav", "x/y/2.flac", "é ü.wav")
    is_zip = protocol == "zip"
    in_its_order = everything if is_zip else urls(*(name for name in MEMBERS if name != "x/notes"))  # a tar is read as a stream
    left_out = "skipped 2 files that do not appear to be audio: 1 .txt, 1 without a suffix"
    assert _expand(archive) == (in_its_order, [f"{archive}: {left_out}"])
    assert not Inputs([archive]).is_one_file
    assert sorted(each.name for each in Inputs([archive])) == ["take [1]", "top", "x/1", "x/y/2", "é ü"]
    assert _expand(f"{protocol}://::{archive}") == (everything, [f"{protocol}://::{archive}: {left_out}"])
    assert _expand(*urls("**/*.wav"))[0] == urls("take [1].wav", "x/1.wav", "é ü.wav")
    assert _expand(*urls("*.mp3"))[0] == urls("top.mp3")
    assert _expand(*urls("**/*"))[0] == everything
    assert _expand(*urls("x"))[0] == urls("x/1.wav", "x/y/2.flac")
    assert _expand(*urls("take [1].wav"))[0] == urls("take [1].wav")
    assert _expand(*urls("gone.wav"))[0] == [f"{urls('gone.wav')[0]}: no such file in this archive"]
    assert _expand(*urls("*.ogg"))[0] == [f"{urls('*.ogg')[0]}: no audio files here"]


def test_tar_members_with_a_leading_dot_can_be_named_without_it():
    _write("d/a.wav", "d/x/b.wav")
    with tarfile.open("a.tar", "w") as file:
        file.add("d", ".")
    assert _expand("a.tar")[0] == ["tar://./a.wav::a.tar", "tar://./x/b.wav::a.tar"]
    assert [each.name for each in Inputs(["a.tar"])] == ["a", "x/b"]
    assert _expand("tar://a.wav::a.tar", "tar://x/*.wav::a.tar")[0] == ["tar://./a.wav::a.tar", "tar://./x/b.wav::a.tar"]


def test_a_webdataset_shard_has_references():
    _write("s1.flac", "s2.flac", "s3.flac", "s4.flac")
    _write("s1.txt", content=b"one two\n")
    _write("s2.json", content=b'{"text": "three"}')
    _write("s3.json", content=b"{broken")
    with tarfile.open("shard-000001.tar", "w") as file:
        for name in ("s1.flac", "s1.txt", "s2.flac", "s2.json", "s3.flac", "s3.json", "s4.flac"):
            file.add(name)
    assert [(each.name, each.reference) for each in Inputs(["shard-000001.tar"])] == [
        ("s1", "one two"),
        ("s2", "three"),
        ("s3", None),
        ("s4", None),
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n",
            "a Git LFS pointer to a file of 1,234 bytes",
        ),
        (b"<!DOCTYPE html><html></html>", "an HTML page, not an archive"),
        (b"PK\x03\x04" + bytes(100), "cannot be opened: "),
        (b"", "an empty file (0 bytes)"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive, not an archive that can be read by its name"),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_the_error_for_a_false_archive_says_what_it_is(name, content, message):
    _write(name, content=content)
    (row,) = _expand(name)[0]
    assert row.startswith(f"{name}: ") and message in row and "\n" not in row, row


def test_a_truncated_archive_is_still_reported_as_an_archive():
    _write("a.wav", content=os.urandom(5000))
    with tarfile.open("whole.tgz", "w:gz") as file:
        file.add("a.wav")
    with open("whole.tgz", "rb") as file:
        _write("a.tgz", content=file.read()[:600])
    (row,) = _expand("a.tgz")[0]
    assert row.startswith("a.tgz: the archive is damaged at its beginning: "), row


def test_a_zip_with_the_suffix_of_a_tar_is_read():
    _write("a.wav")
    with zipfile.ZipFile("a.tar", "w") as file:
        file.write("a.wav")
    assert _expand("a.tar")[0] == ["zip://a.wav::a.tar"]


def test_remote_folders_and_archives_are_expanded():
    import fsspec

    system = fsspec.filesystem("memory")
    with zipfile.ZipFile("a.zip", "w") as file:
        file.writestr("x/1.wav", b"x")
    with open("a.zip", "rb") as file:
        system.pipe("/away/a.zip", file.read())
    for name in ("/away/b.wav", "/away/._b.wav", "/away/__MACOSX/c.wav", "/away/notes.txt", "/away/d.mp4"):
        system.pipe(name, b"memory://away/one.wav")
    assert _expand("memory://away/a.zip")[0] == ["zip://x/1.wav::memory://away/a.zip"]
    assert _expand("zip://**::memory://away/a.zip")[0] == ["zip://x/1.wav::memory://away/a.zip"]
    expected = ["memory:///away/b.wav", "memory:///away/d.mp4"]
    note = "skipped 2 files that do not appear to be audio: 1 .txt, 1 .zip"
    assert _expand("memory://away") == (expected, [f"memory://away: {note}"])
    assert _expand("memory://away/*")[0] == expected
    assert _expand("memory://away/*.wav")[0] == expected[:1]
    assert _expand("memory://away/*.txt")[0] == ["memory://away/one.wav"]  # a list, which is expanded


def test_a_file_that_cannot_be_examined_fails_alone(monkeypatch):
    """On a network file system, a file may vanish or become stale while its folder is searched."""
    for name in ("a.wav", "gone.wav", "z.wav"):
        with open(name, "wb"):
            pass
    real = folders.FolderWalk._file

    def stale(walk, entry, *rest):
        if entry.name == "gone.wav":
            raise OSError(116, "Stale file handle")
        return real(walk, entry, *rest)

    monkeypatch.setattr(folders.FolderWalk, "_file", stale)
    assert [each.error or each.audio for each in Inputs(["."])] == [
        "./a.wav",
        "./gone.wav: cannot be opened: Stale file handle",
        "./z.wav",
    ]


def test_a_pattern_of_linked_folders_yields_each_file_once():
    _write("d/a.wav", "d/sub/b.wav", "other/c.wav")
    for name, target in {"again": "../other", "here": "../other", "loop": "../d", "loop2": "loop"}.items():
        os.symlink(target, f"d/{name}")
    assert _expand("d/*") == (["d/a.wav", "d/sub/b.wav", "d/again/c.wav"], [])
    os.mkdir("only")
    os.symlink("../only", "only/loop")
    os.symlink("../d/sub", "only/sub")
    assert _expand("only/*") == (["only/loop/sub/b.wav"], [])


def test_braces_stand_for_several_names():
    _write("a.wav", "b-08.wav", "b-09.wav", "b-10.wav", "{c,d}.wav")
    nothing = "*.mp3: nothing matches this pattern"
    assert _expand("*.{wav,mp3}")[0] == ["a.wav", "b-08.wav", "b-09.wav", "b-10.wav", "{c,d}.wav", nothing]
    assert _expand("b-{08..10}.wav")[0] == ["b-08.wav", "b-09.wav", "b-10.wav"]
    assert _expand("{a,b-{10..09}}.wav")[0] == ["a.wav", "b-10.wav", "b-09.wav"]
    assert _expand("{c,d}.wav")[0] == ["{c,d}.wav"]
