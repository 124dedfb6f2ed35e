"""Whole models against transformers in float32, without times."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gpu.run import NAMES, Run, Table
from hubert_fast import PackedAudio
from hubert_fast.benchmark.measure import Checked
from hubert_fast.benchmark.providers import Provider, provider
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.cuda_graphs import GRAPHS, GraphCache
from hubert_fast.tolerances import MODEL_TOLERANCES, largest_error

PROVIDERS = ("ours", "ours-padded", "accelerate", "hf-sdpa")
# Under CUDA graphs, in this order: every size is captured with one length and replayed with another.
GRAPH_SECONDS = ((3.01,), (3.05,), (5.0,), (4.97,), (12.0,), (11.9,), (3.01, 4.97, 1.7), (1.7, 3.05, 4.9), (5.0, 0.5, 4.3))


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
            if name in ("large", "base") and dtype == torch.bfloat16:
                under_graphs(table, row, subject, GRAPH_SECONDS)
            del subject, checked


def models(tiny: bool) -> Iterator[tuple[str, torch.dtype]]:
    """Yield models and dtypes, the most used first."""
    if tiny:
        yield "tiny-large", torch.float32
        return
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        yield from ((name, dtype) for name in ("large", "base", "xlarge"))


def judged(checked: Checked, made: Provider) -> dict[str, Any]:
    """Return the columns of a provider's answers."""
    error, tolerance = checked.compare(made)[0], MODEL_TOLERANCES[checked.subject.dtype].value
    return {"max_error": error, "tolerance": tolerance, "status": "ok" if error <= tolerance else "WRONG"}


def under_graphs(table: Table, row: dict[str, Any], subject: Subject, seconds: Sequence[tuple[float, ...]]) -> None:
    """Call ours twice with batches of utterances of such lengths, with CUDA graphs and without, and add a row for each call.

    Before the second time every graph has computed a batch of NaN, of which nothing may be left. Graphs that could not be
    captured, or were not replayed for some batch, are a row too.
    """
    path, field = subject.ours.hubert.fast_path, subject.config.receptive_field
    graphs, none = GraphCache(GRAPHS), GraphCache(0)
    kept, tolerance = path.cuda_graphs, MODEL_TOLERANCES[subject.dtype].value

    def logits(cache: GraphCache, waveforms: list[torch.Tensor]) -> torch.Tensor:
        path.cuda_graphs = cache
        packed = PackedAudio.from_waveforms(waveforms, hop_samples=subject.config.inputs_to_logits_ratio)
        return subject.ours.forward_packed(packed.to(subject.device)).logits.double()

    try:
        for again in (False, True):
            for batch in seconds:
                waveforms = [torch.randn(max(round(16000 * length), field)) for length in batch]
                named = {**row, "provider": f"ours, CUDA graphs, {' + '.join(f'{length:g}' for length in batch)} s"}
                named["provider"] += ", after NaN" if again else ""
                with table.reasons(**named):
                    if again:
                        logits(graphs, [torch.full_like(waveform, torch.nan) for waveform in waveforms])
                    before = graphs.replays
                    error = largest_error(logits(graphs, waveforms), logits(none, waveforms))
                    status = "ok" if error <= tolerance else "WRONG"
                    if again and graphs.replays == before:
                        status = "WRONG: no graph was replayed"
                    table.add(**named, max_error=error, tolerance=tolerance, status=status)
    finally:
        path.cuda_graphs = kept
