"""Test files that change between runs: they are transcribed again and their old rows removed, even if a run is killed.

No model runs here: the engine returns the text in each file as its transcript.
"""

import argparse
import contextlib
import csv
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from pyarrow import parquet

from hubert_fast.ctc import Word
from hubert_fast.jobs import job, parquet_format, row_file, sinks
from hubert_fast.jobs.formats import Context
from hubert_fast.jobs.inputs import Shard
from hubert_fast.jobs.job import Job, OutputError
from hubert_fast.jobs.journal import MISSING, Errors, Journal, JournalError, Row, Stamp
from hubert_fast.jobs.progress import report_summary
from hubert_fast.jobs.row_file import RowFile
from hubert_fast.jobs.target import Paths, Target
from hubert_fast.transcribe import Inputs, Result, Transcript, Utterance
from hubert_fast.transcribe.formats import TABLE
from hubert_fast.transcribe.summary import TranscriptionSummary as Summary


class Engine:
    """Take the text in a file as its transcript, or `bad` as an error, after calling `before` with the path."""

    batch_seconds = 0.0

    def __init__(self, utterances, before=lambda path: None):
        self.utterances, self.before = utterances, before

    def results(self):
        for utterance in self.utterances:
            self.before(utterance.audio)
            path = Path(utterance.audio)
            error = utterance.error or (f"{path}: bad" if not path.exists() or path.read_text() == "bad" else None)
            if error is not None:
                yield Result(utterance, (), error)
                continue
            text = path.read_text()
            words = tuple(Word(word, index, index + 0.5, 1.0) for index, word in enumerate(text.split()))
            transcripts = [Transcript(text, len(words), 1.0, words)] * text.count(" |") or [
                Transcript(text, len(words), 1.0, words)
            ]
            yield Result(utterance, tuple(transcripts))

    def stop(self):
        pass


class SilentProgress:
    def done(self, result):
        pass

    def skip(self):
        pass


def _run(inputs, out, format=None, before=lambda path: None, retry_failed=False, shard=None) -> Summary:
    inputs = Inputs([inputs], shard) if isinstance(inputs, (str, Path)) else inputs
    target = Target.of(str(out), format, TABLE, inputs, shard)
    summary = Summary(str(target.path), "none", "none", "none")
    context = Context(None, argparse.Namespace(), "in", shard)
    with target.opened({"a": 1}, False, retry_failed, lambda message: None, context=context) as sinks:
        run = Job(inputs, sinks.output, summary, SilentProgress(), journal=sinks.journal, failures=sinks.failures)
        run.run(Engine(run.utterances(), before))
    return summary


