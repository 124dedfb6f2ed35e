"""Decode a recording part by part as its plan says, and say what is missing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import soundfile

from .decoder_process import Apart
from .errors import AudioError
from .plan import MISSING_SECONDS, Part, Plan
from .sources import Source
from .with_pyav import Decoded
from .with_soundfile import SoundFile, blocks_of, open_raw


class Reading:
    """One pass over a recording.

    keep_truncated: take what there is instead of raising. note: is told what was odd, and what is missing then.
    """

    def __init__(self, source: Source, plan: Plan, keep_truncated: bool, note: Callable[[str], None]):
        self.source, self.plan, self.keep_truncated, self.note = source, plan, keep_truncated, note
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
