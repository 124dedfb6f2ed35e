"""FLAC: how many samples the header claims, how many the last frame says there are, and where joined files begin. RFC 9639."""

from __future__ import annotations

from typing import NamedTuple

from .chunks import Read

TAIL_BYTES = 1 << 18  # within which the last frame begins: a block of 65,535 samples of eight channels is rare
_CRC8 = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value << 1 ^ 7 if _value & 0x80 else _value << 1) & 0xFF
    _CRC8[_byte] = _value


class StreamInfo(NamedTuple):
    """What the first block says. samples: of each channel, 0 for unknown."""

    sample_rate_hz: int
    channels: int
    samples: int
    block_samples: int


def stream_info(read: Read, at: int = 0) -> StreamInfo | None:
    """Return what the stream that begins at ``at`` says of itself, ``None`` where none begins."""
    head = read(at, 42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F or head[5:8] != b"\0\0\x22":
        return None
    packed = int.from_bytes(head[18:26], "big")
    return StreamInfo(packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1, int.from_bytes(head[10:12], "big"))


def last_sample(read: Read, start: int, end: int, info: StreamInfo) -> int | None:
    """Return how many samples the stream in these bytes has by its last frame, ``None`` when none is found near the end.

    The last frame may be cut off: its samples are counted all the same.
    """
    tail_start = max(end - TAIL_BYTES, start + 42)
    tail = read(tail_start, end - tail_start)
    at = len(tail)
    while (at := max(tail.rfind(b"\xff\xf8", 0, at), tail.rfind(b"\xff\xf9", 0, at))) >= 0:
        found = _frame_end(tail[at : at + 16], info)
        if found is not None:
            return found
    return None


def _frame_end(header: bytes, info: StreamInfo) -> int | None:
    """Return the number of the first sample after a frame; ``None`` when the bytes are no frame header of this stream."""
    if len(header) < 6 or header[3] & 1:
        return None
    is_variable, block_code, rate_code = header[1] & 1, header[2] >> 4, header[2] & 15
    at, number = 4, header[4]
    if number >= 0x80:
        extra = 0
        while number & (0x80 >> extra):
            extra += 1
        if not 2 <= extra <= 7:
            return None
        number &= (0x7F >> extra) if extra < 7 else 0
        for byte in header[5 : 4 + extra]:
            if byte & 0xC0 != 0x80:
                return None
            number = number << 6 | byte & 0x3F
        at = 4 + extra
    else:
        at = 5
    width = {6: 1, 7: 2}.get(block_code, 0)
    if block_code == 0 or len(header) < at + width + 3:
        return None
    if width:
        samples = int.from_bytes(header[at : at + width], "big") + 1
    else:
        samples = {1: 192}.get(block_code) or (576 << block_code - 2 if block_code < 6 else 256 << block_code - 8)
    at += width + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for byte in header[:at]:
        crc = _CRC8[crc ^ byte]
    if at >= len(header) or crc != header[at]:
        return None
    return number + samples if is_variable else number * info.block_samples + samples
