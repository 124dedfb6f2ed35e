"""Runs that are killed, interrupted, refused or out of disk space lose nothing and write nothing twice."""

import contextlib
import fcntl
import importlib.util
import json
import os
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from itertools import chain
from pathlib import Path

import pytest
import soundfile
from conftest import wait_until

from hubert_fast import demo
from hubert_fast.audio import load
from hubert_fast.cli import main
from hubert_fast.jobs.job import settings_of
from hubert_fast.jobs.journal import Errors, Journal, JournalError
from hubert_fast.jobs.lanes import Lane
from hubert_fast.jobs.target import Paths
from hubert_fast.transcribe import Options, Transcriber

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "hubert_fast", "transcribe"]
# the same, but committing so often that on any machine the journal has rows before the run ends
COMMITS_OFTEN = [
    sys.executable,
    "-c",
    "import sys; from hubert_fast import cli; from hubert_fast.jobs import job; job.COMMIT_SECONDS = 0.02; "
    "sys.exit(cli.main(['transcribe', *sys.argv[1:]]))",
]
# The same, but all batches after the first LAUNCHES wait for the end of standard input, which comes with `communicate` or
# with the end of the test process. Until then, a test acts in the middle of a run.
HELD = """
import os, sys, threading
from hubert_fast.cli import main
from hubert_fast.jobs import job, lanes

launches, job.COMMIT_SECONDS = int(sys.argv[1]), 0.02
launch, lock = lanes.Lane.launch, threading.Lock()

def held(*arguments, **options):
    global launches
    with lock:
        launches -= 1
        is_held = launches < 0
    if is_held:
        os.read(0, 1)
    return launch(*arguments, **options)

lanes.Lane.launch = held
sys.exit(main(["transcribe", *sys.argv[2:]]))
"""
FILES = 98
FLOAT32 = ["--device", "cpu", "--dtype", "float32"]
pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return a folder with FILES recordings, most of them hard links, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("archive")
    for index in range(FILES):
        recording = demo.recordings()[index % 14].path
        if index < 14:
            shutil.copy(recording, folder / f"{index:03d}{recording.suffix}")
        else:
            os.link(folder / f"{index % 14:03d}{recording.suffix}", folder / f"{index:03d}{recording.suffix}")
    (folder / "bad.wav").write_text("not audio")
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out.jsonl"
    assert main(["transcribe", str(archive), "-o", str(out), *FLOAT32]) == 1
    return _rows(out)


