"""Plan how containers of chunks are decoded: WAV, W64, AIFF, AU, CAF and SPHERE."""

from __future__ import annotations

import contextlib
import struct

import soundfile

from ..first_bytes import HEAD_BYTES
from . import chunks
from .errors import AudioError
from .plan import MISSING_SECONDS, Part, Plan
from .raw_format import MOST_CHANNELS, RATES_HZ
from .sources import Source
from .with_soundfile import SoundFile, as_raw

MISSING_BYTES = 1024  # where the encoding does not tell how long they last


def of_chunks(source: Source, container: str) -> Plan:
    """Plan the file of chunks at the beginning of ``source``; others may follow it."""
    found = chunks.samples_of(container, source.read_at, source.size)
    plan = Plan([], end=source.size if found is None else found.end)
    if found is not None and found.more:
        _plan_several(source, plan, found)
    else:
        plan.parts.append(_one_part(source, container, found, plan))
    return plan


def _plan_several(source: Source, plan: Plan, found: chunks.Samples) -> None:
    """Plan a WAV with several chunks of samples, of which libsndfile and FFmpeg read one."""
    places = [(start, count) for start, count in ((found.start, found.there), *found.more) if count]
    head, raw = source.read_at(0, HEAD_BYTES), None
    with contextlib.suppress(soundfile.LibsndfileError, TypeError), SoundFile(source.span(0, plan.end)) as sound:
        raw = as_raw(sound)
    raw = raw or _raw_of_wav(head)
    if raw is None:
        plan.parts.append(Part("ffmpeg", "wav", 0, plan.end, is_all=False))
        plan.cut = f"its samples are compressed and lie in {len(places)} chunks, but only one of them can be decoded"
        return
    for start, count in places:
        there = min(count, source.size - start)
        plan.parts.append(Part("libsndfile", "wav", start, start + there, raw=raw, is_all=False))
        if count - there > MISSING_BYTES:
            plan.cut = f"{count:,} bytes of samples by its last chunk, but there are {there:,}"
    if len(places) > 1:
        plan.notes.append(f"the samples are in {len(places)} chunks: all are decoded, one after the other")


def _one_part(source: Source, container: str, found: chunks.Samples | None, plan: Plan) -> Part:
    end, is_all = plan.end, plan.end == source.size
    whole = Part("libsndfile", container, 0, end, is_all=is_all)
    try:
        with SoundFile(source.path if is_all and source.path else source.span(0, end)) as sound:
            raw, is_mp3 = as_raw(sound), sound.subtype.startswith("MPEG")
            frame_bytes = raw and sound.channels * _bytes_of(sound.subtype)
            seconds_per_byte = _seconds_per_byte(sound, frame_bytes, found)
    except (soundfile.LibsndfileError, TypeError):  # an encoding, or a broken end, that FFmpeg may know
        return _refused_by_libsndfile(source, container, found, plan)
    if is_mp3:
        whole.decoder = "ffmpeg"
    if container == "w64" and raw and found is not None and found.claimed == found.there:  # libsndfile would read what follows
        return Part("libsndfile", container, found.start, found.start + found.there, raw=raw, is_all=False)
    if found is None or found.claimed == found.there:
        return whole
    if found.claimed is not None and found.there < found.claimed:
        if (found.claimed - found.there) * seconds_per_byte > MISSING_SECONDS:
            plan.cut = _said_and_there(found)
        return whole
    if raw is None and found.claimed is None and container == "caf":
        return Part("ffmpeg", container, 0, end, is_all=is_all)
    if found.claimed is not None:
        plan.notes.append(
            f"the header says {found.claimed:,} bytes of samples, but there are {found.there:,}: all of them are taken"
        )
    if raw is None:
        options = {"ignore_length": "1"} if container == "wav" else {}
        last = found.there % _block_bytes(source.read_at(0, HEAD_BYTES)) if container == "wav" else 0
        return Part("ffmpeg", container, 0, found.start + found.there - last, is_all=False, options=options)
    return Part("libsndfile", container, found.start, found.start + found.there, raw=raw, is_all=False)


def _refused_by_libsndfile(source: Source, container: str, found: chunks.Samples | None, plan: Plan) -> Part:
    head = source.read_at(0, HEAD_BYTES)
    if found is not None and found.claimed is not None and found.claimed - found.there > MISSING_BYTES:
        plan.cut = _said_and_there(found)
    if container == "wav" and _channels_of(head) == 0:
        raise AudioError("its header says that there are 0 channels") from None
    if found is None and container == "wav" and head.find(b"data") < 0:
        raise AudioError("the file has no samples: it ends after its header") from None
    raw = _raw_of_wav(head) if container == "wav" else None
    if raw is not None and found is not None:
        return Part("libsndfile", container, found.start, found.start + found.there, raw=raw, is_all=False)
    return Part("ffmpeg", container, 0, plan.end, is_all=plan.end == source.size)


def _said_and_there(found: chunks.Samples) -> str:
    return f"{found.claimed} bytes of samples by its header, but there are {found.there}"


def _fmt_of(head: bytes) -> bytes:
    """Return the format chunk of a WAV, from its first field on; empty where the header has none."""
    at = head.find(b"fmt ")
    return head[at + 8 :] if at >= 0 else b""


def _raw_of_wav(head: bytes) -> dict[str, object] | None:
    """Return how to read the samples of a WAV that libsndfile refuses; ``None`` unless they are plain."""
    fmt = _fmt_of(head)
    if head[:4] != b"RIFF" or len(fmt) < 16:
        return None
    tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:  # extensible: the tag stands further back
        tag = int.from_bytes(fmt[24:26], "little")
    subtype = {
        (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT", (3, 64): "DOUBLE",
        (6, 8): "ALAW", (7, 8): "ULAW",
    }.get((tag, bits))  # fmt: skip
    if subtype is None or not 1 <= channels <= MOST_CHANNELS or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        return None
    return {"samplerate": rate_hz, "channels": channels, "subtype": subtype, "endian": "LITTLE", "format": "RAW"}


def _channels_of(head: bytes) -> int | None:
    fmt = _fmt_of(head)
    return int.from_bytes(fmt[2:4], "little") if len(fmt) >= 4 else None


def _block_bytes(head: bytes) -> int:
    """Return the size in bytes of a WAV's compressed blocks (``nBlockAlign``), which decode only whole."""
    return max(int.from_bytes(_fmt_of(head)[12:14], "little"), 1)


def _bytes_of(subtype: str) -> int:
    return {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}.get(subtype, 1)


def _seconds_per_byte(sound: SoundFile, frame_bytes: int | None, found: chunks.Samples | None) -> float:
    if frame_bytes:
        return 1 / (frame_bytes * sound.samplerate)
    there = min(found.there, found.claimed or found.there) if found else 0
    return sound.frames / sound.samplerate / there if there else 0.0
