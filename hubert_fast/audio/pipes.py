"""Commands that write audio to their standard output, as Kaldi's ``wav.scp`` names them.

A command is a :class:`Command` and never a plain string, so that no file's name and no line of a list is ever run as one.
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

MOST_STDERR_BYTES = 4096


class Command(str):
    """A shell command whose standard output is audio. As a string it is what the list says, with the ``|`` at its end."""

    __slots__ = ()


@contextlib.contextmanager
def piped(command: Command) -> Iterator[BinaryIO]:
    """Run a shell command and give a temporary file, which has no name, with what it wrote.

    Raises :class:`AudioError` when the command, or where there is bash any part of a pipeline, ends with a status other than 0,
    with the last line of its standard error.
    """
    shell = command.strip().removesuffix("|").strip()
    bash = shutil.which("bash")
    arguments = ["/bin/sh", "-c", shell] if bash is None else [bash, "-o", "pipefail", "-c", shell]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        # in a process group of its own: Ctrl-C finishes the files that are under way
        status = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=messages, start_new_session=True
        ).returncode
        if status:
            raise AudioError(f"the command ended with {_cause(status)}{_last_line(messages.fileno())}")
        if not os.fstat(output.fileno()).st_size:
            raise AudioError("the command wrote nothing to its standard output")
        yield output


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, MOST_STDERR_BYTES, max(size - MOST_STDERR_BYTES, 0))
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
