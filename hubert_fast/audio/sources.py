"""Where bytes come from: local files, URLs, archives, pipes and standard input, as something that can be read at any place."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from ..hub import first_line
from .archives import is_archived, open_archived
from .errors import AudioError
from .names import archive_options, is_url
from .pipes import Command, piped
from .standard_input import NAME as STANDARD_INPUT
from .standard_input import named_pipe, standard_input

WHOLE_BYTES = 16 << 20  # remote files up to this are fetched whole: one request instead of many
BUFFER_BYTES = 1 << 16


class Source:
    """Bytes of one recording. path: of a local regular file, else ``None``. size: how many there are.

    What goes wrong while a decoder reads is kept in :attr:`error`, since decoders take it for the end of the file.
    """

    def __init__(self, size: int, path: bytes | None = None):
        self.size, self.path = size, path
        self.error: Exception | None = None

    def read_at(self, start: int, count: int) -> bytes:
        """Return the bytes from ``start`` on, fewer at the end. Raises ``OSError`` or :class:`AudioError`."""
        raise NotImplementedError

    def find(self, pattern: bytes, start: int) -> int:
        """Return where ``pattern`` stands from ``start`` on, -1 when nowhere."""
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
        return os.pread(self.descriptor, min(count, self.size), start) if start < self.size else b""

    def find(self, pattern: bytes, start: int) -> int:
        if start >= self.size:
            return -1
        with mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ) as whole:
            return whole.find(pattern, start)

    def close(self) -> None:
        os.close(self.descriptor)


class Memory(Source):
    """Bytes in memory."""

    def __init__(self, data: bytes):
        super().__init__(len(data))
        self._data = data

    def read_at(self, start: int, count: int) -> bytes:
        return self._data[start : start + count]

    def find(self, pattern: bytes, start: int) -> int:
        return self._data.find(pattern, start)


class Remote(Source):
    """A large remote file, read as it is needed."""

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(size)
        self._file, self._lock, self._at = file, threading.Lock(), None

    def read_at(self, start: int, count: int) -> bytes:
        with self._lock, _reasons():
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


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Source]:
    """Open what a path, a URL, ``-`` or a :class:`.pipes.Command` names.

    Pipes, standard input and remote files that cannot be read at any place are copied to a temporary file first. Raises
    :class:`AudioError` for what is missing, empty, a folder or a device, ``OSError`` for what may not be read.
    """
    name = os.fspath(path)
    if name == STANDARD_INPUT:
        with _spooled(io.BufferedReader(standard_input)) as source:
            yield source
    elif isinstance(path, Command):
        with piped(path) as file, _local(file) as source:
            yield source
    elif is_url(name):
        with _remote(name) as source:
            yield source
    else:
        with _local(name) as source:
            yield source


@contextlib.contextmanager
def _local(path: str) -> Iterator[Source]:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        dangling = f": a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else ""
        raise AudioError(f"no such file{dangling}") from None
    if stat.S_ISFIFO(mode):
        with io.BufferedReader(named_pipe(path)) as file, _spooled(file) as source:
            yield source
        return
    if not stat.S_ISREG(mode):
        raise AudioError(f"expected an audio file, but this is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    source = LocalFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.fsencode(path))
    with contextlib.closing(source):
        yield _not_empty(source)


@contextlib.contextmanager
def _spooled(file: BinaryIO) -> Iterator[Source]:
    """Copy a stream to a temporary file, which has no name and is gone with the process."""
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        source = LocalFile(os.dup(copy.fileno()), None)
        with contextlib.closing(source):
            yield _not_empty(source)


@contextlib.contextmanager
def copied(source: Source) -> Iterator[LocalFile]:
    """Copy a source to a temporary file."""
    with _spooled(source.span()) as copy:
        source.check()
        yield copy


@contextlib.contextmanager
def _remote(url: str) -> Iterator[Source]:
    import fsspec  # a dependency of huggingface_hub; not needed for local files

    with contextlib.ExitStack() as stack:
        with _reasons():
            opened_file = open_archived(url) if is_archived(url) else fsspec.open(url, "rb", **archive_options(url)).open()
            file = stack.enter_context(opened_file)
        yield stack.enter_context(_fetched(file))


@contextlib.contextmanager
def _fetched(file: BinaryIO) -> Iterator[Source]:
    with _reasons():
        start = io.BytesIO()
        while start.tell() < WHOLE_BYTES and (part := file.read(WHOLE_BYTES - start.tell())):  # which may be less
            start.write(part)
        is_whole = start.tell() < WHOLE_BYTES
        size = start.tell() if is_whole else _size_of(file)
    if is_whole:
        yield _not_empty(Memory(start.getvalue()))
    elif size is not None and _can_be_read_anywhere(start.getvalue()):
        yield Remote(file, size)
    else:
        rest = _Chained(b"" if size is not None else start.getvalue(), file)  # a file whose size is known is at its beginning
        with _spooled(rest) as source:
            yield source


class _Chained(io.RawIOBase):
    """The bytes that were read of a file, and then the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest = head, rest

    def read(self, count: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            return data
        with _reasons():
            return self._rest.read(count)


def _size_of(file: BinaryIO) -> int | None:
    """Return the bytes of a file that can be read at any place, else ``None``."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return size
    except Exception:  # streams have errors of their own for it
        return None


def _can_be_read_anywhere(head: bytes) -> bool:
    """Return whether a few reads tell how long a file is; others are looked through from end to end before they are decoded."""
    from .probing import container_of

    return container_of(head[:1024]) in ("wav", "w64", "aiff", "au", "caf", "sphere", "flac")


def _not_empty(source: Source) -> Source:
    if not source.size:
        raise AudioError("the file is empty (0 bytes)")
    return source


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn the errors of remote file systems, of which each has its own, into one that says what happened."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        status = http_status(error)
        if status is not None:
            raise AudioError(f"the server answered {status}") from None
        if isinstance(error, FileNotFoundError):
            raise AudioError("no such file") from None
        if isinstance(error, OSError):
            raise
        raise AudioError(f"cannot be opened: {first_line(error)}") from None


def http_status(error: BaseException | None) -> str | None:
    """Return the status that an HTTP server answered with, such as ``"403 Forbidden"``, from the cause of an error."""
    while error is not None:
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            known = status in HTTPStatus.__members__.values()
            return f"{status} {HTTPStatus(status).phrase}" if known else str(status)
        error = error.__cause__ or error.__context__
    return None
