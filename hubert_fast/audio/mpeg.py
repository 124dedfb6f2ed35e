"""Parse MPEG audio (MP3, MP2): frame headers, the tags around the audio, and the tag in the first frame.

An MP3 has no container. Encoders may begin it with a frame without sound, marked "Xing" or "Info", which states the number of
frames and bytes and how many samples to drop at both ends. Joined files have several such frames; many files have none.
Layout: ISO 11172-3 for frames; LAME's VbrTag.c for the Xing and LAME tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

DECODER_DELAY = 529  # samples that every MP3 decoder adds
LAME_DELAY = 576 + DECODER_DELAY  # assumed without a tag: LAME adds 576 samples, and most encoders are LAME
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by MPEG version: 1, 2, 2.5
_KBITS = {  # by (is version 1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SEARCHED_BYTES = 1 << 18  # distance within which to look for a first frame after junk


class Header(NamedTuple):
    """The contents of a frame's four-byte header; `bytes` is the size of the frame, `samples` its samples per channel."""

    layer: int
    sample_rate_hz: int
    channels: int
    bytes: int
    samples: int
    side_bytes: int


def parse_header(data: bytes, at: int = 0) -> Header | None:
    """Parse the frame header at `at`. Return `None` if there is none, or if it is that of a free-format frame."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    kbits, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or kbits == 15 or kbits == 0:
        return None
    rate_hz, bits, padding = _RATES_HZ[version][rate], 1000 * _KBITS[version == 3, layer][kbits], data[at + 2] >> 1 & 1
    if layer == 1:
        samples, length = 384, (12 * bits // rate_hz + padding) * 4
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        length = samples // 8 * bits // rate_hz + padding
    channels = 1 if data[at + 3] >> 6 == 3 else 2
    side = {(True, 1): 17, (True, 2): 32, (False, 1): 9, (False, 2): 17}[version == 3, channels]
    return Header(layer, rate_hz, channels, length, samples, side + (0 if data[at + 1] & 1 else 2))


def frame_length(data: bytes, at: int = 0) -> int:
    """Return the size in bytes of the frame at `at`; 0 if it, or either of the next two in `data`, is no frame of its kind."""
    first, end = parse_header(data, at), at
    if first is None:
        return 0
    for _ in range(3):
        header = parse_header(data, end)
        if header is None or (header.layer, header.sample_rate_hz) != (first.layer, first.sample_rate_hz):
            return 0
        end += header.bytes
        if end + 4 > len(data):
            break
    return first.bytes


def adts_length(data: bytes, at: int = 0) -> int:
    """Return the size in bytes of the ADTS AAC frame at `at`; 0 if it, or either of the next two in `data`, is no frame."""
    first = 0
    for _ in range(3):
        if len(data) < at + 7:
            return first
        if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] >> 2 & 15 > 12:
            return 0
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length < 8:
            return 0
        first, at = first or length, at + length
    return first


def loas_length(data: bytes, at: int = 0) -> int:
    """Return the size in bytes of the LOAS AAC frame at `at`; 0 if it, or either of the next two in `data`, is no frame."""
    first = 0
    for _ in range(3):
        if len(data) < at + 3:
            return first
        if data[at] != 0x56 or data[at + 1] & 0xE0 != 0xE0:
            return 0
        length = 3 + ((data[at + 1] & 0x1F) << 8 | data[at + 2])
        first, at = first or length, at + length
    return first


def end_of_id3v2(data: bytes, at: int = 0) -> int:
    """Return the offset after the ID3v2 tags that begin at `at`; `at` itself without one. It may lie beyond `data`."""
    while (
        data[at : at + 3] == b"ID3"
        and len(data) >= at + 10
        and data[at + 3] < 0x10
        and not any(b & 0x80 for b in data[at + 6 : at + 10])
    ):
        a, b, c, d = data[at + 6 : at + 10]
        at += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[at + 5] & 0x10 else 0)
    return at


def end_of_missized_id3v2(data: bytes) -> int:
    """Return the offset after an ID3v2 tag whose size was wrongly written as a plain number; 0 without a tag."""
    return 10 + int.from_bytes(data[6:10], "big") if data[:3] == b"ID3" and len(data) >= 10 and data[3] < 0x10 else 0


@dataclass(frozen=True)
class Tag:
    """The contents of a Xing, Info or VBRI frame, which describe the recording.

    Attributes:
        header: Header of the frame that holds the tag.
        frames: Number of frames after the tag's own, `None` if not stated.
        bytes: Size of these frames and the tag's own, `None` if not stated.
        delay: Samples to drop at the beginning, including the decoder's delay; `None` without LAME's part of the tag.
        padding: Samples to drop at the end.
    """

    header: Header
    frames: int | None
    bytes: int | None
    delay: int | None = None
    padding: int = 0

    @property
    def samples(self) -> int | None:
        """Samples in each channel, without delay and padding."""
        if self.frames is None:
            return None
        cut = LAME_DELAY if self.delay is None else self.delay - DECODER_DELAY + self.padding
        return max(self.frames * self.header.samples - cut, 0)


def parse_tag(data: bytes, at: int = 0) -> Tag | None:
    """Parse the tag in the frame at `at`: Xing's, LAME's or Fraunhofer's (VBRI). Return `None` for a frame of sound."""
    header = parse_header(data, at)
    if header is None or header.layer != 3:
        return None
    if data[at + 36 : at + 40] == b"VBRI":
        size, frames = (int.from_bytes(data[at + offset : at + offset + 4], "big") for offset in (46, 50))
        return Tag(header, frames or None, size or None)
    start = at + 4 + header.side_bytes
    if data[start : start + 4] not in (b"Xing", b"Info"):
        start = at + 4 + header.side_bytes - (2 if header.side_bytes in (11, 19, 34) else 0)  # some encoders forget the CRC
        if data[start : start + 4] not in (b"Xing", b"Info"):
            return None
    flags, position = int.from_bytes(data[start + 4 : start + 8], "big"), start + 8
    tag_frames = tag_bytes = None
    if flags & 1:
        tag_frames, position = int.from_bytes(data[position : position + 4], "big"), position + 4
    if flags & 2:
        tag_bytes, position = int.from_bytes(data[position : position + 4], "big"), position + 4
    position += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    lame = data[position : position + 24]
    is_set = lame[21:] != b"\xff\xff\xff"  # 4,095 samples at both ends: more than any encoder adds
    if len(lame) == 24 and lame[:4] in (b"LAME", b"Lavf", b"Lavc", b"GOGO") and is_set:
        delay = (lame[21] << 4 | lame[22] >> 4) + DECODER_DELAY
        return Tag(header, tag_frames, tag_bytes, delay, (lame[22] & 15) << 8 | lame[23])
    return Tag(header, tag_frames, tag_bytes)


def first_frame(data: bytes, at: int = 0) -> int | None:
    """Return the offset of the first whole frame of MPEG audio at or after `at`, or `None`."""
    while (at := data.find(b"\xff", at)) >= 0:
        if frame_length(data, at) and at + frame_length(data, at) + 4 <= len(data):
            return at
        at += 1
    return None
