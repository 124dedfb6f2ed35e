"""Locate the samples in WAV, W64, AIFF, AU, CAF and SPHERE files: their start, their size by the header, and their real size.

A header is written before the samples. Its sizes are wrong if the writer could not go back to correct them (a pipe, a recorder
that died), if they did not fit into 32 bits, if files were joined, or if a copy was interrupted.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

from ..first_bytes import HEAD_BYTES
from .joined import Read, end_of_padding, find_recording, starts_file
from .probing import W64

UNKNOWN_BYTES = 0x7FFF0000  # 32-bit sizes from here on are placeholders for a pipe, not real sizes
UNKNOWN_BYTES_64 = 1 << 62  # the same for 64-bit sizes
SEARCHED_BYTES = 1 << 26  # range in which to look for another recording if the claimed size cannot be right
MAX_CHUNKS = 10_000
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # ends the identifier of every W64 chunk but the first two
# Chunks that follow the samples in real files. They mark the end of the samples even if their own size is wrong.
RIFF_CHUNKS = frozenset(
    name.replace(".", " ").encode()
    for name in "LIST list INFO id3. ID3. bext cue. fact smpl inst iXML axml cart JUNK junk FLLR PEAK PAD. _PMX aXML adtl plst "
    "ltxt note labl afsp minf elm1 regn umid DISP SyLp Cr8r acid strc levl link chna dbmd MD5. ubxt resu LGWV SNDM "
    "tlst wavl slnt COMT NAME AUTH ANNO MARK INST MIDI APPL (c).".split()
)


class Samples(NamedTuple):
    """The location of the samples in a file.

    Attributes:
        start: Offset of the first byte.
        claimed_bytes: Size according to the header, `None` if it gives none.
        present_bytes: Size in the file.
        end: Offset at which the recording ends. Anything after it belongs to another file that was appended.
        more: Offset and claimed size of further chunks of samples, which some loggers write.
    """

    start: int
    claimed_bytes: int | None
    present_bytes: int
    end: int
    more: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Family:
    """The layout of the chunks in a format.

    Attributes:
        form: Size of the file's outer header in bytes.
        header: Size of a chunk's header in bytes.
        align: Every chunk begins at a multiple of this many bytes.
        order: Byte order, as in `struct`.
        data: Name of the chunk of samples.
        size_bytes: Number of bytes that hold the size in a chunk's header.
    """

    form: int
    header: int
    align: int
    order: str
    data: bytes
    size_bytes: int = 4


_WAV = _Family(12, 8, 2, "<", b"data")
_FAMILIES = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"BW64": _WAV,
    b"RIFX": _Family(12, 8, 2, ">", b"data"),
    b"FORM": _Family(12, 8, 2, ">", b"SSND"),
    b"caff": _Family(8, 12, 1, ">", b"data", 8),
    b"riff": _Family(40, 24, 8, "<", b"data", 8),
}


def find_samples(container: str, read: Read, size: int) -> Samples | None:
    """Locate the samples in a file of `size` bytes. Return `None` for other containers and for files without samples."""
    head = read(0, 1024)
    if container == "au":
        return _in_au(head, read, size)
    if container == "sphere":
        return _in_sphere(head, read, size)
    family = _FAMILIES.get(head[:4])
    return None if family is None else _in_chunks(family, head, read, size)


def _in_au(head: bytes, read: Read, size: int) -> Samples | None:
    if len(head) < 24:
        return None
    start, claimed = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    if not 24 <= start <= size:
        return None
    claimed = None if claimed >= UNKNOWN_BYTES else claimed
    return _up_to_end(start, claimed, read, size)


def _up_to_end(start: int, claimed: int | None, read: Read, size: int) -> Samples:
    """Locate samples in a format where nothing follows them, unless another file was appended."""
    if claimed is None or start + claimed >= size:
        return Samples(start, claimed, size - start, size)
    end = start + claimed
    if starts_file(read(end, HEAD_BYTES)):
        return Samples(start, claimed, claimed, end)
    is_padding = size - end < 16 or (size - end <= 1 << 16 and end_of_padding(read, end, size) == size)
    return Samples(start, claimed, claimed if is_padding else size - start, size)


def _in_sphere(head: bytes, read: Read, size: int) -> Samples | None:
    fields = dict(re.findall(rb"^(\w+) -[irs]\d* ([^\s]+)", head, re.MULTILINE))
    try:
        start = int(head[8:16])
        claimed = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1)) * int(fields[b"sample_n_bytes"])
    except (KeyError, ValueError):
        return None
    if b"," in fields.get(b"sample_coding", b""):  # compressed
        return None
    if not 0 <= start <= size or claimed < 0:
        return None
    return _up_to_end(start, claimed, read, size)


def _in_chunks(family: _Family, head: bytes, read: Read, size: int) -> Samples | None:
    at, claimed_64 = family.form, None
    for _ in range(MAX_CHUNKS):
        chunk = read(at, family.header + 28)
        if len(chunk) < family.header:
            return None
        name, claimed = _name_and_size(family, chunk)
        if name == b"ds64":  # in RF64: the sizes that do not fit into 32 bits; the second is that of the samples
            claimed_64 = struct.unpack("<Q", chunk[16:24])[0] if len(chunk) >= 24 else None
        if name == family.data:
            return _in_data_chunk(family, head, at, claimed, claimed_64, read, size)
        at += 12 if _is_list_of_samples(chunk) else family.header + max(claimed, 0)
        if not (at % family.align and read(at, 4) in (b"fmt ", family.data)):  # some writers forget to pad
            at = _aligned(family, at)
        if at >= size:
            return None
    return None


def _name_and_size(family: _Family, chunk: bytes) -> tuple[bytes, int]:
    """Return a chunk's name and the size of its body; a negative size means that it is unknown."""
    if family.form == 40:
        return chunk[:4], struct.unpack("<q", chunk[16:24])[0] - family.header
    code = family.order + ("I" if family.size_bytes == 4 else "q")
    return chunk[:4], struct.unpack(code, chunk[4 : 4 + family.size_bytes])[0]


