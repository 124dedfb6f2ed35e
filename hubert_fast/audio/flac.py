"""Parse FLAC (RFC 9639): the number of samples according to the header and to the last frame, and where that frame ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .joined import Read, find_recording

SEARCHED_BYTES = 1 << 20
MAX_CANDIDATES = 300_000  # frames, and bytes that look like one: enough for ten hours
TAIL_BYTES = 1 << 18  # at the end of a stream, within which its last frame begins; larger frames are rare
_CRC8 = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value << 1 ^ 7 if _value & 0x80 else _value << 1) & 0xFF
    _CRC8[_byte] = _value
_CRC16 = [0] * 256
for _byte in range(256):
    _value = _byte << 8
    for _ in range(8):
        _value = (_value << 1 ^ 0x8005 if _value & 0x8000 else _value << 1) & 0xFFFF
    _CRC16[_byte] = _value
_FRAME = re.compile(rb"\xff[\xf8\xf9]")


class StreamInfo(NamedTuple):
    """The contents of the STREAMINFO block. `samples` counts the samples of each channel; 0 means unknown."""

    sample_rate_hz: int
    channels: int
    samples: int
    block_samples: int


def stream_info(read: Read, at: int = 0) -> StreamInfo | None:
    """Parse the STREAMINFO block of the stream that begins at `at`, or return `None` if no stream begins there."""
    head = read(at, 42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F or head[5:8] != b"\0\0\x22":
        return None
    packed = int.from_bytes(head[18:26], "big")
    return StreamInfo(packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1, int.from_bytes(head[10:12], "big"))


class LastFrame(NamedTuple):
    """The last frame of a stream: its offset in the file, and the samples of each channel up to its end."""

    start: int
    samples: int


def last_frame(read: Read, start: int, end: int, info: StreamInfo) -> LastFrame | None:
    """Return the last frame that begins within `TAIL_BYTES` before `end`, or `None`. The frame may be cut off."""
    tail_start = max(end - TAIL_BYTES, start + 42)
    tail = read(tail_start, end - tail_start)
    for offset in reversed([match.start() for match in _FRAME.finditer(tail)]):
        samples = _samples_up_to(tail[offset : offset + 16], info)
        if samples is not None:
            return LastFrame(tail_start + offset, samples)
    return None


def frame_of_last_sample(read: Read, start: int, end: int, info: StreamInfo) -> LastFrame | None:
    """Search the stream for the frame that ends with the last sample that the header states; return `None` without one."""
    at, left = start + 42, MAX_CANDIDATES
    while at < end and left > 0:
        data = read(at, min(SEARCHED_BYTES, end - at))
        for match in _FRAME.finditer(data):
            left -= 1
            if _samples_up_to(data[match.start() : match.start() + 16], info) == info.samples:
                return LastFrame(at + match.start(), info.samples)
        if len(data) < SEARCHED_BYTES:
            break
        at += len(data) - 16
    return None


def end_of_frame(read: Read, start: int, end: int, is_start: Callable[[int], bool]) -> int | None:
    """Return the offset at which the frame at `start` ends according to its checksum; `None` if no offset fits.

    The checksum also fits at about one in 65,536 wrong offsets. Offsets at which something else begins according to
    `is_start`, and the end of the file, are therefore preferred.
    """
    data, crc, fitting = read(start, min(TAIL_BYTES, end - start)), 0, []
    if start + len(data) == end and _is_whole(data):
        return end
    for offset, byte in enumerate(data, 1):
        crc = _CRC16[crc >> 8 ^ byte] ^ (crc << 8 & 0xFF00)
        if not crc:
            fitting.append(start + offset)
    sure = next((offset for offset in fitting if is_start(offset)), None)
    if sure is None:  # the frame is cut off by another recording, or something unknown follows it
        sure = find_recording(read, start + 16, min(start + TAIL_BYTES, end))
    return sure if sure is not None or not fitting else fitting[0]


def _is_whole(frame: bytes) -> bool:
    """Return whether a frame's checksum fits, using a few operations on long integers instead of one per byte.

    The checksum fits if x^16 + x^15 + x^2 + 1 = (x + 1)(x^15 + x + 1) divides the frame, taken as a polynomial over GF(2).
    Modulo the second factor, x^(15 * 2^k) equals x^(2^k) + 1, so that high bits can be folded into low ones.
    """
    rest = int.from_bytes(frame, "big")
    if rest.bit_count() & 1:
        return False
    for k in range(max(rest.bit_length() // 15, 1).bit_length(), -1, -1):
        while high := rest >> (15 << k):
            rest = rest & (1 << (15 << k)) - 1 ^ high << (1 << k) ^ high
    return not rest


def _samples_up_to(header: bytes, info: StreamInfo) -> int | None:
    """Return the number of samples up to the end of a frame; `None` if the bytes are no frame header of this stream."""
    if len(header) < 6 or header[3] & 1:
        return None
    is_variable, block_code, rate_code = header[1] & 1, header[2] >> 4, header[2] & 15
    at, number = 4, header[4]
    if number >= 0x80:  # coded like UTF-8
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
    size_bytes = {6: 1, 7: 2}.get(block_code, 0)
    if block_code == 0 or len(header) < at + size_bytes + 3:
        return None
    if size_bytes:
        samples = int.from_bytes(header[at : at + size_bytes], "big") + 1
    else:
        samples = {1: 192}.get(block_code) or (576 << block_code - 2 if block_code < 6 else 256 << block_code - 8)
    at += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for byte in header[:at]:
        crc = _CRC8[crc ^ byte]
    if at >= len(header) or crc != header[at]:
        return None
    return number + samples if is_variable else number * info.block_samples + samples
