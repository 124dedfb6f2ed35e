"""Describe the machine, and measure its rates: matrix products of each dtype, sustained and in bursts, and a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gpu.run import NAMES, Run, Table, percentiles_ms
from hubert_fast.benchmark.rows import device_columns, first_line_of, processor, read

SUSTAINED_SECONDS, SUSTAINED_FP16_SECONDS, BURST_SECONDS = 0.7, 0.3, 0.3
SIDE, COPIED_BYTES = 8192, 1 << 30
OURS = {"q": (60_000, 1024, 1024), "qkv": (60_000, 1024, 3072), "fc1": (60_000, 1024, 4096), "fc2": (60_000, 4096, 1024)}


def environment(run: Run, commit: str) -> None:
    """Write environment.csv, unless it exists.

    Raises `ValueError` when the folder has results of another machine.
    """
    path = run.out / "environment.csv"
    device = processor() if run.tiny else torch.cuda.get_device_name(run.device)
    before = {row["key"]: row["value"] for row in read(path)}.get("device", device)
    if before != device:
        raise ValueError(f"{run.out} has results of {before}, but this is {device}: name another folder")
    if path.exists():
        return
    columns = device_columns(run.device)
    values: dict[str, Any] = {
        "utc": columns["utc"],
        "commit": commit or columns["commit"],
        "hubert_fast": columns["version"],
        "python": columns["python"],
        "torch": torch.__version__,  # with the build, which the package's version lacks
        "triton": columns["triton"],
        "transformers": columns["transformers"],
        "numpy": np.__version__,
        "cuda": torch.version.cuda or "",
        "device": device,
        "processor": processor(),
    }
    if not run.tiny:
        chip = torch.cuda.get_device_properties(0)
        values |= {
            "capability": f"{chip.major}.{chip.minor}",
            "memory_bytes": chip.total_memory,
            "multiprocessors": chip.multi_processor_count,
            "driver": columns["driver"],
            "power_limit": first_line_of("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader"),
        }
    table = Table(path, "key value")
    for key, value in values.items():
        table.add(key=key, value=value)


def ceilings(run: Run) -> None:
    """Write ceilings.csv. Sustained products of side 8192 come first, because other stages report shares of their rate."""
    table = Table(run.out / "ceilings.csv", "kind name shape value unit time_ms seconds status")
    side, count = (64, 1 << 16) if run.tiny else (SIDE, COPIED_BYTES)
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    cube = {"": (side, side, side)}
    sustained = (
        (bf16, SUSTAINED_SECONDS, cube),
        (fp16, SUSTAINED_FP16_SECONDS, cube),
        (bf16, SUSTAINED_SECONDS, {"tiny": (16, 16, 16)} if run.tiny else OURS),
    )
    for dtype, seconds, shapes in sustained:
        for name, shape in shapes.items():
            row = {"kind": "sustained", "name": f"{NAMES[dtype]} {name}".strip(), "shape": _shape_text(shape)}
            if table.is_due(run, **row):
                with table.reasons(**row):
                    time_ms, took = sustained_ms(run, product(run, dtype, shape), seconds)
                    rate = 2e-9 * shape[0] * shape[1] * shape[2] / time_ms
                    table.add(**row, value=rate, unit="TFLOP/s", time_ms=time_ms, seconds=took, status="ok")
    row = {"kind": "burst", "name": "copy", "shape": f"{count} bytes"}
    if table.is_due(run, **row):
        with table.reasons(**row):
            source = torch.ones(count, dtype=torch.uint8, device=run.device)
            target = torch.empty_like(source)
            time_ms = burst_ms(run, lambda: target.copy_(source))
            table.add(**row, value=2e-6 * count / time_ms, unit="GB/s", time_ms=time_ms, status="ok")
            del source, target
    for name, dtype in (("bfloat16", bf16), ("float16", fp16), ("float32", fp32), ("tf32", fp32)):
        row = {"kind": "burst", "name": name, "shape": _shape_text((side, side, side))}
        if table.is_due(run, **row):
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            with table.reasons(**row):
                time_ms = burst_ms(run, product(run, dtype, (side, side, side)))
                table.add(**row, value=2e-9 * side**3 / time_ms, unit="TFLOP/s", time_ms=time_ms, status="ok")
            torch.set_float32_matmul_precision("highest")


def product(run: Run, dtype: torch.dtype, shape: tuple[int, int, int]) -> Callable[[], Any]:
    """Return the product of a linear layer, `[M, K]` by `[N, K]`, on normal random numbers, which draw the most power."""
    m, k, n = shape
    x, weight = (torch.randn(rows, k, device=run.device).to(dtype) for rows in (m, n))
    return lambda: torch.nn.functional.linear(x, weight)


def burst_ms(run: Run, call: Callable[[], Any]) -> float:
    """Return the median milliseconds of calls with a rest before each."""
    return percentiles_ms(run.times_ms([call], BURST_SECONDS))["p50_ms"]


def sustained_ms(run: Run, call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Call without rests for `seconds`, as a model does. Return the milliseconds per call and the total seconds."""
    if run.tiny:
        call()
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        return 1e3 * took, took
    for _ in range(3):
        call()
    first, middle, last = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    first.record()
    call()
    middle.record()
    torch.cuda.synchronize()
    count = max(5, round(1e3 * seconds / first.elapsed_time(middle)))
    first.record()
    for _ in range(count):
        call()
    last.record()
    torch.cuda.synchronize()
    time_ms = first.elapsed_time(last)
    return time_ms / count, time_ms / 1e3


def _shape_text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
