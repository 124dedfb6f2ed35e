"""Test where outputs go and in which format, and which names and options are refused before anything runs."""

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hubert_fast import commands, demo
from hubert_fast.cli import main
from hubert_fast.jobs import batch_command
from hubert_fast.jobs.inputs import Shard
from hubert_fast.jobs.journal import Journal
from hubert_fast.jobs.progress import Progress, report_summary
from hubert_fast.jobs.sinks import Stream
from hubert_fast.jobs.target import Target
from hubert_fast.transcribe import Inputs, Result, Transcript, Utterance
from hubert_fast.transcribe.formats import FORMATS, TABLE
from hubert_fast.transcribe.summary import TranscriptionSummary as Summary

STEPS = str(demo.RECORDINGS / "steps.wav")
FLOAT32 = ["--device", "cpu", "--dtype", "float32"]


@pytest.mark.parametrize(
    "name, format, expected",
    [
        ("out.jsonl", None, "jsonl"), ("out.JSONL", None, "jsonl"), ("out.json", None, "json"), ("OUT.Json", None, "json"),
        ("out.csv", None, "csv"), ("out.CSV", None, "csv"), ("out.tsv", None, "tsv"), ("out.txt", None, "txt"),
        ("out.ctm", None, "ctm"), ("out.srt", None, "srt"), ("out.VTT", None, "vtt"), ("out.TextGrid", None, "textgrid"),
        ("out.textgrid", None, "textgrid"), ("out", None, "jsonl"), ("out", "csv", "csv"), ("out.log", "txt", "txt"),
        ("v1.2", "json", "json"), ("out.csv", "json", "json"), ("folder.v2", "textgrid", "textgrid"), ("folder/", "srt", "srt"),
    ],
)  # fmt: skip
def test_the_name_and_the_format_option_determine_the_format(tmp_path, name, format, expected):
    target = Target.of(f"{tmp_path}/{name}", format, TABLE, Inputs([STEPS]))
    assert target.format == expected and not target.is_stream
    assert target.is_single == (Path(name).suffix.lower()[1:] in ("srt", "vtt", "textgrid"))
    assert target.is_default == (name == "out" and format is None)


