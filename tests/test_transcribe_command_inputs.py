"""Test inputs of the command: warnings about skipped files, and audio from pipes, commands, channels and archives."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from hubert_fast import demo
from hubert_fast.audio import AudioError
from hubert_fast.audio.standard_input import StandardInput
from hubert_fast.cli import main
from hubert_fast.jobs import inputs
from hubert_fast.jobs.runner import _channel

STOP, PI = (str(demo.RECORDINGS / name) for name in ("stop.wav", "pi.wav"))


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _transcribe(capfd, *arguments):
    """Return the exit status, the lines of text, and the messages that are not printed by every run."""
    status = main(["transcribe", "--device", "cpu", "--dtype", "float32", *arguments])
    out, err = capfd.readouterr()
    usual = ("no --model", "running on", "times real time", "word error rate")
    return status, out.splitlines(), [line for line in err.splitlines() if not any(each in line for each in usual)]


def test_skipped_files_are_reported_once_and_do_not_affect_the_exit_status(capfd):
    os.makedirs("talks/deep")
    os.symlink(STOP, "talks/stop.wav")
    os.symlink(PI, "talks/deep/pi")
    for name in ("a.txt", "b.txt", "._stop.wav", ".DS_Store"):
        open(f"talks/{name}", "wb").close()
    assert _transcribe(capfd, "talks") == (
        0,
        ["talks/stop.wav\tSTOP", "talks/deep/pi\tTHREE POINT ONE FOUR ONE"],
        ["hubert-fast: talks: skipped 2 files that do not appear to be audio: 2 .txt"],
    )


def test_kaldi_commands_run_only_with_allow_pipes(capfd):
    with open("wav.scp", "w") as file:
        file.write(f"u1 cat {STOP} |\nu2 {PI}\n")
    status, lines, messages = _transcribe(capfd, "wav.scp")
    assert (status, lines) == (1, ["u2\tTHREE POINT ONE FOUR ONE"]) and "only with --allow-pipes" in messages[0]
    assert _transcribe(capfd, "wav.scp", "--allow-pipes") == (0, ["u1\tSTOP", "u2\tTHREE POINT ONE FOUR ONE"], [])


def test_lhotse_cuts_select_a_channel(capfd):
    left, rate_hz = soundfile.read(STOP)
    right, _ = soundfile.read(PI)
    both = np.zeros((max(len(left), len(right)), 2))
    both[: len(left), 0], both[: len(right), 1] = left, right
    soundfile.write("both.wav", both, rate_hz)
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0, 1], "source": "both.wav"}]}
    with open("cuts.jsonl", "w") as file:
        for channel in (0, 1):
            file.write(json.dumps({"id": f"c{channel}", "start": 0, "channel": channel, "recording": recording}) + "\n")
    status, (first, second), messages = _transcribe(capfd, "cuts.jsonl")
    assert (status, messages) == (0, []) and first == "c0\tSTOP" and second.startswith("c1\tTHREE POIN")


def test_one_channel_is_selected_from_blocks():
    blocks = [np.array([[1, 2], [3, 4]]), np.array([[5], [6]])]
    assert [block.tolist() for block in _channel(iter(blocks), 1, "a.wav")] == [[[3, 4]], [[6]]]
    with pytest.raises(AudioError, match=r"a\.wav: the list names channel 2, counted from 0, but the file has 2"):
        list(_channel(iter(blocks), 2, "a.wav"))


@pytest.mark.parametrize("kind", ["wav", "raw", "named pipe"])
def test_audio_is_read_from_standard_input_or_a_named_pipe(kind):
    with open(STOP, "rb") as file:
        content = file.read()
    arguments = ["-"]
    if kind == "raw":
        samples, rate_hz = soundfile.read(STOP, dtype="int16")
        content, arguments = samples.astype(">i2").tobytes(), ["-", "--stdin-format", f"s16be:{rate_hz}"]
    if kind == "named pipe":
        os.mkfifo("talk")
        arguments = ["talk"]
    command = [
        sys.executable,
        "-m",
        "hubert_fast",
        "transcribe",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--quiet",
        *arguments,
    ]
    if kind == "named pipe":
        with open("content", "wb") as file:
            file.write(content)
        with subprocess.Popen(["sh", "-c", "cat content > talk"]):
            run = subprocess.run(command, capture_output=True, timeout=300)
    else:
        run = subprocess.run(command, input=content, capture_output=True, timeout=300)
    assert (run.returncode, run.stdout.decode()) == (0, "STOP\n"), run.stderr


def test_files_in_an_archive_are_transcribed(capfd):
    with tarfile.open("talks.tgz", "w:gz") as file:
        file.add(STOP, "a/stop.wav")
    assert _transcribe(capfd, "talks.tgz") == (0, ["tar://a/stop.wav::talks.tgz\tSTOP"], [])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-", "--stdin-format", "mp3"], "a raw format must begin with one of s8, u8, s16le"),
        (
            ["a.wav", "--stdin-format", "s8:8000"],
            "--stdin-format describes standard input, but '-' is not among the inputs",
        ),
    ],
)
def test_an_invalid_format_of_standard_input_fails_before_anything_runs(capfd, arguments, message):
    status, lines, (line,) = _transcribe(capfd, *arguments)
    assert (status, lines) == (2, []) and line.startswith(f"hubert-fast: {message}")


@pytest.mark.parametrize("source", ["-", "talk"])
def test_audio_in_a_pipe_is_refused_for_ray_before_anything_runs(capfd, monkeypatch, source):
    """Actors are other processes, which would read their own standard input."""
    os.mkfifo("talk")
    with open(STOP, "rb") as file:
        monkeypatch.setattr(inputs, "standard_input", StandardInput(file.fileno()))
        writer = subprocess.Popen(["sh", "-c", f"cat {STOP} > talk"]) if source == "talk" else None
        status, lines, messages = _transcribe(capfd, source, "--engine", "ray")
    if writer is not None:
        writer.kill()
        writer.wait()
    reason = "Ray actors cannot read audio from standard input or a pipe: write it to a file"
    assert (status, lines, messages) == (2, [], [f"hubert-fast: {source}: {reason}"])


def test_a_list_on_standard_input_is_not_audio_in_a_pipe(monkeypatch):
    with open("list", "w+b") as file:
        file.write(b"a.wav\n")
        file.seek(0)
        monkeypatch.setattr(inputs, "standard_input", StandardInput(file.fileno()))
        assert inputs.Inputs(["-", STOP]).audio_in_pipes() == []
