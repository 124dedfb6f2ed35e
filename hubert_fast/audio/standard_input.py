"""Standard input and named pipes, whose first bytes say whether they are audio or lists, and which can be read once."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from ..first_bytes import HEAD_BYTES
from .errors import AudioError

NAME = "-"


class StandardInput(io.RawIOBase):
    """The bytes of a file descriptor, of which the first can be looked at before they are read.

    Not ``sys.stdin``: a thread that waits for that one would keep the interpreter from ending.
    """

    def __init__(self, descriptor: int = 0):
        self._descriptor, self._head = descriptor, b""
        self._was_read = False

    def reader(self) -> BinaryIO:
        """Return a file to read it once to its end. Raises :class:`AudioError` the second time."""
        if self._was_read:
            raise AudioError("standard input was read already, and cannot be read again")
        self._was_read = True
        return io.BufferedReader(_Unclosed(self))

    def peek(self) -> bytes:
        """Return the first bytes, up to ``HEAD_BYTES``, waiting no longer than for a line or 16 of them."""
        while len(self._head) < 16 and b"\n" not in self._head:
            part = os.read(self._descriptor, HEAD_BYTES)
            if not part:
                break
            self._head += part
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._head[: len(buffer)] or os.read(self._descriptor, len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


class _Unclosed(io.RawIOBase):
    """Another's bytes, which stays open when this is closed."""

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._raw.readinto(buffer)


standard_input = StandardInput()


class NamedPipe(StandardInput):
    """A pipe that has a name, such as ``mkfifo`` makes and ``<(command)`` of a shell."""

    def __init__(self, path: str):
        super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        if not self.closed:
            _pipes.pop(_identity(self._descriptor), None)
            os.close(self._descriptor)
        super().close()


# Opened and not read to their end: what was looked at of them is not lost. By what they are, since names are used again.
_pipes: dict[tuple[int, int], NamedPipe] = {}


def _identity(pipe: str | int) -> tuple[int, int]:
    found = os.stat(pipe)
    return found.st_dev, found.st_ino


def named_pipe(path: str) -> NamedPipe:
    """Open a named pipe, or return it as it was opened before. Waits for somebody to write to it; closing it forgets it."""
    identity = _identity(path)
    if identity not in _pipes:
        _pipes[identity] = NamedPipe(path)
    return _pipes[identity]
