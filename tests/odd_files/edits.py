"""Edit the bytes of files: tags around audio, chunks and sizes of WAV and its relatives, cuts and damage."""

from __future__ import annotations

import random
import struct
import zlib

SIZE_UNKNOWN = 0xFFFFFFFF


def chunk(name: bytes, data: bytes, size: int | None = None, order: str = "<") -> bytes:
    """Return a chunk, padded to an even length. size: the size in its header, by default the right one."""
    return name + struct.pack(order + "I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def riff(body: bytes, size: int | None = None) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4 if size is None else size) + b"WAVE" + body


def fmt(rate_hz: int, *, bits: int = 16, channels: int = 1, tag: int = 1) -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * block, block, bits))


def put(data: bytes, at: int, new: bytes) -> bytes:
    """Return `data` with the bytes from `at` on replaced."""
    return data[:at] + new + data[at + len(new) :]


def cut(data: bytes, share: float) -> bytes:
    """Return the first part of a file, with an odd number of bytes."""
    return data[: int(len(data) * share) | 1]


def damaged(data: bytes, share: float, count: int) -> bytes:
    """Return `data` with `count` bytes replaced by random ones, the same ones each time. share: position of the first."""
    at = int(len(data) * share)
    return put(data, at, random.Random(17).randbytes(count))


def syncsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3v2(name: bytes, body: bytes, version: int = 3) -> bytes:
    """Return an ID3v2 tag of one frame."""
    frame = name + (syncsafe(len(body)) if version == 4 else struct.pack(">I", len(body))) + b"\0\0" + body
    return b"ID3" + bytes([version, 0, 0]) + syncsafe(len(frame)) + frame


def id3v1() -> bytes:
    return b"TAG" + b"steps".ljust(125, b"\0")


def ape_tag() -> bytes:
    """Return an APEv2 tag with a header."""
    item = struct.pack("<II", 5, 0) + b"Title\0" + b"steps"
    ends = [b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8) for flags in (0xA0000000, 0x80000000)]
    return ends[0] + item + ends[1]


def png(side: int = 24) -> bytes:
    """Return a PNG of noise, which does not compress."""
    noise = random.Random(17)
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))
    image, header = b"\x89PNG\r\n\x1a\n", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    for body in (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND"):
        image += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return image


def picture() -> bytes:
    """Return the body of an APIC frame."""
    return b"\0image/png\0\3\0" + png()


def mpeg_frames(data: bytes) -> list[bytes]:
    """Split untagged MPEG-2 layer III audio at 16 kHz, one channel, into frames."""
    kbits, frames, at = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160), [], 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = 72 * 1000 * kbits[data[at + 2] >> 4] // 16000 + (data[at + 2] >> 1 & 1)
        frames.append(data[at : at + length])
        at += length
    return frames


def vbri_frame(bare: bytes) -> bytes:
    """Return the frame without sound that Fraunhofer's encoders put first: it states the number of frames and of bytes."""
    frames = mpeg_frames(bare)
    head = bytes([bare[0], bare[1], 0x50 | bare[2] & 0x0C, bare[3]])  # 40 kb/s: room for the tag
    size = len(bare) + 180
    tag = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, size, len(frames) + 1, 1, 1, 2, len(frames)) + struct.pack(">H", size)
    return (head + bytes(32) + tag).ljust(180, b"\0")


def pages(ogg: bytes) -> list[bytes]:
    """Split Ogg into pages."""
    split, at = [], 0
    while at < len(ogg):
        count = ogg[at + 26]
        length = 27 + count + sum(ogg[at + 27 : at + 27 + count])
        split.append(ogg[at : at + length])
        at += length
    return split


def edited(page: bytes, flags: int | None = None, serial: int | None = None) -> bytes:
    """Return an Ogg page with other flags or another serial number, and a matching checksum."""
    page = page if flags is None else put(page, 5, bytes([flags]))
    page = put(page if serial is None else put(page, 14, struct.pack("<I", serial)), 22, bytes(4))
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return put(page, 22, struct.pack("<I", crc))


def with_serial(ogg: bytes, serial: int) -> bytes:
    """Return single-stream Ogg with a fixed serial number."""
    return b"".join(edited(page, serial=serial) for page in pages(ogg))


def flac_samples(flac: bytes, count: int) -> bytes:
    """Return FLAC with `count` samples according to its header."""
    packed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | count
    return put(flac, 18, packed.to_bytes(8, "big"))


def without_padding(flac: bytes) -> bytes:
    """Return FLAC without padding blocks, of which FFmpeg writes 8 kB."""
    at, blocks, is_last = 4, [], False
    while not is_last:
        is_last, kind, end = flac[at] & 0x80, flac[at] & 0x7F, at + 4 + int.from_bytes(flac[at + 1 : at + 4], "big")
        blocks += [] if kind == 1 else [bytes([kind]) + flac[at + 1 : end]]
        at = end
    blocks[-1] = bytes([blocks[-1][0] | 0x80]) + blocks[-1][1:]
    return flac[:4] + b"".join(blocks) + flac[at:]
