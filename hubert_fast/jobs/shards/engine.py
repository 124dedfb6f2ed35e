"""Process shards in one process: several are read at a time and share the batches, and each has an output of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...audio.contained import Contained, temporary_file
from ...hub import first_line
from ..formats import FAILURES as FAILURE_FORMAT
from ..formats import Format, error_row
from ..inputs import Inputs
from ..job import OutputError, writing
from ..journal import MISSING, Errors, Stamp
from ..manifests import ManifestError
from ..options import Options
from ..outcomes import Outcome
from ..queues import WeightedQueue
from ..runner import Runner
from ..utterances import Utterance
from . import kinds, lhotse_shar, streams
from .finding import Found
from .manifest import Entry, place_of
from .retries import StorageError, is_final
from .shard_rows import TextRows, shard_rows, suffix_of
from .storage import Storage

READ_BYTES = 256 << 20  # of audio that was read and waits to be decoded
LEAST_WEIGHT = 1 << 12  # of an utterance in the queue, in bytes
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class ShardWork:
    """What is done with each shard. Ray sends it to actors.

    Attributes:
        output: Path or URL of the output folder.
        format_name: The name of the format of outputs.
        format: The format of outputs.
        options: Options of the job.
        score: Counts the errors of a result against the reference of its utterance.
        column: The column with the audio, for tables.
        allow_pipes: Whether lists may name shell commands.
        readers: The number of shards that a process works on at a time.
    """

    output: str
    format_name: str
    format: Format
    options: Options
    score: Callable[[Any], Errors] | None = None
    column: str | None = None
    allow_pipes: bool = False
    readers: int = 4


@dataclass(frozen=True)
class ShardResult:
    """The outcome for a shard.

    Attributes:
        shard: The shard.
        entry: Its entry in the manifest; `None` if it is not finished.
        error: Why it is not finished.
        is_final: Whether the next attempt would fail too, unless something changes: there is no such file, say.
        notes: Warnings about the shard.
        examples: The errors of the first utterances that failed.
    """

    shard: Found
    entry: Entry | None = None
    error: str | None = None
    is_final: bool = False
    notes: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


def utterances_of(shard: Found, work: ShardWork, note: Callable[[str], None]) -> Iterator[Utterance]:
    """Yield the utterances of a shard, which may also be a list or a zip archive.

    Raises:
        StorageError: If it cannot be read.
    """
    try:
        if kinds.is_shard(shard.url) or lhotse_shar.is_shar(shard.url):
            yield from kinds.utterances(shard.url, work.column, lambda message: note(f"{shard.url}: {message}"))
            return
        if (path := streams.local_path(shard.url)) is not None and os.path.isdir(path):
            os.scandir(path).close()  # fails if it cannot be listed
            raise StorageError(f"{shard.url}: no shards in this folder: name a list of its files, or leave out --per-shard")
        for utterance in Inputs([shard.url], note=note, allow_pipes=work.allow_pipes, column=work.column):
            if utterance.error is not None and utterance.id == shard.url:  # it cannot be opened
                raise StorageError(utterance.error)
            yield utterance
    except StorageError:
        raise
    except ManifestError as error:
        raise StorageError(str(error)) from None
    except OSError as error:
        raise StorageError(f"{shard.url}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a library raises about a file is an error of that file
        raise StorageError(f"{shard.url}: {type(error).__name__}: {first_line(error)}") from None


class Part:
    """A shard in work: receives the results of its utterances, and writes them to temporary files."""

    def __init__(self, shard: Found, work: ShardWork, runner: Runner):
        self.shard, self._work = shard, work
        self._output, self._failures = temporary_file(), temporary_file()
        self._rows = shard_rows(self._output, work.format, runner)
        self._failure_rows = TextRows(self._failures, FAILURE_FORMAT)
        self._changed = threading.Condition()
        self._sent, self._received, self._is_closed = 0, 0, False
        self._error: BaseException | None = None
        self.done = self.failed = self.with_notes = self.frames = 0
        self.audio_seconds, self.errors = 0.0, Errors()
        self.examples: list[str] = []

    def sent(self) -> None:
        """Count an utterance whose result will come."""
        self._sent += 1

    def add(self, result: Outcome) -> None:
        """Write a result. A failure to do so is raised by `wait`."""
        with self._changed:
            self._received += 1
            if self._error is None and not self._is_closed:
                try:
                    with writing(f"the temporary file for {self.shard.url}"):
                        self._write(result)
                except BaseException as error:
                    self._error = error
            self._changed.notify_all()

    def _write(self, result: Outcome) -> None:
        self.with_notes += bool(result.notes)
        if result.error is not None:
            self.failed += 1
            self.examples += [result.error] if len(self.examples) < MOST_EXAMPLES else []
            self._rows.write_failure(result)
            self._failure_rows.append(error_row(result))
            return
        self._rows.write(result)
        self.done += 1
        self.audio_seconds += result.audio_seconds
        self.frames += result.frame_count
        if self._work.score is not None:
            self.errors = Errors(*(a + b for a, b in zip(self.errors, self._work.score(result))))

    def fail(self, error: BaseException) -> None:
        """End `wait` with an error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait for the results of all utterances that were sent. Raises the error that prevented one."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._received == self._sent)
            if self._error is not None:
                raise self._error

    def finish(self, storage: Storage, stamp: Stamp | None) -> Entry:
        """Write the output, the failures and then the entry.

        Raises:
            OutputError: If they cannot be written.
        """
        name = self.shard.name
        output = f"{name}.{suffix_of(self._work.format_name, self._work.format)}"
        with writing(f"{storage.url}/{output}"):
            try:
                self._rows.finish()
                size = storage.put(output, self._output)
                entry = Entry(
                    name,
                    place_of(self.shard.url),
                    output,
                    size,
                    self.done,
                    self.failed,
                    round(self.audio_seconds, 3),
                    tuple(self.errors),  # type: ignore[arg-type]
                    self.with_notes,
                    self.frames,
                    None if stamp is None or stamp == MISSING else tuple(stamp),  # type: ignore[arg-type]
                )
                if self.failed:
                    storage.put(entry.failures, self._failures)
                else:
                    storage.remove([entry.failures])
                storage.write(entry.file, entry.to_json().encode())
            except StorageError as error:
                raise OutputError(str(error)) from None
        return entry

    def close(self) -> None:
        """Drop the temporary files. Results that still come are ignored."""
        with self._changed:
            self._is_closed = True
            self._rows.close()
            self._output.close()
            self._failures.close()