@pytest.mark.parametrize(
    "name, format, message",
    [
        ("out.log", None, "out.log has the unknown suffix .log: use one of .jsonl, .txt, .tsv, .csv, .json, "
         ".ctm, .srt, .vtt, .TextGrid, or pass --format"),
        ("out.cvs", None, "has the unknown suffix .cvs"),
        ("out.xlsx", None, "has the unknown suffix .xlsx"),
        ("out.ndjson", None, "has the unknown suffix .ndjson"),
        ("v1.2", None, "has the unknown suffix .2"),
        ("out.jsonl.gz", None, "out.jsonl.gz has the suffix of a compressed file, but outputs are not compressed"),
        ("out.json.zst", "json", "has the suffix of a compressed file"),
        ("out.wav", None, "has the suffix of an audio file: expected one of .jsonl, .txt"),
        ("out.MP3", "txt", "has the suffix of an audio file"),
        ("new/", None, "new/ names a folder: name a file for jsonl, or choose a format that writes a folder: "
         "--format srt, vtt, textgrid"),
        ("new/", "csv", "names a folder: name a file for csv"),
        ("", None, "is a folder: name a file for jsonl"),
    ],
)  # fmt: skip
def test_unusable_names_are_refused(tmp_path, name, format, message):
    with pytest.raises(ValueError) as refused:
        Target.of(f"{tmp_path}/{name}", format, TABLE, Inputs([STEPS]))
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["out.cvs", "out.xml", "out.jsonl.gz", "out.wav"])
def test_bad_names_are_refused_before_anything_runs(tmp_path, capsys, name):
    """There is only one line: loading a model would have printed another."""
    assert main(["transcribe", STEPS, "-o", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and ".jsonl, .txt, .tsv, .csv, .json" in line and not list(tmp_path.iterdir())


def test_a_normalizer_that_cannot_run_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    from hubert_fast.transcribe import normalizers

    for cached in (normalizers.normalizer, normalizers._english, normalizers.description):
        cached.cache_clear()
    for name in ("transformers", "whisper_normalizer", "whisper_normalizer.english"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["transcribe", STEPS, "-o", str(tmp_path / "out.jsonl"), "--normalizer", "english"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "neither is installed: pip install transformers" in line and not list(tmp_path.iterdir())


def test_a_shard_of_an_output_keeps_the_format_of_its_name(tmp_path):
    for name, expected, format in (
        ("out.json", "out.2-of-3.json", "json"),
        ("out", "out.2-of-3", "jsonl"),
        ("out.CSV", "out.2-of-3.CSV", "csv"),
    ):
        target = Target.of(f"{tmp_path}/{name}", None, TABLE, Inputs(["a", "b"]), Shard(2, 3))
        assert (target.path, target.format) == (tmp_path / expected, format)
    with pytest.raises(ValueError, match=r"has the unknown suffix \.log"):
        Target.of(f"{tmp_path}/out.log", None, TABLE, Inputs(["a", "b"]), Shard(2, 3))


def test_a_name_without_a_suffix_gets_json_lines_and_a_message(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["transcribe", STEPS, "-o", str(out), *FLOAT32]) == 0
    assert f"neither the name {out} nor --format determines the format: writing jsonl" in capsys.readouterr().err
    assert json.loads(out.read_text())["text"] == "MOVE FORWARD ELEVEN STEPS"


def test_json_is_one_document_after_each_run(tmp_path):
    out, second = tmp_path / "out.json", str(demo.RECORDINGS / "pi.wav")
    assert main(["transcribe", "/no/such.wav", "-o", str(out), *FLOAT32]) == 1
    assert out.read_text() == "[]\n"
    assert main(["transcribe", STEPS, "-o", str(out), *FLOAT32]) == 1, "the failure of the first run still counts"
    assert [row["text"] for row in json.loads(out.read_text())] == ["MOVE FORWARD ELEVEN STEPS"]
    main(["transcribe", STEPS, second, "-o", str(out), *FLOAT32])
    assert [row["id"] for row in json.loads(out.read_text())] == [STEPS, second]
    before = out.read_bytes()
    main(["transcribe", STEPS, second, "-o", str(out), *FLOAT32])
    assert out.read_bytes() == before


def test_csv_and_textgrid_are_written_by_the_command(tmp_path):
    assert main(["transcribe", STEPS, "-o", str(tmp_path / "out.csv"), *FLOAT32]) == 0
    head, row = (tmp_path / "out.csv").read_bytes().split(b"\r\n")[:2]
    assert head == b"id,audio,start_seconds,duration_seconds,confidence,text"
    assert row.startswith(f"{STEPS},{STEPS},0.000,2.538,0.".encode()) and row.endswith(b",MOVE FORWARD ELEVEN STEPS")
    assert main(["transcribe", STEPS, "-o", str(tmp_path / "one.TextGrid"), *FLOAT32]) == 0
    assert main(["transcribe", str(demo.RECORDINGS), "-o", str(tmp_path / "all"), "--format", "textgrid", *FLOAT32]) == 0
    assert (tmp_path / "all" / "steps.TextGrid").read_text() == (tmp_path / "one.TextGrid").read_text()
    assert len(list((tmp_path / "all").glob("*.TextGrid"))) == len(demo.recordings())


class LimitedFile(io.RawIOBase):
    """Take a limited number of bytes, then raise `BrokenPipeError`."""

    def __init__(self, room):
        self.room, self.taken = room, b""

    def writable(self):
        return True

    def write(self, data):
        if len(self.taken) + len(data) > self.room:
            raise BrokenPipeError
        self.taken += bytes(data)
        return len(data)


def _result(text):
    return Result(Utterance(text, text), (Transcript(text, 1.0),))


def test_a_json_stream_is_a_complete_document_however_it_ends():
    for count in range(3):
        for ends in ("finish", "close"):
            file = io.BytesIO()
            stream = Stream(file, FORMATS["json"], bare=False)
            for index in range(count):
                stream.write(_result(f"{index}"))
            getattr(stream, ends)()
            stream.close()
            assert [row["text"] for row in json.loads(file.getvalue())] == [f"{index}" for index in range(count)]


def test_a_stream_whose_reader_left_can_be_closed():
    file = LimitedFile(10)
    stream = Stream(file, FORMATS["json"], bare=False)
    with pytest.raises(BrokenPipeError):
        stream.write(_result("text"))
    file.room = 0
    stream.close()
    assert file.taken == b"["


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_json_to_standard_output_is_a_document_when_interrupted(tmp_path, number):
    shutil.copy(STEPS, tmp_path / "0000.wav")
    for index in range(1, 2000):
        os.link(tmp_path / "0000.wav", tmp_path / f"{index:04d}.wav")
    command = [sys.executable, "-m", "hubert_fast", "transcribe", str(tmp_path), "--format", "json", *FLOAT32]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    text = process.stdout.readline() + process.stdout.readline()
    process.send_signal(number)
    text += process.stdout.read()
    assert process.wait(60) == 128 + number, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    rows = json.loads(text)
    assert 0 < len(rows) < 2000 and {row["text"] for row in rows} == {"MOVE FORWARD ELEVEN STEPS"}


@pytest.mark.parametrize("number, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_second_signal_ends_the_command_with_its_exit_status(monkeypatch, capsys, number, word):
    class Engine:
        def stop(self):
            pass

    def run(options):
        with batch_command.stopping(Engine()):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(commands, "transcribe", run)
    assert main(["transcribe", "a.wav"]) == 128 + number
    assert capsys.readouterr().err == f"hubert-fast: {word}\n"


@pytest.mark.parametrize("name", ["/", ".", "..", "x/.."])
def test_an_output_without_a_name_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"^{name} cannot be an output: expected the name of a file or folder, not \., \.\. or /$"
    ):
        Target.of(name, None, TABLE, Inputs(["a.wav"]))


def test_a_journal_that_cannot_be_written_raises_the_systems_error(tmp_path):
    """SQLite would say "unable to open database file" whatever the reason."""
    with pytest.raises(FileNotFoundError) as error:
        Journal(tmp_path / "gone" / "x.journal")
    assert Path(error.value.filename) == tmp_path / "gone" / "x.journal"


def _with_reference(tmp_path, text="move forward eleven stairs"):
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": STEPS, "text": text}) + "\n")
    return ["transcribe", str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "out.jsonl"), *FLOAT32]


@pytest.mark.parametrize("normalizer, errors, words", [("none", 4, 4), ("basic", 1, 4), ("english", 1, 4)])
def test_the_error_rate_names_the_normalizer(tmp_path, capsys, normalizer, errors, words):
    pytest.importorskip("jiwer", reason="jiwer counts the word errors")
    if normalizer == "english":
        pytest.importorskip("transformers", reason="the normaliser is transformers'")
    assert main([*_with_reference(tmp_path), "--normalizer", normalizer]) == 0
    messages = capsys.readouterr().err
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert (summary["word_errors"], summary["reference_words"], summary["normalizer"]) == (errors, words, normalizer)
    assert f"word error rate {100 * errors / words:.2f} % of 4 words" in messages
    assert f"(normalizer {normalizer}: {summary['normalizer_does']})" in messages and len(summary["normalizer_does"]) > 20


def test_word_errors_of_two_normalizers_are_not_added_up(tmp_path, capsys):
    pytest.importorskip("jiwer", reason="jiwer counts the word errors")
    command = _with_reference(tmp_path)
    assert main(command) == 0
    assert main([*command, "--normalizer", "none"]) == 2
    error = "were counted with the normalizer basic, not none: continue with --normalizer basic, or start over with --overwrite"
    assert error in capsys.readouterr().err
    assert main(command) == 0 and main([*command, "--normalizer", "none", "--overwrite"]) == 0
    assert main(command) == 2 and "were counted with the normalizer none, not basic" in capsys.readouterr().err


def test_without_references_the_normalizer_may_change(tmp_path):
    out = str(tmp_path / "out.jsonl")
    for normalizer in ("basic", "none", "basic"):
        assert main(["transcribe", STEPS, "-o", out, "--normalizer", normalizer, *FLOAT32]) == 0


def test_a_journal_that_lacks_newer_settings_can_be_continued(tmp_path):
    command = _with_reference(tmp_path)
    assert main(command) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "out.jsonl.journal")) as journal:
        settings = json.loads(journal.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()[0])
        del settings["normalizer"], settings["keep truncated"]
        journal.execute("UPDATE meta SET value = ? WHERE name = 'settings'", (json.dumps(settings),))
        journal.commit()
    assert main([*command, "--normalizer", "none"]) == 2  # older journals used basic
    assert main(command) == 0
    assert main([*command, "--keep-truncated"]) == 2, "the setting is recorded from then on"


def test_notes_are_printed_and_counted(capsys):
    def printed_notes(count, notes_path, quiet=False):
        progress = Progress(quiet=quiet, most_failures=None, notes_file=notes_path)
        for index in range(count):
            progress.done(Result(Utterance("a", "a"), (Transcript("A", 1.0),), notes=(f"{index}.wav: odd",)))
        progress.close()
        return capsys.readouterr().err.splitlines()

    assert printed_notes(2, "out.jsonl") == ["hubert-fast: 0.wav: odd", "hubert-fast: 1.wav: odd"]
    assert len(printed_notes(20, "out.jsonl")) == 20
    lines = printed_notes(30, "out.jsonl")
    assert len(lines) == 21 and lines[-1] == "hubert-fast: further notes are written only to out.jsonl"
    assert len(printed_notes(30, None)) == 30, "without a file, all notes are printed"
    assert printed_notes(30, "out.jsonl", quiet=True) == []
    lines = []
    report_summary(Summary("out", "none", "none", "none", with_notes_this_run=2), lines.append, None)
    assert lines == ["2 inputs have notes: decoding worked around faults in their files"]


def test_an_ignored_interrupt_stays_ignored():
    """As in a job that a script starts with `&`, which must not stop when somebody interrupts the script."""
    sigint_handler, sigterm_handler = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with batch_command.stopping(None) as received:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (sigterm_handler, signal.SIG_IGN)
            signal.raise_signal(signal.SIGINT)
        assert received == [] and signal.getsignal(signal.SIGTERM) is sigterm_handler
    finally:
        signal.signal(signal.SIGINT, sigint_handler)
