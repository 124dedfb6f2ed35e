"""Show how far a job with an output for each shard is."""

from __future__ import annotations

import time

from ...console import say
from ..outcomes import Outcome
from ..progress import Progress, duration
from .engine import ShardResult


class ShardProgress(Progress):
    """Counts shards and results, and shows how far the run is.

    Args:
        quiet: Show no progress and no notes.
        most_failures: Number of failures to print.
        failures_file: Where all failures are listed.
        notes_file: The file that holds all notes, if any does.
        hears_results: Whether `hear` is called with each result; otherwise only shards are counted.
    """

    unit = " shards"

    def __init__(
        self, *, quiet: bool, most_failures: int, failures_file: str, notes_file: str | None = None, hears_results: bool = True
    ):
        super().__init__(quiet=quiet, most_failures=most_failures, failures_file=failures_file, notes_file=notes_file)
        self.shards, self.shards_total, self._hears_results = 0, 0, hears_results

    def total_shards(self, count: int) -> None:
        """Set the number of shards to process."""
        self.shards_total = self._bar.total = count

    def hear(self, result: Outcome) -> None:
        """Count the result of an utterance, and show a failure."""
        self._count_result(result)
        self._show_now_and_then(self._line)

    def done(self, result: ShardResult) -> None:  # type: ignore[override]
        """Count a shard, and show what kept it from being finished."""
        self.shards += 1
        entry = result.entry
        if entry is None:
            say(result.error or "")
        elif not self._hears_results:
            self.files += entry.done + entry.failed
            self.audio_seconds += entry.audio_seconds
            for example in result.examples:
                self._show_failure(example)
            self.failed += entry.failed - len(result.examples)
        for note in () if self.quiet else result.notes:
            say(note)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self.files} files, {self._state()}", refresh=False)
            self._bar.update()
        self._show_now_and_then(self._line)

    def _line(self) -> str:
        spent = time.monotonic() - self._start
        left = (self.shards_total - self.shards) * spent / self.shards if self.shards else 0.0
        shards = f"{self.shards} of {self.shards_total} shards, {self.files} files"
        return f"{shards}, {self._state()}{f', {duration(left)} left' if left else ''}"
