"""A whole run: inputs that are not done yet, through the model, into an output and its journal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import __version__
from . import outputs, scoring
from .formats import error_row
from .inputs import Inputs, Shard, Utterance
from .journal import Errors, Journal, JournalError, Totals
from .transcriber import Options, Result, Transcriber

COMMIT_SECONDS = 1.0  # what is finished is durable after so long, and by then what a kill may cost


class Engine(Protocol):
    """What turns utterances into results: :class:`.transcriber.Run`, or a cluster."""

    batch_seconds: float

    def results(self) -> Iterator[Result]: ...

    def stop(self) -> None: ...


class Progress(Protocol):
    """Is told what becomes of utterances."""

    def done(self, result: Result, audio_seconds: float) -> None: ...

    def skip(self) -> None: ...


@dataclass
class Summary:
    """What a run came to. Counts are of all runs on this output; ``_this_run`` of the last one alone.

    already_done: inputs that an earlier run had done, or that were named twice. complete: whether all inputs were run through.
    wer, cer: word and character error rate over all utterances with a reference; ``None`` without any.
    """

    output: str | None
    model: str
    device: str
    dtype: str
    transcribed: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    transcribed_this_run: int = 0
    failed_this_run: int = 0
    already_done: int = 0
    audio_seconds_this_run: float = 0.0
    wall_seconds_this_run: float = 0.0
    times_real_time: float | None = None
    batch_seconds: float = 0.0
    wer: float | None = None
    cer: float | None = None
    reference_words: int = 0
    word_errors: int = 0
    reference_characters: int = 0
    character_errors: int = 0
    complete: bool = False
    version: str = field(default=__version__)

    def count(self, totals: Totals, wall_seconds: float) -> None:
        """Fill in the sums."""
        self.transcribed, self.failed, self.audio_seconds = totals.transcribed, totals.failed, round(totals.audio_seconds, 3)
        self.audio_seconds_this_run = round(self.audio_seconds_this_run, 3)
        self.wall_seconds_this_run = round(wall_seconds, 3)
        if self.audio_seconds_this_run and wall_seconds > 0:
            self.times_real_time = round(self.audio_seconds_this_run / wall_seconds, 2)
        errors = totals.errors
        self.reference_words, self.word_errors = errors.words, errors.word_errors
        self.reference_characters, self.character_errors = errors.characters, errors.character_errors
        if errors.words:
            self.wer = round(errors.word_errors / errors.words, 6)
            self.cer = round(errors.character_errors / errors.characters, 6)


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
    """Return what the text of an output depends on; a run that differs may not go on with it."""
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
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if changed:
            told = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
            raise JournalError(f"{paths.output} was begun with other settings ({told}); --overwrite begins anew")
        return journal
    except BaseException:
        journal.close()
        raise


class OutputError(Exception):
    """Something could not be written; the message says what and why."""


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
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
    journal: of what is done; without it a temporary one, so that what is named twice is done once.
    """

    def __init__(
        self,
        inputs: Inputs,
        output: outputs.Output,
        summary: Summary,
        progress: Progress,
        *,
        journal: Journal | None = None,
        failures: outputs.RowFile | None = None,
    ):
        self.inputs, self.output, self.summary, self.progress = inputs, output, summary, progress
        self.journal, self.failures = journal or Journal(None), failures
        self.unscored = 0  # references that nobody counted, jiwer not being there
        self._name = summary.output or "standard output"
        self._under_way: set[bytes] = set()
        self._scores = scoring.can_score()
        self._lock = threading.Lock()  # of what is written, and the journal of it
        self._is_new = False  # whether something was written since the last commit
        self._error: BaseException | None = None

    def utterances(self) -> Iterator[Utterance]:
        """Give the inputs that are neither done nor under way."""
        for utterance in self.inputs:
            key = utterance.key
            if key in self._under_way or key in self.journal:  # in this order: what is done is in the journal first
                self.progress.skip()
                self.summary.already_done += 1
            else:
                self._under_way.add(key)
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
        errors = self._errors_of(result) if result.error is None else Errors()
        key = result.utterance.key
        with _writing(self._name):
            if result.error is not None:
                if self.failures is not None:
                    self.failures.append(error_row(result))
            else:
                if self.output.prepare(result):
                    self._commit()
                self.output.write(result)
            self.journal.add(key, result.error is not None, seconds, errors)
        self._is_new = True
        self._under_way.discard(key)
        self.summary.failed_this_run += result.error is not None
        self.summary.transcribed_this_run += result.error is None
        self.summary.audio_seconds_this_run += seconds
        self.progress.done(result, seconds)

    def _errors_of(self, result: Result) -> Errors:
        """Count against the reference; several channels have none of their own."""
        if result.utterance.reference is None or len(result.transcripts) != 1:
            return Errors()
        if not self._scores:
            self.unscored += 1
            return Errors()
        return scoring.score(result.utterance.reference, result.transcripts[0].text)

    def _commit(self) -> None:
        with _writing(self._name):
            sizes = self.output.sync()
            if self.failures is not None:
                sizes |= self.failures.sync()
            self.journal.commit(sizes)
        self._is_new = False


def write_summary(path: Path, summary: Summary) -> None:
    """Write it as JSON."""
    outputs.replace(path, json.dumps(asdict(summary), indent=1) + "\n")
