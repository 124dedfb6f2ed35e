"""Plan the decoding of FLAC, MPEG audio and Ogg: streams whose header often lacks the length, or is wrong about it."""

from __future__ import annotations

from ..first_bytes import HEAD_BYTES
from . import flac, joined, mpeg, mpeg_frames, ogg
from .errors import AudioError
from .joined import end_of_tags, starts_file
from .plan import MAX_RECORDINGS, TOLERATED_SECONDS, Part, Plan
from .sources import Source

JUNK_BYTES = 1 << 22  # distance within which to look for the first frame of MPEG audio, or for another recording


def flac_start(source: Source) -> int:
    """Return the offset of a FLAC stream after an ID3 tag; 0 without a tag, and if no FLAC follows it."""
    start = mpeg.end_of_id3v2(source.read_at(0, 10))
    return start if start and source.read_at(start, 4) == b"fLaC" else 0


def plan_flac(source: Source, start: int) -> Plan:
    """Plan the FLAC stream that begins at `start`; other recordings may follow it."""
    limit, at = source.size, start + 42
    while source.is_local and (at := source.find(b"fLaC\0\0\0\x22", at)) >= 0:
        if flac.stream_info(source.read_at, at) is not None:  # otherwise a chance match within the sound
            limit = at
            break
        at += 4
    info = flac.stream_info(source.read_at, start)
    plan = Plan([Part("libsndfile", "flac", start, limit, is_whole_file=limit == source.size and not start)], end=limit)
    if info is None or not info.sample_rate_hz:
        return plan
    last, plan.end = _last_flac_frame(source, start, limit, info)
    part, rate_hz = plan.parts[0], info.sample_rate_hz
    part.end, part.is_whole_file = plan.end, part.is_whole_file and plan.end == source.size
    samples = None if last is None else last.samples
    part.seconds = (info.samples or samples or 0) / rate_hz or None
    if info.samples and samples is None and limit - start <= flac.TAIL_BYTES:
        plan.truncation = f"its header says {info.samples / rate_hz:.1f} s, but the file has no frame of audio"
    if not info.samples or samples is None or samples == info.samples:
        return plan
    part.decoder, part.seconds = "ffmpeg", samples / rate_hz
    if samples < info.samples:
        plan.truncation = f"its header says {info.samples / rate_hz:.1f} s, but it ends after {samples / rate_hz:.1f} s"
    else:
        plan.notes.append(
            f"its header says {info.samples / rate_hz:.1f} s, but the file has {samples / rate_hz:.1f} s: all of it is decoded"
        )
    return plan


def _last_flac_frame(source: Source, start: int, limit: int, info: flac.StreamInfo) -> tuple[flac.LastFrame | None, int]:
    """Return the last frame of the stream that begins at `start`, and the stream's end, which is at most `limit`."""
    read = source.read_at

    def is_end(at: int) -> bool:
        return at == limit or starts_file(read(at, HEAD_BYTES)) or end_of_tags(read, at, limit) != at

    last = flac.last_frame(read, start, limit, info)
    end = None if last is None else flac.end_of_frame(read, last.start, limit, is_end)
    if end == limit or not info.samples:
        return last, end if end is not None and is_end(end) else limit
    by_header = flac.frame_of_last_sample(read, start, limit, info)  # other recordings may follow it
    if by_header is None:
        return last, limit
    end = flac.end_of_frame(read, by_header.start, limit, is_end)
    if end is None or read(end, 2) in (b"\xff\xf8", b"\xff\xf9"):  # more frames than the header says
        return last, limit
    return by_header, end


def plan_mpeg(source: Source, start: int) -> Plan:
    """Plan MPEG audio whose first frame is at `start`, or follows junk there; other recordings may follow it."""
    begin = _first_frame(source, start)
    runs = [] if begin is None else mpeg_frames.walk_frames(source.read_at, begin, source.size)
    if begin is None or not runs:
        has_tag = source.read_at(0, 3) == b"ID3"
        what = "an ID3 tag, but no MPEG audio after it" if has_tag else "a frame of MPEG audio that is cut off"
        raise AudioError(f"not audio in a known format: {what}")
    first, tag = runs[0], mpeg.parse_tag(source.read_at(begin, 2048))
    end = joined.end_of_padding(source.read_at, runs[-1].end, source.size)
    is_intact = len(runs) == 1 and not first.lost_seconds and not first.titles
    if is_intact and tag is not None and tag.delay is not None and _is_right(tag, first):
        is_whole_file = end == source.size and begin == mpeg.end_of_id3v2(source.read_at(0, 10))  # libsndfile skips tags
        part_start, part_end = (0, end) if is_whole_file else (first.start, first.end)
        part = Part("libsndfile", "mpeg", part_start, part_end, seconds=_seconds(tag), is_whole_file=is_whole_file)
        return Plan([part], end=end)
    plan = Plan([], end=end)
    starts = sorted({run.start for run in runs} | set(_tagged_frames(source, begin, runs[-1].end)))[:MAX_RECORDINGS]
    if len(starts) == len(runs):
        recordings = [[run] for run in runs]
    else:  # a frame with a tag lies within a run
        stops = [*starts[1:], runs[-1].end]
        recordings = [mpeg_frames.walk_frames(source.read_at, at, stop)[:1] for at, stop in zip(starts, stops)]
    for number, recording in enumerate(recordings, 1):
        for run in recording:
            _add_mpeg_run(source, plan, run, number, len(starts))
    return plan