def _rows(out: Path) -> list[tuple]:
    """Return the rows of an output, sorted, without confidences, whose last digits depend on the batch."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return sorted((row["id"], row["text"], [[*word.values()][:3] for word in row["words"]]) for row in rows)


def _start(*arguments, command=COMMAND, **options):
    command = [*command, *map(str, arguments), *FLOAT32]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def _start_held(launches: int, *arguments):
    return _start(*arguments, command=[sys.executable, "-c", HELD, str(launches)], stdin=subprocess.PIPE)


def _wait_for_lines(process, out: Path, count: int) -> None:
    wait_until(lambda: process.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") >= count))
    assert process.poll() is None, process.stderr.read()


def test_a_killed_run_continues_and_gives_the_same_output(archive, undisturbed, tmp_path):
    out = tmp_path / "out.jsonl"
    row_counts, journal_rows = [0], 0
    while len(row_counts) < 4:
        process = _start_held(7, archive, "-o", out, "--batch-seconds", 20)
        _wait_for_lines(process, out, row_counts[-1] + 15)
        process.kill()
        process.communicate()
        row_counts.append(out.read_bytes().count(b"\n"))
        with contextlib.closing(sqlite3.connect(Paths(out).journal)) as journal:
            journal_rows = journal.execute("SELECT count(*) FROM done").fetchone()[0]
    assert journal_rows > 0, f"the journal was empty at every kill: {row_counts}"
    assert row_counts[-1] < FILES, f"not killed in the middle: {row_counts}"
    process = _start(archive, "-o", out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "continuing " in errors, errors
    assert _rows(out) == undisturbed
    failures = (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in failures] == [str(archive / "bad.wav")]
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert (summary["transcribed"], summary["failed"], summary["complete"]) == (FILES, 1, True)


def test_a_torn_last_line_is_repaired(archive, undisturbed, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["transcribe", *map(str, sorted(archive.glob("00*"))), "-o", str(out), *FLOAT32]) == 0
    whole = out.read_bytes()
    with open(out, "ab") as file:  # as left by a kill between writing a row and committing it
        file.write(b'{"id": "whole row", "text": "THAT THE JOURNAL DOES NOT KNOW"}\n{"id": "torn')
    assert main(["transcribe", str(archive), "-o", str(out), *FLOAT32]) == 1
    assert out.read_bytes().startswith(whole) and _rows(out) == undisturbed


def test_an_output_that_lost_rows_is_refused(archive, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ["transcribe", str(archive / "000.wav"), "-o", str(out), *FLOAT32]
    assert main(command) == 0
    out.write_text("")
    assert main(command) == 2
    assert "has 0 bytes, but" in capsys.readouterr().err
    out.unlink()
    assert main(command) == 2 and not out.exists()
    assert main([*command, "--overwrite"]) == 0 and len(_rows(out)) == 1


@pytest.mark.parametrize(
    "number, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_finishes_the_batch_and_the_same_command_continues(archive, undisturbed, tmp_path, number, word):
    out = tmp_path / "out.jsonl"
    process = _start_held(6, archive, "-o", out, "--batch-seconds", 20)
    _wait_for_lines(process, out, 10)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number and "Traceback" not in errors, errors
    assert errors.splitlines()[-1] == f"hubert-fast: {word}; the same command continues from here"
    done = len(_rows(out))
    assert 10 <= done < FILES and out.read_bytes().endswith(b"\n")
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert summary["transcribed"] == done and not summary["complete"]
    assert main(["transcribe", str(archive), "-o", str(out), *FLOAT32]) == 1
    assert _rows(out) == undisturbed


def test_two_runs_on_one_output_refuse_each_other(archive, tmp_path):
    out, few = tmp_path / "out.jsonl", sorted(archive.glob("00*"))
    first = _start_held(3, *few, "-o", out, "--batch-seconds", 5)
    _wait_for_lines(first, out, 1)
    for extra in ([], ["--overwrite"]):
        second = _start(archive, "-o", out, *extra)
        _, errors = second.communicate(timeout=300)
        assert second.returncode == 2 and "another run is using this output" in errors, errors
    before = out.read_bytes()
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert out.read_bytes().startswith(before) and len(_rows(out)) == len(few)


@pytest.mark.parametrize(
    "changed, message",
    [
        (["--chunk-seconds", "20"], "chunk seconds was 40.0, is 20.0"),
        (["--channels", "each"], "channels was mix, is each"),
        (["--dtype", "bfloat16"], "dtype was float32, is bfloat16"),
        (["--keep-truncated"], "keep truncated was False, is True"),
        (["--format", "txt"], "format was jsonl, is txt"),
        (["--model", "OTHER"], "model was"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_changed_settings_are_refused(archive, tmp_path, capsys, changed, message):
    out = tmp_path / "out.jsonl"
    command = ["transcribe", str(archive / "000.wav"), "-o", str(out), *FLOAT32]
    assert main(command) == 0
    before = out.read_bytes()
    if "OTHER" in changed:
        changed = ["--model", str(_other_model(tmp_path / "model"))]
    assert main([*command, *changed]) == 2
    assert message in capsys.readouterr().err and out.read_bytes() == before
    assert main([*command, *changed, "--overwrite"]) == 0


def _other_model(folder: Path) -> Path:
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    transcriber.model.lm_head.bias.data += 0.01
    transcriber.model.save_pretrained(folder)
    transcriber.processor.save_pretrained(folder)
    return folder


def test_the_fingerprint_depends_on_weights_and_vocabulary(tmp_path):
    transcriber, copy = (Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32") for _ in range(2))
    assert transcriber.identity() == copy.identity()
    copy.model.hubert.encoder.layers[2].feed_forward.output_dense.weight.data[0, 0] += 1e-4
    assert transcriber.identity() != copy.identity()
    with_other_token = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    with_other_token.processor.tokenizer.tokens[5] = "?"
    assert transcriber.identity() != with_other_token.identity()
    assert settings_of(transcriber.identity(), "float32", Options(), "jsonl", None)["chunk seconds"] == 40.0


def test_an_overwriting_run_killed_at_once_can_be_continued(archive, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["transcribe", str(archive / "000.wav"), "-o", str(out), *FLOAT32]) == 0
    # as left by a kill right after the journal was emptied: old rows that it does not list
    journal = Journal(tmp_path / "out.jsonl.journal")
    settings = journal.settings()
    journal.begin(settings)
    journal.close()
    assert main(["transcribe", str(archive / "001.flac"), "-o", str(out), *FLOAT32]) == 0
    assert [Path(id).name for id, *_ in _rows(out)] == ["001.flac"]


def test_a_file_beside_an_empty_journal_is_not_touched(archive, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    Journal(tmp_path / "out.jsonl.journal").close()
    out.write_text("something else\n")
    assert main(["transcribe", str(archive / "000.wav"), "-o", str(out), *FLOAT32]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err and out.read_text() == "something else\n"


def test_only_new_files_in_a_folder_are_transcribed(archive, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    shutil.copy(archive / "001.flac", folder)
    assert main(["transcribe", str(folder), "-o", str(out), *FLOAT32]) == 0
    shutil.copy(archive / "000.wav", folder)
    assert main(["transcribe", str(folder), "-o", str(out), *FLOAT32]) == 0
    assert "1 input was already done" in capsys.readouterr().err
    assert [Path(json.loads(line)["id"]).name for line in out.read_text().splitlines()] == ["001.flac", "000.wav"]


def test_inputs_named_twice_are_transcribed_once(archive, tmp_path, capsys):
    out, path = tmp_path / "out.jsonl", str(archive / "000.wav")
    assert main(["transcribe", path, path, str(archive / "00*"), "-o", str(out), *FLOAT32]) == 0
    assert len(_rows(out)) == 10 and "2 inputs were already done" in capsys.readouterr().err
    assert main(["transcribe", path, path, *FLOAT32]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_failures_are_kept_until_retried(archive, tmp_path, capsys, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    shutil.copy(archive / "000.wav", folder / "a.wav")
    shutil.copy(archive / "001.flac", folder)
    real, broken = Lane.launch, [True]

    def launch(self, waveforms, alone=False):  # a failure that is not due to the file, so another run may succeed
        if broken[0] and any(len(waveform) == len(load(folder / "a.wav")) for waveform in waveforms):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, waveforms, alone)

    monkeypatch.setattr(Lane, "launch", launch)
    command = ["transcribe", str(folder), "-o", str(out), *FLOAT32]
    assert main(command) == 1
    broken[0] = False
    assert main(command) == 1 and "--retry-failed tries again" in capsys.readouterr().err
    assert main([*command, "--retry-failed"]) == 0
    assert len(_rows(out)) == 2 and not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_full_disk_stops_the_run_which_can_be_continued(archive, undisturbed, tmp_path):
    """A limit on file size makes the kernel refuse writes in the middle of a row, as a full disk does."""
    out = tmp_path / "out.jsonl"
    limit = 70_000  # enough for the journal's tables and at least two commits

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = _start(archive, "-o", out, "--batch-seconds", 20, command=COMMITS_OFTEN, preexec_fn=limited)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    lines = [line for line in errors.splitlines() if "cannot be written" in line]
    assert len(lines) == 1 and "finished results are kept, and the same command continues from there" in lines[0], errors
    kept = out.read_bytes()
    assert kept.endswith(b"\n") and len(kept) <= limit  # complete rows
    assert main(["transcribe", str(archive), "-o", str(out), *FLOAT32]) == 1
    assert out.read_bytes().startswith(kept) and _rows(out) == undisturbed


def test_a_run_on_a_full_file_system_can_be_continued(archive, undisturbed, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", mount], capture_output=True).returncode
    ):
        pytest.skip("only root may mount a small file system, and only where mounting is allowed")
    try:
        out = mount / "out.jsonl"
        process = _start(archive, "-o", out, "--batch-seconds", 20)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2 and "Traceback" not in errors, errors
        assert "cannot be written: " in errors and ("No space left on device" in errors or "disk is full" in errors), errors
        assert out.read_bytes().endswith(b"\n") or not out.read_bytes()
        subprocess.run(["mount", "-o", "remount,size=50m", mount], check=True)
        assert main(["transcribe", str(archive), "-o", str(out), *FLOAT32]) == 1
        assert _rows(out) == undisturbed
    finally:
        subprocess.run(["umount", mount], check=True)


def test_ordered_output_is_in_the_order_of_the_inputs(archive, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["transcribe", str(archive), "-o", str(out), "--ordered", "--batch-seconds", "9", *FLOAT32]) == 1
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids == sorted(ids) and len(ids) == FILES


def test_references_are_scored(tmp_path, capsys):
    pytest.importorskip("jiwer", reason="jiwer counts the word errors")
    rows = [{"audio_filepath": str(each.path), "text": each.reference} for each in demo.recordings()]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    assert main(["transcribe", str(tmp_path / "m.jsonl"), "-o", str(out), *FLOAT32]) == 0
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    import jiwer

    texts = {row["id"]: row["text"].lower() for row in map(json.loads, out.read_text().splitlines())}
    references = [row["text"] for row in rows]
    assert summary["wer"] == pytest.approx(jiwer.wer(references, [texts[row["audio_filepath"]] for row in rows]), abs=1e-6)
    assert summary["cer"] == pytest.approx(jiwer.cer(references, [texts[row["audio_filepath"]] for row in rows]), abs=1e-6)
    assert f"word error rate {100 * summary['wer']:.2f} %" in capsys.readouterr().err
    # the rates cover all runs on one output, not only the last
    assert main(["transcribe", str(tmp_path / "m.jsonl"), "-o", str(out), *FLOAT32]) == 0
    assert json.loads((tmp_path / "out.jsonl.summary.json").read_text())["wer"] == summary["wer"]


def test_without_jiwer_references_are_not_scored_and_a_message_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hubert_fast.transcribe.scoring.find_spec", lambda name: None)
    path = demo.recordings()[0].path
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": str(path), "text": "move"}) + "\n")
    assert main(["transcribe", str(tmp_path / "m.jsonl"), *FLOAT32]) == 0
    assert "1 transcript with a reference was not scored because jiwer is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_a_folder_is_transcribed_to_a_folder_of_subtitles(tmp_path, format):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name, recording in zip(("a.wav", "sub/a.wav", "sub/a.flac"), ("steps.wav", "pi.wav", "radio.flac")):
        shutil.copy(demo.RECORDINGS / recording, folder / name)
    out = tmp_path / "subtitles"
    assert main(["transcribe", str(folder), "-o", str(out), "--format", format, *FLOAT32]) == 0
    texts = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    # two recordings have the same name without the suffix: the second one keeps its suffix
    assert set(texts) in ({f"a.{format}", f"sub/a.{format}", f"sub/a.{end}.{format}"} for end in ("wav", "flac"))
    assert "ELEVEN STEPS" in texts[f"a.{format}"] and "-->" in texts[f"sub/a.{format}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in",
        "subtitles",
        "subtitles.journal",
        "subtitles.summary.json",
    ]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(["transcribe", str(folder), "-o", str(out), "--format", format, *FLOAT32]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_one_file_is_transcribed_to_one_file_of_subtitles(tmp_path, capsys):
    out = tmp_path / "steps.srt"
    assert main(["transcribe", str(demo.RECORDINGS / "steps.wav"), "-o", str(out), *FLOAT32]) == 0
    assert out.read_text().startswith("1\n00:00:00,440 --> ") and [path.name for path in tmp_path.iterdir()] == ["steps.srt"]
    assert main(["transcribe", str(demo.RECORDINGS / "steps.wav"), "-o", str(out), *FLOAT32]) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.txt", "out.tsv", "out.ctm", "out.jsonl", "out"])
def test_the_name_determines_the_format(tmp_path, name):
    assert main(["transcribe", str(demo.RECORDINGS / "steps.wav"), "-o", str(tmp_path / name), *FLOAT32]) == 0
    text = (tmp_path / name).read_text()
    start = {".txt": f"{demo.RECORDINGS}/steps.wav\tMOVE", ".tsv": "id\taudio\t", ".ctm": f"{demo.RECORDINGS}/steps.wav 1 0.44"}
    assert text.startswith(start.get(Path(name).suffix, '{"id": '))
    assert "STEPS" in text


def test_jsonl_can_be_written_to_standard_output(capsysbinary):
    assert main(["transcribe", str(demo.RECORDINGS / "steps.wav"), "--format", "jsonl", *FLOAT32]) == 0
    assert json.loads(capsysbinary.readouterr().out)["text"] == "MOVE FORWARD ELEVEN STEPS"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "DIR/x.wav"], "has the suffix of an audio file: expected one of .jsonl, .txt"),
        (["-o", "DIR"], "is a folder: name a file for jsonl"),
        (["--format", "srt"], "srt writes a file for each input: name a folder with -o"),
        (["SECOND", "-o", "DIR/x.srt"], "srt writes a file for each input: name a folder with -o, and --format srt"),
        (["-o", "DIR/x.srt", "--channels", "each"], "every channel has its own file: name a folder with -o"),
        (["--shard", "3/2"], "a shard must be I/N with I from 1 to N"),
        (["--batch-seconds", "0"], "batch seconds must be above 0"),
        (["--chunk-seconds", "4", "--overlap-seconds", "3"], "overlap seconds at most half the chunk seconds"),
        (["DIR/gone.jsonl"], "gone.jsonl cannot be read: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_options_are_refused(tmp_path, capsys, arguments, message):
    second = str(demo.recordings()[1].path)
    arguments = [each.replace("DIR", str(tmp_path)).replace("SECOND", second) for each in arguments]
    assert main(["transcribe", str(demo.RECORDINGS / "steps.wav"), *arguments, *FLOAT32]) == 2
    captured = capsys.readouterr()
    assert message in captured.err, captured.err


def test_shards_have_separate_outputs_that_add_up(archive, undisturbed, tmp_path):
    command = ["transcribe", str(archive), "-o", str(tmp_path / "out.jsonl"), *FLOAT32]
    statuses = [main([*command, "--shard", f"{index}/3"]) for index in (1, 2, 3)]
    assert sorted(statuses) == [0, 0, 1], "one shard has the file that is not audio"
    outs = sorted(tmp_path.glob("out.?-of-3.jsonl"))
    assert [out.name for out in outs] == ["out.1-of-3.jsonl", "out.2-of-3.jsonl", "out.3-of-3.jsonl"]
    assert sorted(chain(*map(_rows, outs))) == undisturbed


def test_quiet_prints_nothing_and_a_log_has_progress_lines(archive, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out.jsonl")
    assert main(["transcribe", str(archive), "-o", out, "--quiet", *FLOAT32]) == 1
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("hubert_fast.jobs.progress.LINE_SECONDS", 0.2)
    assert main(["transcribe", str(archive), "-o", out, "--overwrite", *FLOAT32]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " files, " in line]
    assert lines and f" of {FILES + 1} files, " in lines[-1] and "times real time" in lines[-1] and "failed" in lines[-1]


@pytest.mark.parametrize("count", [20, 21, 30])
def test_failures_beyond_20_are_listed_only_in_the_file(tmp_path, capsys, count):
    for index in range(count):
        (tmp_path / f"{index}.wav").write_text("no")
    assert main(["transcribe", str(tmp_path), "-o", str(tmp_path / "out.jsonl"), *FLOAT32]) == 1
    errors = capsys.readouterr().err
    assert errors.count(f"hubert-fast: {tmp_path}/") == 20
    assert errors.count("further failures are written only to") == (count > 20)
    assert f"{count} of {count} inputs could not be transcribed: see" in errors
    assert len((tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()) == count


def test_an_empty_list_is_an_error(tmp_path, capsys):
    (tmp_path / "m.txt").write_text("\n")
    assert main(["transcribe", str(tmp_path / "m.txt"), *FLOAT32]) == 2
    assert "nothing to transcribe: no utterances in" in capsys.readouterr().err


def test_opening_a_file_that_is_not_a_journal_raises(tmp_path):
    (tmp_path / "x.journal").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(JournalError, match="is not a journal"):
        Journal(tmp_path / "x.journal")


def test_a_journal_keeps_only_committed_rows(tmp_path):
    path = tmp_path / "x.journal"
    journal = Journal(path)
    journal.begin({"a": 1})
    journal.add(b"one", False, 1.5, Errors(3, 1, 9, 2))
    journal.add(b"two", True, 0.0, Errors())
    journal.commit({"output": 100})
    journal.add(b"three", False, 1.0, Errors())
    journal.close()
    journal = Journal(path)
    assert [journal.is_current(key, None) for key in (b"one", b"two", b"three")] == [True, True, None]
    assert journal.size_of("output") == 100 and journal.size_of("errors") == 0 and journal.settings() == {"a": 1}
    totals = journal.totals()
    assert (totals.done, totals.failed, totals.audio_seconds, totals.errors) == (1, 1, 1.5, Errors(3, 1, 9, 2))
    with pytest.raises(sqlite3.IntegrityError):
        journal.add(b"one", False, 1.0, Errors())
    assert journal.owner("a") is None
    journal.claim("a", b"one")
    assert journal.owner("A") == b"one"
    journal.close()


def test_names_of_files_beside_an_output_begin_with_its_full_name():
    """talks.jsonl and talks.txt are two outputs, each with its own files."""
    for name in ("a/talks.jsonl", "a/talks", "v1.2"):
        paths = Paths(Path(name))
        actual = [str(each) for each in (paths.journal, paths.errors, paths.summary)]
        assert actual == [f"{name}.journal", f"{name}.errors.jsonl", f"{name}.summary.json"]


def test_a_list_from_standard_input_is_transcribed(archive, tmp_path):
    run = subprocess.run(
        [*COMMAND, "-", *FLOAT32], input=f"{archive}/000.wav\n{archive}/004.wav\n", text=True, capture_output=True, check=True
    )
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == [f"{archive}/000.wav", f"{archive}/004.wav"]


def test_a_worker_that_reads_a_pipe_does_not_keep_the_command_alive(archive):
    process = _start("-", stdin=subprocess.PIPE)
    process.stdin.write(f"{archive}/000.wav\n" * 2)
    process.stdin.flush()
    # once these lines are read, the reader of the list waits for more
    wait_until(lambda: struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4))) == (0,))
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130, process.stderr.read()
    process.stdin.close()


KILLED = """
import os, sys
from hubert_fast.cli import main
from hubert_fast.jobs import journal
from hubert_fast.jobs import sinks

