"""Read standard input and named pipes. They can be read only once, so their first bytes are peeked at to recognise lists."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from ..first_bytes import HEAD_BYTES
from .errors import AudioError

NAME = "-"


class StandardInput(io.RawIOBase):
    """The bytes of a file descriptor, with a way to peek at the first ones.

    It does not use `sys.stdin`, because a thread that is blocked there keeps the interpreter from exiting.
    """

    def __init__(self, descriptor: int = 0):
        self._descriptor, self._head = descriptor, b""
        self._was_read = False

    def reader(self) -> BinaryIO:
        """Return a file object that reads everything.

        Raises:
            AudioError: If this was called before.
        """
        if self._was_read:
            raise AudioError("standard input has already been read and cannot be read again")
        self._was_read = True
        return io.BufferedReader(_Unclosed(self))

    def peek(self) -> bytes:
        """Return the first bytes, up to `HEAD_BYTES`, as soon as a line or 16 bytes have arrived."""
        while len(self._head) < 16 and b"\n" not in self._head:
            part = os.read(self._descriptor, HEAD_BYTES)
            if not part:
                break
            self._head += part
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        data = self._head[: len(buffer)] or os.read(self._descriptor, len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


class _Unclosed(io.RawIOBase):
    """A stream that reads another one and leaves it open when closed itself."""

    def __init__(self, raw: StandardInput):
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        return self._raw.readinto(buffer)


standard_input = StandardInput()


class NamedPipe(StandardInput):
    """A pipe with a name, such as `mkfifo` or `<(command)` in a shell creates."""

    def __init__(self, path: str):
        super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        if not self.closed:
            _pipes.pop(_identity(self._descriptor), None)
            os.close(self._descriptor)
        super().close()


# Pipes stay open here so that peeked bytes are not lost. Keys are device and inode, because names can be reused.
_pipes: dict[tuple[int, int], NamedPipe] = {}


def _identity(pipe: str | int) -> tuple[int, int]:
    status = os.stat(pipe)
    return status.st_dev, status.st_ino


def named_pipe(path: str) -> NamedPipe:
    """Return the object that is open for a named pipe, or open the pipe, which waits for a writer."""
    identity = _identity(path)
    if identity not in _pipes:
        _pipes[identity] = NamedPipe(path)
    return _pipes[identity]
