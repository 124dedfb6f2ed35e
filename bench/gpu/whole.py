"""Compare whole models with transformers in float32, without timing them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gpu.run import NAMES, Run, Table
from hubert_fast import PackedAudio
from hubert_fast.benchmark.measure import Reference
from hubert_fast.benchmark.providers import Provider, provider
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.packed.cuda_graphs import GRAPHS, GraphCache
from hubert_fast.tolerances import MODEL_TOLERANCES, largest_error

PROVIDERS = ("ours", "ours-padded", "accelerate", "hf-sdpa")
# Batches under CUDA graphs, in this order: every size is captured with one length and replayed with another.
GRAPH_SECONDS = ((3.01,), (3.05,), (5.0,), (4.97,), (12.0,), (11.9,), (3.01, 4.97, 1.7), (1.7, 3.05, 4.9), (5.0, 0.5, 4.3))


def whole(run: Run, shard: int = 0, shards: int = 1) -> None:
    """Add the rows of one shard to whole.csv: each provider's largest error, and whether rounding explains it.

    Errors are shares of the largest logit.
    """
    table = Table(run.out / "whole.csv", "model dtype provider max_error tolerance status")
    work = Work.of("fixed:0.05", 0.1) if run.tiny else Work.of("librispeech", 30.0)
    for name, dtype in list(models(run.tiny))[shard::shards]:
        row = {"model": name, "dtype": NAMES[dtype]}
        if not table.is_due(run, **row):
            continue
        gc.collect()  # frees the previous model
        with table.reasons(**row), torch.inference_mode():
            subject = Subject.random(name, run.device, dtype)
            reference = Reference(subject, work)
            for provider_name in PROVIDERS:
                with table.reasons(**row, provider=provider_name):
                    table.add(**row, provider=provider_name, **judged(reference, provider(provider_name, subject)))
            if name in ("large", "base") and dtype == torch.bfloat16:
                under_graphs(table, row, subject, GRAPH_SECONDS)
            del subject, reference


def models(tiny: bool) -> Iterator[tuple[str, torch.dtype]]:
    """Yield models and dtypes, the most used ones first."""
    if tiny:
        yield "tiny-large", torch.float32
        return
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        yield from ((name, dtype) for name in ("large", "base", "xlarge"))


def judged(reference: Reference, provider: Provider) -> dict[str, Any]:
    """Return the columns that describe a provider's results."""
    error, tolerance = reference.compare(provider)[0], MODEL_TOLERANCES[reference.subject.dtype].value
    return {"max_error": error, "tolerance": tolerance, "status": "ok" if error <= tolerance else "WRONG"}


def under_graphs(table: Table, row: dict[str, Any], subject: Subject, seconds: Sequence[tuple[float, ...]]) -> None:
    """Run each batch twice, with CUDA graphs and without, and add a row for each comparison.

    Before its second run, every graph computes a batch of NaN, which must not affect that run. A batch for which no graph was
    captured or replayed gets a row that says so. `seconds` holds, for each batch, the lengths of its utterances.
    """
    path, field = subject.ours.hubert.fast_path, subject.config.receptive_field
    graphs, no_graphs = GraphCache(GRAPHS), GraphCache(0)
    original, tolerance = path.cuda_graphs, MODEL_TOLERANCES[subject.dtype].value

    def logits(cache: GraphCache, waveforms: list[torch.Tensor]) -> torch.Tensor:
        path.cuda_graphs = cache
        packed = PackedAudio.from_waveforms(waveforms, hop_samples=subject.config.inputs_to_logits_ratio)
        return subject.ours.forward_packed(packed.to(subject.device)).logits.double()

    try:
        for again in (False, True):
            for batch in seconds:
                waveforms = [torch.randn(max(round(16000 * length), field)) for length in batch]
                run_row = {**row, "provider": f"ours, CUDA graphs, {' + '.join(f'{length:g}' for length in batch)} s"}
                run_row["provider"] += ", after NaN" if again else ""
                with table.reasons(**run_row):
                    if again:
                        logits(graphs, [torch.full_like(waveform, torch.nan) for waveform in waveforms])
                    before = graphs.replays
                    error = largest_error(logits(graphs, waveforms), logits(no_graphs, waveforms))
                    status = "ok" if error <= tolerance else "WRONG"
                    if again and graphs.replays == before:
                        status = "WRONG: no graph was replayed"
                    table.add(**run_row, max_error=error, tolerance=tolerance, status=status)
    finally:
        path.cuda_graphs = original
