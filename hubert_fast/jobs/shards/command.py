"""Run a command that writes an output for each shard of its inputs."""

from __future__ import annotations

import argparse
import contextlib
import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ...audio import is_url
from ...console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ...interrupts import keyboard_interrupts
from ..batch_command import (
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
from ..formats import FormatTable, check_format
from ..job import settings_of
from ..journal import JournalError
from ..progress import MOST_FAILURES_SHOWN, report_summary
from ..runner import Runner
from ..summary import Summary, summary_json
from ..target import check_settings
from ..utterances import Shard
from . import kinds
from .engine import ShardWork
from .finding import Found
from .local_engine import LocalShards
from .manifest import FAILURES, SUMMARY, Manifest, place_of
from .progress import ShardProgress
from .retries import StorageError
from .shard_job import Engine, ShardJob, find_all, named, part_of
from .shard_rows import suffix_of
from .storage import Storage
from .streams import local_path


def is_requested(options: argparse.Namespace) -> bool:
    """Return whether results go to an output for each shard: if the option says so, or the output is at a URL."""
    return bool(getattr(options, "per_shard", False)) or (options.output is not None and is_url(options.output))


def run(command: BatchCommand, options: argparse.Namespace, report: Report) -> int:
    """Process the shards that are not finished yet; return the exit status."""
    try:
        return _run(command, options, report)
    except StorageError as error:
        raise CannotRunError(str(error)) from None


def _run(command: BatchCommand, options: argparse.Namespace, report: Report) -> int:
    shard = None if options.shard is None else Shard.parse(options.shard)
    # results in the order of the inputs, so that the rows of each shard are in its order
    run_options = replace(run_options_of(options), ordered=True)
    format_name = _check(command, options, run_options.channels)
    format = command.table.formats[format_name]
    storage = Storage.of(options.output)
    sources = [name for source in options.inputs for name in kinds.expanded(source)]
    storage.check()
    found = _without_outputs(find_all(sources), storage.url)
    if not found:
        raise CannotRunError(f"nothing to do: no shards in {', '.join(options.inputs)}")
    manifest = Manifest(storage)
    before = manifest.settings()
    if before is None and not manifest.is_empty:
        raise JournalError(f"{storage.url} holds files that are not results of this command: name a new or empty folder")
    runner = load_for(command, options, run_options, report)
    dtype = dtype_for(options, runner)
    settings = {**settings_of(runner.identity(), dtype, run_options, format_name, None), **command.settings}
    summary = new_summary(command, options, runner, storage.url)
    with reported_failures(storage.url, is_kept=True):
        _begin(manifest, storage, before, settings, command, options.overwrite)
    work = ShardWork(
        place_of(options.output),  # actors have other working folders
        format_name,
        format,
        run_options,
        command.score,
        options.audio_column,
        options.allow_pipes,
        options.readers,
    )
    shards = part_of(named(found, manifest.entries.values()), shard)
    return _process(command, options, shards, work, manifest, runner, summary, storage, report)


def _without_outputs(found: list[Found], output: str) -> list[Found]:
    """Leave out shards in the output folder, which a search of a folder above it finds: they are outputs of earlier runs.

    Raises:
        ValueError: If there are no others.
    """
    others = [shard for shard in found if not _place(shard.url).startswith(f"{_place(output)}/")]
    if found and not others:
        raise ValueError(f"{found[0].url} lies in the output folder {output}: name another folder with -o")
    return others


def _place(url: str) -> str:
    path = local_path(url)
    return url.rstrip("/") if path is None else os.path.realpath(path)


def _check(command: BatchCommand, options: argparse.Namespace, channels: str) -> str:
    """Check the options and return the name of the output's format. Raises `ValueError` if they contradict each other."""
    if options.output in (None, "-"):
        raise ValueError("--per-shard writes a folder with a file for each shard: name the folder with -o")
    if "-" in options.inputs:
        raise ValueError("standard input is not a shard: without --per-shard, - is read")
    if command.sample_frames is not None:
        raise ValueError("a random sample has one output: leave out --per-shard, and name a local folder with -o")
    if options.overwrite and options.shard is not None:
        raise ValueError("--overwrite would remove the outputs of all parts: leave out --shard, or name another folder with -o")
    if options.readers < 1:
        raise ValueError(f"readers must be at least 1, but are {options.readers}")
    suffix = PurePosixPath(options.output).suffix
    if not options.per_shard and suffix in command.table.suffixes():
        raise ValueError(
            f"{options.output} names a file, but results at a URL are a folder with a file for each shard: name a folder, and "
            f"--format {command.table.suffixes()[suffix]}"
        )
    name = options.format or _default(command.table)
    format = command.table.formats[name]
    suffix_of(name, format)
    check_format(name, format, channels, False)
    return name


def _default(table: FormatTable) -> str:
    with contextlib.suppress(ValueError):
        suffix_of(table.default, table.formats[table.default])
        return table.default
    return "parquet"


def _begin(
    manifest: Manifest,
    storage: Storage,
    before: dict[str, Any] | None,
    settings: dict[str, Any],
    command: BatchCommand,
    overwrite: bool,
) -> None:
    if before is None or overwrite:
        earlier = command.table.formats.get((before or {}).get("format", ""))
        manifest.begin(settings, None if earlier is None else suffix_of("", earlier))
        return
    has_scores = any(entry.errors[0] for entry in manifest.entries.values())
    kept = check_settings(storage.url, before, settings, command.defaults, has_scores)
    storage.begin()
    if kept != before:
        manifest.keep_settings(kept)


def _process(
    command: BatchCommand,
    options: argparse.Namespace,
    shards: list[Found],
    work: ShardWork,
    manifest: Manifest,
    runner: Runner,
    summary: Summary,
    storage: Storage,
    report: Report,
) -> int:
    is_local = options.engine == "local"
    progress = ShardProgress(
        quiet=options.quiet,
        most_failures=0 if options.quiet else MOST_FAILURES_SHOWN,
        failures_file=f"{storage.url}/{FAILURES}",
        notes_file=storage.url if work.format.has_notes else None,
        hears_results=is_local,
    )
    job = ShardJob(shards, work, manifest, summary, progress, options.retry_failed)
    progress.total_shards(len(job.pending))
    if summary.shards is not None and summary.shards.already_done:
        report(f"continuing {storage.url}: {summary.shards.already_done} of {len(shards)} shards are finished")
    with contextlib.ExitStack() as stack:
        stack.enter_context(keyboard_interrupts())
        stack.enter_context(reported_failures(storage.url, is_kept=True))
        stack.callback(progress.close)
        stack.callback(_keep_summary, storage, summary, options.shard)
        engine = _engine(command, options, work, runner, progress)
        with stopping(engine, engine.says) as signals:
            job.run(engine)
        summary.complete = not signals and not job.failed
    report_summary(summary, report, f"{storage.url}/{FAILURES}")
    command.finished(report)
    if signals:
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        say(f"{SIGNALS[signals[0]]}; {again} continues from here")
        return 128 + signals[0]
    return EXIT_SOME_FAILED if summary.failed or job.failed else EXIT_OK


def _engine(
    command: BatchCommand, options: argparse.Namespace, work: ShardWork, runner: Runner, progress: ShardProgress
) -> Engine:
    if options.engine == "local":
        return LocalShards(runner, work, progress.hear)
    from .on_ray import RayShards

    return RayShards(load_on_actor(command, options), options.device, work, cluster_of(options))


def _keep_summary(storage: Storage, summary: Summary, shard: str | None) -> None:
    name = SUMMARY if shard is None else SUMMARY.replace(".json", f".{shard.replace('/', '-of-')}.json")
    with contextlib.suppress(OSError, StorageError):  # such as a full disk, which has been reported already
        storage.write(name, summary_json(summary).encode())
