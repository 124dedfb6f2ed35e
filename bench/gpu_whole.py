"""Whole models against transformers in float32, without times."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from gpu_run import NAMES, Run, Table

from hubert_fast.benchmark.measure import SAME, Checked
from hubert_fast.benchmark.providers import Provider, provider
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work

PROVIDERS = ("ours", "ours-padded", "accelerate", "hf-sdpa")
GRAPH_CALLS = 4  # of a layout, the second is captured and the third replayed


def whole(run: Run) -> None:
    """Write whole.csv: the largest error of each provider, as a share of the largest logit, and whether that is rounding."""
    table = Table(run.out / "whole.csv", "model dtype provider max_error tolerance status")
    work = Work.of("fixed:0.05", 0.1) if run.tiny else Work.of("librispeech", 30.0)
    for name, dtype in models(run.tiny):
        row = {"model": name, "dtype": NAMES[dtype]}
        if not table.is_due(run, **row):
            continue
        gc.collect()  # the model before
        with table.reasons(**row), torch.inference_mode():
            subject = Subject.random(name, run.device, dtype)
            checked = Checked(subject, work)
            for one in PROVIDERS:
                with table.reasons(**row, provider=one):
                    table.add(**row, provider=one, **judged(checked, provider(one, subject)))
            if (name, dtype) == ("large", torch.bfloat16):
                _under_graphs(table, row, subject, checked)
            del subject, checked


def models(tiny: bool) -> Iterator[tuple[str, torch.dtype]]:
    """Yield models and dtypes, the most used first."""
    if tiny:
        yield "tiny-large", torch.float32
        return
    for name in ("large", "base", "xlarge"):
        yield from ((name, dtype) for dtype in (torch.bfloat16, torch.float32, torch.float16))


def judged(checked: Checked, made: Provider) -> dict[str, Any]:
    """Return the columns of a provider's answers."""
    error, tolerance = checked.compare(made)[0], SAME[checked.subject.dtype]
    return {"max_error": error, "tolerance": tolerance, "status": "ok" if error <= tolerance else "WRONG"}


def _under_graphs(table: Table, row: dict[str, Any], subject: Subject, checked: Checked) -> None:
    """Call ours under CUDA graphs, a row for each call. Graphs that could not be captured are a row too."""
    cache = subject.ours.hubert.fast_path.cuda_graphs
    cache.limit = GRAPH_CALLS
    try:
        made = provider("ours", subject)
        for call in range(1, GRAPH_CALLS + 1):
            named = {**row, "provider": f"ours, CUDA graphs, call {call}"}
            with table.reasons(**named):
                table.add(**named, **judged(checked, made))
        if not cache._graphs:
            table.add(**row, provider="ours, CUDA graphs", status="WRONG: nothing was captured")
    finally:
        cache.limit = 0
