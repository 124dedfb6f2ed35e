"""Show the progress of a run, as a bar on a terminal or else as a line every half minute, and its summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from ..audio.contained import Contained
from ..console import say
from .inputs import Inputs
from .outcomes import Outcome
from .summary import Summary

LINE_SECONDS = 30.0
MOST_FAILURES_SHOWN = MOST_NOTES_SHOWN = 20


class Progress:
    """Counts results and shows how far the run is.

    Args:
        quiet: Show no progress and no notes.
        most_failures: Number of failures to print; `None` prints all.
        failures_file: The file that lists all failures.
        notes_file: The file that holds all notes; if given, only the first `MOST_NOTES_SHOWN` are printed.

    Attributes:
        unit: What the bar counts.
    """

    unit = " files"

    def __init__(
        self, *, quiet: bool, most_failures: int | None, failures_file: str | None = None, notes_file: str | None = None
    ):
        self.quiet, self.most_failures, self.failures_file = quiet, most_failures, failures_file
        self.most_notes = 0 if quiet else None if notes_file is None else MOST_NOTES_SHOWN
        self.notes_file, self.notes = notes_file, 0
        self.files = self.failed = self.skipped = 0
        self.audio_seconds = 0.0
        self.total: int | None = None
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(unit=self.unit, file=sys.stderr, dynamic_ncols=True, disable=quiet or not sys.stderr.isatty())

    def count(self, inputs: Inputs) -> None:
        """Count the utterances in the background, to estimate the time left."""
        if not self.quiet and inputs.can_repeat:
            threading.Thread(target=self._count, args=(inputs,), daemon=True).start()

    def _count(self, inputs: Inputs) -> None:
        try:
            total = 0
            for utterance in inputs:
                if isinstance(utterance.audio, Contained):
                    return  # counting would mean reading all of the shards
                total += 1
            self.total = total
        except Exception:  # the run will meet the same error and report it
            return

    def skip(self) -> None:
        """Count an input that is done already."""
        self.skipped += 1

    def done(self, result: Outcome) -> None:
        """Count a result, and from time to time show how far the run is."""
        self._count_result(result)
        if not self._bar.disable:
            self._bar.total = None if self.total is None else self.total - self.skipped
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update()
        self._show_now_and_then(self._line)

    def _count_result(self, result: Outcome) -> None:
        self.files += 1
        self.audio_seconds += result.audio_seconds
        if result.error is not None:
            self._show_failure(result.error)
        for note in result.notes:
            self.notes += 1
            self._show(note, self.notes, self.most_notes, f"further notes are written only to {self.notes_file}")

    def _show_failure(self, error: str) -> None:
        self.failed += 1
        self._show(error, self.failed, self.most_failures, f"further failures are written only to {self.failures_file}")

    def _show_now_and_then(self, line: Callable[[], str]) -> None:
        """Print a line, unless a bar shows the same or the last line is not old enough."""
        if self._bar.disable and not self.quiet and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            say(line())

    def _line(self) -> str:
        total = "" if self.total is None else f" of {self.total - self.skipped}"
        return f"{self.files}{total} files, {self._state()}{self._time_left()}"

    def _show(self, message: str, number: int, limit: int | None, rest: str) -> None:
        """Print a message of a kind up to its `limit`, then once the line `rest`, which says where further ones are."""
        if limit is None or number <= limit:
            say(message)
        elif not self.quiet and number == limit + 1:
            say(rest)

    def _state(self) -> str:
        speed = self.audio_seconds / max(time.monotonic() - self._start, 1e-9)
        return f"{hours(self.audio_seconds)}, {speed:.0f} times real time, {self.failed} failed"

    def _time_left(self) -> str:
        if not self.total or not self.files:
            return ""
        left = (self.total - self.skipped - self.files) * (time.monotonic() - self._start) / self.files
        return f", {duration(left)} left" if left > 0 else ""

    def close(self) -> None:
        """Close the progress bar."""
        self._bar.close()


def hours(seconds: float) -> str:
    """Return a text such as `"2.50 h of audio"`, with seconds below six minutes."""
    return f"{seconds / 3600:.2f} h of audio" if seconds >= 360 else f"{seconds:.1f} s of audio"


def duration(seconds: float) -> str:
    """Return a time such as `"1:02:03"`."""
    return tqdm.format_interval(seconds)


def report_summary(summary: Summary, report: Callable[[str], None], failures: str | None) -> None:
    """Report the outcome of a run, line by line.

    Args:
        summary: The outcome.
        report: Function called with each line.
        failures: The file that lists all failures, if any.
    """
    done, failed = summary.done_this_run, summary.failed_this_run
    if summary.already_done:
        report(f"{_inputs(summary.already_done)} {_was(summary.already_done)} already done")
    if summary.changed_this_run:
        was = _was(summary.changed_this_run)
        report(f"{_inputs(summary.changed_this_run)} changed since the last run and {was} processed again")
    if summary.audio_seconds_this_run:
        wall = summary.wall_seconds_this_run
        took = f"{wall:.2f} s" if wall < 60 else duration(wall)
        report(f"{hours(summary.audio_seconds_this_run)} in {took}, {summary.times_real_time:.0f} times real time")
    for line in summary.findings():
        report(line)
    if summary.with_notes_this_run:
        have, files = ("has", "its file") if summary.with_notes_this_run == 1 else ("have", "their files")
        report(f"{_inputs(summary.with_notes_this_run)} {have} notes: decoding worked around faults in {files}")
    if failed:
        report(
            f"{failed} of {done + failed} inputs could not be {summary.participle}" + (f": see {failures}" if failures else "")
        )
    elif summary.failed:
        report(f"{_inputs(summary.failed)} failed in earlier runs: see {failures}; --retry-failed tries again")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _inputs(count: int) -> str:
    return "1 input" if count == 1 else f"{count} inputs"
