"""Test lists of corpora and toolkits, whose rows refer to other files."""

import bz2
import gzip
import json
import lzma
import os

import fsspec
import pytest

from hubert_fast import audio
from hubert_fast.audio.pipes import Command, piped
from hubert_fast.jobs import layouts
from hubert_fast.jobs.manifests import ManifestError
from hubert_fast.transcribe import Inputs


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes empty files, or files with a text, to a temporary working folder."""
    monkeypatch.chdir(tmp_path)

    def write(*names, **texts):
        for name, text in {**dict.fromkeys(names, ""), **texts}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def _rows(*sources, **options):
    """Return (id, audio, reference, offset, duration) of each utterance without `None` at the end, or its error."""
    rows = []
    for each in Inputs(sources, **options):
        row = [each.id, each.audio, each.reference, each.offset_seconds or None, each.duration_seconds]
        while row[-1] is None:
            row.pop()
        rows.append(each.error or tuple(row))
    return rows


def test_common_voice_paths_are_relative_to_clips(write):
    write("cv/clips/1.mp3", "cv/clips/2.mp3", **{"cv/test.tsv": "client_id\tpath\tsentence\na\t1.mp3\tEins.\nb\t2\tZwei.\n"})
    assert _rows("cv/test.tsv") == [("1.mp3", "cv/clips/1.mp3", "Eins."), ("2", "cv/clips/2.mp3", "Zwei.")]


def test_audio_folder_metadata_names_files_and_texts(write):
    write("d/train/a.wav", **{"d/metadata.jsonl": '{"file_name": "train/a.wav", "transcription": "one"}\n'})
    assert _rows("d/metadata.jsonl") == [("train/a.wav", "d/train/a.wav", "one")]


def test_ljspeech_ids_name_files_in_wavs(write):
    write("lj/wavs/LJ001-0001.wav", **{"lj/metadata.csv": 'LJ001-0001|In 1455, "he" said|In fourteen fifty-five he said\n'})
    assert _rows("lj/metadata.csv") == [("LJ001-0001", "lj/wavs/LJ001-0001.wav", "In fourteen fifty-five he said")]


def test_librispeech_transcripts_name_files_beside_them(write):
    write("l/1-2-0000.flac", "l/1-2-0001.wav", **{"l/1-2.trans.txt": "1-2-0000 GO DO\n1-2-0001 YOU HEAR\n1-2-0002 X\n"})
    assert _rows("l/1-2.trans.txt") == [
        ("1-2-0000", "l/1-2-0000.flac", "GO DO"),
        ("1-2-0001", "l/1-2-0001.wav", "YOU HEAR"),
        ("1-2-0002", "l/1-2-0002.flac", "X"),
    ]
    write(**{"l/1-2.trans.txt.gz": gzip.compress(b"1-2-0000 GO DO\n")})
    assert _rows("l/1-2.trans.txt.gz") == [("1-2-0000", "l/1-2-0000.flac", "GO DO")]


def test_a_librispeech_folder_has_references(write):
    write("l/1/2/1-2-0000.flac", "l/1/3/1-3-0000.flac", "l/1/3/other.wav")
    write(**{"l/1/2/1-2.trans.txt": "1-2-0000 GO DO\n", "l/1/3/1-3.trans.txt": "1-3-0000 YOU HEAR\n"})
    assert [(each.name, each.reference) for each in Inputs(["l"])] == [
        ("1/2/1-2-0000", "GO DO"),
        ("1/3/1-3-0000", "YOU HEAR"),
        ("1/3/other", None),
    ]


@pytest.mark.parametrize("companion, reference", [("wrd", "ONE TWO"), ("ltr", "ONE TWO"), (None, None)])
def test_fairseq_references_come_from_files_beside_the_list(write, tmp_path, companion, reference):
    root = tmp_path / "speech"
    write("speech/a.flac", "speech/x/b.flac", **{"data/train.tsv": f"{root}\na.flac\t18928\nx/b.flac\t5\n"})
    if companion is not None:
        write(**{f"data/train.{companion}": "\n" + {"wrd": "ONE TWO\n", "ltr": "O N E | T W O |\n"}[companion]})
    expected = ("x/b.flac", f"{root}/x/b.flac") + (() if reference is None else (reference,))
    assert _rows("data/train.tsv") == [("a.flac", f"{root}/a.flac"), expected]


def test_fairseq_paths_without_their_root_are_tried_beside_the_list(write):
    write("data/a.flac", **{"data/train.tsv": "/gone/with/the/wind\na.flac\t18928\nb.flac\t1\n"})
    assert _rows("data/train.tsv") == [("a.flac", "data/a.flac"), ("b.flac", "/gone/with/the/wind/b.flac")]


@pytest.mark.parametrize(
    "table, rows",
    [
        ("f\na.wav\t7000\t3\nb.wav\t7000\t3\n", ["f/a.wav", "f/b.wav"]),
        ("f\t\na.wav\t7000\nb.wav\t7000\n", ["f/a.wav", "f/b.wav"]),
        ("f\n", []),
    ],
    ids=["a third column", "a tab after the root", "the root alone"],
)
@pytest.mark.parametrize("name", ["train.tsv", "train.txt"])
def test_variants_of_fairseq_lists_are_read(write, name, table, rows):
    write("f/a.wav", "f/b.wav", **{name: table})
    if name.endswith(".tsv") or rows:
        assert [row[1] for row in _rows(name)] == rows


def test_kaldi_lists_have_references_in_text(write):
    write(
        "k/a.wav",
        "k/my talk.wav",
        **{"k/wav.scp": "u1 a.wav\nu2\tmy talk.wav \n\nu3 /abs/c.wav\n", "k/text": "u1 ONE TWO\nu3 X\n"},
    )
    assert _rows("k/wav.scp") == [("u1", "k/a.wav", "ONE TWO"), ("u2", "k/my talk.wav"), ("u3", "/abs/c.wav", "X")]


def test_kaldi_segments_are_parts_of_recordings(write):
    write("k/a.wav", "k/b.wav", "k/c.wav")
    segments = "s3 r2 0 1.5\ns1 r1 0.5 2\ns2 r1 2 -1\ns4 r9 0 1\ns5 r1 3 2\ns6 r1 x\n"
    write(**{"k/wav.scp": "r1 a.wav\nr2 b.wav\nr3 c.wav\n", "k/segments": segments, "k/text": "s1 ONE\ns2 TWO\ns3 THREE\n"})
    notes = []
    assert _rows("k/wav.scp", note=notes.append) == [
        ("s3", "k/b.wav", "THREE", None, 1.5),
        ("s1", "k/a.wav", "ONE", 0.5, 1.5),
        ("s2", "k/a.wav", "TWO", 2.0),
        "k/wav.scp, line 4 of segments refers to the recording r9, which is not in the list",
        "k/wav.scp, line 5 of segments must end after it starts, but runs from 3 to 2 s",
        "k/wav.scp, line 6 of segments must be ID RECORDING START END, but is 's6 r1 x'",
    ]
    assert notes == ["k/wav.scp: skipped 1 recording that has no line in segments"]


def test_an_undecodable_text_file_only_loses_references(write):
    write("k/a.wav", **{"k/wav.scp": "u1 a.wav\n", "k/text": b"\x1f\x8b broken"})
    assert _rows("k/wav.scp") == [("u1", "k/a.wav")]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("is_list_packed", [True, False])
def test_files_beside_a_list_may_be_compressed(write, suffix, pack, is_list_packed):
    ending, first = (suffix, pack) if is_list_packed else ("", bytes)
    write("k/a.wav", "f/a.wav", **{f"k/wav.scp{ending}": first(b"r a.wav\n"), f"k/segments{suffix}": pack(b"u r 1 2\n")})
    write(**{f"k/text{suffix}": pack(b"u ONE\n")})
    assert _rows(f"k/wav.scp{ending}") == [("u", "k/a.wav", "ONE", 1.0, 1.0)]
    write(**{f"f/train.tsv{ending}": first(b"f\na.wav\t7\n"), f"f/train.wrd{suffix}": pack(b"ONE\n")})
    assert _rows(f"f/train.tsv{ending}") == [("a.wav", "f/a.wav", "ONE")]
    write("l/1-2-0.flac", **{f"l/1-2.trans.txt{suffix}": pack(b"1-2-0 GO\n")})
    assert _rows("l") == [("l/1-2-0.flac", "l/1-2-0.flac", "GO")]


def test_compressed_files_beside_a_list_at_a_url_are_read():
    system = fsspec.filesystem("memory")
    for name, text in {"wav.scp": b"r a.wav\n", "segments": b"u r 1 2\n", "text": b"u ONE\n"}.items():
        system.pipe(f"/packed/{name}.gz", gzip.compress(text))
    assert _rows("memory://packed/wav.scp.gz") == [("u", "memory://packed/a.wav", "ONE", 1.0, 1.0)]


def test_an_unreadable_file_beside_a_list_only_loses_references(write, monkeypatch):
    """The audio is still transcribed, with a warning. Unreadable segments are fatal, since every row would be wrong."""
    write("k/a.wav", **{"k/wav.scp": "u1 a.wav\n", "k/text": "u1 ONE\n"})
    write("l/1-2-0.flac", "l/b.wav", **{"l/1-2.trans.txt": "1-2-0 GO\n", "f/train.tsv": "f\na.wav\t7\n", "f/train.wrd": "A\n"})
    write("f/a.wav", "s/a.wav", **{"s/wav.scp": "u1 a.wav\n", "s/segments": "u1 u1 0 1\n"})
    real, unreadable = layouts.open_bytes, ("text", "segments", ".wrd", ".trans.txt")

    def open_bytes(path):
        if path.endswith(unreadable):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(layouts, "open_bytes", open_bytes)  # root can read every file
    notes = []
    assert _rows("k/wav.scp", note=notes.append) == [("u1", "k/a.wav")]
    assert _rows("l", note=notes.append) == [("l/1-2-0.flac",) * 2, ("l/b.wav",) * 2]
    assert _rows("f/train.tsv", note=notes.append) == [("a.wav", "f/a.wav")]
    assert notes[:2] == [
        "k/wav.scp: references are missing: k/text cannot be opened: Permission denied",
        "l: references are missing: l/1-2.trans.txt cannot be opened: Permission denied",
    ]
    assert notes[-1] == "f/train.tsv: references are missing: f/train.wrd cannot be opened: Permission denied"
    with pytest.raises(ManifestError, match=r"^s/segments cannot be opened: Permission denied$"):
        _rows("s/wav.scp")


def test_commands_run_only_with_allow_pipes(write):
    write("k/a.wav", **{"k/wav.scp": "u1 cat k/a.wav |\nu2 a.wav\nu3 foo.ark:123\nu4\nu5 foo.ark:12[0:100]\n"})
    refused, good, archived, empty, ranged = _rows("k/wav.scp")
    assert refused == "k/wav.scp, row 1: 'cat k/a.wav |' is a command, and commands in lists run only with --allow-pipes"
    assert good == ("u2", "k/a.wav")
    assert archived == "k/wav.scp, line 3: foo.ark:123 is inside a Kaldi archive: extract it with wav-copy"
    assert ranged.startswith("k/wav.scp, line 5: foo.ark:12[0:100] is inside a Kaldi archive")
    assert empty == "k/wav.scp, line 4 must be ID FILE, but names no file: 'u4'"
    first, *_ = Inputs(["k/wav.scp"], allow_pipes=True)
    assert isinstance(first.audio, Command) and (first.id, first.audio) == ("u1", "cat k/a.wav |")


def test_other_lists_cannot_contain_commands(write):
    write(**{"m.txt": "touch ran |\n", "m.jsonl": '{"audio": "touch ran |"}\n'})
    for source in ("m.txt", "m.jsonl"):
        (utterance,) = Inputs([source], allow_pipes=True)
        assert not isinstance(utterance.audio, Command)


def test_a_command_yields_its_output_or_an_error(write, tmp_path):
    with piped("printf 'a b' |") as file:
        assert os.pread(file.fileno(), 9, 0) == b"a b"
    with (
        pytest.raises(audio.AudioError, match=r"^the command ended with status 3: no such thing$"),
        piped("echo no such thing >&2; exit 3 |"),
    ):
        pass
    with pytest.raises(audio.AudioError, match="the command wrote nothing to its standard output"), piped("true |"):
        pass


CUT = {"id": "c1", "start": 0, "duration": 1, "channel": 0, "type": "MonoCut"}
RECORDING = {
    "id": "r",
    "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
    "sampling_rate": 16000,
    "duration": 4.0,
}
SUPERVISIONS = [{"start": 0.5, "text": "two"}, {"start": 0, "text": "one"}]
STEREO = {**RECORDING, "sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}]}
TWO_FILES = {**RECORDING, "sources": [{"type": "file", "channels": [n], "source": f"{n}.wav"} for n in (0, 1)]}


@pytest.mark.parametrize(
    "value, expected",
    [
        ({**CUT, "recording": RECORDING}, ("c1", "a.wav", None, None, 1.0)),
        ({**CUT, "duration": 4.0, "recording": RECORDING}, ("c1", "a.wav")),
        (
            {**CUT, "start": 1.5, "recording": RECORDING, "supervisions": SUPERVISIONS},
            ("c1", "a.wav", "one two", 1.5, 1.0),
        ),
        (RECORDING, ("r", "a.wav")),
        ({**CUT, "channel": 1, "recording": TWO_FILES}, ("c1", "1.wav", None, None, 1.0)),
        ({**CUT, "recording": None}, "must name its audio"),
        ({**CUT, "tracks": [], "recording": None}, "this is a mix of several cuts"),
        ({**CUT, "recording": {**RECORDING, "transforms": [{"name": "Speed"}]}}, "transforms that are not supported (Speed)"),
        ({**CUT, "channel": 2, "recording": STEREO}, "its recording has no channel 2"),
        ({**CUT, "recording": {"sources": [{"type": "memory", "source": ""}]}}, "has the Lhotse type 'memory'"),
        (TWO_FILES, "its recording has 2 files for its channels"),
    ],
)  # fmt: skip
def test_lhotse_rows_become_utterances_or_errors(write, value, expected):
    write("a.wav", "0.wav", "1.wav", **{"cuts.jsonl.gz": gzip.compress(json.dumps(value).encode())})
    (row,) = _rows("cuts.jsonl.gz")
    assert row == expected if isinstance(expected, tuple) else expected in row, row


def test_lhotse_channels_are_separate_utterances(write):
    rows = [{**CUT, "id": f"c{channel}", "channel": channel, "recording": STEREO} for channel in (0, 1)]
    write("a.wav", **{"cuts.jsonl": "\n".join(map(json.dumps, rows))})
    first, second = Inputs(["cuts.jsonl"])
    assert (first.channel, second.channel) == (0, 1) and first.key != second.key


def test_lhotse_commands_run_only_with_allow_pipes(write):
    recording = {**RECORDING, "sources": [{"type": "command", "channels": [0], "source": "cat a.wav"}]}
    write("a.wav", **{"cuts.jsonl": json.dumps({**CUT, "recording": recording})})
    assert "'cat a.wav' is a command, and commands in lists run only with --allow-pipes" in _rows("cuts.jsonl")[0]
    (utterance,) = Inputs(["cuts.jsonl"], allow_pipes=True)
    assert isinstance(utterance.audio, Command)
