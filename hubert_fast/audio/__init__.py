"""From an audio file to the samples a model takes: decode, downmix, resample, block by block."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from ..hub import first_line
from .names import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from .names import is_url as is_url

BLOCK_SAMPLES = 1 << 19  # of all channels together: 2 MB of float32
MISSING_SECONDS = 0.1  # so much may lack of what a header says: encoders pad, and some writers count wrong by a little
RATES_HZ = (1000, 768_000)
UNKNOWN_BYTES = 0x7FFF0000  # what streaming writers put where they do not know the size, or more
WHOLE_BYTES = 16 << 20  # remote files up to this are fetched whole: one request instead of many
# libsndfile's log of headers whose sample data ends before it should: WAV, W64, AIFF, AU
DATA_SIZE = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


class AudioError(ValueError):
    """A file gives no usable audio; the message says which and why."""


def load(path: str | Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a file into mono float32 samples ``[S]`` in [-1, 1] at ``sample_rate_hz``.

    Reads what libsndfile reads (WAV, FLAC, OGG, MP3, ...), from a path or a URL that fsspec knows. Channels are averaged; soxr
    resamples. Raises :class:`AudioError` for a path that is missing, a folder, unreadable, empty, not audio, cut off, without
    samples, or with NaN or infinite samples.
    """
    try:
        blocks = [block[0] for block in read_blocks(path, sample_rate_hz)]
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return samples if samples.dtype == np.float32 else samples / np.float32(32768)
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
) -> Iterator[np.ndarray]:
    """Decode a file, or a part of it, into blocks ``[1, S_i]`` of all channels' mean, or ``[channels, S_i]`` of each.

    Samples are float32 in [-1, 1], or int16 where the file has just those: 16 bits, this rate, nothing to average. Memory is
    that of a block, whatever a header claims. Errors as in :func:`load`, and when the file ends before ``offset_seconds``; they
    may come after some blocks. keep_truncated: take what there is of a file that is cut off.
    """
    with _named(path), contextlib.ExitStack() as stack:
        source = stack.enter_context(_opened(path))
        try:
            with _told_by(source):
                sound = stack.enter_context(soundfile.SoundFile(source))
        except TypeError:  # soundfile's answer to headerless formats
            raise AudioError("not audio that libsndfile can decode: the file does not say its format") from None
        rate_hz = sound.samplerate
        if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise AudioError(f"a sampling rate of {rate_hz} Hz is not within {RATES_HZ[0]} to {RATES_HZ[1]}")
        if not keep_truncated:
            _check_header(sound)
        left = None if duration_seconds is None else round(duration_seconds * rate_hz)
        if offset_seconds:
            start = round(offset_seconds * rate_hz)
            if start >= sound.frames:
                raise AudioError(f"the part begins at {offset_seconds:g} s, but the audio ends at {sound.frames / rate_hz:g} s")
            sound.seek(start)
        whole = left is None and not offset_seconds
        expected = sound.frames if whole and not keep_truncated and sound.format != "OGG" else 0
        mix = sound.channels > 1 and not each_channel
        as_int16 = sound.subtype == "PCM_16" and not mix and rate_hz == sample_rate_hz
        raw = _raw(sound, source, left, "int16" if as_int16 else "float32", keep_truncated)
        yield from _converted(raw, sound, expected, sample_rate_hz, mix)


