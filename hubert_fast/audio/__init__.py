"""Turn audio files of nearly any format into the samples a model takes, block by block.

A file passes through four stages, in this order:

1. Opening (:mod:`.opening`). Whatever the path names (a file, a URL, a file in an archive, a command, standard input) becomes a
   :class:`.sources.Source`: bytes with a known size, readable at any offset.
2. Planning (:mod:`.planning`). Decoders stop where a header says, and headers are often wrong: recorders die, pipes cannot be
   rewound, files are joined or cut. So, before anything is decoded, :mod:`.probing` recognises the format by its first bytes,
   and the format's own module finds out how long the file really is:

   - :mod:`.wav_family`: WAV, W64, AIFF, AU, CAF, SPHERE
   - :mod:`.flac`, :mod:`.ogg`, :mod:`.mpeg` and :mod:`.mpeg_frames` (MP3)
   - :mod:`.container_ends`: MP4, Matroska, ASF, AVI, 8SVX, VOC
   - :mod:`.packets`: AAC, AC-3, AMR, FLV, MPEG-TS, TTA, WavPack

   :mod:`.wav_family_plans`, :mod:`.stream_plans` and :mod:`.planning` turn that into a :class:`.plan.Plan`: which decoder reads
   which bytes, how many seconds to expect, and what is missing. :mod:`.joined` recognises what follows a recording in its file.
3. Reading (:mod:`.reading`). The parts of the plan are decoded in order, by libsndfile in this process (:mod:`.with_soundfile`)
   or by FFmpeg in a child process (:mod:`.decoder_process`, :mod:`.decoder_child`, :mod:`.with_pyav`), and compared with the
   plan.
4. Mixing (:mod:`.mixing`). Channels are averaged or kept apart, resampled, and checked for NaN.

Nothing is cut short silently: missing audio raises :class:`AudioError`, and every repair is reported as a note.
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
from .planning import plan_file, plan_raw
from .probing import looks_like_audio as looks_like_audio
from .raw_format import RATES_HZ, RAW_PREFIX, RawFormat
from .reading import Reading
from .standard_input import NAME as STANDARD_INPUT


def load(path: str | Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a file into mono float32 samples ``[S]`` in [-1, 1] at ``sample_rate_hz``.

    Reads every format that libsndfile or FFmpeg reads (WAV, FLAC, OGG, MP3, M4A, WebM, the audio of videos, ...), from a path
    or any URL that fsspec knows. The format is recognised by the bytes, not by the name. Channels are averaged; soxr resamples.

    Raises :class:`AudioError` if the file is missing, a folder, unreadable, empty, not audio, cut off or without samples, or if
    it has NaN or infinite samples.
    """
    try:
        blocks = [as_float(block[0]) for block in read_blocks(path, sample_rate_hz)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except MemoryError:
        raise AudioError(f"{path}: too long to fit in memory") from None


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
    """Decode a file, or a part of it, into blocks ``[1, S_i]`` of the channels' mean, or ``[channels, S_i]`` of each channel.

    Samples are float32 in [-1, 1], or int16 if that loses nothing: a 16-bit file at this rate with nothing to average. Only one
    block at a time is held in memory, whatever a header claims. Where the mean of two channels cancels, the louder channel is
    taken instead.

    each_channel: keep the channels apart. keep_truncated: decode what is left of a file that is cut off or damaged, instead of
    raising. note: called with one line, beginning with the path, for each fault that decoding worked around.

    Raises :class:`AudioError` as :func:`load` does, perhaps after some blocks, and if the file ends before the part begins.
    """
    raw = _raw_format(path)
    with _named(path), opened(path if raw is None else STANDARD_INPUT) as source:
        plan = plan_file(source, os.fspath(path)) if raw is None else plan_raw(source, raw)
        reading = Reading(source, plan, keep_truncated, lambda text: note(f"{path}: {text}") if note else None)
        mixer = Mixer(sample_rate_hz, each_channel, reading.note)
        for samples, rate_hz in reading.blocks(offset_seconds, duration_seconds, sample_rate_hz):
            if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
                raise AudioError(f"its sampling rate must be {RATES_HZ[0]} to {RATES_HZ[1]} Hz, but is {rate_hz} Hz")
            yield from mixer.blocks(samples, rate_hz)
        yield from mixer.end()


def _raw_format(path: str | Path) -> RawFormat | None:
    """Parse a path such as ``raw:s16le:16000:1:-``, which names headerless samples on standard input; ``None`` for others."""
    name = os.fspath(path)
    is_raw = isinstance(name, str) and name.startswith(RAW_PREFIX) and name.endswith(f":{STANDARD_INPUT}")
    return RawFormat.parse(name[len(RAW_PREFIX) : -2]) if is_raw else None


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn any error into an :class:`AudioError` that begins with the path."""
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