class ShardEngine:
    """A runner that works on several shards at a time. `process` may be called from as many threads.

    Args:
        runner: The runner.
        work: What is done with each shard.
        listener: Function called with each result.
    """

    def __init__(self, runner: Runner, work: ShardWork, listener: Callable[[Outcome], None] = lambda result: None):
        self._runner, self._work, self._listener = runner, work, listener
        self._storage = Storage.of(work.output)
        self._queue: WeightedQueue[tuple[Part, Utterance]] = WeightedQueue(READ_BYTES)
        self._expected: deque[Part] = deque()  # the parts of utterances in progress, in the order of their results
        self._parts: set[Part] = set()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self.run = runner.run(self._utterances(), work.options)
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def process(self, shard: Found) -> ShardResult:
        """Process a shard and write its output.

        Raises:
            OutputError: If the output cannot be written. Exceptions of the runner, such as a device's, are raised unchanged.
        """
        notes: list[str] = []
        part = Part(shard, self._work, self._runner)
        try:
            self._begin(part)
            stamp = Stamp.of(shard.url)
            for utterance in utterances_of(shard, self._work, notes.append):
                part.sent()
                weight = utterance.audio.size if isinstance(utterance.audio, Contained) else 0
                if not self._queue.put((part, utterance), max(weight, LEAST_WEIGHT)):
                    part.fail(self._error or RuntimeError("the run was stopped"))
                    break
            part.wait()
            entry = part.finish(self._storage, stamp)
            return ShardResult(shard, entry, notes=tuple(notes), examples=tuple(part.examples))
        except StorageError as error:
            cause = error.__cause__
            return ShardResult(shard, error=str(error), is_final=not isinstance(cause, Exception) or is_final(cause))
        finally:
            with self._lock:
                self._parts.discard(part)
            part.close()

    def _begin(self, part: Part) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            self._parts.add(part)

    def _utterances(self) -> Iterator[Utterance]:
        while (items := self._queue.take()) is not None:
            for part, utterance in items:
                self._expected.append(part)
                yield utterance

    def _pass_on(self) -> None:
        """Pass each result on to its part. If the runner fails, so do all parts."""
        try:
            with contextlib.closing(self.run.results()) as results:
                for result in results:
                    self._listener(result)
                    self._expected.popleft().add(result)
            error: BaseException = RuntimeError("the run was stopped")
        except BaseException as failure:
            error = failure
        with self._lock:
            self._error = error
            parts = [*self._parts]
        self._queue.close(drop=True)
        for part in parts:
            part.fail(error)

    def close(self) -> None:
        """End the run. Shards in work fail."""
        self._queue.close(drop=True)
        self.run.stop()
        self._thread.join()
