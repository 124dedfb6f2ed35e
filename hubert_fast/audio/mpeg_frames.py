"""Walk through the frames of MPEG audio: how many there are, where tags lie between them, and where they end."""

from __future__ import annotations

from dataclasses import dataclass

from ..first_bytes import HEAD_BYTES
from . import mpeg
from .joined import Read, find_start, is_start, tag_end

PADDING_BYTES = 1 << 16  # of zeros between or after frames


@dataclass
class Frames:
    """Frames that follow each other from ``start`` to ``end``.

    count: how many there are. lost_seconds: for how long there are none, by the bytes between them. titles: how many titles a
    radio station's server put between them (ICY metadata).
    """

    start: int
    end: int
    count: int = 0
    lost_seconds: float = 0.0
    titles: int = 0


def frames_of(read: Read, begin: int, end: int) -> list[Frames]:
    """Return the runs of frames from ``begin`` on that tags separate, up to ``end`` or where something else begins.

    Takes 30 ms for an hour of MP3. Decoders look for the next frame without a word, and libmpg123 gives up after 1,024 bytes.
    """
    lengths: dict[bytes, int] = {}
    at, data, base, seconds_per_byte = begin, b"", begin, 0.0
    run, before = Frames(begin, begin), begin
    runs = [run]
    while at < end:
        key = data[at - base : at - base + 3]
        if len(key) < 3:
            base, data = at, read(at, min(1 << 20, end - at))
            key = data[:3]
            if len(key) < 3:
                break
        length = lengths.get(key)
        if length is None:
            header = mpeg.header_of(key + b"\xc0")
            if header is None:
                after = _tags_end(read, at, end)
                if after != at:
                    run.end = max(run.end, min(at, end))
                    if run.count and not _is_of_a_stream(read(at, 256)):
                        run = Frames(after, after)
                        runs.append(run)
                    elif not run.count:
                        run.start = after
                    before = at = after
                    continue
                start = find_start(read, before + 4, min(at, before + 4 + mpeg.SEARCHED_BYTES)) if before < at else None
                if start is not None or is_start(read(at, HEAD_BYTES)):
                    run.end = at if start is None else start
                    break
                found = next_frame(read, at + 1, end) or end
                if found == end or find_start(read, at, min(found, at + mpeg.SEARCHED_BYTES)) is not None:
                    break
                if b"StreamTitle='" in read(before, min(found - before, PADDING_BYTES)):
                    run.titles += 1
                elif read(at, min(found - at, PADDING_BYTES)).strip(b"\0"):
                    run.lost_seconds += (found - at) * seconds_per_byte
                before = at = found
                continue
            length = lengths[key] = header.bytes
            seconds_per_byte = seconds_per_byte or header.samples / header.sample_rate_hz / header.bytes
        run.count += 1
        before, at = at, at + length
        run.end = at
    run.end = min(run.end, end)
    return [run for run in runs if run.count]


def _tags_end(read: Read, at: int, end: int) -> int:
    """Return where the tags that begin at ``at`` end, ``at`` where none does."""
    start = at
    while True:
        after = min(tag_end(read, mpeg.after_id3v2(read(at, 10)) + at if read(at, 3) == b"ID3" else at, end), end)
        if after == at:
            break
        at = after
    if at != start and at < end and mpeg.header_of(read(at, 4)) is None and read(start, 3) == b"ID3":
        found = mpeg.first_frame(read(start + 10, min(mpeg.SEARCHED_BYTES, end - start - 10)))  # the tag says a wrong size
        return at if found is None else start + 10 + found
    return at


def _is_of_a_stream(head: bytes) -> bool:
    """Return whether an ID3 tag is one of those that HTTP Live Streaming puts between segments of one recording."""
    return head[:3] == b"ID3" and b"com.apple.streaming" in head


def next_frame(read: Read, at: int, end: int) -> int | None:
    """Return where the next frame at or after ``at`` begins, ``None`` without one."""
    while at < end:
        data = read(at, min(mpeg.SEARCHED_BYTES, end - at))
        found = mpeg.first_frame(data)
        if found is not None:
            return at + found
        if len(data) < mpeg.SEARCHED_BYTES:
            break
        at += len(data) - 2048
    return None
