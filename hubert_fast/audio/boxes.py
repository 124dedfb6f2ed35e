"""Whether an MP4, Matroska, ASF or RIFF file ends where its own sizes say it does, without decoding it."""

from __future__ import annotations

from .chunks import Read

MOST_BOXES = 100_000
SEGMENT = b"\x18\x53\x80\x67"
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def why_incomplete(container: str, read: Read, size: int) -> str | None:
    """Say how much of a file is missing at its end, ``None`` when all is there or it does not say how long it is."""
    end = {"mp4": _mp4_end, "matroska": _matroska_end, "asf": _asf_end, "avi": _riff_end}.get(
        container, lambda read, size: None
    )(read, size)
    if end is None or end <= size:
        return None
    return f"{end:,} bytes by its header, but there are {size:,}"


def has_index(read: Read, size: int) -> bool:
    """Return whether an MP4 has its index (``moov``), without which none of its samples can be found."""
    return any(name in (b"moov", b"moof") for name, _, _ in _mp4_boxes(read, size))


def _mp4_boxes(read: Read, size: int):
    at = 0
    for _ in range(MOST_BOXES):
        header = read(at, 16)
        if len(header) < 8:
            return
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - at
        if length < 8:
            return
        yield header[4:8], at, at + length
        at += length


def _mp4_end(read: Read, size: int) -> int | None:
    end = 0
    for name, _, after in _mp4_boxes(read, size):
        end = after
        if not name.isalnum() and b" " not in name and b"\xa9" not in name:
            return None
    return end


def _vint(data: bytes) -> tuple[int, int] | None:
    """Read an EBML size: the number, and the bytes it takes; ``None`` when it is unknown or cut off."""
    if not data or not data[0]:
        return None
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return None if len(data) < width or value == (1 << 7 * width) - 1 else (value, width)


def _matroska_end(read: Read, size: int) -> int | None:
    head = read(0, 256)
    header = _vint(head[4:12])
    if header is None:
        return None
    at = 4 + header[1] + header[0]
    if head[at : at + 4] != SEGMENT:
        return None
    segment = _vint(head[at + 4 : at + 12])
    return None if segment is None else at + 4 + segment[1] + segment[0]


def _asf_end(read: Read, size: int) -> int | None:
    head = read(0, 1 << 16)
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 96:
        return None
    is_broadcast = head[at + 88] & 1  # which leaves the size open
    return None if is_broadcast else int.from_bytes(head[at + 40 : at + 48], "little") or None


def _riff_end(read: Read, size: int) -> int | None:
    length = int.from_bytes(read(4, 4), "little")
    return None if length >= 0x7FFF0000 or not length else 8 + length