def dies(owner, name, call, after):
    real, calls = getattr(owner, name), [0]
    def replaced(*arguments, **options):
        calls[0] += 1
        if calls[0] == call and not after:
            os._exit(9)
        result = real(*arguments, **options)
        if calls[0] == call:
            os._exit(9)
        return result
    setattr(owner, name, replaced)

dies({owner}, {name!r}, {call}, {after})
from hubert_fast.jobs import job
job.COMMIT_SECONDS = 0.0
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory):
    """Return a folder in which two recordings have the same stem and one file is not audio."""
    folder = tmp_path_factory.mktemp("namesakes")
    for recording in demo.recordings():
        shutil.copy(recording.path, folder)
    shutil.copy(demo.RECORDINGS / "radio.flac", folder / "pi.flac")
    (folder / "bad.wav").write_text("not audio")
    return folder


def _texts(out: Path) -> list:
    return _rows(out) if out.is_file() else sorted(path.read_text() for path in out.iterdir())


@pytest.fixture(scope="module")
def whole(namesakes, tmp_path_factory):
    """Return the output of an undisturbed run in each format."""
    outputs, folder = {}, tmp_path_factory.mktemp("whole")
    for format in ("jsonl", "srt"):
        assert main(["transcribe", str(namesakes), "--format", format, "-o", str(folder / format), *FLOAT32]) == 1
        outputs[format] = _texts(folder / format)
    assert len(outputs["srt"]) == len(outputs["jsonl"]) == 15, "each recording once"
    return outputs


