"""Run a job: process the inputs that are not done yet, and write the results and the journal."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol

from . import sinks
from .formats import error_row
from .inputs import Inputs
from .journal import MISSING, Errors, Journal, JournalError, Stamp
from .options import Options
from .outcomes import Outcome
from .row_file import RowFile
from .summary import Summary
from .utterances import Shard, Utterance

COMMIT_SECONDS = 1.0  # commit interval: the most work that a kill can lose


class Engine(Protocol):
    """Turns utterances into results, as `runner.Run` does, or `ray_engine.RayRun` on a cluster."""

    @property
    def batch_seconds(self) -> float: ...

    def results(self) -> Generator[Any, None, None]: ...

    def stop(self) -> None: ...


class Progress(Protocol):
    """Receives the outcome of each utterance."""

    def done(self, result: Outcome) -> None: ...

    def skip(self) -> None: ...


def settings_of(identity: Mapping[str, Any], dtype: str, options: Options, format: str, shard: Shard | None) -> dict[str, Any]:
    """Return the settings that determine the results. Only a run with the same settings may continue an output.

    Args:
        identity: The settings of the model, from `Runner.identity`.
        dtype: Number format of the model.
        options: Options of the job.
        format: Name of the output format.
        shard: The part of the inputs, if they are divided.
    """
    return {
        **identity,
        "dtype": dtype,
        "chunk seconds": options.chunk_seconds,
        "overlap seconds": options.overlap_seconds,
        "channels": options.channels,
        "keep truncated": options.keep_truncated,
        "format": format,
        "shard": None if shard is None else f"{shard.index}/{shard.count}",
    }


class OutputError(Exception):
    """An output could not be written; the message says which and why."""


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn errors in writing the output `name` into `OutputError`, to distinguish them from errors in reading and computing."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise OutputError(f"the journal of {name} cannot be written: {error}") from None


class Job:
    """Processes the inputs that are not done yet. Call `run` once.

    Args:
        inputs: The inputs.
        output: Receives the results.
        summary: Receives the counts.
        progress: Receives the outcome of each utterance.
        journal: Records what is done; by default a temporary one, so that inputs named twice are processed only once.
        failures: Receives a row for each failure; without it, only `progress` receives them.
        score: Counts the errors of a result against the reference of its utterance, if it has one.
        limit_frames: Frames after which the job is complete, those of earlier runs included; `None` for all inputs.
    """

    def __init__(
        self,
        inputs: Inputs,
        output: sinks.Output,
        summary: Summary,
        progress: Progress,
        *,
        journal: Journal | None = None,
        failures: RowFile | None = None,
        score: Callable[[Any], Errors] | None = None,
        limit_frames: int | None = None,
    ):
        self.inputs, self.output, self.summary, self.progress = inputs, output, summary, progress
        self.journal, self.failures = journal or Journal(None), failures
        self._name = summary.output or "standard output"
        self._running: dict[bytes, Stamp | None] = {}  # by key: the file's size and time before it was opened
        self._score = score
        self._limit_frames, self._done_frames = limit_frames, self.journal.totals().frames
        self._lock = threading.Lock()  # guards the outputs and the journal
        self._has_uncommitted = False
        self._error: BaseException | None = None

    def utterances(self) -> Iterator[Utterance]:
        """Yield the inputs that are neither running nor done, or have changed since they were done.

        Raises:
            JournalError: If rows of the output are in the order of the inputs, and the inputs no longer fit it.
        """
        totals = self.journal.totals()
        for position, utterance in enumerate(() if self._is_enough() else self.inputs):
            key, stamp = utterance.key, Stamp.of(utterance.audio)
            if self.output.is_aligned:
                self._check_order(utterance, position < totals.done + totals.failed, stamp)
            # in this order: a result enters the journal before it leaves _running
            if key in self._running or self.journal.is_current(key, stamp):
                self.progress.skip()
                self.summary.already_done += 1
                continue
            if utterance.error is not None and stamp != MISSING:
                stamp = None  # the error does not depend on the file's content
            self._running[key] = stamp
            yield utterance

    def _check_order(self, utterance: Utterance, is_expected_done: bool, stamp: Stamp | None) -> None:
        """Raise `JournalError` if the row of an utterance cannot be where its position among the inputs puts it."""
        current = self.journal.is_current(utterance.key, stamp)
        if is_expected_done and current is None:
            reason = "is new, but comes before inputs that are done: add inputs at the end"
        elif is_expected_done and not current:
            reason = "has changed since it was done: keep files as they were"
        elif not is_expected_done and (current is not None or utterance.key in self._running):
            reason = "is named twice: name it once"
        else:
            return
        advice = "" if self.summary.output is None else ", or use --overwrite"
        raise JournalError(f"row i of {self._name} belongs to input i, and {utterance.audio} {reason}{advice}")

    def run(self, engine: Engine) -> Summary:
        """Write every result and keep the journal. Committed results survive a failure.

        Raises:
            OutputError: If something cannot be written. Exceptions of the engine are raised unchanged.
        """
        start, ended = time.monotonic(), threading.Event()
        committer = threading.Thread(target=self._commit_regularly, args=(ended, engine), daemon=True)
        committer.start()
        try:
            with contextlib.closing(engine.results()) as results:
                for result in results:
                    with self._lock:
                        self._add(result)
                    if self._is_enough():
                        break
            with self._lock:
                self._commit()
                self._finish()
        except BaseException:
            with self._lock, contextlib.suppress(sqlite3.Error):
                self.journal.forget_uncommitted()
            raise
        finally:
            ended.set()
            committer.join()
            self.summary.batch_seconds = round(engine.batch_seconds, 3)
            self.summary.count(self.journal.totals(), time.monotonic() - start)
        if self._error is not None:
            raise self._error
        return self.summary

    def _is_enough(self) -> bool:
        return self._limit_frames is not None and self._done_frames >= self._limit_frames

    def _commit_regularly(self, ended: threading.Event, engine: Engine) -> None:
        while not ended.wait(COMMIT_SECONDS):
            with self._lock:
                try:
                    if self._has_uncommitted and self._error is None:
                        self._commit()
                except BaseException as error:
                    self._error = error
            if self._error is not None:
                engine.stop()
                return

    def _add(self, result: Outcome) -> None:
        if self._error is not None:
            raise self._error
        seconds, failed = result.audio_seconds, result.error is not None
        errors = Errors() if failed or self._score is None else self._score(result)
        key = result.utterance.key
        stamp = self._running[key]
        if not failed and stamp == MISSING:
            stamp = None  # not a local path: standard input, or a file that only other machines can see
        with writing(self._name):
            if not failed and self.output.prepare(result):
                self._commit()
            was_done = self.journal.retire(key)
            row = None
            if not failed:
                row = self.output.write(result)
            else:
                self.output.write_failure(result)
                row = None if self.failures is None else self.failures.append(error_row(result))
            if was_done:
                self.output.drop_older(result)
            notes, frames = len(result.notes), result.frame_count
            self.journal.add(key, failed, seconds, errors, stamp=stamp, row=row, notes=notes, frames=frames)
        self._has_uncommitted = True
        del self._running[key]
        self.summary.failed_this_run += failed
        self.summary.done_this_run += not failed
        self.summary.changed_this_run += was_done
        self.summary.with_notes_this_run += bool(result.notes)
        self.summary.audio_seconds_this_run += seconds
        self._done_frames += result.frame_count
        self.progress.done(result)

    def _commit(self) -> None:
        with writing(self._name):
            sizes = self.output.sync()
            if self.failures is not None:
                sizes |= self.failures.sync()
            self.journal.commit(sizes)
        self._has_uncommitted = False

    def _finish(self) -> None:
        """Complete the output files, and remove the outdated rows of inputs that have changed."""
        with writing(self._name):
            self.output.finish()
            if self.failures is not None:
                self.failures.finish()
