"""One call of ``gpu.py`` or ``tune.py``: its clock, its budget, and the files it writes."""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubert_fast.benchmark.rows import read, written
from hubert_fast.benchmark.work import librispeech_seconds

ROOT = Path(__file__).resolve().parent.parent
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
OP_SECONDS = 0.3  # for timing one provider
LEFT_OUT = "left out: no time"


class DeviceLost(Exception):
    """After such an error CUDA serves this process no more."""


class Run:
    """One call of this program: where it runs, until when, and what it has written."""

    def __init__(self, out: Path, budget_seconds: float, tiny: bool):
        self.out, self.tiny, self.budget_seconds = out, tiny, budget_seconds
        self.device = torch.device("cpu" if tiny else "cuda")
        self.begin, self.share = time.monotonic(), 1.0
        out.mkdir(parents=True, exist_ok=True)

    def time_left(self) -> bool:
        """Whether the section that runs may begin something more."""
        return time.monotonic() - self.begin < self.budget_seconds * self.share

    def times_ms(self, calls: list[Callable[[], Any]], seconds: float) -> list[float]:
        """Milliseconds of calls, which are made in turn, so that the cache does not hold what the next one reads."""
        if self.tiny:
            return [wall_ms(calls[0], self.device) for _ in range(2)]
        for call in calls:
            call()
        torch.cuda.synchronize()
        estimate = wall_ms(calls[0], self.device) / 1e3
        pairs = []
        for index in range(int(min(max(seconds / max(estimate, 1e-5), 5), 50))):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)  # a millisecond, in which the CPU gets ahead: launching is not timed
            start.record()
            calls[index % len(calls)]()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def utterance_frames(self, frames: int) -> list[int]:
        """Draw lengths as in LibriSpeech that add up to so many frames of 20 ms."""
        lengths: list[int] = []
        drawn = librispeech_seconds()
        while sum(lengths) < frames:
            lengths.append(min(round(50 * next(drawn)), frames - sum(lengths)))
        return lengths


class Table:
    """A CSV file that grows by rows. Of one that is there, rows of what was left out are dropped and the others known."""

    def __init__(self, path: Path, columns: str):
        self.path, self.columns = path, columns.split()
        kept = [row for row in read(path) if row["status"] != LEFT_OUT]
        self.known = {self.key(row) for row in kept}
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writeheader()
        for row in kept:
            self.add(**row)

    @staticmethod
    def key(row: dict) -> tuple:
        return tuple(row.get(name, "") for name in ("name", "op", "shape", "dtype", "model", "case"))

    def is_due(self, run: Run, **row: Any) -> bool:
        """Whether a case is to be measured now. One that there is no time for becomes a row that says so."""
        if self.key(row) in self.known:
            return False
        if not run.time_left():
            self.add(**row, status=LEFT_OUT)
            return False
        return True

    def add(self, **row: Any) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({key: written(value) for key, value in row.items()})

    @contextmanager
    def reasons(self, **row: Any) -> Iterator[None]:
        """Make a row of what fails. Raises ``DeviceLost`` when nothing more can run."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.add(**row, status=f"{type(error).__name__}: {lines[0]}"[:200])
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            elif "CUDA error" in str(error):
                raise DeviceLost(f"{row}: {lines[0]}") from error


def wall_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Return the milliseconds of one call with all that it started."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def percentiles_ms(times: list[float]) -> dict[str, float]:
    return dict(zip(("p20_ms", "p50_ms", "p80_ms"), map(float, np.percentile(times, [20, 50, 80]))))


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in arguments or results."""
    return [x for x in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(x, Tensor)]


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference of results as a share of the largest value expected; infinite for NaN and other shapes."""
    worst = 0.0
    for one, other in zip(tensors(found), tensors(expected)):
        if one.shape != other.shape:
            return float("inf")
        error = ((one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-30)).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst


def device_name(run: Run) -> str:
    return platform.processor() or platform.machine() if run.tiny else torch.cuda.get_device_name(0)
