"""Run commands that write audio to their standard output, as in Kaldi's `wav.scp`.

A command is always a `Command`, never a plain string, so that no file name and no line of a list is run by accident.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from .errors import AudioError

MAX_STDERR_BYTES = 4096


class Command(str):
    """A shell command that writes audio to standard output. The string is the entry in the list, with its trailing `|`."""

    __slots__ = ()


@contextlib.contextmanager
def piped(command: Command) -> Iterator[BinaryIO]:
    """Run a shell command and yield an unnamed temporary file with its output.

    Raises:
        AudioError: If the command fails, with the last line of its standard error, or if it writes nothing. Where bash is
            installed, a pipeline fails if any of its commands fails.
    """
    shell = command.strip().removesuffix("|").strip()
    bash = shutil.which("bash")
    arguments = ["/bin/sh", "-c", shell] if bash is None else [bash, "-o", "pipefail", "-c", shell]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        # in its own process group: on Ctrl-C the files in progress are still finished
        status = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=messages, start_new_session=True
        ).returncode
        if status:
            raise AudioError(f"the command ended with {_describe(status)}{_last_line(messages.fileno())}")
        if not os.fstat(output.fileno()).st_size:
            raise AudioError("the command wrote nothing to its standard output")
        yield output


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, MAX_STDERR_BYTES, max(size - MAX_STDERR_BYTES, 0))
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
