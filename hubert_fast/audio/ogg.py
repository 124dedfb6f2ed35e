"""Walk the pages of an Ogg file (RFC 3533): find every link of a chain, and check that the last page is complete.

The walk is needed because decoders may stop after the first link.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..first_bytes import HEAD_BYTES
from .joined import Read, find_recording, starts_file

CODECS = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex"}
RESYNC_BYTES = 1 << 16
MAX_DAMAGED = 10_000  # damaged places, after which the rest of the file does not count as Ogg
MAX_FIRST_SECONDS = 5  # most seconds of sound in the first page with audio


@dataclass
class Link:
    """A link: one of the streams that follow each other in a file.

    Attributes:
        start: Offset of the first byte.
        end: Offset after the last byte.
        codecs: Codec of each logical stream by serial number, `None` for a stream that is not audio.
        rate_hz: Granule positions per second.
        skipped: Samples to drop at the beginning.
        first_granule: First granule position.
        last_granule: Greatest granule position.
        has_end: Whether there is an end-of-stream mark.
    """

    start: int
    end: int = 0
    codecs: dict[int, str | None] = field(default_factory=dict)
    rate_hz: int = 0
    skipped: int = 0
    first_granule: int = 0
    last_granule: int = 0
    has_end: bool = False

    @property
    def seconds(self) -> float | None:
        """Duration by granule positions; `None` if there are none, or if they do not begin at 0 (part of a broadcast)."""
        if not self.rate_hz or self.first_granule > MAX_FIRST_SECONDS * self.rate_hz:
            return None
        return max(self.last_granule - self.skipped, 0) / self.rate_hz


@dataclass
class Pages:
    """The links of a file.

    Attributes:
        links: The links in the order of the file.
        missing: Bytes that the last page lacks.
        damaged: Number of places where bytes are not part of a page.
        end: Offset at which the pages end.
    """

    links: list[Link] = field(default_factory=list)
    missing: int = 0
    damaged: int = 0
    end: int = 0


def walk_pages(read: Read, size: int) -> Pages:
    """Walk through the pages of a file. This takes a tenth of a second for ten hours of speech."""
    pages, at, is_in_data = Pages(), 0, False
    while at < size:
        header = read(at, 27 + 255 + 20)
        if header[:4] != b"OggS" or len(header) < 27 or len(header) < 27 + header[26]:
            if starts_file(read(at, HEAD_BYTES)) and header[:4] != b"OggS":
                break
            page = _next_page(read, at + 1, size) if pages.damaged < MAX_DAMAGED else None
            if page is None:
                pages.missing += size - at if header[:4] == b"OggS" else 0
                break
            pages.damaged += 1
            at = page
            continue
        length = 27 + header[26] + sum(header[27 : 27 + header[26]])
        if at + length != size and read(at + length, 4) != b"OggS":
            start = find_recording(read, at + 4, min(at + length, size)) if pages.damaged < MAX_DAMAGED // 100 else None
            if start is not None and pages.links:  # the page is cut off by another recording
                pages.missing = at + length - start
                pages.links[-1].end = pages.end = at
                if read(start, 4) != b"OggS":
                    pages.end = start
                    break
                at = start
                continue
            page = _next_page(read, at + 4, size) if pages.damaged < MAX_DAMAGED else None
            if page is not None and page < at + length:  # its header is damaged and states a wrong length
                pages.damaged += 1
                at = page
                continue
        flags, count = header[5], header[26]
        granule, serial = int.from_bytes(header[6:14], "little", signed=True), int.from_bytes(header[14:18], "little")
        if flags & 2:  # a logical stream begins here
            if is_in_data or not pages.links:
                pages.links.append(Link(at))
            is_in_data = False
            body = read(at + 27 + count, 64)
            link = pages.links[-1]
            link.codecs[serial] = next((codec for mark, codec in CODECS.items() if body.startswith(mark)), None)
            _set_rate(link, link.codecs[serial], body)
        elif pages.links:
            is_in_data = True
            link = pages.links[-1]
            if link.codecs.get(serial) and granule >= 0:
                link.first_granule = link.first_granule or granule
                link.last_granule = max(link.last_granule, granule)
            link.has_end |= bool(flags & 4)
        if at + length > size:
            pages.missing = at + length - size
        at += length
        if pages.links:
            pages.links[-1].end = min(at, size)
        pages.end = min(at, size)
    return pages


def _set_rate(link: Link, codec: str | None, body: bytes) -> None:
    """Set a link's rate, and the samples to skip, from the codec header in the body of its first page."""
    if codec == "opus":
        link.rate_hz, link.skipped = 48000, int.from_bytes(body[10:12], "little")
    elif codec == "vorbis":
        link.rate_hz = int.from_bytes(body[12:16], "little")
    elif codec == "speex":
        link.rate_hz = int.from_bytes(body[36:40], "little")
    elif codec == "flac":
        link.rate_hz = int.from_bytes(body[27:30], "big") >> 4


def _next_page(read: Read, at: int, size: int) -> int | None:
    while at < size:
        index = read(at, RESYNC_BYTES).find(b"OggS")
        if index >= 0:
            return at + index
        at += RESYNC_BYTES - 3
    return None