TEXTS = {"a": "ONE", "b": "TWO WORDS", "c": "bad", "d": "FOUR", "e": "FIVE", "f": "bad", "g": "SEVEN"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in TEXTS.items():
        _write(folder / f"{name}.wav", text)
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file with a later modification time than its last, however coarse the clock."""
    later = (path.stat().st_mtime_ns if path.exists() else 1_700_000_000 * 10**9) + 10**9
    path.write_text(text)
    os.utime(path, ns=(later, later))


def _read(out: Path, format: str) -> dict[str, str] | list:
    """Return the text of each row by name, and check that the output is complete."""
    if format == "srt":
        return {path.stem: path.read_text().split("\n")[2] for path in out.iterdir()}
    if format == "parquet":
        assert {path.suffix for path in out.iterdir()} <= {".parquet"}
        rows = [row for path in sorted(out.iterdir()) for row in parquet.read_table(path).to_pylist()]
        assert len({row["row"] for row in rows}) == len(rows), f"a number appears twice: {rows}"
        return _texts(rows)
    text = out.read_text()
    if format == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
    elif format == "json":
        rows = json.loads(text)
    elif format == "csv":
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert text.startswith("id,audio,start_seconds,")
    elif format == "ctm":
        rows = [{"id": line.split()[0], "text": line.split()[4]} for line in text.splitlines()]
        names = dict.fromkeys(row["id"] for row in rows)
        rows = [{"id": name, "text": " ".join(row["text"] for row in rows if row["id"] == name)} for name in names]
    return _texts(rows)


def _texts(rows: list[dict]) -> dict[str, str]:
    texts = {Path(row["id"]).stem: row["text"] for row in rows}
    assert len(texts) == len(rows), f"a row appears twice: {rows}"
    return texts


def _failed(out: Path) -> list[str]:
    errors = Paths(out).errors
    return sorted(Path(json.loads(line)["id"]).stem for line in errors.read_text().splitlines()) if errors.exists() else []


FORMATS = ["jsonl", "json", "csv", "ctm", "srt", "parquet"]


@pytest.fixture
def small_parts(monkeypatch):
    """Let each commit begin another Parquet file, and each result be committed."""
    monkeypatch.setattr(parquet_format, "PART_BYTES", 1)
    monkeypatch.setattr(job, "COMMIT_SECONDS", 0.0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "changes",
    [
        {"a": "NEW"},
        {"a": "NEW", "b": "LONGER THAN IT WAS"},
        {"g": "NEW"},
        {"b": "NEW", "e": "OTHER"},
        {"a": "NEW", "b": "NEW", "d": "NEW", "e": "NEW", "g": "NEW"},
        {"a": "NEW", "g": "bad", "c": "GOOD NOW"},
        {"c": "GOOD", "f": "GOOD TOO"},
        {"a": "bad", "b": "bad", "d": "bad", "e": "bad", "g": "bad"},
        {"d": "FOUR"},  # only its modification time changes
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_changed_file_is_transcribed_again(folder, tmp_path, format, changes):
    out = tmp_path / f"out.{format}s"
    summary = _run(folder, out, format)
    assert (summary.done, summary.failed, summary.changed_this_run) == (5, 2, 0)
    for name, text in changes.items():
        _write(folder / f"{name}.wav", text)
    summary = _run(folder, out, format)
    texts = TEXTS | changes
    good = {name: text for name, text in texts.items() if text != "bad"}
    assert _read(out, format) == good
    assert _failed(out) == [name for name, text in texts.items() if text == "bad"]
    assert (summary.done, summary.failed) == (len(good), 7 - len(good))
    assert (summary.changed_this_run, summary.already_done) == (len(changes), 7 - len(changes))
    assert summary.audio_seconds == sum(len(text.split()) for text in good.values())
    before = _state(tmp_path)
    summary = _run(folder, out, format)
    assert (summary.changed_this_run, summary.already_done) == (0, 7) and _state(tmp_path) == before, (
        "an unchanged file was processed again"
    )
    lines = []
    report_summary(summary, lines.append, None)
    assert "7 inputs were already done" in lines
    # the journal has the new positions of the rows that moved
    _write(folder / "e.wav", "FIVE AGAIN")
    assert _run(folder, out, format).changed_this_run == 1 and _read(out, format) == good | {"e": "FIVE AGAIN"}


def _state(folder: Path) -> dict[str, bytes]:
    """Return the contents of all outputs."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".journal", ".wav"))
    return {str(path): path.read_bytes() for path in paths}


def test_the_number_of_changed_inputs_is_reported():
    lines = []
    report_summary(Summary("out", "none", "none", "none", changed_this_run=2), lines.append, None)
    report_summary(Summary("out", "none", "none", "none", changed_this_run=1), lines.append, None)
    assert lines == [
        "2 inputs changed since the last run and were processed again",
        "1 input changed since the last run and was processed again",
    ]


def _killed_at(call: int, run) -> bool:
    """Run in a process that dies before write number `call`; return whether it died there."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    try:
        calls = 0

        def counted(real):
            def replaced(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == call:
                    os._exit(9)
                return real(*arguments, **options)

            return replaced

        for owner, name in (
            (os, "replace"),
            (os, "truncate"),
            (os, "unlink"),
            (os, "fsync"),
            (shutil, "copymode"),
            (Journal, "commit"),
            (RowFile, "_write"),
        ):
            setattr(owner, name, counted(getattr(owner, name)))
        run()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "srt", "parquet"])
def test_a_kill_at_any_step_loses_nothing(folder, tmp_path, format, request):
    if format == "parquet":
        request.getfixturevalue("small_parts")
    out, changes = tmp_path / f"out.{format}s", {"a": "NEW", "b": "bad", "c": "GOOD", "g": "OTHER"}
    _run(folder, out, format)
    for name, text in changes.items():
        _write(folder / f"{name}.wav", text)
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path, saved, ignore=shutil.ignore_patterns("in", "saved"))
    texts = TEXTS | changes
    good = {name: text for name, text in texts.items() if text != "bad"}
    call, was_killed = 0, True
    while was_killed:
        call += 1
        for path in (path for path in tmp_path.iterdir() if path.name.startswith("out")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
        was_killed = _killed_at(call, lambda: _run(folder, out, format))
        summary = _run(folder, out, format)
        assert _read(out, format) == good, f"killed at step {call}"
        assert _failed(out) == ["b", "f"] and (summary.done, summary.failed) == (5, 2), f"killed at step {call}"
        assert not list(tmp_path.glob("*.compacted"))
    # pathlib of Python 3.10 keeps its own references to functions of os, which are then not counted
    assert call > {"srt": 15}.get(format, 25), f"only {call} steps"


def test_repeated_kills_lose_nothing(folder, tmp_path):
    """The run that continues after a kill is itself killed, at any step."""
    out = tmp_path / "out.json"
    _run(folder, out)
    _write(folder / "a.wav", "NEW")
    _write(folder / "g.wav", "NEW")
    call = 0
    while _killed_at(call := call + 1, lambda: _run(folder, out)):
        assert call < 1000
        if call % 7 == 0:
            _write(folder / "b.wav", f"B {call}")
    _run(folder, out)
    texts = _read(out, "json")
    assert texts == {"a": "NEW", "b": (folder / "b.wav").read_text(), "d": "FOUR", "e": "FIVE", "g": "NEW"} and call > 10


def test_a_file_replaced_while_it_is_read_is_transcribed_again(folder, tmp_path):
    out = tmp_path / "out.jsonl"

    def before(path):
        if path.endswith("d.wav"):
            _write(Path(path), "LATER")

    _run(folder, out, before=before)
    assert _run(folder, out).changed_this_run == 1


def test_a_deleted_file_keeps_its_row_and_a_new_file_is_transcribed(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    names = [str(folder / f"{name}.wav") for name in "abch"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    summary = _run(tmp_path / "list.txt", out)
    assert (summary.done, summary.failed) == (2, 2) and _failed(out) == ["c", "h"]
    (folder / "a.wav").unlink()
    assert _run(tmp_path / "list.txt", out).changed_this_run == 0 and _read(out, "jsonl")["a"] == "ONE"
    _write(folder / "h.wav", "HERE")
    summary = _run(tmp_path / "list.txt", out)
    assert (summary.done, summary.failed, summary.changed_this_run) == (3, 1, 1) and _failed(out) == ["c"]
    assert _read(out, "jsonl") == {"a": "ONE", "b": "TWO WORDS", "h": "HERE"}


def test_the_error_file_is_removed_when_no_failures_remain(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    for name in "cf":
        _write(folder / f"{name}.wav", "GOOD")
    assert _run(folder, out).failed == 0 and not Paths(out).errors.exists()
    _write(folder / "c.wav", "bad")
    assert _run(folder, out).failed == 1 and _failed(out) == ["c"] and "c" not in _read(out, "jsonl")


def test_a_run_continues_without_its_deleted_error_file(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    Paths(out).errors.unlink()
    for name, text in {"c": "GOOD", "a": "bad"}.items():
        _write(folder / f"{name}.wav", text)
    assert _run(folder, out).failed == 2 and _failed(out) == ["a"] and "a" not in _read(out, "jsonl")


def test_retry_failed_also_transcribes_changed_files(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    _write(folder / "c.wav", "GOOD")
    _write(folder / "a.wav", "bad")
    summary = _run(folder, out, retry_failed=True)
    assert (summary.done, summary.failed) == (5, 2) and _failed(out) == ["a", "f"]
    assert set(_read(out, "jsonl")) == set("bcdeg")


def test_only_inputs_of_this_run_are_transcribed_again(folder, tmp_path):
    """The rows of other files stay, as nothing would replace them."""
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    _write(folder / "a.wav", "NEW")
    _write(folder / "b.wav", "NEW")
    assert _run(folder / "a.wav", out).changed_this_run == 1
    assert _read(out, "jsonl") == {"a": "NEW", "b": "TWO WORDS", "d": "FOUR", "e": "FIVE", "g": "SEVEN"}


def test_shards_replace_only_their_own_rows(folder, tmp_path):
    out = tmp_path / "out.json"
    for _ in range(2):
        for index in (1, 2):
            _run(folder, out, shard=Shard(index, 2))
        parts = [_read(path, "json") for path in (tmp_path / "out.1-of-2.json", tmp_path / "out.2-of-2.json")]
        assert not set(parts[0]) & set(parts[1])
        texts = parts[0] | parts[1]
        assert texts == {name: (folder / f"{name}.wav").read_text() for name in "abdeg"}
        for name in "ae":
            _write(folder / f"{name}.wav", "NEW")


def test_outputs_follow_the_number_of_channels(folder, tmp_path):
    """The rows of both channels are removed at once; files of channels that no longer exist are deleted."""
    for format in ("jsonl", "srt"):
        _write(folder / "a.wav", "ONE")
        out = tmp_path / f"out.{format}s"
        _run(folder, out, format)
        for text, names in (("X | Y |", ["a.1", "a.2"]), ("bad", []), ("X | Y |", ["a.1", "a.2"]), ("MONO", ["a"])):
            _write(folder / "a.wav", text)
            _run(folder, out, format)
            if format == "srt":
                assert sorted(path.stem for path in out.iterdir() if path.name.startswith("a")) == names
            else:
                ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
                ids = [Path(id).name.replace(".wav", "").replace("#", ".") for id in ids]
                assert sorted(id for id in ids if id.startswith("a")) == names


def test_rows_modified_by_hand_are_not_removed(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    altered = out.read_text().replace("ONE", "0NE")
    out.write_text(altered)
    _write(folder / "a.wav", "NEW")
    with pytest.raises(JournalError, match=r"was modified after .* start over with --overwrite"):
        _run(folder, out)
    assert out.read_text().startswith(altered), "rows were lost"


def test_an_output_that_is_a_link_stays_a_link(folder, tmp_path):
    real, out = tmp_path / "elsewhere" / "real.jsonl", tmp_path / "out.jsonl"
    real.parent.mkdir()
    out.symlink_to(real)
    _run(folder, out)
    real.chmod(0o640)
    _write(folder / "a.wav", "NEW")
    _run(folder, out)
    assert out.is_symlink() and _read(real, "jsonl")["a"] == "NEW" and real.stat().st_mode & 0o777 == 0o640


def test_a_journal_of_an_earlier_version_can_be_continued(folder, tmp_path):
    """It lacks the sizes and times of files and the positions of rows, so the files it lists count as unchanged."""
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    with contextlib.closing(sqlite3.connect(Paths(out).journal)) as journal:
        journal.execute("DROP TABLE stale")
        for column in ("file_bytes", "modified_ns", "row_start", "row_bytes", "row_checksum", "notes"):
            journal.execute(f"ALTER TABLE done DROP COLUMN {column}")
        journal.commit()
    _write(folder / "a.wav", "NEW")
    (folder / "h.wav").write_text("EIGHT")
    summary = _run(folder, out)
    assert (summary.done, summary.already_done, summary.changed_this_run) == (6, 7, 0)
    assert _read(out, "jsonl")["a"] == "ONE"
    _write(folder / "h.wav", "EIGHT NEW")
    assert _run(folder, out).changed_this_run == 1 and _read(out, "jsonl")["h"] == "EIGHT NEW"


def test_stamps_depend_on_size_and_modification_time(tmp_path):
    path = tmp_path / "a.wav"
    assert Stamp.of(str(path)) == MISSING and Stamp.of("s3://bucket/a.wav") is None and Stamp.of(str(tmp_path)) is None
    _write(path, "text")
    stamp = Stamp.of(str(path))
    assert stamp == (4, path.stat().st_mtime_ns)
    assert not stamp.is_changed(stamp) and not stamp.is_changed(MISSING) and not stamp.is_changed(None)
    assert MISSING.is_changed(stamp) and stamp.is_changed(Stamp(4, 0)) and stamp.is_changed(Stamp(5, stamp.modified_ns))


def test_archives_have_stamps_but_standard_input_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-", "a.zip", "raw:s8:8000:1:-"):
        (tmp_path / name).write_bytes(b"four")
    stamp = Stamp.of("a.zip")
    assert stamp is not None and stamp.bytes == 4
    for url in ("zip://x.wav::a.zip", f"zip://x.wav::file://{tmp_path}/a.zip", f"file://{tmp_path}/a.zip"):
        assert Stamp.of(url) == stamp
    (tmp_path / "a.zip").write_bytes(b"other")
    assert stamp.is_changed(Stamp.of("zip://x.wav::a.zip"))
    for audio in ("-", "raw:s8:8000:1:-", "https://host/a.wav", "zip://x.wav::https://host/a.zip"):
        assert Stamp.of(audio) is None, audio
    assert Stamp.of("./-") is not None


def test_a_full_disk_leaves_no_partial_copy(folder, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    _run(folder, out)
    (folder / "a.wav").write_text("ANOTHER TEXT")

    def full(old, new, count):
        new.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(row_file, "_copy", full)
        with pytest.raises((OSError, OutputError), match="No space left"):
            _run(folder, out)
    assert not list(tmp_path.glob("*.compacted"))
    _run(folder, out)
    assert sorted(json.loads(line)["text"] for line in out.read_text().splitlines()).count("ANOTHER TEXT") == 1


def test_a_file_removed_before_it_is_synced_does_no_harm(folder, tmp_path, monkeypatch):
    real = sinks.Files.sync

    def removed(files):
        for path in files._written:
            path.unlink() if path.name == "a.txt" else None
        return real(files)

    monkeypatch.setattr(sinks.Files, "sync", removed)
    summary = _run(folder, tmp_path / "out", "txt")
    assert summary.done == 5 and not (tmp_path / "out" / "a.txt").exists()


@pytest.mark.parametrize("letter", ["é", "語", "🙂", "\udcff"])
@pytest.mark.parametrize("before", range(4))
def test_a_long_name_is_not_cut_within_a_character(letter, before):
    part = "x" * before + letter * 200
    short = sinks._short(part)
    assert len(os.fsencode(short)) <= sinks.MOST_NAME_BYTES
    assert part.startswith(short.rpartition("-")[0]) and len(os.fsencode(short)) > sinks.MOST_NAME_BYTES - 4


def test_the_journal_keeps_the_positions_of_rows(tmp_path):
    journal = Journal(tmp_path / "x.journal")
    journal.begin({})
    for index in range(5):
        journal.add(bytes([index]), False, 1.0, Errors(), row=Row("output", 10 * index, 10, index), notes=index)
    journal.add(b"bad", True, 0.0, Errors(), row=Row("errors", 20, 10, 7))
    assert journal.retire(bytes([1])) and journal.retire(bytes([3])) and not journal.retire(b"unknown")
    assert journal.stale_rows("output") == [Row("output", 10, 10, 1), Row("output", 30, 10, 3)]
    assert journal.totals().with_notes == 2 and journal.totals().done == 3
    journal.begin_swap("output", 30, [(10, 20), (30, 40)])
    assert journal.is_swapping("output") and not journal.is_swapping("errors") and journal.stale_rows("output") == []
    journal.end_swap("output")
    journal.retire(bytes([2]))
    journal.retire(bytes([4]))
    journal.retire(b"bad")
    assert [row.start for row in journal.stale_rows("output")] == [10, 20] and journal.size_of("output") == 30
    assert journal.stale_rows("errors") == [Row("errors", 20, 10, 7)]
    journal.close()


def test_a_failed_utterance_is_not_processed_again(tmp_path):
    out = tmp_path / "out.jsonl"
    path = tmp_path / "a.wav"
    path.write_text("TEXT")
    utterances = [Utterance(f"file://{path}", f"file://{path}", error="no")]
    for expected in (1, 0):
        inputs = Inputs([path])
        inputs.__class__ = type("Fixed", (Inputs,), {"__iter__": lambda self: iter(utterances)})
        assert _run(inputs, out).failed_this_run == expected
