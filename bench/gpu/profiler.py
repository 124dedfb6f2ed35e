"""Profile the kernels in which a batch spends its time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from gpu.run import NAMES, Run, Table, wall_ms
from hubert_fast.benchmark.providers import provider
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work

WALL = "wall, without the profiler"
BATCH_SECONDS, WARM_UPS, ROUNDS, MOST_KERNELS = 1280.0, 3, 5, 60


def profile(run: Run) -> None:
    """Write profile.csv: for one batch of each model, the wall time without the profiler, then its kernels, longest first."""
    table = Table(run.out / "profile.csv", "model dtype audio_seconds kernel count total_ms us_per_audio_second status")
    dtype = torch.float32 if run.tiny else torch.bfloat16
    work = Work.of("fixed:0.05", 0.05) if run.tiny else Work.of("librispeech", BATCH_SECONDS)
    for name in ("tiny",) if run.tiny else ("large", "base"):
        row = {"model": name, "dtype": NAMES[dtype], "audio_seconds": work.audio_seconds}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row), torch.inference_mode():
            call = provider("ours", Subject.random(name, run.device, dtype)).forward(work.waveforms).run
            for _ in range(1 if run.tiny else WARM_UPS):
                call()
            wall = statistics.median(wall_ms(call, run.device) for _ in range(2 if run.tiny else ROUNDS))
            for kernel, count, total_ms in [(WALL, 1, wall), *kernels(run, call)]:
                rate = 1e3 * total_ms / work.audio_seconds
                table.add(**row, kernel=kernel, count=count, total_ms=total_ms, us_per_audio_second=rate, status="ok")


def kernels(run: Run, call: Callable[[], Any]) -> list[tuple[str, int, float]]:
    """Return name, launches and milliseconds of each kernel of one call, longest first. On a CPU, return its operators."""
    activity = ProfilerActivity.CPU if run.tiny else ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profiler:
        wall_ms(call, run.device)
    clock = "self_cpu_time_total" if run.tiny else "self_device_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, clock))[:MOST_KERNELS]
    return [(event.key[:120], event.count, getattr(event, clock) / 1e3) for event in events]
