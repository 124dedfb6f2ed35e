"""Find where a WAV, W64, AIFF, AU, CAF or SPHERE file keeps its samples, how many it claims and how many there are.

Headers are written before the samples. They are wrong where the writer could not go back (a pipe, a recorder that died), where
the size did not fit into 32 bits, and where files were joined or a copy was broken off.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

from ..first_bytes import HEAD_BYTES
from .joined import Read, find_start, is_start, padding_end
from .probing import W64

STREAMED_BYTES = 0x7FFF0000  # 32-bit sizes from here on are what writers to a pipe put; sizes that fit nobody
STREAMED_WIDE_BYTES = 1 << 62  # the like of 64-bit sizes
SEARCHED_BYTES = 1 << 26  # for another recording within what a header claims, where that cannot be right
MOST_CHUNKS = 10_000
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the identifiers of all chunks but the first two
# Chunks that follow samples in the wild. One of these ends the samples even where its own size is wrong.
RIFF_CHUNKS = frozenset(
    name.replace(".", " ").encode()
    for name in "LIST list INFO id3. ID3. bext cue. fact smpl inst iXML axml cart JUNK junk FLLR PEAK PAD. _PMX aXML adtl plst "
    "ltxt note labl afsp minf elm1 regn umid DISP SyLp Cr8r acid strc levl link chna dbmd MD5. ubxt resu LGWV SNDM "
    "tlst wavl slnt COMT NAME AUTH ANNO MARK INST MIDI APPL (c).".split()
)


class Samples(NamedTuple):
    """Where samples lie in a file.

    start: their first byte. claimed: bytes by the header, ``None`` where it gives no length. there: bytes that there are.
    end: where the recording ends in the file; what is beyond belongs to another one that was joined to it. more: start and
    claimed bytes of further chunks of samples, which some loggers write.
    """

    start: int
    claimed: int | None
    there: int
    end: int
    more: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Family:
    """How chunks are laid out. form: bytes of the outer header. header: bytes of a chunk's. align: of what follows a chunk."""

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


def samples_of(container: str, read: Read, size: int) -> Samples | None:
    """Find the samples of a file of ``size`` bytes. ``None`` where the container is another or has no samples."""
    head = read(0, 1024)
    if container == "au":
        return _of_au(head, read, size)
    if container == "sphere":
        return _of_sphere(head, read, size)
    family = _FAMILIES.get(head[:4])
    return None if family is None else _of_chunks(family, head, read, size)


def _of_au(head: bytes, read: Read, size: int) -> Samples | None:
    if len(head) < 24:
        return None
    start, claimed = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    if not 24 <= start <= size:
        return None
    claimed = None if claimed >= STREAMED_BYTES else claimed
    return _of_all(start, claimed, read, size)


def _of_all(start: int, claimed: int | None, read: Read, size: int) -> Samples:
    """Return the samples of a file that has nothing after them, unless another was joined to it."""
    if claimed is None or start + claimed >= size:
        return Samples(start, claimed, size - start, size)
    end = start + claimed
    if is_start(read(end, HEAD_BYTES)):
        return Samples(start, claimed, claimed, end)
    is_padding = size - end < 16 or (size - end <= 1 << 16 and padding_end(read, end, size) == size)
    return Samples(start, claimed, claimed if is_padding else size - start, size)


def _of_sphere(head: bytes, read: Read, size: int) -> Samples | None:
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
    return _of_all(start, claimed, read, size)


def _of_chunks(family: _Family, head: bytes, read: Read, size: int) -> Samples | None:
    at, wide = family.form, None
    for _ in range(MOST_CHUNKS):
        chunk = read(at, family.header + 28)
        if len(chunk) < family.header:
            return None
        name, claimed = _named(family, chunk)
        if name == b"ds64":  # of RF64: sizes that do not fit into 32 bits; the second is that of the samples
            wide = struct.unpack("<Q", chunk[16:24])[0] if len(chunk) >= 24 else None
        if name == family.data:
            return _found(family, head, at, claimed, wide, read, size)
        at += 12 if _is_list_of_samples(chunk) else family.header + max(claimed, 0)
        if not (at % family.align and read(at, 4) in (b"fmt ", family.data)):  # writers forget to pad
            at = _aligned(family, at)
        if at >= size:
            return None
    return None


