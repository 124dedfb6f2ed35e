"""Plan how streams are decoded that have no header of the whole, or one that is often wrong: FLAC, MPEG audio and Ogg."""

from __future__ import annotations

from ..first_bytes import HEAD_BYTES
from . import flac, joined, mpeg, mpeg_frames, ogg
from .errors import AudioError
from .joined import is_start, tag_end
from .plan import MISSING_SECONDS, MOST_JOINED, Part, Plan
from .sources import Source

JUNK_BYTES = 1 << 22  # before the first frame of MPEG audio


def flac_start(source: Source) -> int:
    """Return where FLAC begins after an ID3 tag; 0 at the beginning of the file, and for no FLAC."""
    start = mpeg.after_id3v2(source.read_at(0, 10))
    return start if start and source.read_at(start, 4) == b"fLaC" else 0


def of_flac(source: Source, start: int) -> Plan:
    """Plan the FLAC stream that begins at ``start``; other recordings may follow it."""
    limit, at = source.size, start + 42
    while source.is_local and (at := source.find(b"fLaC\0\0\0\x22", at)) >= 0:
        if flac.stream_info(source.read_at, at) is not None:  # not eight bytes of sound that look so
            limit = at
            break
        at += 4
    info = flac.stream_info(source.read_at, start)
    plan = Plan([Part("libsndfile", "flac", start, limit, is_all=limit == source.size and not start)], end=limit)
    if info is None or not info.sample_rate_hz:
        return plan
    last, plan.end = _last_of_flac(source, start, limit, info)
    part, rate_hz = plan.parts[0], info.sample_rate_hz
    part.end, part.is_all = plan.end, part.is_all and plan.end == source.size
    samples = None if last is None else last.samples
    part.seconds = (info.samples or samples or 0) / rate_hz or None
    if info.samples and samples is None and limit - start <= flac.TAIL_BYTES:
        plan.cut = f"{info.samples / rate_hz:.1f} s long by its header, but none of it is there"
    if not info.samples or samples is None or samples == info.samples:
        return plan
    part.decoder, part.seconds = "ffmpeg", samples / rate_hz
    if samples < info.samples:
        plan.cut = f"{info.samples / rate_hz:.1f} s long by its header, but it ends after {samples / rate_hz:.1f} s"
    else:
        plan.notes.append(
            f"the header says {info.samples / rate_hz:.1f} s, but there are {samples / rate_hz:.1f} s: all are decoded"
        )
    return plan


def _last_of_flac(source: Source, start: int, limit: int, info: flac.StreamInfo) -> tuple[flac.LastFrame | None, int]:
    """Return the last frame of the stream that begins at ``start``, and where the stream ends: ``limit`` or before."""
    read = source.read_at

    def is_end(at: int) -> bool:
        return at == limit or is_start(read(at, HEAD_BYTES)) or tag_end(read, at, limit) != at

    last = flac.last_frame(read, start, limit, info)
    end = None if last is None else flac.end_of_frame(read, last.start, limit, is_end)
    if end == limit or not info.samples:
        return last, end if end is not None and is_end(end) else limit
    by_header = flac.frame_of_last_sample(read, start, limit, info)  # other recordings may follow it
    if by_header is None:
        return last, limit
    end = flac.end_of_frame(read, by_header.start, limit, is_end)
    if end is None or read(end, 2) in (b"\xff\xf8", b"\xff\xf9"):  # frames go on after what the header says
        return last, limit
    return by_header, end


def of_mpeg(source: Source, start: int) -> Plan:
    """Plan MPEG audio whose first frame is at ``start`` or after junk there; other recordings may follow it."""
    begin = _first_frame(source, start)
    runs = [] if begin is None else mpeg_frames.frames_of(source.read_at, begin, source.size)
    if not runs:
        has_tag = source.read_at(0, 3) == b"ID3"
        what = "an ID3 tag, but no MPEG audio after it" if has_tag else "a frame of MPEG audio is not whole"
        raise AudioError(f"not audio in a format that is known: {what}")
    first, tag = runs[0], mpeg.tag_of(source.read_at(begin, 2048))
    end = joined.padding_end(source.read_at, runs[-1].end, source.size)
    is_whole = len(runs) == 1 and not first.lost_seconds and not first.titles
    if is_whole and tag is not None and tag.delay is not None and _is_right(tag, first):
        is_all = end == source.size and begin == mpeg.after_id3v2(source.read_at(0, 10))  # libsndfile skips tags
        part_start, part_end = (0, end) if is_all else (first.start, first.end)
        return Plan([Part("libsndfile", "mpeg", part_start, part_end, seconds=_seconds(tag), is_all=is_all)], end=end)
    plan = Plan([], end=end)
    cuts = {run.start for run in runs} | set(_tagged_frames(source, begin, runs[-1].end))
    begins = sorted(cuts)[:MOST_JOINED]
    if len(begins) == len(runs):
        walked = [[run] for run in runs]
    else:  # a tag lies within a run
        stops = [*begins[1:], runs[-1].end]
        walked = [mpeg_frames.frames_of(source.read_at, at, stop)[:1] for at, stop in zip(begins, stops)]
    for number, found in enumerate(walked, 1):
        for run in found:
            _add_mpeg(source, plan, run, number, len(begins))
    return plan


