"""Which rows the report reads, of each case those of the last run, and how it writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hubert_fast.benchmark.rows import read

Row = dict[str, str]
EVERY = "hf-eager"  # a provider that is only in runs of all of them


def newest(rows: Iterable[Row], *names: str) -> list[Row]:
    """Keep, of rows that agree in ``names``, those of the last run."""
    rows = list(rows)
    last = {tuple(row[name] for name in names): row["utc"] for row in rows}
    return [row for row in rows if last[tuple(row[name] for name in names)] == row["utc"]]


def bench(results: Path, **values: str) -> list[Row]:
    """Return the rows of ``hubert-fast bench`` that have these values, of the last run of each case.

    whole: ``"True"`` of runs for the tables by provider; ``"False"`` of the sweep of batches, which are of the same work.
    """
    rows = read(results / "bench.csv")
    complete = {row["utc"] for row in rows if row["provider"] == EVERY}
    for row in rows:
        row["whole"] = str(row["lengths"] == "librispeech" and (row["protocol"] != "model" or row["utc"] in complete))
    rows = newest(rows, "model", "dtype", "protocol", "lengths", "batch", "whole")
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    text = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in text) + "\n"


def best_of_theirs(rows: list[Row]) -> Row:
    """Return transformers' fastest provider."""
    return max((row for row in rows if row["provider"].startswith("hf-") and row["rtfx"]), key=lambda row: float(row["rtfx"]))


def shown(number: str) -> str:
    value = float(number)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
