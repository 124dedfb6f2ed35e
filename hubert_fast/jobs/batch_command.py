"""Describe a command that processes audio in a job, and take the steps that do not depend on where results go."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import demo, dispatch
from ..console import CannotRunError, say
from ..hub import CheckpointError, first_line
from ..modeling import HubertModel
from ..packed import is_on_kernels
from . import ray_engine
from .formats import FormatTable
from .job import OutputError
from .journal import Errors
from .options import Options
from .ray_engine import Cluster
from .runner import Runner
from .summary import Summary

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
    report(f"running on {', '.join(map(str, runner.devices))} in {dtype_of(runner)}")
    return runner


def dtype_of(runner: Runner) -> str:
    """Return the number format of a runner's model."""
    return str(runner.model.dtype).removeprefix("torch.")


def load_for(command: BatchCommand, options: argparse.Namespace, run_options: Options, report: Report) -> Runner:
    """Load the model for a job. With Ray, actors do the work, and this process needs only the identity of the model.

    Raises:
        CannotRunError: If the model or the cluster cannot be used.
        ValueError: If chunks are too short for the model.
    """
    if options.model is None:
        report("no --model given: using the bundled demo model (synthetic voices, closed vocabulary of 90 words)")
    runner = _load(command, options, report)
    runner.cutter(run_options)  # raises for invalid chunk lengths, before an output is touched
    return runner


def _load(command: BatchCommand, options: argparse.Namespace, report: Report) -> Runner:
    model = demo.MODEL if options.model is None else options.model
    if options.engine == "local":
        return load_runner(command.load, model, options.device, options.dtype, report)
    reason = ray_engine.why_not()
    if reason is not None:
        raise CannotRunError(reason)
    try:
        # Ray installs signal handlers here, so ours are installed later
        ray_engine.connect(cluster_of(options), options.device)
    except RuntimeError as error:
        raise CannotRunError(str(error)) from None
    # its fingerprint is compared with that of earlier runs
    dtype = "float32" if options.dtype == "auto" else options.dtype
    return load_runner(
        command.load, model, "cpu", dtype, lambda message: report(f"{message} (in this process, only to identify the model)")
    )


def load_on_actor(command: BatchCommand, options: argparse.Namespace) -> Callable[[], Runner]:
    """Return the function with which an actor loads the model."""
    model = str(demo.MODEL if options.model is None else options.model)
    model = os.path.abspath(model) if os.path.isdir(model) else model  # actors have other working folders
    return partial(command.load, model, device=options.device, dtype=options.dtype)


def dtype_for(options: argparse.Namespace, runner: Runner) -> str:
    """Return the number format of a job. On Ray with auto, each actor chooses for itself."""
    return dtype_of(runner) if options.engine == "local" else options.dtype


def new_summary(command: BatchCommand, options: argparse.Namespace, runner: Runner, output: str | None) -> Summary:
    """Return the summary of a job before it runs."""
    is_local = options.engine == "local"
    return command.summary(
        output=output,
        model=str(options.model or "demo"),
        device=", ".join(map(str, runner.devices)) if is_local else f"{options.device}, on Ray",
        dtype=dtype_for(options, runner),
        **command.about,
    )


def run_options_of(options: argparse.Namespace) -> Options:
    """Return the options of the job."""
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
def reported_failures(output: str, is_kept: bool) -> Iterator[None]:
    """Turn errors that end a run into a one-line `CannotRunError`.

    Args:
        output: The name of the output, for messages.
        is_kept: Whether the same command continues it.
    """
    hint = "; finished results are kept, and the same command continues from there" if is_kept else ""
    try:
        yield
    except OutputError as error:
        raise CannotRunError(f"{error}{hint}") from None
    except (RuntimeError, MemoryError) as error:  # from the device or the cluster
        raise CannotRunError(f"the run failed: {first_line(error)}{hint}") from None
    except sqlite3.Error as error:
        raise CannotRunError(f"the journal of {output} failed: {error}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotRunError(f"{error.filename or output} cannot be opened: {error.strerror or error}") from None


def cluster_of(options: argparse.Namespace) -> Cluster:
    """Return the part of a Ray cluster to use."""
    return Cluster(options.ray_address, options.ray_actors, options.threads, options.gpus_per_actor)


class Stoppable(Protocol):
    """What `stopping` stops."""

    def stop(self) -> None: ...


@contextlib.contextmanager
def stopping(engine: Stoppable, says: str = "") -> Iterator[list[int]]:
    """Stop an engine at the first Ctrl-C or SIGTERM, and the process at the second. Yield the signals received.

    Args:
        engine: Finishes what is in work.
        says: Shown at the first signal, if finishing may take long.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        del frame
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt(number)
        if says:
            say(says)
        engine.stop()

    # an ignored signal stays ignored, as SIGINT is in a job that a script starts with &
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
