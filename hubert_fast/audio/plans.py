"""Decide how a file is decoded to its last byte: by libsndfile where its header is right, else by FFmpeg.

A plan is made from a few reads, before anything is decoded.
"""

from __future__ import annotations

import contextlib

import soundfile

from ..first_bytes import HEAD_BYTES, identify
from . import boxes, joined, mpeg, mpeg_frames, packets
from .chunk_plans import of_chunks
from .errors import AudioError
from .joined import Rest
from .plan import MOST_JOINED, Part, Plan
from .probing import container_of
from .raw_format import RawFormat
from .sources import Source
from .stream_plans import JUNK_BYTES, flac_start, of_flac, of_mpeg, of_ogg
from .with_pyav import FORMATS
from .with_soundfile import SoundFile

GSM_FRAME_BYTES = 33


def plan_of_raw(source: Source, raw: RawFormat) -> Plan:
    """Decide for samples without a header."""
    encoding = raw.encoding
    number = encoding.removesuffix("le").removesuffix("be")
    subtype = {
        "s8": "PCM_S8", "u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE",
        "mulaw": "ULAW", "alaw": "ALAW",
    }[number]  # fmt: skip
    layout = {"samplerate": raw.sample_rate_hz, "channels": raw.channels, "subtype": subtype, "format": "RAW"}
    layout["endian"] = "BIG" if encoding.endswith("be") else "LITTLE"
    return Plan([Part("libsndfile", "raw", 0, source.size, raw=layout, is_all=False)])


def plan_of(source: Source, name: str) -> Plan:
    """Look at a file and decide. Raises :class:`AudioError` for what is no audio, with what it is instead.

    name: of the file; its suffix counts only where the bytes say nothing.
    """
    head = source.read_at(0, HEAD_BYTES)
    source.check()
    container = container_of(head)
    plan = _of_unknown(source, name, head) if container is None else _of_container(source, container)
    count = _recordings(plan)
    while plan.end is not None and len(plan.parts) < MOST_JOINED:
        at = joined.padding_end(source.read_at, plan.end, source.size)
        if at >= source.size:
            break
        head = source.read_at(at, HEAD_BYTES)
        container = joined.recording_at(head)
        if container is None and joined.other_at(head) is None:
            found = joined.find_start(source.read_at, at, min(source.size, at + JUNK_BYTES))
            if found is not None:
                plan.notes.append(f"{found - at:,} bytes between recordings are not audio, and are left out")
                at, head = found, source.read_at(found, HEAD_BYTES)
                container = joined.recording_at(head)
        if container is None:
            _note_rest(plan, head, source.size - at)
            break
        rest = Rest(source, at)
        try:
            other = _of_container(rest, container)
        except AudioError as error:
            plan.cut = plan.cut or f"another recording begins at byte {at:,} of the file: {error}"
            break
        count += _recordings(other)
        plan.append(other, at)
        source.check()
    plan.note_joined(count)
    return plan


def _recordings(plan: Plan) -> int:
    """Return how many recordings a plan has; several chunks of samples are one."""
    return 1 if plan.parts and plan.parts[0].raw is not None else len(plan.parts)


def _note_rest(plan: Plan, head: bytes, count: int) -> None:
    """Note what follows the last recording of a file."""
    other = joined.other_at(head)
    if other is not None:
        plan.notes.append(f"the last {count:,} bytes are {other.description}, and are left out")
    elif count >= 16:
        plan.notes.append(f"the last {count:,} bytes are not audio in a format that is known, and are left out")


def _of_container(source: Source, container: str) -> Plan:
    if container in ("wav", "w64", "aiff", "au", "caf", "sphere"):
        return of_chunks(source, container)
    if container == "flac" or (container == "mpeg" and flac_start(source)):
        return of_flac(source, flac_start(source))
    if container == "mpeg":
        return of_mpeg(source, mpeg.after_id3v2(source.read_at(0, 10)))
    if container == "ogg":
        return of_ogg(source)
    if container in ("avr", "paf", "ircam"):
        return Plan([Part("libsndfile", container, 0, source.size)])
    return _of_other(source, container)


def _of_unknown(source: Source, name: str, head: bytes) -> Plan:
    suffix = name[name.rfind(".") :].lower()
    identity = identify(head)
    if identity is not None and identity.kind != "zeros":
        raise AudioError(identity.instead_of("audio"))
    if suffix == ".gsm":  # which has neither a signature nor frames that can be told apart
        rest = source.size % GSM_FRAME_BYTES
        notes = [f"damaged: the last {rest} bytes are less than a frame, and are left out"] if rest else []
        return Plan([Part("ffmpeg", "gsm", 0, source.size - rest)], notes=notes)
    start = joined.tag_end(source.read_at, mpeg.after_wrong_id3v2(head), source.size)
    start = mpeg_frames.next_frame(source.read_at, start, min(source.size, start + JUNK_BYTES))
    if start is not None:
        plan = of_mpeg(source, start)
        if not head.startswith((b"ID3", b"APETAGEX")):
            plan.notes.append(f"the first {start:,} bytes are not audio, and are left out")
        return plan
    if identity is not None:
        raise AudioError(identity.instead_of("audio"))
    with contextlib.suppress(soundfile.LibsndfileError, TypeError), SoundFile(source.span()) as sound:
        if sound.frames:  # such as MP3 of a free format
            delay = mpeg.LAME_DELAY if sound.format in ("MP3", "MPEG") else 0
            return Plan([Part("libsndfile", "raw", 0, source.size, delay=delay)])
    raise AudioError(
        f"not audio in a format that is known: it begins with the bytes {head[:8].hex(' ')}. Samples without a header are "
        f"read from standard input, with --stdin-format"
    )


def _of_other(source: Source, container: str) -> Plan:
    if container not in FORMATS:
        raise AudioError(f"audio in a format that FFmpeg cannot decode here: {container}")
    if container == "mp4" and (reason := boxes.why_not_decodable(source.read_at, source.size)) is not None:
        raise AudioError(reason)
    if container == "mp4" and boxes.is_encrypted(source.read_at, source.size):
        raise AudioError("its audio is encrypted: only a program that has the key can decode it")
    end = packets.end_of(container, source.read_at, source.size) if source.is_local else None
    find = source.find if source.is_local else _nowhere
    recordings = boxes.recordings(container, source.read_at, find, source.size) if end is None else [(0, end)]
    plan = Plan([Part("ffmpeg", container, begin, end, is_all=False) for begin, end in recordings], end=recordings[-1][1])
    begin, end = recordings[-1]
    last = joined.Rest(source, begin, end)
    plan.cut = boxes.why_incomplete(container, last.read_at, last.size)
    return plan


def _nowhere(pattern: bytes, start: int) -> int:
    return -1