def _aligned(family: _Family, at: int) -> int:
    return -(-at // family.align) * family.align


def _in_data_chunk(
    family: _Family, head: bytes, at: int, claimed: int, claimed_64: int | None, read: Read, size: int
) -> Samples:
    """Locate the samples in the data chunk at `at`, whose size is `claimed_64` according to RF64's `ds64` chunk."""
    start = at + family.header
    # bytes before the samples: AIFF's offset and block size, CAF's edit count
    extra = {b"SSND": 8, b"data": 4 if family.form == 8 else 0}[family.data]
    if extra == 8:
        offset = int.from_bytes(read(start, 4), "big")
        extra += offset if start + extra + offset <= size else 0
    if family.size_bytes == 4 and claimed == 0xFFFFFFFF and head[:4] in (b"RF64", b"BW64") and claimed_64:
        claimed = claimed_64
    elif (
        claimed < 0
        or claimed >= UNKNOWN_BYTES_64
        or (family.size_bytes == 4 and claimed >= UNKNOWN_BYTES and start + claimed > size)
    ):
        claimed = -1
    if claimed < 0:
        return Samples(start + extra, None, max(size - start - extra, 0), size)
    after = _aligned(family, start + claimed)
    claimed = max(claimed - extra, 0)
    if start + extra + claimed > size:
        end = find_recording(read, max(start + extra, size - SEARCHED_BYTES), size) or size
        return Samples(start + extra, claimed, max(end - start - extra, 0), end)
    rest = _rest(family, after, read, size)
    unpadded = start + extra + claimed
    if rest is None and unpadded != after:  # some writers forget to pad
        rest = _rest(family, unpadded, read, size)
    if rest is None and (cut := find_recording(read, max(start + extra, after - SEARCHED_BYTES), after)) is not None:
        return Samples(start + extra, claimed, cut - start - extra, cut)  # cut off by another recording
    if rest is None:
        return Samples(start + extra, claimed or None, size - start - extra, size)
    return Samples(start + extra, claimed, claimed, *rest)


def _rest(family: _Family, at: int, read: Read, size: int) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """Examine what follows samples that end at `at`: return the end of the recording, and further samples in it.

    Return `None` if neither chunks nor another file begin there, which means that the samples continue.
    """
    more: list[tuple[int, int]] = []
    for _ in range(MAX_CHUNKS):
        if at >= size:
            return size, tuple(more)
        chunk = read(at, max(family.header, 16))
        if starts_file(read(at, HEAD_BYTES)):
            return at, tuple(more)
        if size - at <= 1 << 16 and end_of_padding(read, at, size) == size:  # tags, or the end of a sector or tape block
            return size, tuple(more)
        if not read(at, 1 << 16).strip(b"\0"):
            return (size, tuple(more)) if more else None
        if len(chunk) < family.header or not _is_chunk(family, chunk):
            if more and not more[-1][1]:  # the writer died before it could fill in the size
                more[-1] = (more[-1][0], size - more[-1][0])
            return (size, tuple(more)) if more or size - at < 16 else None
        name, claimed = _name_and_size(family, chunk)
        is_samples = family.form == 12 and name == family.data == b"data"
        is_known = name in RIFF_CHUNKS or is_samples
        end = at + family.header + max(claimed, 0)
        if is_samples and claimed >= 0:
            more.append((at + family.header, claimed if claimed < UNKNOWN_BYTES else size - at - family.header))
        if claimed < 0 or end > size + family.align:
            return (size, tuple(more)) if is_known else None
        if _is_list_of_samples(chunk):
            end = at + 12
        if not (end % family.align and is_samples and read(end, 4) == b"data"):  # some writers forget to pad
            end = _aligned(family, end)
        at = end
    return None


def _is_list_of_samples(chunk: bytes) -> bool:
    """Return whether a chunk is a `LIST` of chunks of samples."""
    return chunk[:4] == b"LIST" and chunk[8:12] == b"wavl"


def _is_chunk(family: _Family, chunk: bytes) -> bool:
    """Return whether bytes begin with what may be a chunk's name."""
    if family.form == 40:
        return chunk[4:16] == W64_TAIL or chunk[:16] == W64
    return all(32 <= byte < 127 for byte in chunk[:4]) or chunk[:4] == b"(c) "