def _raw(
    sound: soundfile.SoundFile, source: object, left: int | None, dtype: str, keep_truncated: bool
) -> Iterator[np.ndarray]:
    """Read ``[S_i, channels]`` up to the end, or what is left of the part that is wanted."""
    at_once, done = max(BLOCK_SAMPLES // sound.channels, 1), 0
    while left is None or left > 0:
        try:
            with _told_by(source):
                block = sound.read(at_once if left is None else min(at_once, left), dtype, always_2d=True)
        except soundfile.LibsndfileError:  # decoders that lose their way where a file is cut off
            if not keep_truncated or not done:
                raise
            return
        if not len(block):
            return
        left = None if left is None else left - len(block)
        done += len(block)
        yield block


def _converted(
    raw: Iterator[np.ndarray], sound: soundfile.SoundFile, expected: int, sample_rate_hz: int, mix: bool
) -> Iterator[np.ndarray]:
    """Mix and resample blocks. expected: frames that the header promises, 0 when it is not to be believed."""
    rate_hz, done = sound.samplerate, 0
    resampler = None
    if rate_hz != sample_rate_hz:
        resampler = soxr.ResampleStream(rate_hz, sample_rate_hz, 1 if mix else sound.channels, dtype="float32")
    for block in raw:
        if block.dtype != np.int16:
            _check_finite(block, done / rate_hz)
        done += len(block)
        if mix:
            block = _mean(block)
        if resampler is not None:
            last = block
            block = _resampled(resampler, block)
        if len(block):
            yield np.ascontiguousarray(block.T)
    if not done:
        raise AudioError("the file has no samples")
    if (expected - done) / rate_hz > MISSING_SECONDS:
        raise AudioError(f"cut off: {expected / rate_hz:.1f} s long by its header, but it ends after {done / rate_hz:.1f} s")
    if resampler is not None:
        yield np.ascontiguousarray(_resampled(resampler, last[:0], is_last=True).T)


def _resampled(resampler: soxr.ResampleStream, block: np.ndarray, is_last: bool = False) -> np.ndarray:
    """``[S, channels] -> [S', channels]``; soxr takes a single channel as ``[S]``."""
    return resampler.resample_chunk(block[:, 0] if block.shape[1] == 1 else block, last=is_last).reshape(-1, block.shape[1])


def _mean(block: np.ndarray) -> np.ndarray:
    """``[S, channels] -> [S, 1]``. Column by column: ten times as fast as NumPy's mean over a short axis."""
    total = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        total += block[:, channel]
    return (total * np.float32(1 / block.shape[1]))[:, None]


def _check_finite(block: np.ndarray, start_seconds: float) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        bad = len(block) - int(finite.all(1).sum())
        raise AudioError(f"{bad} of {len(block)} samples are NaN or infinite (from {start_seconds:.1f} s on)")


def _check_header(sound: soundfile.SoundFile) -> None:
    """Raise for a file that ends before the size in its header says, as copies that were broken off do."""
    found = DATA_SIZE.search(sound.extra_info)
    if found:
        claimed, there = map(int, found.groups())
        seconds_per_byte = sound.frames / sound.samplerate / max(there, 1)
        if 0 < there < claimed < UNKNOWN_BYTES and (claimed - there) * seconds_per_byte > MISSING_SECONDS:
            raise AudioError(f"cut off: {claimed} bytes of samples by its header, but there are {there}")
    if sound.format == "OGG" and "lacks an end-of-stream bit" in sound.extra_info:
        raise AudioError("cut off: the Ogg stream has no end")


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Make whatever goes wrong with a file an :class:`AudioError` that begins with its name."""
    try:
        yield
    except AudioError as error:
        reason = str(error)
    except soundfile.LibsndfileError as error:
        reason = f"not audio that libsndfile can decode: {error.error_string or 'the data is damaged'}"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    else:
        return
    raise AudioError(f"{path}: {reason}") from None


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[bytes | BinaryIO]:
    """Give what soundfile opens: the name of a local file, once it is seen to be one, or an open remote one."""
    if not is_url(path):
        path = Path(path)
        if not path.exists():
            raise AudioError("no such file")
        if not path.is_file():
            raise AudioError("expected an audio file, but this is not a regular file")
        if path.stat().st_size == 0:
            raise AudioError("the file is empty (0 bytes)")
        open(path, "rb").close()  # the system's reason, when it may not be read; libsndfile does not tell
        yield os.fsencode(path)  # bytes: names need not be UTF-8
        return
    import fsspec  # a dependency of huggingface_hub; not needed for local files

    try:
        file = fsspec.open(str(path), "rb").open()
    except FileNotFoundError:
        raise AudioError("no such file") from None
    except OSError:
        raise
    except Exception as error:  # each file system has its own: protocols without a driver, rights, addresses
        raise AudioError(f"cannot be opened: {first_line(error)}") from None
    with file:
        yield _fetched(file)


def _fetched(file: BinaryIO) -> BinaryIO:
    try:
        start = io.BytesIO()
        while start.tell() < WHOLE_BYTES and (part := file.read(WHOLE_BYTES - start.tell())):  # which may be less
            start.write(part)
        if start.tell() == WHOLE_BYTES:
            file.seek(0)
            return _Remote(file)
    except OSError:
        raise
    except Exception as error:
        raise AudioError(f"cannot be read: {first_line(error)}") from None
    if not start.tell():
        raise AudioError("the file is empty (0 bytes)")
    start.seek(0)
    return start


@contextlib.contextmanager
def _told_by(source: object) -> Iterator[None]:
    """Raise what went wrong in reading a remote file, and not what libsndfile makes of it."""
    try:
        yield
    finally:
        if isinstance(source, _Remote) and source.error is not None:
            raise source.error


class _Remote:
    """A remote file for soundfile, which takes an exception in its callbacks for the end of the file: kept here instead."""

    def __init__(self, file: BinaryIO):
        self.error: Exception | None = None
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = error if isinstance(error, OSError) else AudioError(f"cannot be read: {first_line(error)}")
            return b""

    def readinto(self, buffer: bytearray) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
