"""Find the end of AAC, AC-3, AMR, FLV, MPEG-TS, TTA and WavPack streams, whose headers do not state a size in bytes.

FFmpeg would look for further packets in whatever follows, and decode noise or fail. Layouts: ISO 14496-3 (ADTS, LOAS), ATSC
A/52, RFC 4867 (AMR), Adobe's FLV specification, ISO 13818-1, and the format descriptions of TTA and WavPack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..first_bytes import HEAD_BYTES
from .joined import Read, find_recording, starts_file

PIECE_BYTES = 1 << 20
RESYNC_BYTES = 1 << 22  # distance after a damaged packet within which to look for the next one
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AMR_BYTES = (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0)  # after the first byte, by frame type
_AMR_WB_BYTES = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)


def _adts(head: bytes) -> int:
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 8 else 0


def _loas(head: bytes) -> int:
    return 3 + ((head[1] & 0x1F) << 8 | head[2]) if head[0] == 0x56 and head[1] & 0xE0 == 0xE0 else 0


def _ac3(head: bytes) -> int:
    if head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:  # E-AC-3
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1)
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code >> 1]
    return (4 * kbits, 2 * (kbits * 96000 // 44100 + (code & 1)), 6 * kbits)[rate]


def _amr(head: bytes) -> int:
    return 0 if head[0] & 0x83 else 1 + _AMR_BYTES[head[0] >> 3 & 15]


def _amr_wb(head: bytes) -> int:
    return 0 if head[0] & 0x83 else 1 + _AMR_WB_BYTES[head[0] >> 3 & 15]


def _flv(head: bytes) -> int:
    return 15 + int.from_bytes(head[1:4], "big") if head[0] in (8, 9, 18) else 0


def _mpeg_ts(head: bytes) -> int:
    return 188 if head[0] == 0x47 else 0


def _m2ts(head: bytes) -> int:
    return 192 if head[4] == 0x47 else 0


def _wavpack(head: bytes) -> int:
    return 8 + int.from_bytes(head[4:8], "little") if head[:4] == b"wvpk" else 0


class _Kind(NamedTuple):
    """The packets of a format.

    Attributes:
        length: Function that returns the size of a packet in bytes, given its first `header_bytes`; 0 if it is no packet.
        header_bytes: Bytes that `length` needs.
        sync: Pattern of a packet's first bytes, `None` if they are too common to search for.
    """

    length: Callable[[bytes], int]
    header_bytes: int
    sync: re.Pattern[bytes] | None = None


_KINDS = {
    "aac": _Kind(_adts, 7, re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    "loas": _Kind(_loas, 3, re.compile(rb"\x56[\xe0-\xff]")),
    "ac3": _Kind(_ac3, 6, re.compile(rb"\x0b\x77")),
    "amr": _Kind(_amr, 1),
    "amr-wb": _Kind(_amr_wb, 1),
    "flv": _Kind(_flv, 4),
    "mpeg-ts": _Kind(_mpeg_ts, 1, re.compile(rb"G(?=.{187}G.{187}G)", re.DOTALL)),
    "m2ts": _Kind(_m2ts, 5, re.compile(rb"(?=.{4}G.{191}G.{191}G)", re.DOTALL)),
    "wavpack": _Kind(_wavpack, 28, re.compile(rb"wvpk")),
}


def end_of_stream(container: str, read: Read, size: int) -> int | None:
    """Return the offset after the stream at the beginning of a file; `None` for containers that are not handled here."""
    head = read(0, 32)
    if container == "tta":
        return _tta_end(head, read, size)
    if container == "amr":
        container = "amr-wb" if head[:9] == b"#!AMR-WB\n" else "amr"
    start = {"amr": 6, "amr-wb": 9, "flv": int.from_bytes(head[5:9], "big") + 4}.get(container, 0)
    kind = _KINDS.get(container)
    first = read(start, 32)
    if kind is None or head[:7] == b"#!AMR_M" or len(first) < kind.header_bytes or not kind.length(first):
        return None
    if container in ("mpeg-ts", "m2ts") and _ends_with_packet(kind, read, size):  # avoids a walk through gigabytes of video
        return None
    while True:
        before, at = _walk(container, kind, read, start, size)
        if at >= size:
            return size
        if starts_file(read(at, HEAD_BYTES)):
            return at
        recording = find_recording(read, before + 1, at)
        if recording is not None:  # it cuts off the last packet
            return recording
        packet = _next_packet(kind, read, at + 1, size)
        if packet is None or find_recording(read, at, min(packet, at + RESYNC_BYTES)) is not None:
            return at
        start = packet


def _ends_with_packet(kind: _Kind, read: Read, size: int) -> bool:
    length = kind.length(read(0, 32))
    return size % length == 0 and kind.length(read(size - length, 32)) == length


def _walk(container: str, kind: _Kind, read: Read, at: int, size: int) -> tuple[int, int]:
    """Walk consecutive packets from `at` on, and return the start and end of the last one."""
    first, before, base, data = at, at, at, b""
    while at < size:
        head = data[at - base : at - base + kind.header_bytes]
        if len(head) < kind.header_bytes:
            base, data = at, read(at, PIECE_BYTES)
            head = data[: kind.header_bytes]
            if len(head) < kind.header_bytes:
                break
        length = kind.length(head)
        if not length or (container == "wavpack" and at > first and _begins_wavpack(head)):
            break
        before, at = at, at + length
    return before, min(at, size)


def _begins_wavpack(head: bytes) -> bool:
    """Return whether a WavPack block is the first of a recording: it holds sample 0, and the first channels."""
    return head[16:20] == bytes(4) and bool(head[25] & 8)


def _next_packet(kind: _Kind, read: Read, at: int, size: int) -> int | None:
    """Return the offset of the next packet that two more follow, or `None`."""
    end = min(size, at + RESYNC_BYTES)
    while kind.sync is not None and at < end:
        data = read(at, PIECE_BYTES)
        for match in kind.sync.finditer(data):
            offset = at + match.start()
            for _ in range(3):
                head = read(offset, kind.header_bytes)
                length = kind.length(head) if len(head) == kind.header_bytes else 0
                if not length:
                    break
                offset += length
            else:
                return at + match.start()
        at += max(len(data) - 400, 1)
    return None


def _tta_end(head: bytes, read: Read, size: int) -> int | None:
    rate_hz, samples = (int.from_bytes(head[at : at + 4], "little") for at in (10, 14))
    if not rate_hz or head[:4] != b"TTA1":
        return None
    count = -(-samples // (256 * rate_hz // 245))
    table = read(22, 4 * count) if 26 + 4 * count <= size else b""
    if not table:
        return None
    end = 26 + 4 * count + sum(int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), 4))
    return end if end <= size else None
