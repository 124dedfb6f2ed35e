"""Rows of results: what machine, versions and commit they are from, and the files they are appended to."""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
from pathlib import Path

import numpy as np

import hubert_fast

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Name the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def origin(**versions: str) -> dict[str, str]:
    """Return the columns that say where rows come from; ``versions`` of libraries go between commit and device."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return {
        "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": hubert_fast.__version__,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        **versions,
        "device": processor(),
    }


def append(path: Path, columns: dict[str, str], rows: list[dict]) -> None:
    """Append ``rows``, each behind ``columns``, to a CSV file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *rows[0]])
        if new:
            writer.writeheader()
        writer.writerows({**columns, **row} for row in rows)


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return the 20th, 50th and 80th."""
    p20, p50, p80 = np.percentile(seconds, [20, 50, 80])
    return float(p20), float(p50), float(p80)
