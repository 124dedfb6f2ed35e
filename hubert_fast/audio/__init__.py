"""From an audio file's bytes to the samples a model takes: probe, decode to the last byte, mix, resample, block by block.

    sources (bytes) -> plans (which decoder for which bytes) -> with_soundfile | decoder_process (with_pyav) -> mixing -> blocks

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

from .decoder_process import Apart
from .errors import AudioError as AudioError
from .mixing import Mixer
from .names import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from .names import is_url as is_url
from .plan import MISSING_SECONDS, Part, Plan
from .plans import plan_of, plan_of_raw
from .probing import looks_like_audio as looks_like_audio
from .raw_format import RATES_HZ, RawFormat
from .sources import Source, opened
from .with_pyav import Decoded
from .with_soundfile import SoundFile, blocks_of, open_raw

RAW_PREFIX = "raw:"  # of "raw:s16le:16000:1:-", samples without a header on standard input


def load(path: str | Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a file into mono float32 samples ``[S]`` in [-1, 1] at ``sample_rate_hz``.

    Reads what libsndfile and FFmpeg read (WAV, FLAC, OGG, MP3, M4A, WebM, the audio of videos, ...), whatever its name says,
    from a path or a URL that fsspec knows. Channels are averaged; soxr resamples. Raises :class:`AudioError` for a path that is
    missing, a folder, unreadable, empty, not audio, cut off, without samples, or with NaN or infinite samples.
    """
    try:
        blocks = [block[0] for block in read_blocks(path, sample_rate_hz)]
        if any(block.dtype == np.float32 for block in blocks):
            blocks = [block if block.dtype == np.float32 else block / np.float32(32768) for block in blocks]
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
    note: Callable[[str], None] | None = None,
) -> Iterator[np.ndarray]:
    """Decode a file, or a part of it, into blocks ``[1, S_i]`` of all channels' mean, or ``[channels, S_i]`` of each.

    Samples are float32 in [-1, 1], or int16 where the file has just those: 16 bits, this rate, nothing to average. Memory is
    that of a block, whatever a header claims. Where the mean of two channels cancels, it is the louder channel.

    keep_truncated: take what there is of a file that is cut off or damaged, instead of raising. note: is told, in a line that
    begins with the path, what was not as it should be and was decoded all the same.

    Raises :class:`AudioError` as :func:`load` does, perhaps after some blocks, and where the file ends before the part begins.
    """
    with _named(path), opened(_file_of(path)) as source:
        reading = _Reading(source, os.fspath(path), keep_truncated, lambda text: note and note(f"{path}: {text}"))
        mixer = Mixer(sample_rate_hz, each_channel, reading.note)
        for samples, rate_hz in reading.blocks(offset_seconds, duration_seconds, sample_rate_hz):
            if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
                raise AudioError(f"a sampling rate of {rate_hz} Hz is not within {RATES_HZ[0]} to {RATES_HZ[1]}")
            yield from mixer.blocks(samples, rate_hz)
        yield from mixer.end()


def _file_of(path: str | Path) -> str | Path:
    name = os.fspath(path)
    return "-" if isinstance(name, str) and name.startswith(RAW_PREFIX) and name.endswith(":-") else path


