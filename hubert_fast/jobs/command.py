"""Run a command that processes audio in a job: turn options into the job, run it, and turn its outcome into an exit status.

`transcribe`, `features` and `units` are such commands. A `BatchCommand` says what is particular to one of them.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path

from ..audio.raw_format import RawFormat
from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..interrupts import keyboard_interrupts
from .batch_command import (
    SIGNALS,
    BatchCommand,
    Report,
    cluster_of,
    dtype_for,
    load_for,
    load_on_actor,
    new_summary,
    reported_failures,
    run_options_of,
    stopping,
)
from .formats import Context, check_format
from .inputs import Inputs
from .job import Engine, Job, settings_of
from .journal import JournalError
from .manifests import ManifestError
from .options import Options
from .progress import MOST_FAILURES_SHOWN, Progress, report_summary
from .ray_engine import RayRun
from .runner import Runner
from .sampling import SampledInputs
from .shards import command as shards
from .summary import Summary, write_summary
from .target import Sinks, Target
from .utterances import Shard


def run(command: BatchCommand, options: argparse.Namespace) -> int:
    """Run the command, and turn expected errors into a one-line `CannotRunError`; return the exit status."""
    try:
        return _run(command, options)
    except (ValueError, JournalError, ManifestError) as error:
        raise CannotRunError(str(error)) from None


def _run(command: BatchCommand, options: argparse.Namespace) -> int:
    report: Report = (lambda message: None) if options.quiet else say
    if shards.is_requested(options):
        return shards.run(command, options, report)
    shard = None if options.shard is None else Shard.parse(options.shard)
    inputs, run_options = _inputs(command, options, shard, report), run_options_of(options)
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
    runner = load_for(command, options, run_options, report)
    dtype = dtype_for(options, runner)
    settings = {**settings_of(runner.identity(), dtype, run_options, target.format, shard), **command.settings}
    summary = new_summary(command, options, runner, None if target.path is None else str(target.path))
    context = Context(runner, options, _name_of(inputs.sources[0]), shard)
    opened = target.opened(settings, options.overwrite, options.retry_failed, report, command.defaults, context)
    name = str(target.path or "standard output")
    with keyboard_interrupts(), reported_failures(name, target.paths is not None), opened as sinks:
        return _process(command, options, inputs, run_options, runner, summary, target, sinks, report)


def _name_of(source: str) -> str:
    """Return a name for inputs: that of a file or folder, without its suffix; of a URL, that of the first file in it."""
    first = source.partition("::")[0].rpartition("://")[2] or source.rpartition("::")[2]
    return "stdin" if source == "-" else Path(first).stem


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
    format = command.table.formats[target.format]
    notes = str(target.path or "standard output") if format.is_json or format.has_notes else None
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
        with stopping(engine) as signals:
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
    return RayRun(load_on_actor(command, options), options.device, job.utterances(), run_options, cluster_of(options))


def _keep_summary(path: Path, summary: Summary) -> None:
    with contextlib.suppress(OSError):  # such as a full disk, which has been reported already
        write_summary(path, summary)
