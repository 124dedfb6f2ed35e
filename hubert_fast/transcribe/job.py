"""A whole run: inputs that are not done yet, through the model, into an output and its journal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from . import normalizers, scoring, sinks
from .formats import error_row
from .inputs import Inputs, Shard, Utterance
from .journal import MISSING, Errors, Journal, JournalError, Stamp
from .row_file import RowFile
from .summary import Summary
from .transcriber import Options, Result, Transcriber

COMMIT_SECONDS = 1.0  # commit interval: the most work that a kill can lose
NORMALIZER = "normalizer"  # a setting that only matters when references were scored


class Engine(Protocol):
    """What turns utterances into results: :class:`.transcriber.Run`, or a cluster."""

    batch_seconds: float

    def results(self) -> Iterator[Result]: ...

    def stop(self) -> None: ...


class Progress(Protocol):
    """Takes each utterance's outcome."""

    def done(self, result: Result, audio_seconds: float) -> None: ...

    def skip(self) -> None: ...


@dataclass(frozen=True)
class Paths:
    """The files beside an output ``OUT``: ``OUT.journal``, ``OUT.errors.jsonl`` and ``OUT.summary.json``."""

    output: Path

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)

    @property
    def journal(self) -> Path:
        return self._beside(".journal")

    @property
    def errors(self) -> Path:
        return self._beside(".errors.jsonl")

    @property
    def summary(self) -> Path:
        return self._beside(".summary.json")


def fingerprint(transcriber: Transcriber) -> str:
    """Tell models apart, by configuration, vocabulary and some numbers of every weight."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(transcriber.model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(repr(sorted(transcriber.processor.tokenizer.tokens.items())).encode("utf-8", "surrogatepass"))
    digest.update(repr(transcriber.processor.feature_extractor).encode())
    for name, weight in sorted(transcriber.model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        some = flat[:: max(len(flat) // 64, 1)][:64].to("cpu", torch.float64)
        digest.update(f"{name}{list(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def settings_of(transcriber: Transcriber, dtype: str, options: Options, format: str, shard: Shard | None) -> dict[str, Any]:
    """Return what the text of an output depends on; a run with other settings may not go on with it."""
    return {
        "model": fingerprint(transcriber),
        "dtype": dtype,
        "chunk seconds": options.chunk_seconds,
        "overlap seconds": options.overlap_seconds,
        "channels": options.channels,
        "keep truncated": options.keep_truncated,
        "format": format,
        "shard": None if shard is None else f"{shard.index}/{shard.count}",
    }


def open_journal(paths: Paths, settings: dict[str, Any], overwrite: bool) -> Journal:
    """Take hold of an output: begin it, or go on with what an equal run has left.

    Raises :class:`JournalError` when something else is there: a file without a journal, other settings, another run at work.
    """
    journal = Journal(paths.journal)
    try:
        before = journal.settings()
        if before is None and paths.output.is_file() and paths.output.stat().st_size and not overwrite:
            raise JournalError(f"{paths.output} exists already; --overwrite replaces it")
        if before is None or overwrite:
            journal.begin(settings)
            return journal
        _compare(paths.output, journal, before, settings)
        return journal
    except BaseException:
        journal.close()
        raise


def _compare(output: Path, journal: Journal, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ``JournalError`` for settings with which a run may not go on. Those that an older journal lacks are noted in it."""
    known = {NORMALIZER: normalizers.DEFAULT} | before
    if not any(journal.totals().errors):  # nothing was counted yet
        known.pop(NORMALIZER)
    changed = [name for name, value in settings.items() if name in known and known[name] != value]
    if changed == [NORMALIZER]:
        raise JournalError(
            f"word errors of {output} were counted with the normalizer {known[NORMALIZER]}, not {settings[NORMALIZER]}: go on "
            f"with --normalizer {known[NORMALIZER]}, or begin anew with --overwrite"
        )
    if changed:
        told = "; ".join(f"{name} was {known[name]}, is {settings[name]}" for name in changed)
        raise JournalError(f"{output} was begun with other settings ({told}); --overwrite begins anew")
    if before != before | settings:
        journal.keep_settings(before | settings)


class OutputError(Exception):
    """Something could not be written; the message says what and why."""


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Tell failures of writing from those of reading and computing."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise OutputError(f"the journal of {name} cannot be written: {error}") from None