class _Reading:
    """One pass over a recording, part by part."""

    def __init__(self, source: Source, name: str, keep_truncated: bool, note: Callable[[str], None]):
        self.source, self.note, self.keep_truncated = source, note, keep_truncated
        self.plan: Plan = (
            plan_of_raw(source, RawFormat.parse(name[len(RAW_PREFIX) : -2]))
            if name.startswith(RAW_PREFIX) and name.endswith(":-")
            else plan_of(source, name)
        )
        self.seconds = 0.0  # decoded so far, whatever the part that is wanted

    def blocks(self, offset_seconds: float, duration_seconds: float | None, whole_rate_hz: int) -> Iterator[Decoded]:
        """Give the blocks of what is wanted. whole_rate_hz: the rate at which 16 bits stay 16 bits."""
        plan, end = self.plan, None if duration_seconds is None else offset_seconds + duration_seconds
        is_whole = end is None and not offset_seconds
        if plan.cut is not None and is_whole:
            self._lost(f"cut off: {plan.cut}")
        for text in plan.notes:
            self.note(text)
        given = 0.0
        for part in plan.parts:
            for block in self._within(self._of_part(part, offset_seconds, whole_rate_hz), offset_seconds, end):
                given += len(block.samples) / block.rate_hz
                yield block
            if end is not None and self.seconds >= end:
                return
        self._check(given, offset_seconds, duration_seconds)

    def _check(self, given: float, offset_seconds: float, duration_seconds: float | None) -> None:
        """Raise for, or note, what is missing of the part that was wanted; called where the file has ended."""
        if not given and offset_seconds:
            raise AudioError(f"the part begins at {offset_seconds:g} s, but the audio ends at {self.seconds:g} s")
        if not given:
            is_empty = all(part.decoder == "libsndfile" for part in self.plan.parts) and self.plan.cut is None
            raise AudioError(
                "the file has no samples" if is_empty else "nothing of it can be decoded: it is cut off or damaged"
            )
        missing = 0.0 if duration_seconds is None else duration_seconds - given
        cut = self.plan.cut
        if cut is not None and not self.keep_truncated:
            self._lost(f"cut off: {cut}")
        if missing > MISSING_SECONDS:
            wanted = f"{duration_seconds:g} s from {offset_seconds:g} s on"
            self.note(f"{wanted} were wanted, but the audio ends after {given:.2f} s of them")

    def _within(self, blocks: Iterator[Decoded], offset_seconds: float, end: float | None) -> Iterator[Decoded]:
        """Cut blocks, the first of which begins at ``self.seconds``, to what lies between the two times."""
        for samples, rate_hz in blocks:
            at = self.seconds
            self.seconds = at + len(samples) / rate_hz
            first = max(round((offset_seconds - at) * rate_hz), 0)
            last = len(samples) if end is None else round((end - at) * rate_hz)
            if last > first and first < len(samples):
                yield Decoded(samples[first:last], rate_hz)
            if end is not None and self.seconds >= end:
                return

    def _of_part(self, part: Part, offset_seconds: float, whole_rate_hz: int) -> Iterator[Decoded]:
        begin = self.seconds
        if part.decoder == "ffmpeg":
            yield from self._with_ffmpeg(part, max(offset_seconds - begin, 0.0))
        else:
            yield from self._with_libsndfile(part, max(offset_seconds - begin, 0.0), whole_rate_hz)

    def _with_libsndfile(self, part: Part, skip_seconds: float, whole_rate_hz: int) -> Iterator[Decoded]:
        begin, failure = self.seconds, None
        path = self.source.path if part.is_all else None
        file = path or self.source.span(part.start, part.end)
        try:
            with open_raw(file, part.raw) if part.raw else SoundFile(file) as sound:
                rate_hz, start = sound.samplerate, 0
                is_int16 = sound.subtype == "PCM_16" and sound.channels == 1 and rate_hz == whole_rate_hz
                if skip_seconds:
                    start = self._sought(sound, skip_seconds)
                elif part.delay:
                    sound.read(part.delay)
                for block in blocks_of(sound, "int16" if is_int16 else "float32", start):
                    self.source.check()
                    yield Decoded(block, rate_hz)
                self.source.check()
                if "CRC_MISMATCH" in sound.extra_info:
                    self.note("damaged: the check sum of a frame is wrong, and its sound may be")
        except soundfile.LibsndfileError as error:
            self.source.check()
            failure = error
        if failure is not None:
            yield from self._again_with_ffmpeg(part, begin, failure)
            return
        lost = (part.seconds or 0.0) - (self.seconds - begin)
        if lost > MISSING_SECONDS and self.plan.cut is None:
            self._lost(f"damaged: {lost:.1f} of {part.seconds:.1f} s cannot be decoded")

    def _sought(self, sound: SoundFile, skip_seconds: float) -> int:
        """Go to a place before the wanted one where the format can; return the sample that it is."""
        start = min(int(skip_seconds * sound.samplerate), sound.frames)
        try:
            start = sound.seek(start)
        except soundfile.LibsndfileError:
            return 0
        self.seconds += start / sound.samplerate
        return start

    def _again_with_ffmpeg(self, part: Part, begin: float, failure: soundfile.LibsndfileError) -> Iterator[Decoded]:
        """Decode the rest of a part that libsndfile gave up."""
        done = self.seconds - begin
        reason = failure.error_string or "the data is damaged"
        if part.raw is not None or part.container == "raw":
            raise AudioError(f"cannot be decoded after {done:.1f} s: {reason}")
        other = Part("ffmpeg", part.container, part.start, part.end, is_all=part.is_all, seconds=part.seconds)
        try:
            for samples, rate_hz in self._with_ffmpeg(other, 0.0):
                skipped = min(round(done * rate_hz), len(samples))
                done -= skipped / rate_hz
                if skipped < len(samples):
                    yield Decoded(samples[skipped:], rate_hz)
        except AudioError as error:
            if self.seconds > begin and self.keep_truncated:
                return
            raise AudioError(f"{error} (libsndfile: {reason})") from None

    def _with_ffmpeg(self, part: Part, skip_seconds: float) -> Iterator[Decoded]:
        decoder, seconds = Apart(self.source, part), 0.0
        try:
            for block in decoder.blocks(skip_seconds):
                if not seconds:
                    self.seconds += decoder.skipped_seconds
                if part.container == "ogg" and part.seconds is not None:  # an encoder's padding, which is not said otherwise
                    left = round((part.seconds - decoder.skipped_seconds - seconds) * block.rate_hz)
                    block = Decoded(block.samples[: max(left, 0)], block.rate_hz)
                seconds += len(block.samples) / block.rate_hz
                yield block
        except AudioError:
            if not (self.keep_truncated and seconds):
                raise
        if decoder.tracks > 1:
            self.note(f"there are {decoder.tracks} audio tracks in it: one of them is taken")
        if decoder.filled_seconds:
            self.note(f"packets are missing in it: {decoder.filled_seconds:.1f} s of silence are in their place")
        self._check_loss(decoder, part, decoder.skipped_seconds + seconds)

    def _check_loss(self, decoder: Apart, part: Part, seconds: float) -> None:
        """Raise when more than a tenth of a second is missing of what the header promises, or could not be decoded."""
        if self.plan.cut is not None:  # said already
            return
        promised = decoder.seconds if part.seconds is None else part.seconds
        lost, self.plan.broken_seconds = decoder.lost_seconds + self.plan.broken_seconds, 0.0
        if promised is not None and promised - seconds > MISSING_SECONDS:
            self._lost(f"cut off or damaged: {promised:.1f} s long by its header, but {seconds:.1f} s of it can be decoded")
        elif lost > MISSING_SECONDS:
            self._lost(f"damaged: {lost:.1f} s of it cannot be decoded, {seconds:.1f} s can")
        elif lost:
            self.note(f"damaged: {lost:.2f} s of it cannot be decoded")

    def _lost(self, text: str) -> None:
        """Raise for what is missing, or note it when what there is was asked for."""
        if not self.keep_truncated:
            raise AudioError(f"{text}; --keep-truncated (keep_truncated=True) takes what there is")
        self.note(text)


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
