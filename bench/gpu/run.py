"""Provide the clock, the time budget and the output files that the stages of `bench/gpu` and `tune.py` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hubert_fast.benchmark.arithmetic import synchronize
from hubert_fast.benchmark.measure import is_device_lost
from hubert_fast.benchmark.rows import append, percentiles, read
from hubert_fast.benchmark.work import librispeech_seconds
from hubert_fast.check.values import tensors
from hubert_fast.devices import is_out_of_memory
from hubert_fast.tolerances import largest_error

ROOT = Path(__file__).resolve().parents[2]
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
LEFT_OUT = "left out: no time"


class DeviceLost(Exception):
    """An error after which CUDA refuses all further work in this process."""


class Run:
    """The device, the time budget and the output folder of a program."""

    def __init__(self, out: Path, budget_seconds: float, tiny: bool):
        self.out, self.tiny, self.budget_seconds = out, tiny, budget_seconds
        self.device = torch.device("cpu" if tiny else "cuda")
        self.begin, self.share = time.monotonic(), 1.0
        out.mkdir(parents=True, exist_ok=True)

    def time_left(self) -> bool:
        """Return whether there is time to start something new."""
        return time.monotonic() - self.begin < self.budget_seconds * self.share

    def announce(self, case: str) -> None:
        """Print the case that comes next. When a process is killed, its last line shows where it was."""
        print(case, flush=True)

    def times_ms(self, calls: list[Callable[[], Any]], seconds: float) -> list[float]:
        """Return the milliseconds of single calls. The calls alternate, so that no cache holds the inputs of the next one."""
        if self.tiny:
            return [wall_ms(calls[0], self.device) for _ in range(2)]
        for call in calls:
            call()
        torch.cuda.synchronize()
        estimate = wall_ms(calls[0], self.device) / 1e3
        pairs = []
        for index in range(int(min(max(seconds / max(estimate, 1e-5), 5), 50))):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)  # for about a millisecond, in which the CPU gets ahead, so that launches are not timed
            start.record()
            calls[index % len(calls)]()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def utterance_frames(self, frames: int) -> list[int]:
        """Draw utterance lengths as in LibriSpeech that add up to `frames`, of 20 ms each."""
        lengths: list[int] = []
        drawn = librispeech_seconds()
        while sum(lengths) < frames:
            lengths.append(min(round(50 * next(drawn)), frames - sum(lengths)))
        return lengths


class Table:
    """A CSV file to which several processes may append rows at the same time."""

    def __init__(self, path: Path, columns: str):
        self.path, self.columns = path, columns.split()

    def is_due(self, run: Run, **row: Any) -> bool:
        """Announce a case and return whether there is time to measure it. If there is none, add a row that says so."""
        if not run.time_left():
            self.add(**row, status=LEFT_OUT)
            return False
        run.announce(" ".join(map(str, row.values())))
        return True

    def add(self, **row: Any) -> None:
        """Append a row, in which missing columns are empty."""
        append(self.path, {}, [dict.fromkeys(self.columns, "") | row])

    @contextmanager
    def reasons(self, **row: Any) -> Iterator[None]:
        """Turn an error into a row.

        Raises `DeviceLost` when nothing more can run in this process.
        """
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.add(**row, status=f"{type(error).__name__}: {lines[0]}"[:200])
            if is_device_lost(error):
                raise DeviceLost(f"{lines[0]}, at {' '.join(map(str, row.values()))}") from error
            if is_out_of_memory(error):
                torch.cuda.empty_cache()


def sustained_or_burst(run: Run, dtype: torch.dtype) -> tuple[float | None, str]:
    """Return the ceiling of matrix products of a dtype, in FLOP per second, and its name.

    The ceiling is the sustained rate if it was measured, else the rate of a burst; `None` if ceilings.csv has neither.
    """
    for kind in ("sustained", "burst"):
        for row in read(run.out / "ceilings.csv"):
            if (row["kind"], row["name"], row["status"]) == (kind, NAMES[dtype], "ok"):
                return 1e12 * float(row["value"]), f"{kind} {NAMES[dtype]} {row['shape']}: {row['value']} {row['unit']}"
    return None, ""


def wall_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Return the milliseconds of one call, including the work it starts on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def percentiles_ms(times: list[float]) -> dict[str, float]:
    return dict(zip(("p20_ms", "p50_ms", "p80_ms"), percentiles(times)))


def difference(actual: Any, expected: Any) -> float:
    """Return the largest error of one or more tensors, each as a share of its largest expected value."""
    return max(map(largest_error, tensors(actual), tensors(expected)))
