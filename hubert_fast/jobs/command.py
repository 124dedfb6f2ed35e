"""Run a command that processes audio in a job: turn options into the job, run it, and turn its outcome into an exit status.

`transcribe`, `features` and `units` are such commands. A `BatchCommand` says what is particular to one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import demo, dispatch
from ..audio.raw_format import RawFormat
from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..hub import CheckpointError, first_line
from ..interrupts import keyboard_interrupts
from ..modeling import HubertModel
from ..packed import is_on_kernels
from . import ray_engine
from .formats import Context, FormatTable, check_format
from .inputs import Inputs
from .job import Engine, Job, OutputError, settings_of
from .journal import Errors, JournalError
from .manifests import ManifestError
from .options import Options
from .progress import MOST_FAILURES_SHOWN, Progress, report_summary
from .ray_engine import Cluster, RayRun
from .runner import Runner
from .sampling import SampledInputs
from .summary import Summary, write_summary
from .target import Sinks, Target
from .utterances import Shard

SIGNALS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
Report = Callable[[str], None]


@dataclass(frozen=True)
class BatchCommand:
    """What is particular to a command that processes audio in a job.

    Attributes:
        table: Its output formats.
        load: Loads the model, given its name or folder, and `device` and `dtype` as keywords. Ray pickles it.
        summary: The class of its summary.
        about: Further fields of the summary.
        settings: Further settings with which an output can be continued.
        defaults: The values of settings that older journals lack.
        score: Counts the errors of a result against the reference of its utterance.
        finished: Function called at the end, to report what else the user should know.
        sample_frames: The number of frames from which on no more inputs are drawn at random; `None` to process all inputs.
        sample_seed: The seed of that choice.
    """

    table: FormatTable
    load: Callable[..., Runner]
    summary: type[Summary] = Summary
    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    score: Callable[[Any], Errors] | None = None
    finished: Callable[[Report], None] = lambda report: None
    sample_frames: int | None = None
    sample_seed: int = 0


def load_runner(
    load: Callable[..., Runner], model: str | Path, device: str, dtype: str, report: Callable[[str], None] = say
) -> Runner:
    """Load the model for a command.

    Args:
        load: Loads it, as `BatchCommand.load` does.
        model: Hub name or folder.
        device: As for `Transcriber.from_pretrained`.
        dtype: As for `Transcriber.from_pretrained`.
        report: Function called with each message for the user.

    Raises:
        CannotRunError: If the model cannot be loaded or run.
    """
    if not os.path.isdir(model):
        from huggingface_hub.utils import logging as hub_logging

        report(f"{model} is not a local folder: looking on the Hugging Face hub and in its cache")
        hub_logging.set_verbosity_error()  # hide the hub's messages about retries; the outcome is reported below
    try:
        # reject invalid settings before anything is loaded
        dispatch.requested_backend()
        dispatch.packing_requested()
        runner = load(model, device=device, dtype=dtype)
    except (CheckpointError, ValueError) as error:
        raise CannotRunError(str(error)) from None
    except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeError when memory runs out
        raise CannotRunError(f"{model} cannot be loaded: {first_line(error)}") from None
    encoder = next(module for module in runner.model.modules() if isinstance(module, HubertModel))
    try:
        is_on_kernels(encoder, torch.empty(0, device=encoder.device))
    except RuntimeError as error:  # the requested backend cannot run
        raise CannotRunError(str(error)) from None
    report(f"running on {', '.join(map(str, runner.devices))} in {_dtype(runner)}")
    return runner


def _dtype(runner: Runner) -> str:
    return str(runner.model.dtype).removeprefix("torch.")


def run(command: BatchCommand, options: argparse.Namespace) -> int:
    """Run the command, and turn expected errors into a one-line `CannotRunError`; return the exit status."""
    try:
        return _run(command, options)
    except (ValueError, JournalError, ManifestError) as error:
        raise CannotRunError(str(error)) from None


def _run(command: BatchCommand, options: argparse.Namespace) -> int:
    report: Report = (lambda message: None) if options.quiet else say
    shard = None if options.shard is None else Shard.parse(options.shard)
    inputs, run_options = _inputs(command, options, shard, report), _run_options(options)
    if options.engine == "ray" and (streams := inputs.audio_in_pipes()):
        raise ValueError(f"{streams[0]}: Ray actors cannot read audio from standard input or a pipe: write it to a file")
    target = Target.of(options.output, options.format, command.table, inputs, shard)
    if command.sample_frames is not None:
        run_options = replace(run_options, ordered=True)  # so that the same utterances are chosen every time
    format = command.table.formats[target.format]
    check_format(target.format, format, run_options.channels, options.retry_failed and target.paths is not None)
    if format.is_aligned:
        run_options = replace(run_options, ordered=True)
    if target.is_single and run_options.channels == "each":
        raise ValueError("with --channels each, every channel has its own file: name a folder with -o")
    target.check(options.overwrite)
    if target.is_default:
        report(f"neither the name {target.path} nor --format determines the format: writing {target.format}")
    if options.model is None:
        report("no --model given: using the bundled demo model (synthetic voices, closed vocabulary of 90 words)")
    runner = _load(command, options, report)
    runner.cutter(run_options)  # raises for invalid chunk lengths, before an output is touched
    is_local = options.engine == "local"
    dtype = _dtype(runner) if is_local else options.dtype  # with auto, each actor chooses for itself
    settings = {**settings_of(runner.identity(), dtype, run_options, target.format, shard), **command.settings}
    summary = command.summary(
        output=None if target.path is None else str(target.path),
        model=str(options.model or "demo"),
        device=", ".join(map(str, runner.devices)) if is_local else f"{options.device}, on Ray",
        dtype=dtype,
        **command.about,
    )
    context = Context(runner, options, _name_of(inputs.sources[0]), shard)
    opened = target.opened(settings, options.overwrite, options.retry_failed, report, command.defaults, context)
    with keyboard_interrupts(), _reported_failures(target), opened as sinks:
        return _process(command, options, inputs, run_options, runner, summary, target, sinks, report)


def _name_of(source: str) -> str:
    """Return a name for inputs: that of a file or folder, without its suffix; of a URL, that of the first file in it."""
    first = source.partition("::")[0].rpartition("://")[2] or source.rpartition("::")[2]
    return "stdin" if source == "-" else Path(first).stem


def _load(command: BatchCommand, options: argparse.Namespace, report: Report) -> Runner:
    model = demo.MODEL if options.model is None else options.model
    if options.engine == "local":
        return load_runner(command.load, model, options.device, options.dtype, report)
    reason = ray_engine.why_not()
    if reason is not None:
        raise CannotRunError(reason)
    try:
        ray_engine.connect(_cluster(options), options.device)  # Ray installs signal handlers here, so ours are installed later
    except RuntimeError as error:
        raise CannotRunError(str(error)) from None
    # actors do the work; this process loads the model only for its fingerprint, which is compared with that of earlier runs
    dtype = "float32" if options.dtype == "auto" else options.dtype
    return load_runner(
        command.load, model, "cpu", dtype, lambda message: report(f"{message} (in this process, only to identify the model)")
    )


def _inputs(command: BatchCommand, options: argparse.Namespace, shard: Shard | None, report: Report) -> Inputs:
    raw = None if options.stdin_format is None else RawFormat.parse(options.stdin_format)
    kind = Inputs if command.sample_frames is None else SampledInputs
    column, allow_pipes = options.audio_column, options.allow_pipes
    inputs = kind(options.inputs, shard, note=report, allow_pipes=allow_pipes, raw=raw, column=column)
    if isinstance(inputs, SampledInputs):
        inputs.seed = command.sample_seed
        if not inputs.can_repeat:
            raise ValueError("a random sample needs inputs that can be read again, not standard input or a pipe: write a list")
    return inputs


def _run_options(options: argparse.Namespace) -> Options:
    return Options(
        batch_seconds=options.batch_seconds,
        workers=options.workers,
        chunk_seconds=options.chunk_seconds,
        overlap_seconds=options.overlap_seconds,
        channels=options.channels,
        # standard output is read by people and pipes, so it keeps the order of the inputs
        ordered=options.ordered or options.output in (None, "-"),
        keep_truncated=options.keep_truncated,
    )


@contextlib.contextmanager
def _reported_failures(target: Target) -> Iterator[None]:
    """Turn errors that end a run into a one-line `CannotRunError`."""
    hint = "" if target.paths is None else "; finished results are kept, and the same command continues from there"
    try:
        yield
    except OutputError as error:
        raise CannotRunError(f"{error}{hint}") from None
    except (RuntimeError, MemoryError) as error:  # from the device or the cluster
        raise CannotRunError(f"the run failed: {first_line(error)}{hint}") from None
    except sqlite3.Error as error:
        raise CannotRunError(f"the journal of {target.path or 'standard output'} failed: {error}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotRunError(f"{error.filename or target.path} cannot be opened: {error.strerror or error}") from None


def _process(
    command: BatchCommand,
    options: argparse.Namespace,
    inputs: Inputs,
    run_options: Options,
    runner: Runner,
    summary: Summary,
    target: Target,
    sinks: Sinks,
    report: Report,
) -> int:
    failures = None if sinks.failures is None else str(sinks.failures.path)
    most = None if failures is None else 0 if options.quiet else MOST_FAILURES_SHOWN
    notes = str(target.path or "standard output") if command.table.formats[target.format].is_json else None
    progress = Progress(quiet=options.quiet, most_failures=most, failures_file=failures, notes_file=notes)
    job = Job(
        inputs,
        sinks.output,
        summary,
        progress,
        journal=sinks.journal,
        failures=sinks.failures,
        score=command.score,
        limit_frames=command.sample_frames,
    )
    engine = _engine(command, options, job, run_options, runner)
    if command.sample_frames is None:
        progress.count(inputs)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        if target.paths is not None:
            stack.callback(_keep_summary, target.paths.summary, summary)
        with _stopping(engine) as signals:
            job.run(engine)
        summary.complete = not signals
    report_summary(summary, report, failures)
    command.finished(report)
    if signals:
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        say(SIGNALS[signals[0]] + ("" if sinks.journal is None else f"; {again} continues from here"))
        return 128 + signals[0]
    if not (summary.done or summary.failed or summary.already_done or inputs.shard):
        raise CannotRunError(f"nothing to {summary.verb}: no utterances in {', '.join(inputs.sources)}")
    return EXIT_SOME_FAILED if summary.failed else EXIT_OK


def _engine(command: BatchCommand, options: argparse.Namespace, job: Job, run_options: Options, runner: Runner) -> Engine:
    if options.engine == "local":
        return runner.run(job.utterances(), run_options)
    model = str(demo.MODEL if options.model is None else options.model)
    model = os.path.abspath(model) if os.path.isdir(model) else model  # actors have other working folders
    load = partial(command.load, model, device=options.device, dtype=options.dtype)
    return RayRun(load, options.device, job.utterances(), run_options, _cluster(options))


def _cluster(options: argparse.Namespace) -> Cluster:
    return Cluster(options.ray_address, options.ray_actors, options.threads)


def _keep_summary(path: Path, summary: Summary) -> None:
    with contextlib.suppress(OSError):  # such as a full disk, which has been reported already
        write_summary(path, summary)


@contextlib.contextmanager
def _stopping(engine: Engine) -> Iterator[list[int]]:
    """Finish the running batches at the first Ctrl-C or SIGTERM, and stop at once at the second. Yield the signals received."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        del frame
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt(number)
        engine.stop()

    # an ignored signal stays ignored, as SIGINT is in a job that a script starts with &
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
