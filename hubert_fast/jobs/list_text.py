"""Read the text of a list from a file, a URL or standard input: decompress it, and decode UTF-8, UTF-16 or UTF-32.

Lists are read in pieces, so only the current piece is in memory.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from ..audio import is_url
from ..audio.names import COMPRESSION, check_url
from ..first_bytes import HEAD_BYTES, MARKS, identify

PIECE_CHARACTERS = 1 << 16
STANDARD_INPUT = "standard input"  # the name of "-" in messages
COMPRESSION_SUFFIXES = (*COMPRESSION, ".zst")
MAX_LAYERS = 3  # of compression within compression
BINARY_KINDS = (
    "xz bzip2 gzip zstd zip tar 7z rar appledouble applesingle pdf png jpeg gif elf numpy parquet arrow hdf5 sqlite midi"
)
NOT_A_LIST = frozenset((*BINARY_KINDS.split(), "git-lfs", "html", "xml", "zeros"))


class ManifestError(Exception):
    """A list cannot be read; the message says which one and why."""


class Text:
    """The lines of a list. The first ones can be peeked at.

    Args:
        pieces: The lines with their line ends; a long line may be split into several pieces.
        separated_by_nul: Whether each piece is a complete item without a line end, as from `find -print0`.
    """

    def __init__(self, pieces: Iterator[str], separated_by_nul: bool = False):
        self.separated_by_nul, self._pieces = separated_by_nul, pieces
        self._peeked: deque[str] = deque()

    def peek(self, count: int) -> list[str]:
        """Return the first `count` lines that are not blank, or fewer. A long line may be cut after its first piece."""
        lines: list[str] = []
        for piece in self._peeked:
            lines += [piece.rstrip("\r\n")] if piece.strip() else []
        while len(lines) < count and (piece := next(self._pieces, "")):
            self._peeked.append(piece)
            lines += [piece.rstrip("\r\n")] if piece.strip() else []
        return lines[:count]

    def read(self) -> str:
        """Return the next piece of text, which is a line or part of one, or `""` at the end."""
        return self._peeked.popleft() if self._peeked else next(self._pieces, "")

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield the number of each line, counted from 1, and the line without its end. Blank lines count but are skipped."""
        number, parts = 0, []
        while piece := self.read():
            parts.append(piece)
            if not (self.separated_by_nul or piece.endswith(("\n", "\r"))):
                continue  # a long line continues
            number += 1
            yield from _line(number, "".join(parts))
            parts.clear()
        yield from _line(number + 1, "".join(parts))


def _line(number: int, text: str) -> Iterator[tuple[int, str]]:
    text = text.rstrip("\r\n")
    if text.strip():
        yield number, text


def _pieces(stream: io.TextIOBase) -> Iterator[str]:
    while piece := stream.readline(PIECE_CHARACTERS):
        yield piece


def _items(file: BinaryIO) -> Iterator[str]:
    rest = b""
    while part := _read_available(file, PIECE_CHARACTERS):
        *items, rest = (rest + part).split(b"\0")
        yield from (item.decode("utf-8", "surrogateescape") for item in items if item)
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


class _Prefixed(io.RawIOBase):
    """A binary stream whose first bytes, which were already read, are put back."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or _read_available(self._rest, len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


def _read_available(file: Any, size: int) -> bytes:
    """Read up to `size` bytes, waiting only for the first: a list may be read while it is being written."""
    read = getattr(file, "read1", None) or file.read
    return read(size) or b""


def open_bytes(source: str) -> BinaryIO:
    """Open a list at a path or URL.

    Raises:
        OSError: If the file cannot be opened. The file system of a URL may raise other errors.
        AudioError: If the protocol of the URL is not supported.
    """
    if not is_url(source):
        return open(source, "rb")
    check_url(source)
    import fsspec

    opened = fsspec.open(source, "rb")
    file = opened.open()
    file._keeps_open = opened  # an archive is closed when its OpenFile is garbage-collected
    return file


def decode_text(file: BinaryIO, source: str) -> Text:
    """Decompress and decode a list.

    Raises:
        ManifestError: If the file is not text; the message says what it is and what to do.
    """
    for _ in range(MAX_LAYERS):
        head = _head(file)
        file = io.BufferedReader(_Prefixed(head, file))
        identity = identify(head)
        decompress = None if identity is None else DECOMPRESSORS.get(identity.kind)
        if decompress is None:
            break
        file = cast(BinaryIO, decompress(file, source))
    if head and identity is not None and identity.kind in NOT_A_LIST:
        raise ManifestError(f"{source}: {identity.instead_of('a list')}")
    encoding = _encoding(head)
    if encoding != "utf-8-sig":
        return Text(_pieces(io.TextIOWrapper(file, encoding, "replace", newline="")))
    if _is_binary(head):
        advice = "describe raw samples with --stdin-format" if source == STANDARD_INPUT else "pass a text file"
        raise ManifestError(f"{source}: expected a list as text, but the data are binary: {advice}")
    if b"\0" in head.split(b"\n", 1)[0]:
        return Text(_items(file), separated_by_nul=True)
    # file names need not be UTF-8
    return Text(_pieces(io.TextIOWrapper(file, encoding, "surrogateescape", newline="")))


def _head(file: BinaryIO) -> bytes:
    """Read up to `HEAD_BYTES` bytes, or until the first line is complete."""
    head = b""
    while len(head) < HEAD_BYTES and not any(end in head for end in b"\n\0"):
        part = _read_available(file, HEAD_BYTES - len(head))
        if not part:
            break
        head += part
    return head


def _encoding(head: bytes) -> str:
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    sample = head[:32]
    if len(sample) >= 8:  # in UTF-16 without a byte order mark, every other byte of Latin letters is 0
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(sample[first::2]) and all(sample[1 - first :: 2]):
                return encoding
    return "utf-8-sig"


def _is_binary(head: bytes) -> bool:
    """Return whether there are control characters that occur neither in text nor in the output of `find -print0`."""
    first = head.split(b"\n", 1)[0]
    return any(byte < 32 and byte not in b"\0\t\n\v\f\r\x1b" for byte in first) or b"\0\0" in first


def _zstd(file: BinaryIO, source: str) -> Any:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise ManifestError(
                f"{source} is compressed with Zstandard: pip install zstandard, or decompress it first"
            ) from None
        return zstandard.ZstdDecompressor().stream_reader(file)
    return zstd.ZstdFile(file)


DECOMPRESSORS = {
    "gzip": lambda file, source: gzip.GzipFile(fileobj=file),
    "bzip2": lambda file, source: bz2.BZ2File(file),
    "xz": lambda file, source: lzma.LZMAFile(file),  # noqa: SIM115
    "zstd": _zstd,
}


def repair_encoding(text: str) -> str:
    """Decode a text as Windows-1252, which includes Latin-1, if it has bytes that are not UTF-8 (kept as surrogates)."""
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return codecs.decode(text.encode("utf-8", "surrogateescape"), "cp1252", "replace")
