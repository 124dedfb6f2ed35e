"""Find the end of MP4, Matroska, ASF, AVI, 8SVX and VOC files by the sizes they state, and recordings joined to them.

Find out also why an MP4 cannot be decoded: it lacks its index, or its audio is encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..first_bytes import HEAD_BYTES
from .joined import Read, certain_container, end_of_padding, starts_file
from .plan import MAX_RECORDINGS

MAX_INDEX_BYTES = 1 << 26  # of an MP4's moov box
MAX_BOXES = 100_000
EBML = b"\x1a\x45\xdf\xa3"
ENCRYPTED = re.compile(rb"stsd.{12}(?:drms|enca)", re.DOTALL)  # after version, count and size: the codec of the first entry
MP4_BOXES = frozenset(b"ftyp moov mdat free skip wide uuid moof mfra sidx styp pnot emsg prft meta udta".split())
SEGMENT = b"\x18\x53\x80\x67"
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def why_incomplete(container: str, read: Read, size: int) -> str | None:
    """Describe by how much a file is shorter than its header says; return `None` if it is complete or states no size."""
    find_end = _ENDS.get(container)
    end = None if find_end is None else find_end(read, size)
    if end is None or end <= size:
        return None
    return f"its header says {end:,} bytes, but the file has {size:,}"


def why_not_decodable(read: Read, size: int) -> str | None:
    """Describe which top-level box an MP4 lacks for decoding; return `None` if it lacks none."""
    names = {name for name, _, _ in _mp4_boxes(read, size)}
    if b"moof" in names and b"moov" not in names:
        return "a media segment of a stream without its initialisation segment: join them, as in `cat init.mp4 segment.m4s`"
    if b"moov" not in names:
        return "cut off: its index (the moov box) is missing, and nothing can be decoded without it"
    if not names & {b"mdat", b"moof"}:
        return (
            "cut off: it has an index, but no samples: if this is the initialisation segment of a stream, join the media "
            "segments to it, as in `cat init.mp4 segment.m4s`"
        )
    return None


def is_encrypted(read: Read, size: int) -> bool:
    """Return whether the index of an MP4 describes encrypted audio."""
    for name, start, end in _mp4_boxes(read, size):
        if name == b"moov" and ENCRYPTED.search(read(start, min(end - start, MAX_INDEX_BYTES))):
            return True
    return False


def find_recordings(container: str, read: Read, find: Callable[[bytes, int], int], size: int) -> list[tuple[int, int]]:
    """Return the start and end of every recording in a file. Most files hold only one.

    The last recording may end before the file does.

    Args:
        container: The container format, a name from `probing`.
        read: Reads bytes, as `sources.Source.read_at` does.
        find: Searches for bytes, as `sources.Source.find` does.
        size: Size of the file in bytes.
    """
    begins = [0]
    end: int | None = None
    if container == "mp4":
        has_media = False
        for name, start, after in _mp4_boxes(read, size):
            if name not in MP4_BOXES and start and _is_no_box(name, after > size, read(start, HEAD_BYTES)):
                end = start
                break
            if name == b"ftyp" and has_media:
                begins.append(start)
                has_media = False
            has_media |= name in (b"moov", b"mdat")
            end = None if after > size else after
    elif container in _CHAINABLE:
        end = _ENDS[container](read, size)
        while end and end < size and len(begins) < MAX_RECORDINGS:
            if certain_container(read(end, HEAD_BYTES)) != container or read(end + 8, 4) == b"AVIX":
                break
            base = end
            begins.append(base)
            length = _ENDS[container](lambda start, count: read(base + start, count), size - base)  # noqa: B023
            end = None if not length else base + length
    if container == "matroska" and (end is None or end > size):
        at = begins[-1]
        while (at := find(EBML, at + 4)) >= 0 and len(begins) < MAX_RECORDINGS:
            head = read(at, 64)
            if b"webm" in head or b"matroska" in head:
                begins.append(at)
    if end is not None and end < size and not _is_separate(container, read, end, size):
        end = None
    last = size if end is None or end > size else end
    return list(zip(begins, [*begins[1:], last]))


def _is_separate(container: str, read: Read, end: int, size: int) -> bool:
    """Return whether the bytes after the stated end of a file do not belong to it: another file, padding or a tag."""
    head = read(end, HEAD_BYTES)
    is_continuation = container == "avi" and head[:4] == b"RIFF" and head[8:12] == b"AVIX"
    return not is_continuation and (starts_file(head) or end_of_padding(read, end, size) == size)


def _is_no_box(name: bytes, is_too_long: bool, head: bytes) -> bool:
    """Return whether the bytes after a box of an MP4 are not another box."""
    is_tag = head[:3] == b"TAG" or head[:8] == b"APETAGEX"
    return is_tag or starts_file(head) or (is_too_long and not all(32 <= byte < 127 or byte == 0xA9 for byte in name))


def _mp4_boxes(read: Read, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each top-level box."""
    at = 0
    for _ in range(MAX_BOXES):
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
    """Parse an EBML size: return its value and its own length in bytes; `None` if it is unknown or cut off."""
    if not data or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return None if len(data) < length or value == (1 << 7 * length) - 1 else (value, length)


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
    is_broadcast = head[at + 88] & 1  # broadcasts do not state a size
    return None if is_broadcast else int.from_bytes(head[at + 40 : at + 48], "little") or None


def _riff_end(read: Read, size: int) -> int | None:
    length = int.from_bytes(read(4, 4), "little")
    return None if length >= 0x7FFF0000 or not length else 8 + length


def _form_end(read: Read, size: int) -> int | None:
    return 8 + int.from_bytes(read(4, 4), "big")


def _voc_end(read: Read, size: int) -> int | None:
    at = int.from_bytes(read(20, 2), "little")
    while at < size:
        header = read(at, 4)
        if header[0] == 0:  # the terminator is a single byte
            return at + 1
        if header[0] > 9:  # not a block: the writer stated a wrong size
            return None
        at += 4 + int.from_bytes(header[1:4], "little")
    return at


_CHAINABLE = frozenset({"matroska", "asf", "avi", "svx", "voc"})
_ENDS: dict[str, Callable[[Read, int], int | None]] = {
    "mp4": _mp4_end,
    "matroska": _matroska_end,
    "asf": _asf_end,
    "avi": _riff_end,
    "svx": _form_end,
    "voc": _voc_end,
}
