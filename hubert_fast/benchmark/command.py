"""Run `hubert-fast bench`: time the providers in the options, and write rows, a table and a plot."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch

from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..devices import resolve_device, resolve_dtype
from ..dispatch import packing_requested
from ..hub import CheckpointError
from . import rows
from .arithmetic import ceiling
from .measure import OK, Plan, measure
from .meters import Energy
from .protocols import PROTOCOLS
from .providers import SORTED, checked_names, is_peer
from .subject import Subject
from .work import Work

# Several batches that fill the device, so that sorting by length can help, and not more than minutes of work
AUDIO_SECONDS = {"cuda": 3600.0, "cpu": 120.0}
BATCH_SECONDS = {"cuda": 640.0, "cpu": 20.0}
BATCH_UTTERANCES = {"cuda": 64, "cpu": 8}  # 64 as on the leaderboard


def run(options: argparse.Namespace) -> int:
    """Time the providers in the options, write rows and a plot, and print a table. Return the exit status."""
    try:
        device = resolve_device(options.device)
        dtype = resolve_dtype(options.dtype, device)
        names = checked_names(options.providers)
        packing_requested()  # reject an invalid setting before anything is loaded
        protocols = _protocols(options.protocol)
        _check(options)
        work = Work.of(options.lengths, options.audio_seconds or AUDIO_SECONDS[device.type])
        columns = rows.device_columns(device)
        subject = _subject(options, device, dtype)
    except (ValueError, CheckpointError) as error:
        raise CannotRunError(str(error)) from None
    say(f"{subject.name} in {str(dtype).removeprefix('torch.')} on {columns['device']}, torch {columns['torch']}")
    count = len(work.waveforms)
    say(f"{count} utterance{'s' if count > 1 else ''}, {work.audio_seconds:.0f} s of audio ({work.name})")
    if device.type == "cuda" and (missing := Energy(device).missing):
        say(f"energy is not measured: {missing}")
    warnings.filterwarnings("ignore", message="Dynamo detected")  # caused by transformers' own code
    highest_rate = ceiling(dtype, device)
    all_rows: list[dict[str, Any]] = []
    for protocol in protocols:
        plan = Plan(
            protocol=protocol,
            batch_seconds=options.batch_seconds or BATCH_SECONDS[device.type],
            batch_utterances=options.batch_utterances or BATCH_UTTERANCES[device.type],
            rounds=options.rounds,
            ceiling=highest_rate,
            dollars_per_hour=options.dollars_per_hour,
        )
        say(f"{protocol}: {PROTOCOLS[protocol]}")
        if any(name.endswith(SORTED) for name in names) and plan.is_one_batch(work):
            say("all utterances fit in one batch, so sorting has no effect: use more --audio-seconds or smaller batches")
        measured = measure(subject, work, names, plan, say)
        if options.csv is not None:
            _append(Path(options.csv), columns, measured)
        all_rows += measured
    print(table(all_rows))
    if options.plot is not None:
        _plot(all_rows, columns, options.plot)
    return EXIT_OK if all(row["status"] == OK for row in all_rows) else EXIT_SOME_FAILED


def _protocols(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(PROTOCOLS):
        raise ValueError(f"protocols must be some of {', '.join(PROTOCOLS)}, with commas between, but are {text!r}")
    return names


def _check(options: argparse.Namespace) -> None:
    for name in ("rounds", "audio_seconds", "batch_seconds", "batch_utterances", "dollars_per_hour"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, but is {value:g}")
    for name in ("csv", "plot"):
        value = getattr(options, name)
        if value is not None and not Path(value).absolute().parent.is_dir():
            raise ValueError(f"{value} cannot be written: there is no folder {Path(value).parent}")
    if options.plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise ValueError("plots need matplotlib, which is not installed: pip install 'hubert_fast[bench]'") from None


def _subject(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Subject:
    try:
        if options.model is not None:
            return Subject.pretrained(options.model, device, dtype)
        return Subject.random(options.config, device, dtype)
    except (MemoryError, RuntimeError) as error:
        raise CannotRunError(f"the model cannot be loaded: {error}") from None


def _append(path: Path, columns: dict[str, str], measured: list[dict[str, Any]]) -> None:
    try:
        rows.append(path, columns, measured)
    except (ValueError, OSError) as error:
        raise CannotRunError(str(error)) from None


def _plot(measured: list[dict[str, Any]], columns: dict[str, str], path: str) -> None:
    from .plot import bars

    try:
        bars([columns | row for row in measured], Path(path))
    except (ValueError, OSError) as error:
        raise CannotRunError(f"{path} cannot be drawn: {error}") from None


HEADER = (
    "protocol",
    "provider",
    "RTFx",
    "ratio",
    "p50 ms",
    "p95 ms",
    "of ceiling",
    "MB",
    "error",
    "texts",
    "WER",
    "h/$",
    "s/J",
)


def table(measured: list[dict[str, Any]]) -> str:
    """Format rows as a table. The ratio is relative to the fastest provider of another library in the same protocol."""
    lines: list[tuple[str, ...]] = [HEADER]
    reasons = []
    for row in measured:
        if row["status"] != OK:
            reasons.append(f"{row['protocol']}, {row['provider']}: {row['status']}")
            continue
        peers = [
            other["rtfx"]
            for other in measured
            if other["status"] == OK and other["protocol"] == row["protocol"] and is_peer(other["provider"])
        ]
        lines.append(
            (
                row["protocol"], row["provider"], f"{row['rtfx']:.4g}", f"{row['rtfx'] / max(peers):.2f}" if peers else "",
                _shown(row["latency_p50_ms"], "{:.0f}"), _shown(row["latency_p95_ms"], "{:.0f}"),
                _shown(row["share_of_ceiling"], "{:.0%}"), _shown(row["peak_bytes"], "{:.0f}", 1e-6),
                _shown(row["max_error"], "{:.0e}"), row["texts_equal"], _shown(row["wer"], "{:.1%}"),
                _shown(row["audio_hours_per_dollar"], "{:.0f}"), _shown(row["audio_seconds_per_joule"], "{:.1f}"),
            )
        )  # fmt: skip
    used = [index for index in range(len(HEADER)) if len(lines) == 1 or any(line[index] for line in lines[1:])]
    widths = {index: max(len(line[index]) for line in lines) for index in used}
    text = []
    for line in lines:
        cells = [line[index].ljust(widths[index]) if index < 2 else line[index].rjust(widths[index]) for index in used]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text + reasons)


def _shown(value: Any, form: str, scale: float = 1.0) -> str:
    """Format a number; return an empty text for a value that was not measured."""
    return form.format(value * scale) if isinstance(value, (int, float)) else ""
