"""Plans for what has no header of the whole, or one that is often wrong: FLAC, MPEG audio and Ogg."""

from __future__ import annotations

from . import flac, mpeg, ogg
from .errors import AudioError
from .plan import MISSING_SECONDS, MOST_JOINED, Part, Plan
from .sources import Source

TAG_BYTES = 1 << 20  # of an ID3v2 tag with a picture


def flac_start(source: Source) -> int:
    """Return where FLAC begins after an ID3 tag; 0 at the beginning of the file, and for no FLAC."""
    start = mpeg.after_id3v2(source.read_at(0, 10))
    return start if start and source.read_at(start, 4) == b"fLaC" else 0


def of_flac(source: Source, start: int) -> Plan:
    """Plan FLAC that begins at ``start``; other streams may follow in the file."""
    begins = [start]
    while source.is_local and (at := source.find(b"fLaC", begins[-1] + 42)) >= 0 and len(begins) < MOST_JOINED:
        if flac.stream_info(source.read_at, at) is None:  # four bytes of sound that look so
            break
        begins.append(at)
    plan = Plan([])
    for base, end in zip(begins, [*begins[1:], source.size]):
        info = flac.stream_info(source.read_at, base)
        is_all = len(begins) == 1 and not start
        part = Part("libsndfile", "flac", base, end, is_all=is_all)
        plan.parts.append(part)
        if info is None or not info.sample_rate_hz:
            continue
        last = flac.last_sample(source.read_at, base, end, info)
        part.seconds = (info.samples or last or 0) / info.sample_rate_hz or None
        if info.samples and last is None and end - base <= flac.TAIL_BYTES:
            plan.cut = f"{info.samples / info.sample_rate_hz:.1f} s long by its header, but none of it is there"
        if not info.samples or last is None or last == info.samples:
            continue
        part.decoder, part.seconds = "ffmpeg", last / info.sample_rate_hz
        rate_hz = info.sample_rate_hz
        if last < info.samples:
            plan.cut = f"{info.samples / rate_hz:.1f} s long by its header, but it ends after {last / rate_hz:.1f} s"
        else:
            plan.notes.append(
                f"the header says {info.samples / rate_hz:.1f} s, but there are {last / rate_hz:.1f} s: all are taken"
            )
    plan.note_joined()
    return plan


def of_mpeg(source: Source, start: int) -> Plan:
    """Plan MPEG audio whose first frame is at ``start`` or behind junk there."""
    start = start if start < source.size else 10  # a tag that says a wrong size
    begin = mpeg.first_frame(source.read_at(start, mpeg.SEARCHED_BYTES))
    if begin is None:
        raise AudioError("not audio in a format that is known: an ID3 tag, but no MPEG audio after it")
    begin += start
    end = _mpeg_end(source, source.size)
    tag = mpeg.tag_of(source.read_at(begin, 2048))
    slack = 0 if tag is None else 2 * tag.header.bytes + 16  # writers count with or without the tag's own frame
    if tag is not None and tag.frames and tag.bytes and abs(tag.bytes - (end - begin)) <= slack:
        if tag.delay is not None and not mpeg.broken(source.read_at, begin, end)[0]:
            return Plan([Part("libsndfile", "mpeg", 0, source.size, seconds=_seconds(tag))])
        return Plan([Part("ffmpeg", "mpeg", begin, end, is_all=False, seconds=_seconds(tag))])
    if (
        tag is not None
        and tag.frames
        and tag.bytes
        and tag.bytes > end - begin
        and (seconds := _seconds(tag)) > MISSING_SECONDS
    ):
        share = (end - begin) / tag.bytes
        plan = Plan([Part("ffmpeg", "mpeg", begin, end, is_all=False)])
        if seconds * (1 - share) > MISSING_SECONDS:
            plan.cut = f"{seconds:.1f} s long by its header, but it ends after {seconds * share:.1f} s"
        return plan
    return _of_joined_mpeg(source, begin, end)


def _seconds(tag: mpeg.Tag) -> float:
    return (tag.samples or 0) / tag.header.sample_rate_hz


def _mpeg_end(source: Source, end: int) -> int:
    """Return where frames end that lie before ``end``: before an ID3v2 tag of what follows, and ID3v1 and APE tags."""
    before = source.read_at(max(end - TAG_BYTES, 0), min(TAG_BYTES, end))
    at = before.rfind(b"ID3")
    if at >= 0 and mpeg.after_id3v2(before, at) == len(before):
        end -= len(before) - at
    if source.read_at(end - 128, 3) == b"TAG":
        end -= 128
    footer = source.read_at(max(end - 32, 0), 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
    return max(end, 0)


def _of_joined_mpeg(source: Source, begin: int, end: int) -> Plan:
    """Cut at the tags that encoders put first: each recording has a delay of its own, which would be heard in the middle."""
    begins = sorted({begin, *_tagged_frames(source, begin, end)})[:MOST_JOINED]
    plan = Plan([])
    for start, stop in zip(begins, [*begins[1:], end]):
        stop = stop if stop == end else _mpeg_end(source, stop)
        seconds, last = mpeg.broken(source.read_at, start, stop)
        plan.broken_seconds += seconds
        if source.read_at(last, stop - last).strip(b"\0"):
            plan.notes.append(f"{stop - last:,} bytes at the end of it are no MPEG audio, and left out")
        plan.parts.append(Part("ffmpeg", "mpeg", start, last, is_all=False))
        tag = mpeg.tag_of(source.read_at(start, 2048))
        if tag is not None and tag.frames and len(begins) == 1:
            if not tag.bytes:
                plan.parts[0].seconds = _seconds(tag)
            elif (stop - start) / tag.bytes * _seconds(tag) - _seconds(tag) > MISSING_SECONDS:
                plan.notes.append(f"the header says {_seconds(tag):.1f} s, but there is more: all of it is taken")
        if tag is not None and tag.frames and tag.bytes and len(begins) > 1:
            seconds, share = _seconds(tag), (stop - start) / tag.bytes
            if seconds * (1 - share) > MISSING_SECONDS:
                number = begins.index(start) + 1
                plan.notes.append(
                    f"recording {number} of {len(begins)} in this file is cut off: {seconds:.1f} s long by its header, but it "
                    f"ends after {seconds * share:.1f} s"
                )
    plan.note_joined()
    return plan


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
    plan = Plan([])
    for link in pages.links:
        codecs = list(link.codecs.values())
        if not any(codecs):
            raise AudioError("there is no audio in this Ogg file that is known: Vorbis, Opus, FLAC or Speex")
        by_libsndfile = len(codecs) == 1 and codecs[0] in ("vorbis", "opus")
        part = Part("libsndfile" if by_libsndfile else "ffmpeg", "ogg", link.start, link.end, is_all=len(pages.links) == 1)
        part.is_all = part.is_all and link.start == 0 and link.end == source.size
        part.seconds = link.seconds
        plan.parts.append(part)
    if pages.missing:
        plan.cut = f"the Ogg stream has no end, and its last page lacks {pages.missing:,} bytes"
    elif not pages.links[-1].ends and not pages.links[-1].last:
        plan.cut = "the Ogg stream ends after its header"
    elif not pages.links[-1].ends:
        plan.notes.append("the Ogg stream has no mark at its end: taken as far as it goes")
    if pages.damaged:
        plan.notes.append(f"damaged in {pages.damaged} places, which are left out")
    plan.note_joined()
    return plan
