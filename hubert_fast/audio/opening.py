"""Open local files, URLs, archives, pipes and standard input as a `sources.Source`."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..first_bytes import HEAD_BYTES
from .archives import is_archived, open_archived
from .contained import Contained, temporary_file
from .errors import AudioError
from .names import archive_options, check_url, is_url
from .pipes import Command, piped
from .probing import container_of
from .remote_errors import as_audio_errors
from .sources import LocalFile, Memory, Remote, Source
from .standard_input import NAME as STANDARD_INPUT
from .standard_input import named_pipe, standard_input

WHOLE_BYTES = 16 << 20  # smaller remote files are fetched whole: one request instead of many
# Formats whose length a few reads reveal. Planning any other format reads the file from end to end, so it is copied first.
RANDOM_ACCESS_FORMATS = ("wav", "w64", "aiff", "au", "caf", "sphere", "flac")


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Source]:
    """Open a path, a URL, `-` (standard input), a `pipes.Command` or a `Contained`.

    Pipes, standard input and remote files without random access are first copied to a temporary file.

    Raises:
        AudioError: If the file is missing, empty, a folder or a device.
        OSError: If the file may not be read.
    """
    name = os.fspath(path)
    if name == STANDARD_INPUT:
        with _spooled(standard_input.reader()) as source:
            yield source
    elif isinstance(path, Contained):
        with path.opened() as file, _contained(file) as source:
            yield source
    elif isinstance(path, Command):
        with piped(path) as file, _descriptor(file) as source:
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
    except ValueError:  # the path contains a null byte
        raise AudioError("not a valid file name: it contains a null byte") from None
    except FileNotFoundError:
        dangling = f": a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else ""
        raise AudioError(f"no such file{dangling}") from None
    if stat.S_ISFIFO(mode):
        with io.BufferedReader(named_pipe(path)) as file, _spooled(file) as source:
            yield source
        return
    if not stat.S_ISREG(mode):
        raise AudioError(f"expected an audio file, but this is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    source = LocalFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.fsencode(path))
    with contextlib.closing(source):
        _check_not_empty(source)
        yield source


@contextlib.contextmanager
def _spooled(file: BinaryIO | _Chained) -> Iterator[LocalFile]:
    """Copy a stream to a temporary file and open that."""
    with temporary_file() as copy:
        try:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise AudioError(
                f"no room for a copy of it in the temporary folder {tempfile.gettempdir()}: set TMPDIR to a larger one"
            ) from None
        with _descriptor(copy) as source:
            yield source


@contextlib.contextmanager
def _descriptor(file: BinaryIO | tempfile._TemporaryFileWrapper[bytes]) -> Iterator[LocalFile]:
    """Open a temporary file as a source, through a copy of its descriptor."""
    source = LocalFile(os.dup(file.fileno()), os.fsencode(file.name) if isinstance(file.name, str) else None)
    with contextlib.closing(source):
        _check_not_empty(source)
        yield source


@contextlib.contextmanager
def _contained(file: BinaryIO) -> Iterator[Source]:
    """Open the file of a `Contained`, in memory or on disk."""
    if not isinstance(file, io.BytesIO):
        with _descriptor(file) as source:
            yield source
        return
    memory = Memory(file.getvalue())
    _check_not_empty(memory)
    yield memory


@contextlib.contextmanager
def copied(source: Source) -> Iterator[LocalFile]:
    """Copy a source to a temporary file and open that."""
    with _spooled(source.span()) as copy:
        source.check()
        yield copy


@contextlib.contextmanager
def _remote(url: str) -> Iterator[Source]:
    check_url(url)
    import fsspec  # a dependency of huggingface_hub; not needed for local files

    with contextlib.ExitStack() as stack:
        with as_audio_errors():
            # The stack keeps fsspec's OpenFile, which the file depends on, alive while the file is read.
            file = stack.enter_context(
                open_archived(url) if is_archived(url) else fsspec.open(url, "rb", **archive_options(url))
            )
        yield stack.enter_context(_fetched(file))


@contextlib.contextmanager
def _fetched(file: BinaryIO) -> Iterator[Source]:
    with as_audio_errors():
        start = io.BytesIO()
        while start.tell() < WHOLE_BYTES and (part := file.read(WHOLE_BYTES - start.tell())):  # a read may return fewer bytes
            start.write(part)
        is_whole = start.tell() < WHOLE_BYTES
        size = start.tell() if is_whole else _size_of(file)
    if is_whole:
        memory = Memory(start.getvalue())
        _check_not_empty(memory)
        yield memory
    elif size is not None and container_of(start.getvalue()[:HEAD_BYTES]) in RANDOM_ACCESS_FORMATS:
        yield Remote(file, size)
    else:
        # Without a known size the file could not be rewound, so its first bytes are taken from memory.
        rest = _Chained(b"" if size is not None else start.getvalue(), file)
        with _spooled(rest) as source:
            yield source


class _Chained(io.RawIOBase):
    """The bytes already read from a file, followed by the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest = head, rest

    def read(self, count: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            return data
        with as_audio_errors():
            return self._rest.read(count)


def _size_of(file: BinaryIO) -> int | None:
    """Return the size in bytes of a file with random access and rewind it; `None` without random access."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return size
    except Exception:  # each kind of stream has its own exception for this
        return None


def _check_not_empty(source: Source) -> None:
    if not source.size:
        raise AudioError("the file is empty (0 bytes)")
