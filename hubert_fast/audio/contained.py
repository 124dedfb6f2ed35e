"""Audio whose file was read already, such as a member of a tar archive that is read as a stream."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

SPOOL_BYTES = 64 << 20  # larger files wait on disk


def temporary_file() -> Any:
    """Return a temporary file for binary data.

    A decoder process opens it through /proc where it can. The file then needs no name, and disappears with this process,
    however it ends.
    """
    return tempfile.TemporaryFile() if os.path.isdir("/proc/self/fd") else tempfile.NamedTemporaryFile()


class Contained(str):
    """The name of audio, such as `tar://a.wav::talks.tar`, with the bytes of its file.

    Attributes:
        size: The number of bytes.
    """

    size: int
    _content: bytes | BinaryIO

    @classmethod
    def read(cls, name: str, file: BinaryIO, size: int) -> Contained:
        """Read a file of `size` bytes to its end. More than `SPOOL_BYTES` go to a temporary file, which needs no name.

        Raises:
            EOFError: If the file ends earlier.
        """
        contained = cls(name)
        contained.size = size
        if size > SPOOL_BYTES:
            spool = temporary_file()
            shutil.copyfileobj(file, spool, 1 << 20)
            count, contained._content = spool.tell(), spool
        else:
            contained._content = file.read(size)
            count = len(contained._content)
        if count != size:
            raise EOFError(f"{name} has {size} bytes, but only {count} of them are there")
        return contained

    @classmethod
    def of(cls, name: str, content: bytes) -> Contained:
        """Return audio with this name and content."""
        return cls.read(name, io.BytesIO(content), len(content))

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        with self.opened() as file:
            return file.read()

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file for reading: a temporary file with a descriptor if it is large, or else a file object in memory."""
        if isinstance(self._content, bytes):
            yield io.BytesIO(self._content)
        else:
            self._content.seek(0)
            yield self._content

    def __reduce__(self) -> tuple[Any, ...]:
        return Contained.of, (str(self), self.content)