class Job:
    """Runs what of the inputs is not done, once.

    output: where transcripts go. failures: where rows about failures go; without it they are only told to ``progress``.
    journal: of what is done; without it a temporary one, so that what is named twice is done once. normalizer: of texts that
    are compared with a reference, see :mod:`.normalizers`.
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
        normalizer: str = normalizers.DEFAULT,
    ):
        self.inputs, self.output, self.summary, self.progress = inputs, output, summary, progress
        self.journal, self.failures = journal or Journal(None), failures
        self.unscored = 0  # references that nobody counted, jiwer not being there
        self._name = summary.output or "standard output"
        self._under_way: dict[bytes, Stamp | None] = {}  # what each file looked like before it was opened
        self._normalizer = normalizer
        self._scores = scoring.can_score()
        self._lock = threading.Lock()  # of what is written, and the journal of it
        self._is_new = False  # whether something was written since the last commit
        self._error: BaseException | None = None

    def utterances(self) -> Iterator[Utterance]:
        """Give the inputs that are not under way and are not done, or have changed since."""
        for utterance in self.inputs:
            key, stamp = utterance.key, Stamp.of(utterance.audio)
            # in this order: what is done is in the journal first
            if key in self._under_way or self.journal.is_current(key, stamp):
                self.progress.skip()
                self.summary.already_done += 1
                continue
            if utterance.error is not None and stamp != MISSING:
                stamp = None  # what is wrong is not the file's content
            self._under_way[key] = stamp
            yield utterance

    def run(self, engine: Engine) -> Summary:
        """Write every result and keep the journal; what was committed stays when something fails.

        Raises :class:`OutputError` when something cannot be written, and what the engine raises.
        """
        start, ended = time.monotonic(), threading.Event()
        committer = threading.Thread(target=self._commit_now_and_then, args=(ended, engine), daemon=True)
        committer.start()
        try:
            with contextlib.closing(engine.results()) as results:
                for result in results:
                    with self._lock:
                        self._take(result)
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

    def _commit_now_and_then(self, ended: threading.Event, engine: Engine) -> None:
        while not ended.wait(COMMIT_SECONDS):
            with self._lock:
                try:
                    if self._is_new and self._error is None:
                        self._commit()
                except BaseException as error:
                    self._error = error
            if self._error is not None:
                engine.stop()
                return

    def _take(self, result: Result) -> None:
        if self._error is not None:
            raise self._error
        seconds = max((transcript.duration_seconds for transcript in result.transcripts), default=0.0)
        failed = result.error is not None
        errors = Errors() if failed else self._errors_of(result)
        key = result.utterance.key
        stamp = self._under_way[key]
        if not failed and stamp == MISSING:
            stamp = None  # it is no path: standard input, or a file that only other machines see
        with writing(self._name):
            if not failed and self.output.prepare(result):
                self._commit()
            is_again = self.journal.retire(key)
            row = None
            if not failed:
                row = self.output.write(result)
            elif self.failures is not None:
                row = self.failures.append(error_row(result))
            if is_again:
                self.output.drop_older(result)
            self.journal.add(key, failed, seconds, errors, stamp=stamp, row=row, notes=len(result.notes))
        self._is_new = True
        del self._under_way[key]
        self.summary.failed_this_run += failed
        self.summary.transcribed_this_run += not failed
        self.summary.changed_this_run += is_again
        self.summary.with_notes_this_run += bool(result.notes)
        self.summary.audio_seconds_this_run += seconds
        self.progress.done(result, seconds)

    def _errors_of(self, result: Result) -> Errors:
        """Count against the reference; several channels have none of their own."""
        if result.utterance.reference is None or len(result.transcripts) != 1:
            return Errors()
        if not self._scores:
            self.unscored += 1
            return Errors()
        return scoring.score(result.utterance.reference, result.transcripts[0].text, self._normalizer)

    def _commit(self) -> None:
        with writing(self._name):
            sizes = self.output.sync()
            if self.failures is not None:
                sizes |= self.failures.sync()
            self.journal.commit(sizes)
        self._is_new = False

    def _finish(self) -> None:
        """Make the files whole, and take out rows of files that have changed."""
        with writing(self._name):
            self.output.finish()
            if self.failures is not None:
                self.failures.finish()