def _named(family: _Family, chunk: bytes) -> tuple[bytes, int]:
    """Return a chunk's name and the bytes in it after its header; less than 0 for no length."""
    if family.form == 40:
        return chunk[:4], struct.unpack("<q", chunk[16:24])[0] - family.header
    return chunk[:4], struct.unpack(family.order + ("I" if family.size_bytes == 4 else "q"), chunk[4 : 4 + family.size_bytes])[
        0
    ]


def _aligned(family: _Family, at: int) -> int:
    return -(-at // family.align) * family.align


def _found(family: _Family, head: bytes, at: int, claimed: int, wide: int | None, read: Read, size: int) -> Samples:
    start = at + family.header
    extra = {b"SSND": 8, b"data": 4 if family.form == 8 else 0}[family.data]  # offset and block size of AIFF, edit count of CAF
    if extra == 8:
        offset = int.from_bytes(read(start, 4), "big")
        extra += offset if start + extra + offset <= size else 0
    if family.size_bytes == 4 and claimed == 0xFFFFFFFF and head[:4] in (b"RF64", b"BW64") and wide:
        claimed = wide
    elif (
        claimed < 0
        or claimed >= STREAMED_WIDE_BYTES
        or (family.size_bytes == 4 and claimed >= STREAMED_BYTES and start + claimed > size)
    ):
        claimed = -1
    if claimed < 0:
        return Samples(start + extra, None, max(size - start - extra, 0), size)
    after = _aligned(family, start + claimed)
    claimed = max(claimed - extra, 0)
    if start + extra + claimed > size:
        end = find_start(read, max(start + extra, size - SEARCHED_BYTES), size) or size
        return Samples(start + extra, claimed, max(end - start - extra, 0), end)
    rest = _rest(family, after, read, size)
    unaligned = start + extra + claimed  # writers that forget to pad
    if rest is None and unaligned != after:
        rest = _rest(family, unaligned, read, size)
    if rest is None and (cut := find_start(read, max(start + extra, after - SEARCHED_BYTES), after)) is not None:
        return Samples(start + extra, claimed, cut - start - extra, cut)  # cut off by another recording
    if rest is None:
        return Samples(start + extra, claimed or None, size - start - extra, size)
    return Samples(start + extra, claimed, claimed, *rest)


def _rest(family: _Family, at: int, read: Read, size: int) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """Return where the recording ends whose samples end at ``at``, and further samples in it.

    Return ``None`` when what follows is neither chunks nor a file, so that the samples go on there.
    """
    more: list[tuple[int, int]] = []
    for _ in range(MOST_CHUNKS):
        if at >= size:
            return size, tuple(more)
        chunk = read(at, max(family.header, 16))
        if is_start(read(at, HEAD_BYTES)):
            return at, tuple(more)
        if size - at <= 1 << 16 and padding_end(read, at, size) == size:  # tags, or the end of a sector or a tape block
            return size, tuple(more)
        if not read(at, 1 << 16).strip(b"\0"):
            return (size, tuple(more)) if more else None
        if len(chunk) < family.header or not _is_name(family, chunk):
            if more and not more[-1][1]:  # its writer died before it could put the size
                more[-1] = (more[-1][0], size - more[-1][0])
            return (size, tuple(more)) if more or size - at < 16 else None
        name, claimed = _named(family, chunk)
        is_samples = family.form == 12 and name == family.data == b"data"
        is_known = name in RIFF_CHUNKS or is_samples
        end = at + family.header + max(claimed, 0)
        if is_samples and claimed >= 0:
            more.append((at + family.header, claimed if claimed < STREAMED_BYTES else size - at - family.header))
        if claimed < 0 or end > size + family.align:
            return (size, tuple(more)) if is_known else None
        if _is_list_of_samples(chunk):
            end = at + 12
        if not (end % family.align and is_samples and read(end, 4) == b"data"):  # writers forget to pad
            end = _aligned(family, end)
        at = end
    return None


def _is_list_of_samples(chunk: bytes) -> bool:
    """Return whether a chunk is a ``LIST`` that holds chunks of samples."""
    return chunk[:4] == b"LIST" and chunk[8:12] == b"wavl"


def _is_name(family: _Family, chunk: bytes) -> bool:
    if family.form == 40:
        return chunk[4:16] == W64_TAIL or chunk[:16] == W64
    return all(32 <= byte < 127 for byte in chunk[:4]) or chunk[:4] == b"(c) "
