"""How far a run is: a bar on a terminal, a line every half minute elsewhere, and the summary at its end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from ..console import say
from .inputs import Inputs
from .summary import Summary
from .transcriber import Result

LINE_SECONDS = 30.0
MOST_FAILURES_TOLD = MOST_NOTES_TOLD = 20


class Progress:
    """Counts what is done and shows it.

    failures_told: how many failures get a line of their own; ``None`` is all. where_failures: the file that has all failures.
    where_notes: the file that has all notes, of which ``MOST_NOTES_TOLD`` then get a line of their own; without it all do.
    """

    def __init__(
        self, *, quiet: bool, failures_told: int | None, where_failures: str | None = None, where_notes: str | None = None
    ):
        self.quiet, self.failures_told, self.where_failures = quiet, failures_told, where_failures
        self.where_notes, self.notes = where_notes, 0
        self.files = self.failed = self.skipped = 0
        self.audio_seconds = 0.0
        self.total: int | None = None
        self._start = self._told = time.monotonic()
        self._bar = tqdm(unit=" files", file=sys.stderr, dynamic_ncols=True, disable=quiet or not sys.stderr.isatty())

    def count(self, inputs: Inputs) -> None:
        """Find out in the background how many utterances there are, for the time that is left."""
        if not self.quiet and inputs.can_repeat:
            threading.Thread(target=self._count, args=(inputs,), daemon=True).start()

    def _count(self, inputs: Inputs) -> None:
        try:
            self.total = sum(1 for _ in inputs)
        except Exception:  # the run itself will come to it, and tell
            return

    def skip(self) -> None:
        self.skipped += 1

    def done(self, result: Result, audio_seconds: float) -> None:
        """Count a result; show where things are, now and then."""
        self.files += 1
        self.audio_seconds += audio_seconds
        if result.error is not None:
            self.failed += 1
            self._tell_failure(result.error)
        for note in result.notes:
            self._tell_note(note)
        if not self._bar.disable:
            self._bar.total = None if self.total is None else self.total - self.skipped
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update()
        elif not self.quiet and time.monotonic() - self._told > LINE_SECONDS:
            self._told = time.monotonic()
            total = "" if self.total is None else f" of {self.total - self.skipped}"
            say(f"{self.files}{total} files, {self._state()}{self._left()}")

    def _tell_failure(self, reason: str) -> None:
        if self.failures_told is None or self.failed <= self.failures_told:
            say(reason)
        if self.failed == self.failures_told:
            say(f"further failures are written only to {self.where_failures}")

    def _tell_note(self, note: str) -> None:
        self.notes += 1
        most = None if self.where_notes is None else MOST_NOTES_TOLD
        if not self.quiet and (most is None or self.notes <= most):
            say(note)
        elif not self.quiet and self.notes == MOST_NOTES_TOLD + 1:
            say(f"further notes are written only to {self.where_notes}")

    def _state(self) -> str:
        speed = self.audio_seconds / max(time.monotonic() - self._start, 1e-9)
        return f"{hours(self.audio_seconds)}, {speed:.0f} times real time, {self.failed} failed"

    def _left(self) -> str:
        if not self.total or not self.files:
            return ""
        left = (self.total - self.skipped - self.files) * (time.monotonic() - self._start) / self.files
        return f", {duration(left)} left" if left > 0 else ""

    def close(self) -> None:
        self._bar.close()


def hours(seconds: float) -> str:
    """``"2.50 h of audio"``; seconds while they are few."""
    return f"{seconds / 3600:.2f} h of audio" if seconds >= 360 else f"{seconds:.1f} s of audio"


def duration(seconds: float) -> str:
    """``"1:02:03"``."""
    return tqdm.format_interval(seconds)


def tell(summary: Summary, say: Callable[[str], None], failures: str | None) -> None:
    """Say what a run came to."""
    done, failed = summary.transcribed_this_run, summary.failed_this_run
    if summary.already_done:
        say(f"{summary.already_done} inputs were done already")
    if summary.changed_this_run:
        say(f"{_inputs(summary.changed_this_run)} changed since the last run: done again")
    if summary.audio_seconds_this_run:
        wall = summary.wall_seconds_this_run
        took = f"{wall:.2f} s" if wall < 60 else duration(wall)
        say(f"{hours(summary.audio_seconds_this_run)} in {took}, {summary.times_real_time:.0f} times real time")
    if summary.wer is not None:
        say(
            f"word error rate {100 * summary.wer:.2f} % of {summary.reference_words} words, "
            f"character error rate {100 * summary.cer:.2f} % (normalizer {summary.normalizer}: {summary.normalizer_does})"
        )
    if summary.with_notes_this_run:
        its = "its file has" if summary.with_notes_this_run == 1 else "their files have"
        say(f"{_inputs(summary.with_notes_this_run)} a note: {its} a fault that decoding worked around")
    if failed:
        say(f"{failed} of {done + failed} inputs could not be transcribed" + (f": see {failures}" if failures else ""))
    elif summary.failed:
        say(f"{summary.failed} inputs failed in earlier runs: see {failures}; --retry-failed tries them again")


def _inputs(count: int) -> str:
    return "1 input has" if count == 1 else f"{count} inputs have"
