"""Whole models: ours against transformers' configurations, in the protocols of ``hubert-fast bench``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import NamedTuple

import torch
from gpu_run import NAMES, Run, Table, read

from hubert_fast.benchmark.arithmetic import ceiling
from hubert_fast.benchmark.measure import COLUMNS, OK, Plan, measure
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work

ALL = "ours ours-padded accelerate hf-sdpa hf-sdpa-sorted hf-flash hf-flash-sorted hf-eager-sorted"
BEST = "ours hf-sdpa-sorted hf-flash-sorted"
ROUNDS = 5


class Item(NamedTuple):
    """Something to measure. audio_seconds, batch_seconds, batch_utterances: as the options of ``hubert-fast bench``."""

    model: str
    dtype: torch.dtype
    protocol: str = "model"
    lengths: str = "librispeech"
    audio_seconds: float = 3600.0
    batch_seconds: float = 640.0
    batch_utterances: int = 64
    providers: str = ALL

    @property
    def case(self) -> str:
        """What tells it from others of the same model and dtype."""
        batch = f"{self.batch_utterances} utterances" if self.protocol == "leaderboard" else f"{self.batch_seconds:g} s"
        compiled = ", compiled" if "compile" in self.providers else ""
        return f"{self.protocol}, {self.lengths}, {self.audio_seconds:g} s in batches of {batch}{compiled}"


def plan(tiny: bool) -> Iterator[Item]:
    """The most important first: what fits into the budget is measured, a further call goes on behind it."""
    if tiny:
        few = dict(lengths="fixed:0.15", audio_seconds=0.3, batch_seconds=0.3, batch_utterances=2)
        yield Item("tiny", torch.float32, providers="ours hf-sdpa-sorted hf-flash", **few)
        yield Item("tiny-large", torch.float32, "leaderboard", providers="ours accelerate hf-sdpa", **few)
        yield Item("tiny", torch.float32, "files", providers="ours hf-sdpa", **few)
        return
    bf16, fp16 = torch.bfloat16, torch.float16
    yield Item("large", bf16)
    yield Item("base", bf16)
    yield Item("large", bf16, "leaderboard", providers=ALL.replace("ours-padded ", ""))
    yield Item(
        "large", bf16, lengths="fixed:5", audio_seconds=100, batch_seconds=5, providers="ours ours-padded hf-sdpa hf-flash"
    )
    yield Item("xlarge", bf16, audio_seconds=1800, providers="ours accelerate hf-sdpa-sorted hf-flash-sorted")
    for batch_seconds in (40.0, 160.0, 1280.0, 2560.0):
        yield Item("large", bf16, batch_seconds=batch_seconds, providers=BEST)
    yield Item("large", bf16, lengths="fixed:600", audio_seconds=1200, batch_seconds=600, providers="ours hf-sdpa hf-flash")
    yield Item("base", bf16, "leaderboard", providers="ours accelerate hf-sdpa hf-sdpa-sorted")
    yield Item("base", bf16, lengths="fixed:5", audio_seconds=100, batch_seconds=5, providers="ours ours-padded hf-sdpa")
    for model in ("large", "base", "xlarge"):
        yield Item(model, fp16, providers="ours hf-sdpa hf-sdpa-sorted hf-flash-sorted")
    for model in ("large", "base"):
        yield Item(model, bf16, "files", audio_seconds=1800, providers="ours hf-sdpa hf-sdpa-sorted")
    yield Item("large", bf16, providers="ours hf-compile-sorted")


def models(run: Run) -> None:
    """Write models.csv: the rows of ``hubert-fast bench`` for each item, or why there are none."""
    table = Table(run.out / "models.csv", f"case {COLUMNS}")
    best = {row["name"]: 1e9 * float(row["value"]) for row in read(run.out / "ceilings.csv") if row["status"] == OK}
    subject: Subject | None = None
    for item in plan(run.tiny):
        row = {"model": item.model, "dtype": NAMES[item.dtype], "case": item.case}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            if subject is None or (subject.name, subject.dtype) != (item.model, item.dtype):
                subject = None  # one at a time in memory
                gc.collect()
                subject = Subject.random(item.model, run.device, item.dtype)
            here = best.get(NAMES[item.dtype]) or ceiling(item.dtype, run.device)
            how = Plan(item.protocol, item.batch_seconds, item.batch_utterances, 2 if run.tiny else ROUNDS, here)
            work = Work.of(item.lengths, item.audio_seconds)
            for found in measure(subject, work, item.providers.split(), how, lambda message: None):
                table.add(**row | found)
