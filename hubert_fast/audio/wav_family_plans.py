"""Plan the decoding of WAV, W64, AIFF, AU, CAF and SPHERE files."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import soundfile

from ..first_bytes import HEAD_BYTES
from .errors import AudioError
from .plan import TOLERATED_SECONDS, Part, Plan
from .raw_format import MAX_CHANNELS, RATES_HZ
from .sources import Source
from .wav_family import Samples, find_samples
from .with_soundfile import SoundFile, raw_arguments

TOLERATED_BYTES = 1024  # used instead of TOLERATED_SECONDS where the duration of a byte is unknown


def plan_wav_family(source: Source, container: str) -> Plan:
    """Plan the WAV, or related file, at the beginning of `source`; other files may follow it."""
    samples = find_samples(container, source.read_at, source.size)
    if samples is None:
        plan = Plan([], end=source.size)
        plan.parts.append(_plan_one(source, container, None, plan, source.size))
        return plan
    plan = Plan([], end=samples.end)
    if samples.more:
        _plan_several(source, plan, samples)
    else:
        plan.parts.append(_plan_one(source, container, samples, plan, samples.end))
    return plan


def _plan_several(source: Source, plan: Plan, samples: Samples) -> None:
    """Plan a WAV with several chunks of samples. libsndfile and FFmpeg would read only one of them."""
    chunks = [(start, count) for start, count in ((samples.start, samples.present_bytes), *samples.more) if count]
    head, raw = source.read_at(0, HEAD_BYTES), None
    with contextlib.suppress(soundfile.LibsndfileError, TypeError), SoundFile(source.span(0, samples.end)) as sound:
        raw = raw_arguments(sound)
    raw = raw or _raw_arguments_of_wav(head)
    if raw is None:
        plan.parts.append(Part("ffmpeg", "wav", 0, samples.end, is_whole_file=False))
        plan.truncation = f"its samples are compressed and lie in {len(chunks)} chunks, but only one of them can be decoded"
        return
    for start, count in chunks:
        present = min(count, source.size - start)
        plan.parts.append(Part("libsndfile", "wav", start, start + present, raw=raw, is_whole_file=False))
        if count - present > TOLERATED_BYTES:
            plan.truncation = f"its last chunk claims {count:,} bytes of samples, but the file has {present:,}"
    if len(chunks) > 1:
        plan.notes.append(f"the samples are in {len(chunks)} chunks: all of them are decoded, in order")


def _plan_one(source: Source, container: str, samples: Samples | None, plan: Plan, end: int) -> Part:
    """Return the part for a file with one range of samples, and record in `plan` what is wrong with it."""
    is_whole_file = end == source.size
    whole = Part("libsndfile", container, 0, end, is_whole_file=is_whole_file)
    try:
        with SoundFile(source.path if is_whole_file and source.path else source.span(0, end)) as sound:
            raw, is_mp3 = raw_arguments(sound), sound.subtype.startswith("MPEG")
            frame_bytes = sound.channels * _sample_bytes(sound.subtype) if raw else None
            seconds_per_byte = _seconds_per_byte(sound, frame_bytes, samples)
    except (soundfile.LibsndfileError, TypeError):  # an encoding, or a broken end, that FFmpeg may handle
        return _plan_refused(source, container, samples, plan, end)
    if is_mp3:
        whole.decoder = "ffmpeg"
    if samples is None:
        return whole
    start, claimed, present = samples.start, samples.claimed_bytes, samples.present_bytes
    if container == "w64" and raw and claimed == present:  # libsndfile would also read what follows the samples
        return Part("libsndfile", container, start, start + present, raw=raw, is_whole_file=False)
    if claimed == present:
        return whole
    if claimed is not None and present < claimed:
        if (claimed - present) * seconds_per_byte > TOLERATED_SECONDS:
            plan.truncation = _claimed_and_present(claimed, present)
        return whole
    if raw is None and claimed is None and container == "caf":
        return Part("ffmpeg", container, 0, end, is_whole_file=is_whole_file)
    if claimed is not None:
        plan.notes.append(f"its header claims {claimed:,} bytes of samples, but the file has {present:,}: all are decoded")
    if raw is None:
        options = {"ignore_length": "1"} if container == "wav" else {}
        incomplete = present % _block_bytes(source.read_at(0, HEAD_BYTES)) if container == "wav" else 0
        return Part("ffmpeg", container, 0, start + present - incomplete, is_whole_file=False, options=options)
    return Part("libsndfile", container, start, start + present, raw=raw, is_whole_file=False)


def _plan_refused(source: Source, container: str, samples: Samples | None, plan: Plan, end: int) -> Part:
    """Return the part for a file that libsndfile cannot open."""
    head = source.read_at(0, HEAD_BYTES)
    if samples is not None:
        claimed, present = samples.claimed_bytes, samples.present_bytes
        if claimed is not None and claimed - present > TOLERATED_BYTES:
            plan.truncation = _claimed_and_present(claimed, present)
    if container == "wav" and _channels_of_wav(head) == 0:
        raise AudioError("its header says that it has 0 channels") from None
    if samples is None and container == "wav" and head.find(b"data") < 0:
        raise AudioError("the file has no samples: it ends after its header") from None
    raw = _raw_arguments_of_wav(head) if container == "wav" else None
    if raw is not None and samples is not None:
        start = samples.start
        return Part("libsndfile", container, start, start + samples.present_bytes, raw=raw, is_whole_file=False)
    return Part("ffmpeg", container, 0, end, is_whole_file=end == source.size)


def _claimed_and_present(claimed: int, present: int) -> str:
    return f"its header claims {claimed} bytes of samples, but the file has {present}"


def _format_chunk(head: bytes) -> bytes:
    """Return the bytes of a WAV from the first field of its format chunk on; empty if there is none."""
    at = head.find(b"fmt ")
    return head[at + 8 :] if at >= 0 else b""


def _raw_arguments_of_wav(head: bytes) -> dict[str, Any] | None:
    """Return the arguments of `open_raw` for a WAV that libsndfile refuses; `None` if it is compressed."""
    fmt = _format_chunk(head)
    if head[:4] != b"RIFF" or len(fmt) < 16:
        return None
    tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the actual tag comes later
        tag = int.from_bytes(fmt[24:26], "little")
    subtype = {
        (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT", (3, 64): "DOUBLE",
        (6, 8): "ALAW", (7, 8): "ULAW",
    }.get((tag, bits))  # fmt: skip
    if subtype is None or not 1 <= channels <= MAX_CHANNELS or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        return None
    return {"samplerate": rate_hz, "channels": channels, "subtype": subtype, "endian": "LITTLE", "format": "RAW"}


def _channels_of_wav(head: bytes) -> int | None:
    fmt = _format_chunk(head)
    return int.from_bytes(fmt[2:4], "little") if len(fmt) >= 4 else None


def _block_bytes(head: bytes) -> int:
    """Return the size in bytes of a WAV's compressed blocks (`nBlockAlign`); only whole blocks can be decoded."""
    return max(int.from_bytes(_format_chunk(head)[12:14], "little"), 1)


def _sample_bytes(subtype: str) -> int:
    return {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}.get(subtype, 1)


def _seconds_per_byte(sound: SoundFile, frame_bytes: int | None, samples: Samples | None) -> float:
    if frame_bytes:
        return 1 / (frame_bytes * sound.samplerate)
    count = min(samples.present_bytes, samples.claimed_bytes or samples.present_bytes) if samples else 0
    return sound.frames / sound.samplerate / count if count else 0.0