def _first_frame(source: Source, start: int) -> int | None:
    """Return the offset of the first frame: at `start`, after junk there, or inside an ID3 tag whose size is wrong."""
    read, size = source.read_at, source.size
    if start and mpeg.parse_header(read(start, 4)) is None:
        in_tag = mpeg_frames.next_frame(read, 10, min(size, start, JUNK_BYTES))
        if start >= size:
            return in_tag
        runs = [] if in_tag is None else mpeg_frames.walk_frames(read, in_tag, start)
        if len(runs) == 1 and runs[0].count > 3 and not runs[0].lost_seconds:  # the tag claims too many bytes
            return in_tag
    return mpeg_frames.next_frame(read, start, min(size, start + JUNK_BYTES))


def _is_right(tag: mpeg.Tag, run: mpeg_frames.FrameRun) -> bool:
    """Return whether a tag states the right number of frames and bytes. Some writers count the tag's own frame."""
    if not tag.frames or not tag.bytes:
        return False
    return abs(tag.frames + 1 - run.count) <= 1 and abs(tag.bytes - (run.end - run.start)) <= 2 * tag.header.bytes + 16


def _add_mpeg_run(source: Source, plan: Plan, run: mpeg_frames.FrameRun, number: int, count: int) -> None:
    """Add the part for a run of frames, which is recording `number` of `count`.

    Each recording is decoded by itself, so that its encoder delay can be cut instead of being heard in the middle.
    """
    plan.undecodable_seconds += run.lost_seconds
    if run.titles:
        times = "once" if run.titles == 1 else f"{run.titles} times"
        plan.notes.append(f"the title metadata of a radio stream interrupts the frames {times}: the sound there may be wrong")
    tag = mpeg.parse_tag(source.read_at(run.start, 2048))
    part = Part("ffmpeg", "mpeg", run.start, run.end, is_whole_file=False)
    plan.parts.append(part)
    if tag is None or not tag.frames:
        return
    claimed, present = _seconds(tag), (run.count - 1) * tag.header.samples / tag.header.sample_rate_hz
    if _is_right(tag, run) or (not tag.bytes and abs(tag.frames + 1 - run.count) <= 1):
        part.seconds = claimed
        part.start += tag.header.bytes if tag.delay is None else 0  # otherwise FFmpeg would trust a delay that cannot be right
        return
    if tag.bytes and abs(tag.bytes - (run.end - run.start)) <= 2 * tag.header.bytes + 16:  # complete, but counted wrongly
        part.start += tag.header.bytes  # otherwise FFmpeg would trust the count
        if abs(claimed - present) > TOLERATED_SECONDS:
            plan.notes.append(f"its header says {claimed:.1f} s, but the file has {present:.1f} s: all of it is decoded")
        return
    if claimed - present > TOLERATED_SECONDS:
        text = f"its header says {claimed:.1f} s, but it ends after {present:.1f} s"
        if count == 1:
            plan.truncation = text
        else:
            plan.notes.append(f"recording {number} of {count} in this file is cut off: {text}")
    elif present - claimed > TOLERATED_SECONDS and count == 1:
        plan.notes.append(f"its header says {claimed:.1f} s, but the file has more: {present:.1f} s are decoded")


def _seconds(tag: mpeg.Tag) -> float:
    return (tag.samples or 0) / tag.header.sample_rate_hz


def _tagged_frames(source: Source, begin: int, end: int) -> list[int]:
    """Return the offsets of the frames with a Xing or Info tag, each of which begins a recording."""
    frames: list[int] = []
    for mark in (b"Xing", b"Info"):
        at = begin
        while source.is_local and 0 <= (at := source.find(mark, at)) < end and len(frames) < MAX_RECORDINGS:
            for back in (13, 15, 21, 23, 36, 38):  # header and side information, with or without a CRC
                if at - back >= begin and mpeg.parse_tag(source.read_at(at - back, 256)) is not None:
                    frames.append(at - back)
                    break
            at += 4
    return frames


def plan_ogg(source: Source) -> Plan:
    """Plan the links of an Ogg file."""
    pages = ogg.walk_pages(source.read_at, source.size)
    source.check()
    if not pages.links:
        raise AudioError("an Ogg file whose beginning is missing: no stream begins in it")
    plan = Plan([], end=pages.end)
    links = [link for link in pages.links if any(link.codecs.values())]
    if not links:
        raise AudioError("this Ogg file has no audio in Vorbis, Opus, FLAC or Speex")
    for link in links:
        codecs = list(link.codecs.values())
        decoder = "libsndfile" if len(codecs) == 1 and codecs[0] in ("vorbis", "opus") else "ffmpeg"
        is_whole_file = link.start == 0 and link.end == source.size
        plan.parts.append(Part(decoder, "ogg", link.start, link.end, is_whole_file=is_whole_file, seconds=link.seconds))
    last = links[-1]
    if pages.missing:
        plan.truncation = f"the Ogg stream has no end, and its last page lacks {pages.missing:,} bytes"
    elif not last.has_end and not last.last_granule:
        plan.truncation = "the Ogg stream ends after its header"
    elif not last.has_end:
        plan.notes.append("the Ogg stream has no end-of-stream mark: it is decoded up to its last page")
    if pages.damaged:
        places = "1 damaged place" if pages.damaged == 1 else f"{pages.damaged} damaged places"
        plan.notes.append(f"skipped {places}")
    if len(links) < len(pages.links):
        without = len(pages.links) - len(links)
        streams = "1 stream" if without == 1 else f"{without} streams"
        plan.notes.append(f"skipped {streams} without audio, of {len(pages.links)} in this Ogg file")
    return plan
