"""Select the rows of the last run of each case, and format their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hubert_fast.benchmark.providers import is_peer
from hubert_fast.benchmark.rows import read

Row = dict[str, str]
EVERY = "hf-eager"  # only complete runs have this provider


def newest(rows: Iterable[Row], *names: str) -> list[Row]:
    """Keep only the rows of the last run among rows that agree in `names`."""
    rows = list(rows)
    last = {tuple(row[name] for name in names): row["utc"] for row in rows}
    return [row for row in rows if last[tuple(row[name] for name in names)] == row["utc"]]


def bench(results: Path, **values: str) -> list[Row]:
    """Return the rows of `hubert-fast bench` that have these values, from the last run of each case.

    Args:
        results: The folder of bench.csv.
        values: Columns and their values. Besides the file's own columns there is `whole`: `"True"` for runs that fill the
            tables by provider, `"False"` for the sweep over batch sizes, which repeats some of that work.
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
    return fastest(row for row in rows if row["provider"].startswith("hf-"))


def best_peer(rows: list[Row]) -> Row:
    """Return the fastest provider that is not of this package: of transformers or, on a CPU, of another library."""
    return fastest(row for row in rows if is_peer(row["provider"]))


def fastest(rows: Iterable[Row]) -> Row:
    """Return the row with the highest speed, among those with a time."""
    return max((row for row in rows if row["rtfx"]), key=lambda row: float(row["rtfx"]))


def shown(number: str) -> str:
    value = float(number)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(number: str) -> str:
    return f"{float(number):.2%}" if number else ""


def device(row: Row) -> str:
    """Return the device of a row. A CPU's family and model lose their brackets, since pages put devices in brackets."""
    return re.sub(r" \((family \d+, model \d+)\)$", r", \1", row["device"])


def where(row: Row) -> str:
    threads = "" if row.get("driver") else f", {row['threads']} cores"
    return f"{device(row)}{threads}, torch {row['torch']}, transformers {row['transformers']}, {row['utc'][:10]}"


def join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
