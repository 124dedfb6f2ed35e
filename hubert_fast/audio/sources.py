"""What a file's bytes are read from: something that can be read at any place, and as a file of its own from one to another."""

from __future__ import annotations

import io
import os
import threading
from typing import BinaryIO

from .remote_errors import as_audio_errors

BUFFER_BYTES = 1 << 16


class Source:
    """Bytes of one recording. path: of a local regular file, else ``None``. size: how many there are.

    What goes wrong while a decoder reads is kept in :attr:`error`, since decoders take it for the end of the file.
    """

    def __init__(self, size: int, path: bytes | None = None):
        self.size, self.path = size, path
        self.error: Exception | None = None

    def read_at(self, start: int, count: int) -> bytes:
        """Return the bytes from ``start`` on, fewer at the end, none beyond it and before the file.

        Raises ``OSError``, and :class:`AudioError` for what a remote file system says.
        """
        raise NotImplementedError

    def find(self, pattern: bytes, start: int) -> int:
        """Return where ``pattern`` stands from ``start`` on, -1 when nowhere. Other threads run meanwhile."""
        at, before = start, b""
        while part := self.read_at(at, 1 << 20):
            found = (before + part).find(pattern)
            if found >= 0:
                return at - len(before) + found
            before, at = (before + part)[1 - len(pattern) :], at + len(part)
        return -1

    def span(self, start: int = 0, end: int | None = None) -> BinaryIO:
        """Return a file of the bytes from ``start`` to ``end``."""
        return io.BufferedReader(_Span(self, start, self.size if end is None else end), BUFFER_BYTES)

    def check(self) -> None:
        """Raise what went wrong while a decoder read."""
        if self.error is not None:
            raise self.error

    @property
    def is_local(self) -> bool:
        """Whether reading at any place costs no request over a network."""
        return True

    def close(self) -> None:
        """Let go of it."""


class LocalFile(Source):
    """A regular file on this machine, by its descriptor."""

    def __init__(self, descriptor: int, path: bytes | None):
        super().__init__(os.fstat(descriptor).st_size, path)
        self.descriptor = descriptor

    def read_at(self, start: int, count: int) -> bytes:
        return os.pread(self.descriptor, min(count, self.size), start) if 0 <= start < self.size else b""

    def close(self) -> None:
        os.close(self.descriptor)


class Memory(Source):
    """Bytes in memory."""

    def __init__(self, data: bytes):
        super().__init__(len(data))
        self._data = data

    def read_at(self, start: int, count: int) -> bytes:
        return self._data[start : start + count] if start >= 0 else b""

    def find(self, pattern: bytes, start: int) -> int:
        return self._data.find(pattern, start)


class Remote(Source):
    """A large remote file, read as it is needed."""

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(size)
        self._file, self._lock, self._at = file, threading.Lock(), None

    def read_at(self, start: int, count: int) -> bytes:
        with self._lock, as_audio_errors():
            if start != self._at:
                self._file.seek(start)
            data = self._file.read(max(min(count, self.size - start), 0))
            self._at = start + len(data)
            return data

    @property
    def is_local(self) -> bool:
        return False


class _Span(io.RawIOBase):
    """A part of a source as a file of its own."""

    def __init__(self, source: Source, start: int, end: int):
        self._source, self._start, self._size, self._at = source, start, max(end - start, 0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        try:
            data = self._source.read_at(self._start + self._at, count)
        except Exception as error:  # decoders written in C would print it and go on
            self._source.error = error
            return 0
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at
