"""Decode a recording part by part as its plan says, and say what is missing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import soundfile

from .decoder_process import Decoding
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
            for block in self._within(self._of_part(part, offset_seconds, end, whole_rate_hz), offset_seconds, end):
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
                "the file has no samples" if is_empty else "no part of the file can be decoded: it is cut off or damaged"
            )
        missing = 0.0 if duration_seconds is None else duration_seconds - given
        cut = self.plan.cut
        if cut is not None and not self.keep_truncated:
            self._lost(f"cut off: {cut}")
        if missing > MISSING_SECONDS:
            wanted = f"expected {duration_seconds:g} s of audio from {offset_seconds:g} s on"
            self.note(f"{wanted}, but the file ends {given:.2f} s after that")

    def _within(self, blocks: Iterator[Decoded], offset_seconds: float, end: float | None) -> Iterator[Decoded]:
        """Cut blocks, the first of which begins at ``self.seconds``, to what lies between the two times."""
        for samples, rate_hz in blocks:
            at = self.seconds
            self.seconds = at + len(samples) / rate_hz
            first = max(round((offset_seconds - at) * rate_hz), 0)
            last = len(samples) if end is None else round((end - at) * rate_hz)
            if last > first and first < len(samples):
                yield Decoded(samples[first:last], rate_hz)

    def _of_part(self, part: Part, offset_seconds: float, end: float | None, whole_rate_hz: int) -> Iterator[Decoded]:
        """Decode a part up to the block that reaches ``end``, from a block before ``offset_seconds`` on."""
        skip_seconds = max(offset_seconds - self.seconds, 0.0)
        until_seconds = None if end is None else end - self.seconds
        if part.decoder == "libsndfile":
            yield from self._with_libsndfile(part, skip_seconds, until_seconds, whole_rate_hz)
        else:  # how long a recording is that others follow is known once it is decoded
            yield from self._with_ffmpeg(part, skip_seconds if len(self.plan.parts) == 1 else 0.0, until_seconds)

    def _with_libsndfile(
        self, part: Part, skip_seconds: float, until_seconds: float | None, whole_rate_hz: int
    ) -> Iterator[Decoded]:
        begin, failure = self.seconds, None
        path = self.source.path if part.is_all else None
        file = path or self.source.span(part.start, part.end)
        try:
            with open_raw(file, part.raw) if part.raw else SoundFile(file) as sound:
                rate_hz, start = sound.samplerate, 0
                is_int16 = sound.subtype == "PCM_16" and sound.channels == 1 and rate_hz == whole_rate_hz
                if skip_seconds:
                    start = self._sought(sound, skip_seconds, part.delay)
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
            yield from self._again_with_ffmpeg(part, begin, until_seconds, failure)
            return
        lost = (part.seconds or 0.0) - (self.seconds - begin)
        if lost > MISSING_SECONDS and self.plan.cut is None:
            self._lost(f"damaged: {lost:.1f} of {part.seconds:.1f} s cannot be decoded")

    def _sought(self, sound: SoundFile, skip_seconds: float, delay: int) -> int:
        """Go to the wanted place where the format can; return the sample that it is, 0 at the beginning."""
        start = min(int(skip_seconds * sound.samplerate) + delay, sound.frames)
        try:
            start = sound.seek(start)
        except soundfile.LibsndfileError:
            return 0
        self.seconds += (start - delay) / sound.samplerate
        return start

    def _again_with_ffmpeg(
        self, part: Part, begin: float, until_seconds: float | None, failure: soundfile.LibsndfileError
    ) -> Iterator[Decoded]:
        """Decode the rest of a part that libsndfile gave up."""
        done = self.seconds - begin
        reason = failure.error_string or "the data is damaged"
        if part.raw is not None or part.container == "raw":
            raise AudioError(f"cannot be decoded after {done:.1f} s: {reason}")
        other = Part("ffmpeg", part.container, part.start, part.end, is_all=part.is_all, seconds=part.seconds)
        try:
            for samples, rate_hz in self._with_ffmpeg(other, 0.0, until_seconds):
                skipped = min(round(done * rate_hz), len(samples))
                done -= skipped / rate_hz
                if skipped < len(samples):
                    yield Decoded(samples[skipped:], rate_hz)
        except AudioError as error:
            text = f"{error} (libsndfile: {reason})"
            if self.seconds == begin or not self.keep_truncated:
                raise AudioError(text) from None
            self.note(f"{text}; the {self.seconds - begin:.1f} s before that are kept")

    def _with_ffmpeg(self, part: Part, skip_seconds: float, until_seconds: float | None) -> Iterator[Decoded]:
        decoding, seconds, begin = Decoding(self.source, part), 0.0, self.seconds
        try:
            for block in decoding.blocks(skip_seconds, until_seconds):
                if not seconds:
                    self.seconds += decoding.skipped_seconds
                if part.container == "ogg" and part.seconds is not None:  # an encoder's padding, which is not said otherwise
                    left = round((part.seconds - decoding.skipped_seconds - seconds) * block.rate_hz)
                    block = Decoded(block.samples[: max(left, 0)], block.rate_hz)
                seconds += len(block.samples) / block.rate_hz
                yield block
        except AudioError as error:
            if not (self.keep_truncated and seconds):
                raise
            self.note(f"{error}; the {decoding.skipped_seconds + seconds:.1f} s before that are kept")
            return
        if not seconds and decoding.skipped_seconds:  # the part begins after the end, wherever that is
            self.seconds = begin + (decoding.seconds or decoding.skipped_seconds)
        self._note_oddities(decoding)
        if until_seconds is None or decoding.skipped_seconds + seconds < until_seconds:
            self._check_loss(decoding, part, decoding.skipped_seconds + seconds)

    def _note_oddities(self, decoding: Decoding) -> None:
        if decoding.tracks > 1:
            self.note(
                f"the file has {decoding.tracks} audio tracks: only track {decoding.track} is transcribed "
                f"(`ffmpeg -i FILE -map 0:a:N` extracts another, counted from 0)"
            )
        if decoding.filled_seconds >= MISSING_SECONDS:
            self.note(f"packets are missing: {decoding.filled_seconds:.1f} s of silence were inserted in their place")
        if decoding.jumps:
            self.note(f"its clock jumps ({decoding.jumps} times), as in recordings that were joined: nothing is put in between")

    def _check_loss(self, decoding: Decoding, part: Part, seconds: float) -> None:
        """Raise when more than a tenth of a second is missing of what the header promises, or could not be decoded."""
        if self.plan.cut is not None:  # said already
            return
        promised = decoding.seconds if part.seconds is None else part.seconds
        lost, self.plan.broken_seconds = decoding.lost_seconds + self.plan.broken_seconds, 0.0
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
