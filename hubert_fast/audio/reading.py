"""Decode a file part by part as its plan says, and report what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import soundfile

from .decoder_process import Decoding
from .errors import AudioError
from .plan import TOLERATED_SECONDS, Part, Plan
from .sources import Source
from .with_pyav import Decoded
from .with_soundfile import SoundFile, blocks_of, open_raw


class Reading:
    """A pass over a file that decodes it and reports what is missing.

    Args:
        source: The bytes of the file.
        plan: The plan for decoding them.
        keep_truncated: Decode what is left of a damaged file instead of raising `AudioError`.
        note: Function called with each note for the user.
    """

    def __init__(self, source: Source, plan: Plan, keep_truncated: bool, note: Callable[[str], None]):
        self.source, self.plan, self.keep_truncated, self.note = source, plan, keep_truncated, note
        self.seconds = 0.0  # position in the recording, including anything skipped

    def blocks(self, offset_seconds: float, duration_seconds: float | None, int16_rate_hz: int) -> Iterator[Decoded]:
        """Yield the blocks of the requested section.

        Args:
            offset_seconds: Where the section begins.
            duration_seconds: How long it is; `None` means to the end.
            int16_rate_hz: Sampling rate at which libsndfile keeps mono 16-bit samples as int16.

        Raises:
            AudioError: If the section cannot be decoded, or audio is missing and `keep_truncated` is not set.
        """
        plan, end = self.plan, None if duration_seconds is None else offset_seconds + duration_seconds
        is_whole = end is None and not offset_seconds
        if plan.truncation is not None and is_whole:
            self._report_loss(f"cut off: {plan.truncation}")
        for text in plan.notes:
            self.note(text)
        yielded = 0.0
        for part in plan.parts:
            for block in self._trim(self._decode(part, offset_seconds, end, int16_rate_hz), offset_seconds, end):
                yielded += len(block.samples) / block.rate_hz
                yield block
            if end is not None and self.seconds >= end:
                return
        self._check_section(yielded, offset_seconds, duration_seconds)

    def _check_section(self, yielded: float, offset_seconds: float, duration_seconds: float | None) -> None:
        """Report what is missing of the requested section, of which `yielded` seconds were decoded when the file ended."""
        if not yielded and offset_seconds:
            raise AudioError(f"the requested part begins at {offset_seconds:g} s, but the audio ends at {self.seconds:g} s")
        if not yielded:
            is_empty = all(part.decoder == "libsndfile" for part in self.plan.parts) and self.plan.truncation is None
            raise AudioError(
                "the file has no samples" if is_empty else "no part of the file can be decoded: it is cut off or damaged"
            )
        missing = 0.0 if duration_seconds is None else duration_seconds - yielded
        truncation = self.plan.truncation
        if truncation is not None and not self.keep_truncated:
            self._report_loss(f"cut off: {truncation}")
        if missing > TOLERATED_SECONDS:
            expected = f"expected {duration_seconds:g} s of audio from {offset_seconds:g} s on"
            self.note(f"{expected}, but the file ends {yielded:.2f} s after that")

    def _trim(self, blocks: Iterator[Decoded], offset_seconds: float, end: float | None) -> Iterator[Decoded]:
        """Cut blocks to the section between two times. The first block begins at `self.seconds`."""
        for samples, rate_hz in blocks:
            at = self.seconds
            self.seconds = at + len(samples) / rate_hz
            first = max(round((offset_seconds - at) * rate_hz), 0)
            last = len(samples) if end is None else round((end - at) * rate_hz)
            if last > first and first < len(samples):
                yield Decoded(samples[first:last], rate_hz)

    def _decode(self, part: Part, offset_seconds: float, end: float | None, int16_rate_hz: int) -> Iterator[Decoded]:
        """Decode a part from some block before `offset_seconds` up to the block that reaches `end`."""
        skip_seconds = max(offset_seconds - self.seconds, 0.0)
        until_seconds = None if end is None else end - self.seconds
        if part.decoder == "libsndfile":
            yield from self._decode_with_libsndfile(part, skip_seconds, until_seconds, int16_rate_hz)
        else:  # with several parts nothing is skipped, because only decoding shows how long each part is
            yield from self._decode_with_ffmpeg(part, skip_seconds if len(self.plan.parts) == 1 else 0.0, until_seconds)

    def _decode_with_libsndfile(
        self, part: Part, skip_seconds: float, until_seconds: float | None, int16_rate_hz: int
    ) -> Iterator[Decoded]:
        begin, failure = self.seconds, None
        path = self.source.path if part.is_whole_file else None
        file = path or self.source.span(part.start, part.end)
        try:
            with open_raw(file, part.raw) if part.raw else SoundFile(file) as sound:
                rate_hz, start = sound.samplerate, 0
                is_int16 = sound.subtype == "PCM_16" and sound.channels == 1 and rate_hz == int16_rate_hz
                if skip_seconds:
                    start = self._seek(sound, skip_seconds, part.delay)
                if part.delay and not start:
                    sound.read(part.delay)
                for block in blocks_of(sound, "int16" if is_int16 else "float32", start):
                    self.source.check()
                    yield Decoded(block, rate_hz)
                    if until_seconds is not None and self.seconds - begin >= until_seconds:
                        return
                self.source.check()
                if "CRC_MISMATCH" in sound.extra_info:
                    self.note("damaged: a frame has a wrong checksum, so its sound may be wrong too")
        except soundfile.LibsndfileError as error:
            self.source.check()
            failure = error
        if failure is not None:
            yield from self._resume_with_ffmpeg(part, begin, until_seconds, failure)
            return
        if part.seconds is None:
            return
        lost = part.seconds - (self.seconds - begin)
        if lost > TOLERATED_SECONDS and self.plan.truncation is None:
            self._report_loss(f"damaged: {lost:.1f} of {part.seconds:.1f} s cannot be decoded")

    def _seek(self, sound: SoundFile, skip_seconds: float, delay: int) -> int:
        """Seek where the format allows it. Return the sample that the file is then at; 0 is the beginning."""
        start = min(int(skip_seconds * sound.samplerate) + delay, sound.frames)
        try:
            start = sound.seek(start)
        except soundfile.LibsndfileError:
            return 0
        self.seconds += (start - delay) / sound.samplerate
        return start

    def _resume_with_ffmpeg(
        self, part: Part, begin: float, until_seconds: float | None, failure: soundfile.LibsndfileError
    ) -> Iterator[Decoded]:
        """Decode the rest of a part, which begins at `begin` seconds, after libsndfile has failed on it."""
        done = self.seconds - begin
        reason = failure.error_string or "the data is damaged"
        if part.raw is not None or part.container == "raw":
            raise AudioError(f"cannot be decoded after {done:.1f} s: {reason}")
        retry = Part("ffmpeg", part.container, part.start, part.end, is_whole_file=part.is_whole_file, seconds=part.seconds)
        try:
            for samples, rate_hz in self._decode_with_ffmpeg(retry, 0.0, until_seconds):
                skipped = min(round(done * rate_hz), len(samples))
                done -= skipped / rate_hz
                if skipped < len(samples):
                    yield Decoded(samples[skipped:], rate_hz)
        except AudioError as error:
            text = f"{error} (libsndfile: {reason})"
            if self.seconds == begin or not self.keep_truncated:
                raise AudioError(text) from None
            self.note(f"{text}; the {self.seconds - begin:.1f} s before that are kept")

    def _decode_with_ffmpeg(self, part: Part, skip_seconds: float, until_seconds: float | None) -> Iterator[Decoded]:
        decoding, seconds, begin = Decoding(self.source, part), 0.0, self.seconds
        try:
            for block in decoding.blocks(skip_seconds, until_seconds):
                if not seconds:
                    self.seconds += decoding.skipped_seconds
                if part.container == "ogg" and part.seconds is not None:  # cut the encoder's padding, which FFmpeg keeps
                    left = round((part.seconds - decoding.skipped_seconds - seconds) * block.rate_hz)
                    block = Decoded(block.samples[: max(left, 0)], block.rate_hz)
                seconds += len(block.samples) / block.rate_hz
                yield block
        except AudioError as error:
            if not (self.keep_truncated and seconds):
                raise
            self.note(f"{error}; the {decoding.skipped_seconds + seconds:.1f} s before that are kept")
            return
        if not seconds and decoding.skipped_seconds:  # the section begins after the end, whose position may be unknown
            self.seconds = begin + (decoding.seconds or decoding.skipped_seconds)
        self._note_oddities(decoding)
        if until_seconds is None or decoding.skipped_seconds + seconds < until_seconds:
            self._check_loss(decoding, part, decoding.skipped_seconds + seconds)

    def _note_oddities(self, decoding: Decoding) -> None:
        if decoding.tracks > 1:
            self.note(
                f"the file has {decoding.tracks} audio tracks: only track {decoding.track} is transcribed "
                f"(`ffmpeg -i FILE -map 0:a:N OUT.wav` extracts another, counted from 0)"
            )
        if decoding.filled_seconds >= TOLERATED_SECONDS:
            self.note(f"packets are missing: {decoding.filled_seconds:.1f} s of silence were inserted in their place")
        if decoding.jumps:
            times = "once" if decoding.jumps == 1 else f"{decoding.jumps} times"
            self.note(f"its clock jumps {times}, as in recordings joined end to end: no silence is inserted there")

    def _check_loss(self, decoding: Decoding, part: Part, seconds: float) -> None:
        """Report a loss if more than `TOLERATED_SECONDS` are missing according to the header, or cannot be decoded."""
        if self.plan.truncation is not None:  # already reported
            return
        expected = decoding.seconds if part.seconds is None else part.seconds
        lost, self.plan.undecodable_seconds = decoding.lost_seconds + self.plan.undecodable_seconds, 0.0
        if expected is not None and expected - seconds > TOLERATED_SECONDS:
            self._report_loss(
                f"cut off or damaged: its header says {expected:.1f} s, but only {seconds:.1f} s of it can be decoded"
            )
        elif lost > TOLERATED_SECONDS:
            self._report_loss(f"damaged: {lost:.1f} s of it cannot be decoded, {seconds:.1f} s can")
        elif lost:
            self.note(f"damaged: {lost:.2f} s of it cannot be decoded")

    def _report_loss(self, text: str) -> None:
        """Raise an error that describes a loss, or note it if `keep_truncated` is set."""
        if not self.keep_truncated:
            raise AudioError(f"{text}; use --keep-truncated (keep_truncated=True) to keep what can be decoded")
        self.note(text)
