"""Plan how to decode a file to its last byte: with libsndfile where the header is right, otherwise with FFmpeg.

Planning takes a few reads of headers and frame boundaries. Nothing is decoded yet.
"""

from __future__ import annotations

import contextlib

import soundfile

from ..first_bytes import HEAD_BYTES, identify
from . import container_ends, joined, mpeg, mpeg_frames, packets
from .errors import AudioError
from .joined import Rest
from .plan import MAX_RECORDINGS, Part, Plan
from .probing import container_of
from .raw_format import RawFormat
from .sources import Source
from .stream_plans import JUNK_BYTES, flac_start, plan_flac, plan_mpeg, plan_ogg
from .wav_family_plans import plan_wav_family
from .with_pyav import FORMATS
from .with_soundfile import SoundFile

GSM_FRAME_BYTES = 33


def plan_raw(source: Source, raw: RawFormat) -> Plan:
    """Plan headerless samples of a given format."""
    encoding = raw.encoding
    number = encoding.removesuffix("le").removesuffix("be")
    subtype = {
        "s8": "PCM_S8", "u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE",
        "mulaw": "ULAW", "alaw": "ALAW",
    }[number]  # fmt: skip
    arguments = {"samplerate": raw.sample_rate_hz, "channels": raw.channels, "subtype": subtype, "format": "RAW"}
    arguments["endian"] = "BIG" if encoding.endswith("be") else "LITTLE"
    return Plan([Part("libsndfile", "raw", 0, source.size, raw=arguments, is_whole_file=False)])


def plan_file(source: Source, name: str) -> Plan:
    """Plan a file, including any recordings appended to the first one.

    Args:
        source: The bytes of the file.
        name: Its name, whose suffix only counts if the bytes do not identify the format.

    Raises:
        AudioError: If the file is not audio. The message describes what it is instead.
    """
    head = source.read_at(0, HEAD_BYTES)
    source.check()
    container = container_of(head)
    plan = _plan_unknown(source, name, head) if container is None else _plan_container(source, container)
    count = _count_recordings(plan)
    while plan.end is not None and len(plan.parts) < MAX_RECORDINGS:
        at = joined.end_of_padding(source.read_at, plan.end, source.size)
        if at >= source.size:
            break
        head = source.read_at(at, HEAD_BYTES)
        container = joined.certain_container(head)
        if container is None and joined.certain_identity(head) is None:
            start = joined.find_recording(source.read_at, at, min(source.size, at + JUNK_BYTES))
            if start is not None:
                plan.notes.append(f"skipped {start - at:,} bytes between recordings, which are not audio")
                at, head = start, source.read_at(start, HEAD_BYTES)
                container = joined.certain_container(head)
        if container is None:
            _note_skipped_end(plan, head, source.size - at)
            break
        rest = Rest(source, at)
        try:
            next_plan = _plan_container(rest, container)
        except AudioError as error:
            plan.truncation = plan.truncation or f"another recording begins at byte {at:,} of the file: {error}"
            break
        count += _count_recordings(next_plan)
        plan.append(next_plan, at)
        source.check()
    plan.note_joined(count)
    return plan


def _count_recordings(plan: Plan) -> int:
    """Return the number of recordings in a plan. Parts of raw samples are chunks of a single recording."""
    return 1 if plan.parts and plan.parts[0].raw is not None else len(plan.parts)


def _note_skipped_end(plan: Plan, head: bytes, count: int) -> None:
    """Note the `count` bytes after the last recording, which begin with `head`."""
    identity = joined.certain_identity(head)
    if identity is not None:
        plan.notes.append(f"skipped the last {count:,} bytes, which are {identity.description}")
    elif count >= 16:
        plan.notes.append(f"skipped the last {count:,} bytes, which are not audio in a known format")


def _plan_container(source: Source, container: str) -> Plan:
    if container in ("wav", "w64", "aiff", "au", "caf", "sphere"):
        return plan_wav_family(source, container)
    if container == "flac" or (container == "mpeg" and flac_start(source)):
        return plan_flac(source, flac_start(source))
    if container == "mpeg":
        return plan_mpeg(source, mpeg.end_of_id3v2(source.read_at(0, 10)))
    if container == "ogg":
        return plan_ogg(source)
    if container in ("avr", "paf", "ircam"):
        return Plan([Part("libsndfile", container, 0, source.size)])
    return _plan_for_ffmpeg(source, container)


def _plan_unknown(source: Source, name: str, head: bytes) -> Plan:
    """Plan a file that does not begin with a known signature."""
    suffix = name[name.rfind(".") :].lower()
    identity = identify(head)
    if identity is not None and identity.kind != "zeros":
        raise AudioError(identity.instead_of("audio"))
    if suffix == ".gsm":  # has neither a signature nor recognisable frames
        rest = source.size % GSM_FRAME_BYTES
        notes = [f"damaged: skipped the last {rest} bytes, which are less than a frame"] if rest else []
        return Plan([Part("ffmpeg", "gsm", 0, source.size - rest)], notes=notes)
    after_tags = joined.end_of_tags(source.read_at, mpeg.end_of_missized_id3v2(head), source.size)
    start = mpeg_frames.next_frame(source.read_at, after_tags, min(source.size, after_tags + JUNK_BYTES))
    if start is not None:
        plan = plan_mpeg(source, start)
        if not head.startswith((b"ID3", b"APETAGEX")):
            plan.notes.append(f"skipped the first {start:,} bytes, which are not audio")
        return plan
    if identity is not None:
        raise AudioError(identity.instead_of("audio"))
    with contextlib.suppress(soundfile.LibsndfileError, TypeError), SoundFile(source.span()) as sound:
        if sound.frames:  # such as free-format MP3
            delay = mpeg.LAME_DELAY if sound.format in ("MP3", "MPEG") else 0
            return Plan([Part("libsndfile", "raw", 0, source.size, delay=delay)])
    raise AudioError(
        f"not audio in a known format: it begins with the bytes {head[:8].hex(' ')}. To decode samples without a header, pipe "
        f"them to standard input and describe them with --stdin-format"
    )


def _plan_for_ffmpeg(source: Source, container: str) -> Plan:
    """Plan a container that only FFmpeg reads."""
    if container not in FORMATS:
        raise AudioError(f"audio in a format that FFmpeg cannot decode here: {container}")
    if container == "mp4" and (reason := container_ends.why_not_decodable(source.read_at, source.size)) is not None:
        raise AudioError(reason)
    if container == "mp4" and container_ends.is_encrypted(source.read_at, source.size):
        raise AudioError("its audio is encrypted: only a program that has the key can decode it")
    end = packets.end_of_stream(container, source.read_at, source.size) if source.is_local else None
    find = source.find if source.is_local else _find_nothing
    recordings = container_ends.find_recordings(container, source.read_at, find, source.size) if end is None else [(0, end)]
    parts = [Part("ffmpeg", container, begin, end, is_whole_file=False) for begin, end in recordings]
    plan = Plan(parts, end=recordings[-1][1])
    last = joined.Rest(source, *recordings[-1])
    plan.truncation = container_ends.why_incomplete(container, last.read_at, last.size)
    return plan


def _find_nothing(pattern: bytes, start: int) -> int:
    """Stand in for `Source.find`, which would download the whole of a remote file."""
    return -1
