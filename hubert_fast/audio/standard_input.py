"""Standard input, whose first bytes say whether it is audio or a list, and which can be read once."""

from __future__ import annotations

import io
import os

from ..first_bytes import HEAD_BYTES

NAME = "-"


class StandardInput(io.RawIOBase):
    """The bytes of a file descriptor, of which the first can be looked at before they are read.

    Not ``sys.stdin``: a thread that waits for that one would keep the interpreter from ending.
    """

    def __init__(self, descriptor: int = 0):
        self._descriptor, self._head = descriptor, b""

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


standard_input = StandardInput()
