"""Plans for containers of chunks: WAV, W64, AIFF, AU, CAF and SPHERE."""

from __future__ import annotations

import struct
from collections.abc import Callable

import soundfile

from ..first_bytes import HEAD_BYTES
from . import chunks
from .errors import AudioError
from .plan import MISSING_SECONDS, MOST_JOINED, Part, Plan
from .probing import container_of
from .raw_format import MOST_CHANNELS, RATES_HZ
from .sources import Source
from .with_soundfile import SoundFile, as_raw

MISSING_BYTES = 1024  # where the encoding does not tell how long they last


def of_chunks(source: Source, container: str) -> Plan:
    """Plan a file of chunks; other files of the same container may follow in it."""
    plan, base = Plan([]), 0
    while base < source.size and len(plan.parts) < MOST_JOINED:
        if base and container_of(source.read_at(base, HEAD_BYTES)) != container:
            break
        found = chunks.samples_of(container, _within(source, base), source.size - base)
        end = source.size if found is None else base + found.end
        plan.parts.append(_chunk_part(source, container, base, end, found, plan))
        base = end
    plan.note_joined()
    return plan


def _chunk_part(source: Source, container: str, base: int, end: int, found: chunks.Samples | None, plan: Plan) -> Part:
    is_all = base == 0 and end == source.size
    whole = Part("libsndfile", container, base, end, is_all=is_all)
    try:
        with SoundFile(source.path if is_all and source.path else source.span(base, end)) as sound:
            raw, is_mp3 = as_raw(sound), sound.subtype.startswith("MPEG")
            frame_bytes = raw and sound.channels * _bytes_of(sound.subtype)
            seconds_per_byte = _seconds_per_byte(sound, frame_bytes, found)
    except (soundfile.LibsndfileError, TypeError):  # an encoding, or a broken end, that FFmpeg may know
        if found is not None and found.claimed is not None and found.claimed - found.there > MISSING_BYTES:
            plan.cut = f"{found.claimed} bytes of samples by its header, but there are {found.there}"
        if container == "wav" and _channels_of(source.read_at(base, HEAD_BYTES)) == 0:
            raise AudioError("its header says that there are 0 channels") from None
        if found is None and container == "wav" and source.read_at(base, HEAD_BYTES).find(b"data") < 0:
            raise AudioError("the file has no samples: it ends after its header") from None
        raw = _raw_of_wav(source.read_at(base, HEAD_BYTES)) if container == "wav" else None
        if raw is not None and found is not None:
            return Part("libsndfile", container, base + found.start, base + found.start + found.there, raw=raw, is_all=False)
        return Part("ffmpeg", container, base, end, is_all=is_all)
    if is_mp3:
        whole.decoder = "ffmpeg"
    if found is None:
        return whole
    if found.claimed is not None and found.there < found.claimed:
        if (found.claimed - found.there) * seconds_per_byte > MISSING_SECONDS:
            plan.cut = f"{found.claimed} bytes of samples by its header, but there are {found.there}"
        return whole
    if found.claimed == found.there:
        return whole
    if raw is None and found.claimed is None and container == "caf":
        return Part("ffmpeg", container, base, end, is_all=is_all)
    if found.claimed is not None:
        plan.notes.append(
            f"the header says {found.claimed:,} bytes of samples, but there are {found.there:,}: all of them are taken"
        )
    if raw is None:
        options = {"ignore_length": "1"} if container == "wav" else {}
        last = found.there % _block_bytes(source.read_at(base, HEAD_BYTES)) if container == "wav" else 0
        return Part("ffmpeg", container, base, base + found.start + found.there - last, is_all=False, options=options)
    return Part("libsndfile", container, base + found.start, base + found.start + found.there, raw=raw, is_all=False)


def _raw_of_wav(head: bytes) -> dict[str, object] | None:
    """Return how to read the samples of a WAV that libsndfile refuses; ``None`` unless they are plain."""
    at = head.find(b"fmt ") + 8
    if head[:4] != b"RIFF" or at < 8 or len(head) < at + 16:
        return None
    tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", head[at : at + 16])
    if tag == 0xFFFE and len(head) >= at + 26:  # extensible: the tag stands further back
        tag = int.from_bytes(head[at + 24 : at + 26], "little")
    subtype = {
        (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT", (3, 64): "DOUBLE",
        (6, 8): "ALAW", (7, 8): "ULAW",
    }.get((tag, bits))  # fmt: skip
    if subtype is None or not 1 <= channels <= MOST_CHANNELS or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        return None
    return {"samplerate": rate_hz, "channels": channels, "subtype": subtype, "endian": "LITTLE", "format": "RAW"}


def _channels_of(head: bytes) -> int | None:
    at = head.find(b"fmt ")
    return int.from_bytes(head[at + 10 : at + 12], "little") if at >= 0 and len(head) >= at + 12 else None


def _block_bytes(head: bytes) -> int:
    """Return the bytes of a WAV's blocks, of which no part can be decoded."""
    at = head.find(b"fmt ")
    return max(int.from_bytes(head[at + 20 : at + 22], "little"), 1) if at >= 0 else 1


def _bytes_of(subtype: str) -> int:
    return {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}.get(subtype, 1)


def _seconds_per_byte(sound: SoundFile, frame_bytes: int | None, found: chunks.Samples | None) -> float:
    if frame_bytes:
        return 1 / (frame_bytes * sound.samplerate)
    there = min(found.there, found.claimed or found.there) if found else 0
    return sound.frames / sound.samplerate / there if there else 0.0


def _within(source: Source, base: int) -> Callable[[int, int], bytes]:
    return lambda start, count: source.read_at(base + start, count)