@pytest.mark.parametrize(
    "owner, name, call, after, formats",
    [
        ("journal.Journal", "begin", 1, True, "jsonl srt"),
        ("journal.Journal", "commit", 3, False, "jsonl srt"),  # rows are on disk, but not in the journal
        ("journal.Journal", "commit", 3, True, "jsonl srt"),
        ("sinks.RowFile", "append", 1, True, "jsonl srt"),  # a row is only in a buffer
        ("sinks.RowFile", "sync", 3, False, "jsonl srt"),
        ("sinks", "sync_path", 4, False, "srt"),
    ],
    ids=lambda value: str(value),
)
def test_a_run_that_dies_at_any_point_gives_the_same_output(namesakes, whole, tmp_path, owner, name, call, after, formats):
    for format in formats.split():
        out = tmp_path / f"out.{format}s"
        command = ["transcribe", str(namesakes), "--format", format, "--batch-seconds", "4", *FLOAT32]
        code = KILLED.format(owner=owner, name=name, call=call, after=after)
        died = subprocess.run([sys.executable, "-c", code, *command, "-o", str(out)], capture_output=True, text=True)
        assert died.returncode == 9, f"{format}: the run ended before that call\n{died.stderr}"
        assert main([*command, "-o", str(out)]) == 1
        failures = (tmp_path / f"out.{format}s.errors.jsonl").read_text().splitlines()
        assert [Path(json.loads(line)["id"]).name for line in failures] == ["bad.wav"]
        assert _texts(out) == whole[format], format


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("transformers", reason="the benchmark names its version")
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec = importlib.util.spec_from_file_location("bench_transcribe", ROOT / "bench" / "transcribe.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "bench"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for recording in demo.recordings():
        shutil.copy(recording.path, folder)
        duration = soundfile.info(recording.path).duration
        rows.append({"audio_filepath": recording.path.name, "duration": duration, "text": recording.reference})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.bench
def test_benchmarks_run_at_small_sizes(bench, corpus, tmp_path):
    common = ["--corpus", str(corpus), "--out", str(tmp_path), "--dtypes", "float32", "--files", "6"]
    bench.main(["speed", *common, "--rounds", "1"])
    bench.main(["memory", *common, "--counts", "6", "--hours", "0.005"])
    bench.main(["seams", *common, "--minutes", "0.8"])
    for section, lines in (("speed", 7), ("memory", 3), ("seams", 6)):
        assert len((tmp_path / f"transcribe_{section}.csv").read_text().splitlines()) == lines
