"""``hubert-fast transcribe``: from options to a job, and from its end to an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .. import demo, dispatch
from ..audio.raw_format import RawFormat
from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..hub import CheckpointError, first_line
from ..paths import is_on_kernels
from . import formats, normalizers, ray_engine
from .inputs import Inputs, Shard
from .job import NORMALIZER, Engine, Job, OutputError, settings_of
from .journal import JournalError
from .manifests import ManifestError
from .progress import MOST_FAILURES_TOLD, Progress, tell
from .ray_engine import Cluster, RayRun
from .summary import Summary, write_summary
from .target import Sinks, Target
from .transcriber import Options, Transcriber

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def load_transcriber(model: str | Path, device: str, dtype: str, told: Callable[[str], None] = say) -> Transcriber:
    """Load what a command runs. Raises ``CannotRunError`` with the one line to show."""
    if not os.path.isdir(model):
        from huggingface_hub.utils import logging as hub_logging

        told(f"{model} is not a folder here: looking on the Hugging Face hub and in its cache")
        hub_logging.set_verbosity_error()  # its retries; what comes of them is ours to say
    try:
        dispatch.asked()  # before anything is loaded
        transcriber = Transcriber.from_pretrained(model, device=device, dtype=dtype)
    except (CheckpointError, ValueError) as error:
        raise CannotRunError(str(error)) from None
    except (MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's out of memory
        raise CannotRunError(f"{model} cannot be loaded: {first_line(error)}") from None
    encoder = transcriber.model.hubert
    try:
        is_on_kernels(encoder, torch.empty(0, device=encoder.device))
    except RuntimeError as error:  # a backend that was asked for cannot run
        raise CannotRunError(str(error)) from None
    told(f"running on {', '.join(map(str, transcriber.devices))} in {_dtype(transcriber)}")
    return transcriber


def _dtype(transcriber: Transcriber) -> str:
    return str(transcriber.model.dtype).removeprefix("torch.")


def run(options: argparse.Namespace) -> int:
    """Transcribe what is named; return the exit status."""
    told = (lambda message: None) if options.quiet else say
    shard = None if options.shard is None else Shard.parse(options.shard)
    inputs, how = _inputs(options, shard, told), _how(options)
    if options.engine == "ray" and (streams := inputs.audio_in_pipes()):
        raise ValueError(
            f"{streams[0]}: audio on standard input or in a pipe cannot reach the actors of Ray: write it to a file"
        )
    target = Target.of(options.output, options.format, inputs, shard)
    if target.is_single and how.channels == "each":
        raise ValueError("channels have a file each: name a folder with -o")
    target.check(options.overwrite)
    normalizers.normalizer(options.normalizer)  # one that cannot run is an error before anything is loaded
    if target.is_default:
        told(f"neither the name {target.path} nor --format says a format: writing JSON lines")
    if options.model is None:
        told("no --model given: using the bundled demo model (synthetic voices, closed vocabulary of 90 words)")
    transcriber = _load(options, told)
    transcriber.cutter(how)  # what is wrong with the options shows before an output is touched
    is_local = options.engine == "local"
    dtype = _dtype(transcriber) if is_local else options.dtype  # actors may take another than this process
    settings = settings_of(transcriber, dtype, how, target.format, shard) | {NORMALIZER: options.normalizer}
    summary = Summary(
        output=None if target.path is None else str(target.path),
        model=str(options.model or "demo"),
        device=", ".join(map(str, transcriber.devices)) if is_local else f"{options.device}, on Ray",
        dtype=dtype,
        normalizer=options.normalizer,
    )
    with _told_failures(target), target.opened(settings, options.overwrite, options.retry_failed, told) as sinks:
        return _transcribe(options, inputs, how, transcriber, summary, target, sinks, told)


def _load(options: argparse.Namespace, told: Callable[[str], None]) -> Transcriber:
    model = demo.MODEL if options.model is None else options.model
    if options.engine == "local":
        return load_transcriber(model, options.device, options.dtype, told)
    reason = ray_engine.why_not()
    if reason is not None:
        raise CannotRunError(reason)
    try:
        ray_engine.connect(_cluster(options), options.device)  # which sets signal handlers of its own: before ours
    except RuntimeError as error:
        raise CannotRunError(str(error)) from None
    # this process only writes: actors have the devices
    dtype = "float32" if options.dtype == "auto" else options.dtype
    return load_transcriber(model, "cpu", dtype, lambda message: told(f"here, to compare runs: {message}"))


def run_command(options: argparse.Namespace) -> int:
    """Run the command and turn expected errors into a one-line :class:`CannotRunError`."""
    try:
        return run(options)
    except (ValueError, JournalError, ManifestError) as error:
        raise CannotRunError(str(error)) from None


def _inputs(options: argparse.Namespace, shard: Shard | None, told: Callable[[str], None]) -> Inputs:
    raw = None if options.stdin_format is None else RawFormat.parse(options.stdin_format)
    return Inputs(options.inputs, shard, note=told, allow_pipes=options.allow_pipes, raw=raw)


def _how(options: argparse.Namespace) -> Options:
    return Options(
        batch_seconds=options.batch_seconds,
        workers=options.workers,
        chunk_seconds=options.chunk_seconds,
        overlap_seconds=options.overlap_seconds,
        channels=options.channels,
        # what is read by a person, or piped, comes in the order of the command
        ordered=options.ordered or options.output in (None, "-"),
        keep_truncated=options.keep_truncated,
    )


@contextlib.contextmanager
def _told_failures(target: Target) -> Iterator[None]:
    """Turn what ends a run into a one-line :class:`CannotRunError`."""
    again = "" if target.paths is None else "; what was finished is kept, and the same command goes on from there"
    try:
        yield
    except OutputError as error:
        raise CannotRunError(f"{error}{again}") from None
    except (RuntimeError, MemoryError) as error:  # of the device, or the cluster
        raise CannotRunError(f"the run broke off: {first_line(error)}{again}") from None
    except sqlite3.Error as error:
        raise CannotRunError(f"the journal of {target.path or 'standard output'} cannot be kept: {error}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotRunError(f"{error.filename or target.path} cannot be opened: {error.strerror or error}") from None


def _transcribe(
    options: argparse.Namespace,
    inputs: Inputs,
    how: Options,
    transcriber: Transcriber,
    summary: Summary,
    target: Target,
    sinks: Sinks,
    told: Callable[[str], None],
) -> int:
    failures = None if sinks.failures is None else str(sinks.failures.path)
    most = None if failures is None else 0 if options.quiet else MOST_FAILURES_TOLD
    notes = str(target.path or "standard output") if formats.FORMATS[target.format].is_json else None
    progress = Progress(quiet=options.quiet, failures_told=most, where_failures=failures, where_notes=notes)
    job = Job(
        inputs,
        sinks.output,
        summary,
        progress,
        journal=sinks.journal,
        failures=sinks.failures,
        normalizer=options.normalizer,
    )
    engine = _engine(options, job, how, transcriber)
    progress.count(inputs)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        if target.paths is not None:
            stack.callback(_keep_summary, target.paths.summary, summary)
        with _stopping(engine) as signals:
            job.run(engine)
        summary.complete = not signals
    tell(summary, told, failures)
    if job.unscored:
        count = job.unscored
        which = "1 transcript that has a reference was" if count == 1 else f"{count} transcripts that have a reference were"
        told(f"{which} not scored because jiwer is not installed: pip install 'hubert_fast[wer]'")
    if signals:
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        say(SIGNALS[signals[0]] + ("" if sinks.journal is None else f"; {again} goes on from here"))
        return 128 + signals[0]
    if not (summary.transcribed or summary.failed or summary.already_done or inputs.shard):
        raise CannotRunError(f"nothing to transcribe: no utterance in {', '.join(inputs.sources)}")
    return EXIT_SOME_FAILED if summary.failed else EXIT_OK


def _engine(options: argparse.Namespace, job: Job, how: Options, transcriber: Transcriber) -> Engine:
    if options.engine == "local":
        return transcriber.run(job.utterances(), how)
    model = str(demo.MODEL if options.model is None else options.model)
    model = os.path.abspath(model) if os.path.isdir(model) else model  # actors work in folders of their own
    return RayRun(model, options.device, options.dtype, job.utterances(), how, _cluster(options))


def _cluster(options: argparse.Namespace) -> Cluster:
    return Cluster(options.ray_address, options.ray_actors)


def _keep_summary(path: Path, summary: Summary) -> None:
    with contextlib.suppress(OSError):  # a full disk, which is told already
        write_summary(path, summary)


@contextlib.contextmanager
def _stopping(engine: Engine) -> Iterator[list[int]]:
    """On the first Ctrl-C or SIGTERM finish what is under way, at the second stop at once. Gives the signals that came."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        del frame
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt(number)
        engine.stop()

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
