"""Check that Ctrl-C while a command starts gives status 130 and one line, whatever is being imported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hubert_fast import demo, interrupts

PROGRAM = Path(__file__).with_name("interrupted_startup.py")
LINE = "hubert-fast: interrupted\n"
TINY = ["--config", "tiny", "--lengths", "fixed:0.5", "--audio-seconds", "1", "--rounds", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize(
    ("command", "calls", "expected_output"),
    [
        (["transcribe", str(demo.RECORDINGS / "steps.wav"), "--device", "cpu"], 5000, "MOVE FORWARD ELEVEN STEPS"),
        pytest.param(["info"], 250, "C++ extension", marks=pytest.mark.slow),
        pytest.param(["bench", "--device", "cpu", *TINY], 5000, "hf-sdpa-sorted", marks=pytest.mark.slow),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_interrupts_at_any_moment_of_startup_exit_with_130(command, calls, expected_output):
    # one thread, because a fork copies only the thread that forks
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, PROGRAM, str(calls), *command], capture_output=True, text=True, env=environment)
    moments = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(moments) > 100_000 / calls, f"only {len(moments)} interrupts"
    assert expected_output in run.stdout and not run.returncode, run.stderr  # the parent itself is not interrupted
    wrong = [moment for moment in moments if (moment["status"], moment["output"]) != (130, LINE)]
    assert not wrong, f"{len(wrong)} of {len(moments)}: {json.dumps(wrong[:3], indent=1)}"


def test_keyboard_interrupts_allow_cleanup():
    code = (
        "import os, signal; from hubert_fast import interrupts; interrupts.exit_at_interrupts()\n"
        "try:\n"
        "    with interrupts.keyboard_interrupts():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('cleaned up', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('went on')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "cleaned up\n", LINE)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_existing_handlers_are_kept(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupts.exit_at_interrupts()
        with interrupts.keyboard_interrupts():
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
