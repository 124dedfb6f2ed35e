"""Read the bytes of a shard, from a local file or from any file system of fsspec, and read on where a request failed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from ...audio import AudioError, is_url
from ...audio.names import check_url
from .retries import Attempts, StorageError, repeated

BLOCK_BYTES = 8 << 20  # of a request
BUFFER_BYTES = 1 << 20
DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def local_path(source: str) -> str | None:
    """Return the path of a local file, `None` for any other URL."""
    path = source.removeprefix("file://").removeprefix("local://")
    return None if is_url(path) else path


class RemoteStream(io.RawIOBase):
    """A file of an fsspec file system. If a request fails, the file is opened anew, and read on from where it was.

    Attributes:
        size: The number of bytes; `None` if the file system does not know it, and the file can only be read from its beginning.

    Raises:
        StorageError: If the file cannot be opened; also later, if it cannot be read.
    """

    def __init__(self, url: str):
        import fsspec

        try:
            check_url(url)
            self._system, self._path = fsspec.core.url_to_fs(url)
        except (AudioError, ImportError, ValueError) as error:
            raise StorageError(f"{url}: {error}") from None
        self._url, self._position, self._file = url, 0, cast(Any, None)
        self._block_bytes = BLOCK_BYTES  # 0: one request for the whole file, from a server that cannot send parts
        attempts = Attempts(f"{url} cannot be opened")
        while self._file is None:
            try:
                self._open()
            except Exception as error:
                attempts.failed(error)
        self.size: int | None = getattr(self._file, "size", None)

    def _open(self) -> None:
        self.close_file()
        file = self._system.open(self._path, "rb", block_size=self._block_bytes, cache_type="readahead")
        if self._position:
            try:
                file.seek(self._position)
            except (OSError, ValueError, NotImplementedError):  # a stream without random access
                left = self._position
                while left and (data := file.read(min(left, BUFFER_BYTES))):
                    left -= len(data)
        self._file = file

    def readinto(self, buffer: Any) -> int:
        attempts = Attempts(f"{self._url} cannot be read on from byte {self._position}")
        while True:
            try:
                if self._file is None:
                    self._open()
                data = self._file.read(len(buffer))
                if not data and self.size is not None and self._position < self.size:
                    raise ConnectionError(f"the file ends after {self._position} of {self.size} bytes")
                break
            except Exception as error:
                self.close_file()
                if "range requests" in str(error) and self._block_bytes:  # of fsspec's file system for http
                    self._block_bytes = 0
                else:
                    attempts.failed(error)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None and self._block_bytes > 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.size is None or not self._block_bytes:
            raise io.UnsupportedOperation("this server gives no random access")
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence] + offset
        if position != self._position and self._file is not None:
            self._file.seek(position)
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def close_file(self) -> None:
        """Close the connection; the next read opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):
                file.close()

    def close(self) -> None:
        if not self.closed:
            self.close_file()
        super().close()


@contextlib.contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """Open a path or URL for reading.

    Raises:
        StorageError: If it cannot be opened. Reading a URL also raises it.
        OSError: If a local file cannot be read.
    """
    path = local_path(source)
    if path is None:
        with io.BufferedReader(RemoteStream(source), BUFFER_BYTES) as file:
            yield cast(BinaryIO, file)
        return
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StorageError(f"{source}: cannot be opened: not a regular file")
        local = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"{source}: cannot be opened: {error.strerror or error}") from None
    with local:
        yield local


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return the decompressed bytes of a file that begins as gzip, bzip2 or xz does, or else the file itself."""
    head = cast(io.BufferedReader, file).peek(6)[:6]
    kinds = (kind for magic, kind in DECOMPRESSORS.items() if head.startswith(magic))
    kind = next(kinds, None)
    return file if kind is None else cast(BinaryIO, kind(file))


def size_of(source: str) -> int | None:
    """Return the size of a file in bytes; `None` if its file system does not know it. Raises `StorageError`."""
    path = local_path(source)
    if path is not None:
        return os.stat(path).st_size if os.path.exists(path) else None
    import fsspec

    system, name = fsspec.core.url_to_fs(source)
    info = repeated(f"{source} cannot be opened", lambda: system.info(name))
    return info.get("size")
