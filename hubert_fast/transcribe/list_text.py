"""The text of a list, whatever holds it: a file, a URL or standard input; compressed or not; in UTF-8 or UTF-16.

Nothing is kept of it but the piece that is being read.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..audio import is_url
from ..audio.names import check_url
from ..first_bytes import HEAD_BYTES, MARKS, identify

PIECE_CHARACTERS = 1 << 16
STANDARD_INPUT = "standard input"  # what "-" is called in messages
COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
MOST_LAYERS = 3  # of compression around each other
NO_LISTS = "xz bzip2 gzip zstd zip tar 7z rar appledouble applesingle pdf png jpeg gif elf numpy parquet arrow hdf5 sqlite midi"
NOT_A_LIST = frozenset((*NO_LISTS.split(), "git-lfs", "html", "xml", "zeros"))


class ManifestError(Exception):
    """A manifest cannot be read; the message says which and why."""


class Text:
    """The lines of a list, of which the first can be looked at before they are read.

    pieces: lines with their ends, a long one in several pieces. separated_by_nul: each piece is a whole item instead, as
    ``find -print0`` writes them.
    """

    def __init__(self, pieces: Iterator[str], separated_by_nul: bool = False):
        self.separated_by_nul, self._pieces = separated_by_nul, pieces
        self._peeked: deque[str] = deque()

    def peek(self, count: int) -> list[str]:
        """Return the first ``count`` lines that are not blank, or fewer; of a long line the beginning."""
        lines: list[str] = []
        for piece in self._peeked:
            lines += [piece.rstrip("\r\n")] if piece.strip() else []
        while len(lines) < count and (piece := next(self._pieces, "")):
            self._peeked.append(piece)
            lines += [piece.rstrip("\r\n")] if piece.strip() else []
        return lines[:count]

    def read(self) -> str:
        """Return the next piece of text, a line or a part of one, or ``""`` at the end."""
        return self._peeked.popleft() if self._peeked else next(self._pieces, "")

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Give each line's number from 1 and its text without the line end; blank lines are counted and left out."""
        number, parts = 0, []
        while piece := self.read():
            parts.append(piece)
            if not (self.separated_by_nul or piece.endswith(("\n", "\r"))):
                continue  # a long line goes on
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
    while part := _read_some(file, PIECE_CHARACTERS):
        *items, rest = (rest + part).split(b"\0")
        yield from (item.decode("utf-8", "surrogateescape") for item in items if item)
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


class _Rejoined(io.RawIOBase):
    """A binary stream with bytes put back at its beginning."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or _read_some(self._rest, len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


def _read_some(file: Any, size: int) -> bytes:
    """Read what is there, up to ``size`` bytes, without waiting for more: lists may be written while they are read."""
    read = getattr(file, "read1", None) or file.read
    return read(size) or b""


def open_bytes(source: str) -> BinaryIO:
    """Open a local list or one at a URL. Raises ``OSError``, or what the URL's file system raises.

    ``AudioError`` is for a URL that must not be opened.
    """
    if not is_url(source):
        return open(source, "rb")
    check_url(source)
    import fsspec

    opened = fsspec.open(source, "rb")
    file = opened.open()
    file._keeps_open = opened  # an archive closes with it
    return file


def text_of(file: BinaryIO, source: str) -> Text:
    """Decompress and decode a list. Raises :class:`ManifestError` for what is no text, with what it is and what to do."""
    for _ in range(MOST_LAYERS):
        head = _head(file)
        file = io.BufferedReader(_Rejoined(head, file))
        identity = identify(head)
        unpack = None if identity is None else DECOMPRESSORS.get(identity.kind)
        if unpack is None:
            break
        file = unpack(file, source)
    if head and identity is not None and identity.kind in NOT_A_LIST:
        raise ManifestError(f"{source}: {identity.instead_of('a list')}")
    encoding = _encoding(head)
    if encoding != "utf-8-sig":
        return Text(_pieces(io.TextIOWrapper(file, encoding, "replace", newline="")))
    if _is_binary(head):
        advice = "say with --stdin-format what samples these are" if source == STANDARD_INPUT else "name a text file"
        raise ManifestError(f"{source}: expected a list as text, but the file is binary: {advice}")
    if b"\0" in head.split(b"\n", 1)[0]:
        return Text(_items(file), separated_by_nul=True)
    return Text(_pieces(io.TextIOWrapper(file, encoding, "surrogateescape", newline="")))  # names need not be UTF-8


def _head(file: BinaryIO) -> bytes:
    """Read the first bytes: up to ``HEAD_BYTES``, or up to where the first line has ended."""
    head = b""
    while len(head) < HEAD_BYTES and not any(end in head for end in b"\n\0"):
        part = _read_some(file, HEAD_BYTES - len(head))
        if not part:
            break
        head += part
    return head


def _encoding(head: bytes) -> str:
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    some = head[:32]
    if len(some) >= 8:  # UTF-16 without its mark: every other byte of Latin letters is 0
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(some[first::2]) and all(some[1 - first :: 2]):
                return encoding
    return "utf-8-sig"


def _is_binary(head: bytes) -> bool:
    """Return whether there are control characters that no text and no ``find -print0`` has."""
    first = head.split(b"\n", 1)[0]
    return any(byte < 32 and byte not in b"\0\t\n\v\f\r\x1b" for byte in first) or b"\0\0" in first


def _zstd(file: BinaryIO, source: str) -> BinaryIO:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise ManifestError(f"{source} is compressed with Zstandard: pip install zstandard, or unpack it") from None
        return zstandard.ZstdDecompressor().stream_reader(file)
    return zstd.ZstdFile(file)


DECOMPRESSORS = {
    "gzip": lambda file, source: gzip.GzipFile(fileobj=file),
    "bzip2": lambda file, source: bz2.BZ2File(file),
    "xz": lambda file, source: lzma.LZMAFile(file),  # noqa: SIM115
    "zstd": _zstd,
}


def repaired(text: str) -> str:
    """Return text that a person wrote with its bytes outside UTF-8 read as Windows-1252, which Latin-1 is a part of."""
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return codecs.decode(text.encode("utf-8", "surrogateescape"), "cp1252", "replace")
