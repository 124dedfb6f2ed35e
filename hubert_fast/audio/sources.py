"""Give random access to a file's bytes on disk, in memory or on a remote file system."""

from __future__ import annotations

import io
import os
import threading
from typing import BinaryIO

from .remote_errors import as_audio_errors

BUFFER_BYTES = 1 << 16


class Source:
    """The bytes of one file, readable at any offset.

    Attributes:
        size: Number of bytes.
        path: Path of a local regular file, `None` for anything else.
        error: The exception that a decoder's read raised. Decoders take a failed read for the end of the file, so the
            exception is kept here until `check` raises it.
    """

    def __init__(self, size: int, path: bytes | None = None):
        self.size, self.path = size, path
        self.error: Exception | None = None

    def read_at(self, start: int, count: int) -> bytes:
        """Return up to `count` bytes from offset `start`: fewer at the end, none outside the file.

        Raises:
            OSError: If the file cannot be read.
            AudioError: If a remote file system fails.
        """
        raise NotImplementedError

    def find(self, pattern: bytes, start: int) -> int:
        """Return the offset of the first `pattern` at or after `start`, or -1. Other threads can run meanwhile."""
        at, before = start, b""
        while piece := self.read_at(at, 1 << 20):
            index = (before + piece).find(pattern)
            if index >= 0:
                return at - len(before) + index
            before, at = (before + piece)[1 - len(pattern) :], at + len(piece)
        return -1

    def span(self, start: int = 0, end: int | None = None) -> BinaryIO:
        """Return a file object over the bytes from `start` to `end` (default: the end of the source)."""
        return io.BufferedReader(_Span(self, start, self.size if end is None else end), BUFFER_BYTES)

    def check(self) -> None:
        """Raise the exception that a decoder's read raised, if any."""
        if self.error is not None:
            raise self.error

    @property
    def is_local(self) -> bool:
        """Whether reads need no network request."""
        return True

    def close(self) -> None:
        """Release the underlying file."""


class LocalFile(Source):
    """A regular file on this machine, read through its descriptor."""

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

    def span(self, start: int = 0, end: int | None = None) -> BinaryIO:
        if start or end not in (None, self.size):
            return super().span(start, end)
        return io.BytesIO(self._data)  # no copy, and faster: decoders read a few bytes at a time


class Remote(Source):
    """A large remote file, fetched piece by piece as it is read."""

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(size)
        self._file, self._lock = file, threading.Lock()
        self._position: int | None = None  # position of `_file`, to seek only when necessary

    def read_at(self, start: int, count: int) -> bytes:
        with self._lock, as_audio_errors():
            if start != self._position:
                self._file.seek(start)
            data = self._file.read(max(min(count, self.size - start), 0))
            self._position = start + len(data)
            return data

    @property
    def is_local(self) -> bool:
        return False


class _Span(io.RawIOBase):
    """A range of a source's bytes as a file object."""

    def __init__(self, source: Source, start: int, end: int):
        self._source, self._start, self._size, self._position = source, start, max(end - start, 0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        try:
            data = self._source.read_at(self._start + self._position, count)
        except Exception as error:  # a decoder written in C would print the exception and continue
            self._source.error = error
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position
