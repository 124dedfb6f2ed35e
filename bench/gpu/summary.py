"""Summarise the CSV files of `bench/gpu` in a short text."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from hubert_fast.benchmark.rows import read

Row = dict[str, str]
FILES = ("stages", "ceilings", "values", "repeat", "whole", "models", "ops", "profile")
MACHINE = ("device", "commit", "torch", "triton", "transformers")
GOOD = ("ok", "pass")
MOST_BAD, MOST_KERNELS = 8, 10  # lines per file, lines per model


def write_summary(folder: Path) -> str:
    """Write summary.txt and return it."""
    rows = {name: read(folder / f"{name}.csv") for name in FILES}
    machine = {row["key"]: row["value"] for row in read(folder / "environment.csv")}
    parts = [
        ["  ".join(f"{key} {machine[key]}" for key in MACHINE if key in machine)],
        [f"{row['kind']} {row['name']} {row['shape']}: {row['value']} {row['unit']}" for row in _good(rows["ceilings"])],
        _profile(_good(rows["profile"])),
        _ops(_good(rows["ops"])),
        _models(_good(rows["models"])),
        _whole(_good(rows["whole"])),
        *(_counts(name, rows[name]) for name in FILES),
    ]
    text = "\n".join(line for part in parts for line in part)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


def _good(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] in GOOD]


def _counts(name: str, rows: list[Row]) -> list[str]:
    """Count rows, and show those that failed."""
    bad = [row for row in rows if row["status"] not in GOOD]
    if not rows:
        return []
    names = ("stage", "process", "name", "op", "shape", "model", "dtype", "case", "provider")
    shown = [" ".join(row[key] for key in names if row.get(key)) for row in bad]
    lines = [f"  {case[:110]}: {row['status'][:110]} {row.get('reason', '')[:110]}" for case, row in zip(shown, bad[:MOST_BAD])]
    more = [f"  and {len(bad) - MOST_BAD} more"] if len(bad) > MOST_BAD else []
    return [f"{name}: {len(rows)} rows, {len(bad)} not ok", *lines, *more]


def _whole(rows: list[Row]) -> list[str]:
    """Show a line for each model and dtype."""
    return [
        f"{' '.join(key)}: " + ", ".join(f"{row['provider']} {row['max_error']}" for row in group)
        for key, group in groupby(rows, lambda row: (row["model"], row["dtype"]))
    ]


def _models(rows: list[Row]) -> list[str]:
    """Show a line for each row: times real time, share of the ceiling, latency, largest error."""
    return [
        f"{row['model']} {row['dtype']} {row['case']} {row['provider']}: RTFx {row['rtfx']}, share {row['share_of_ceiling']}, "
        f"p50 {row['latency_p50_ms']} ms, error {row['max_error']}"
        for row in rows
    ]


def _ops(rows: list[Row]) -> list[str]:
    """Show a line for each case: the first provider, then the time of each other one as a multiple of the first."""
    lines = []
    for (op, shape), group in groupby(rows, lambda row: (row["op"], row["shape"])):
        first, *others = group
        ratios = [f"{row['provider']} {float(row['p50_ms']) / float(first['p50_ms']):.2f}x" for row in others]
        share = f", share {first['share']}" if first["share"] else ""
        timed = f"{first['provider']} {first['p50_ms']} ms, {first['tflops']} TFLOP/s, {first['gb_per_second']} GB/s{share}"
        lines.append(f"{op} {shape}: " + "; ".join([timed, *ratios]))
    return lines


def _profile(rows: list[Row]) -> list[str]:
    """Show the kernels of each model that take the most time."""
    lines = []
    for model, group in groupby(rows, lambda row: row["model"]):
        lines += [
            f"{model} {row['total_ms']:>9} ms {row['us_per_audio_second']:>7} us/s {row['count']:>5} x {row['kernel'][:70]}"
            for row in list(group)[: MOST_KERNELS + 1]
        ]
    return lines