def _first_frame(source: Source, start: int) -> int | None:
    """Return where the first frame is: at ``start`` or after junk, or within a tag whose size is wrong."""
    read, size = source.read_at, source.size
    if start and mpeg.header_of(read(start, 4)) is None:
        found = mpeg_frames.next_frame(read, 10, min(size, start, JUNK_BYTES))
        if start >= size:
            return found
        runs = [] if found is None else mpeg_frames.frames_of(read, found, start)
        if len(runs) == 1 and runs[0].count > 3 and not runs[0].lost_seconds:  # the tag says too much
            return found
    return mpeg_frames.next_frame(read, start, min(size, start + JUNK_BYTES))


def _is_right(tag: mpeg.Tag, run: mpeg_frames.Frames) -> bool:
    """Return whether the frames and the bytes are as many as the tag says; writers count with or without its own frame."""
    if not tag.frames or not tag.bytes:
        return False
    return abs(tag.frames + 1 - run.count) <= 1 and abs(tag.bytes - (run.end - run.start)) <= 2 * tag.header.bytes + 16


def _add_mpeg(source: Source, plan: Plan, run: mpeg_frames.Frames, number: int, count: int) -> None:
    """Add the part of a run of frames: each recording has an encoder's delay of its own, which would be heard in the middle."""
    plan.broken_seconds += run.lost_seconds
    if run.titles:
        times = "once" if run.titles == 1 else f"{run.titles} times"
        plan.notes.append(f"a radio station's title interrupts a frame {times}: the sound there may be wrong")
    tag = mpeg.tag_of(source.read_at(run.start, 2048))
    part = Part("ffmpeg", "mpeg", run.start, run.end, is_all=False)
    plan.parts.append(part)
    if tag is None or not tag.frames:
        return
    promised, there = _seconds(tag), (run.count - 1) * tag.header.samples / tag.header.sample_rate_hz
    if _is_right(tag, run) or (not tag.bytes and abs(tag.frames + 1 - run.count) <= 1):
        part.seconds = promised
        part.start += tag.header.bytes if tag.delay is None else 0  # FFmpeg would believe a delay that cannot be right
        return
    if tag.bytes and abs(tag.bytes - (run.end - run.start)) <= 2 * tag.header.bytes + 16:  # all there, but counted wrong
        part.start += tag.header.bytes  # FFmpeg would believe it
        if abs(promised - there) > MISSING_SECONDS:
            plan.notes.append(f"the header says {promised:.1f} s, but there are {there:.1f} s: all are decoded")
        return
    if promised - there > MISSING_SECONDS:
        text = f"{promised:.1f} s long by its header, but it ends after {there:.1f} s"
        if count == 1:
            plan.cut = text
        else:
            plan.notes.append(f"recording {number} of {count} in this file is cut off: {text}")
    elif there - promised > MISSING_SECONDS and count == 1:
        plan.notes.append(f"the header says {promised:.1f} s, but there is more: {there:.1f} s are decoded")


def _seconds(tag: mpeg.Tag) -> float:
    return (tag.samples or 0) / tag.header.sample_rate_hz


def _tagged_frames(source: Source, begin: int, end: int) -> list[int]:
    found = []
    for mark in (b"Xing", b"Info"):
        at = begin
        while source.is_local and 0 <= (at := source.find(mark, at)) < end and len(found) < MOST_JOINED:
            for back in (13, 15, 21, 23, 36, 38):  # header and side information, with or without a CRC
                if at - back >= begin and mpeg.tag_of(source.read_at(at - back, 256)) is not None:
                    found.append(at - back)
                    break
            at += 4
    return found


def of_ogg(source: Source) -> Plan:
    """Plan the links of an Ogg file."""
    pages = ogg.pages_of(source.read_at, source.size)
    source.check()
    if not pages.links:
        raise AudioError("an Ogg file whose beginning is missing: no stream begins in it")
    plan = Plan([], end=pages.end)
    links = [link for link in pages.links if any(link.codecs.values())]
    if not links:
        raise AudioError("this Ogg file has no audio in Vorbis, Opus, FLAC or Speex")
    for link in links:
        codecs = list(link.codecs.values())
        by_libsndfile = len(codecs) == 1 and codecs[0] in ("vorbis", "opus")
        part = Part("libsndfile" if by_libsndfile else "ffmpeg", "ogg", link.start, link.end)
        part.is_all = link.start == 0 and link.end == source.size
        part.seconds = link.seconds
        plan.parts.append(part)
    last = links[-1]
    if pages.missing:
        plan.cut = f"the Ogg stream has no end, and its last page lacks {pages.missing:,} bytes"
    elif not last.ends and not last.last:
        plan.cut = "the Ogg stream ends after its header"
    elif not last.ends:
        plan.notes.append("the Ogg stream has no mark at its end: decoded up to its last page")
    if pages.damaged:
        places = "1 damaged place was" if pages.damaged == 1 else f"{pages.damaged} damaged places were"
        plan.notes.append(f"{places} skipped")
    if len(links) < len(pages.links):
        without = len(pages.links) - len(links)
        was = "was" if without == 1 else "were"
        plan.notes.append(f"{without} of the {len(pages.links)} streams in this Ogg file had no audio and {was} skipped")
    return plan
