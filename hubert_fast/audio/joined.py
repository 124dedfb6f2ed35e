"""Recognise what follows a recording in the same file: another recording, a file of another kind, tags or padding."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..first_bytes import HEAD_BYTES, Identity, identify
from .probing import container_of
from .sources import Source

Read = Callable[[int, int], bytes]  # (start, count) -> up to count bytes, as Source.read_at

# Kinds whose signatures are too short, or too common in audio data, to be trusted except at the beginning of a file
_WEAK = frozenset({"ac3", "zeros", "empty", "text", "json", "playlist", "utf-16", "utf-32"})
_SIGNATURES = re.compile(
    rb"RIFF.{4}(?:WAVE|AVI )|RF64.{4}WAVE|FORM.{4}AIF[FC]|fLaC\0\0\0\x22|OggS\0\x02|\0\0\0.ftyp|"
    rb"\x1a\x45\xdf\xa3.{1,60}(?:webm|matroska)|caff\0\x01|NIST_1A\n|#!AMR|ID3[\x02-\x04]\0|FLV\x01[\x01\x04\x05]\0\0\0\x09",
    re.DOTALL,
)
_PIECE_BYTES = 1 << 20


class Rest(Source):
    """The bytes of another source from `start` to `end` (default: its end), as a source whose offsets begin at 0."""

    def __init__(self, source: Source, start: int, end: int | None = None):
        super().__init__(max((source.size if end is None else end) - start, 0))
        self._source, self.start = source, start

    def read_at(self, start: int, count: int) -> bytes:
        return self._source.read_at(self.start + start, max(min(count, self.size - start), 0))

    def find(self, pattern: bytes, start: int) -> int:
        at = self._source.find(pattern, self.start + start)
        return at if at < 0 else at - self.start

    def check(self) -> None:
        super().check()
        self._source.check()

    @property
    def is_local(self) -> bool:
        return self._source.is_local


def certain_container(head: bytes) -> str | None:
    """Return the container of the recording that begins with `head`; `None` if the bytes may match by chance."""
    container = container_of(head)
    return None if container in _WEAK else container


def certain_identity(head: bytes) -> Identity | None:
    """Return what begins with `head` if it is not audio, such as an image; `None` if the bytes may match by chance."""
    identity = identify(head)
    if identity is None or identity.kind in _WEAK or (identity.kind == "gzip" and head[2:3] != b"\x08"):
        return None
    return identity


def starts_file(head: bytes) -> bool:
    """Return whether a recording, or a file of another kind, begins with `head`."""
    return certain_container(head) is not None or certain_identity(head) is not None


def find_recording(read: Read, start: int, end: int) -> int | None:
    """Return the offset of the first recording with an unmistakable signature between two offsets, or `None`."""
    at = start
    while at < end:
        data = read(at, min(end - at, _PIECE_BYTES) + HEAD_BYTES)
        for match in _SIGNATURES.finditer(data):
            offset = match.start()
            if at + offset < end and offset < _PIECE_BYTES and certain_container(data[offset : offset + HEAD_BYTES]):
                return at + offset
        at += _PIECE_BYTES
    return None


def end_of_tags(read: Read, at: int, size: int) -> int:
    """Return the offset after the ID3v1, APE and Lyrics3 tags that begin at `at`; `at` itself if there are none."""
    while at < size:
        head = read(at, 32)
        if head[:3] == b"TAG":
            after = at + (227 if head[:4] == b"TAG+" else 128)
        elif head[:8] == b"APETAGEX" and len(head) == 32:  # either a header or just a footer
            after = at + 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
        elif head[:11] == b"LYRICSBEGIN":
            text = read(at, 1 << 16)
            ends = [offset + 9 for mark in (b"LYRICS200", b"LYRICSEND") if (offset := text.find(mark)) >= 0]
            after = at + min(ends, default=0)
        else:
            return at
        if after == at:
            return at
        at = min(after, size)
    return at


def end_of_padding(read: Read, at: int, size: int) -> int:
    """Return the offset after the tags and zero bytes that begin at `at`; `at` itself if there are none."""
    while at < size:
        after = end_of_tags(read, at, size)
        data = read(after, 1 << 16)
        if not certain_container(data[:HEAD_BYTES]):  # an MP4 begins with zeros
            after += len(data) - len(data.lstrip(b"\0"))
            if read(after + 1, 4) == b"ftyp":  # the size in front of it begins with three zeros
                after -= 3
        if after == at:
            return at
        at = after
    return at
