"""Turn audio files of nearly any format into the samples a model takes, block by block.

A file passes through four stages:

1. Opening (`opening`). Whatever the path names (a file, a URL, a file in an archive, a command, standard input) becomes a
   `sources.Source`: bytes with a known size, readable at any offset.
2. Planning (`planning`). Decoders stop where a header says, and headers are often wrong: recorders die, pipes cannot be
   rewound, files are joined or cut. So, before anything is decoded, `probing` recognises the format by its first bytes, and
   the format's own module finds out how long the file really is:

   - `wav_family`: WAV, W64, AIFF, AU, CAF, SPHERE
   - `flac`, `ogg`, and for MP3 `mpeg` and `mpeg_frames`
   - `container_ends`: MP4, Matroska, ASF, AVI, 8SVX, VOC
   - `packets`: AAC, AC-3, AMR, FLV, MPEG-TS, TTA, WavPack

   `wav_family_plans`, `stream_plans` and `planning` turn that into a `plan.Plan`: which decoder reads which bytes, how
   many seconds to expect, and what is missing. `joined` recognises what follows a recording in the same file.
3. Reading (`reading`). The parts of the plan are decoded in order, and their seconds are compared with those expected.
   libsndfile decodes in this process (`with_soundfile`), FFmpeg in a child process (`decoder_process` talks to
   `decoder_child`, which runs `with_pyav`).
4. Mixing (`mixing`). Channels are averaged or kept apart, resampled, and checked for NaN.

Nothing is cut short silently: missing audio raises `AudioError`, and every repair is reported as a note.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from .contained import Contained as Contained
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
    """Decode a file into mono float32 samples `[S]` in [-1, 1] at `sample_rate_hz`.

    Reads every format that libsndfile or FFmpeg reads (WAV, FLAC, OGG, MP3, M4A, WebM, the audio of videos, ...). The format is
    recognised by the bytes, not by the name. Channels are averaged; soxr resamples.

    Args:
        path: A path, or a URL of a file system that fsspec supports.
        sample_rate_hz: Sampling rate of the result, 16,000 Hz by default.

    Raises:
        AudioError: If the file is missing, a folder, unreadable, empty, not audio, cut off or without samples, or if it has NaN
            or infinite samples.
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
    """Decode a file, or a part of it, into blocks `[1, S_i]` of the channels' mean, or `[channels, S_i]` of each channel.

    Samples are float32 in [-1, 1], or int16 if that loses nothing: a 16-bit file at this rate with nothing to average. Only one
    block at a time is held in memory, whatever a header claims. Where the mean of the channels cancels, the loudest channel is
    taken instead.

    Args:
        path: As for `load`, or `-` for standard input, a `pipes.Command` or a `Contained`.
        sample_rate_hz: Sampling rate of the blocks, 16,000 Hz by default.
        offset_seconds: Where the part begins.
        duration_seconds: How long the part is; by default it extends to the end.
        each_channel: Keep the channels apart.
        keep_truncated: Decode what is left of a file that is cut off or damaged, instead of raising `AudioError`.
        note: Function called with one line, beginning with the path, for each fault that decoding worked around.

    Raises:
        AudioError: As for `load`, possibly after some blocks, and if the file ends before the part begins.
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
    """Parse a path such as `raw:s16le:16000:1:-`, which names headerless samples on standard input; `None` for others."""
    name = os.fspath(path)
    is_raw = isinstance(name, str) and name.startswith(RAW_PREFIX) and name.endswith(f":{STANDARD_INPUT}")
    return RawFormat.parse(name[len(RAW_PREFIX) : -2]) if is_raw else None


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn any error into an `AudioError` that begins with the path."""
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
