"""From an audio file's bytes to the samples a model takes: probe, decode to the last byte, mix, resample, block by block.

    opening (bytes) -> plans (which decoder for which bytes) -> reading (with_soundfile | decoder_process) -> mixing -> blocks

Decoding ends when the bytes end, and not where a header says. What is missing raises :class:`AudioError`, what was repaired is
a note; nothing is shortened in silence.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from .errors import AudioError as AudioError
from .mixing import Mixer, as_float
from .names import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from .names import is_url as is_url
from .opening import opened
from .plans import plan_of, plan_of_raw
from .probing import looks_like_audio as looks_like_audio
from .raw_format import RATES_HZ, RAW_PREFIX, RawFormat
from .reading import Reading
from .standard_input import NAME as STANDARD_INPUT


def load(path: str | Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a file into mono float32 samples ``[S]`` in [-1, 1] at ``sample_rate_hz``.

    Reads what libsndfile and FFmpeg read (WAV, FLAC, OGG, MP3, M4A, WebM, the audio of videos, ...), whatever its name says,
    from a path or a URL that fsspec knows. Channels are averaged; soxr resamples. Raises :class:`AudioError` for a path that is
    missing, a folder, unreadable, empty, not audio, cut off, without samples, or with NaN or infinite samples.
    """
    try:
        blocks = [as_float(block[0]) for block in read_blocks(path, sample_rate_hz)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except MemoryError:
        raise AudioError(f"{path}: too long to be held in memory") from None


def read_blocks(
    path: str | Path,
    sample_rate_hz: int = 16000,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    each_channel: bool = False,
    keep_truncated: bool = False,
    note: Callable[[str], None] | None = None,
) -> Iterator[np.ndarray]:
    """Decode a file, or a part of it, into blocks ``[1, S_i]`` of all channels' mean, or ``[channels, S_i]`` of each.

    Samples are float32 in [-1, 1], or int16 where the file has just those: 16 bits, this rate, nothing to average. Memory is
    that of a block, whatever a header claims. Where the mean of two channels cancels, it is the louder channel.

    keep_truncated: take what there is of a file that is cut off or damaged, instead of raising. note: is told, in a line that
    begins with the path, what was not as it should be and was decoded all the same.

    Raises :class:`AudioError` as :func:`load` does, perhaps after some blocks, and where the file ends before the part begins.
    """
    raw = _raw_format(path)
    with _named(path), opened(path if raw is None else STANDARD_INPUT) as source:
        plan = plan_of(source, os.fspath(path)) if raw is None else plan_of_raw(source, raw)
        reading = Reading(source, plan, keep_truncated, lambda text: note and note(f"{path}: {text}"))
        mixer = Mixer(sample_rate_hz, each_channel, reading.note)
        for samples, rate_hz in reading.blocks(offset_seconds, duration_seconds, sample_rate_hz):
            if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
                raise AudioError(f"a sampling rate of {rate_hz} Hz is not within {RATES_HZ[0]} to {RATES_HZ[1]}")
            yield from mixer.blocks(samples, rate_hz)
        yield from mixer.end()


def _raw_format(path: str | Path) -> RawFormat | None:
    """Return what samples without a header are that a path such as ``raw:s16le:16000:1:-`` names on standard input."""
    name = os.fspath(path)
    is_raw = isinstance(name, str) and name.startswith(RAW_PREFIX) and name.endswith(f":{STANDARD_INPUT}")
    return RawFormat.parse(name[len(RAW_PREFIX) : -2]) if is_raw else None


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Make whatever goes wrong with a file an :class:`AudioError` that begins with its name."""
    try:
        yield
    except AudioError as error:
        reason = str(error)
    except soundfile.LibsndfileError as error:
        reason = f"cannot be decoded: {error.error_string or 'the data is damaged'}"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    else:
        return
    raise AudioError(f"{path}: {reason}") from None
