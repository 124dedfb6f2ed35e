"""Time whole models, ours and transformers', as `hubert-fast bench` does."""

from __future__ import annotations

import gc
from typing import NamedTuple

import torch

from gpu.run import NAMES, Run, Table, sustained_or_burst
from hubert_fast.benchmark.arithmetic import ceiling
from hubert_fast.benchmark.measure import COLUMNS, Plan, measure
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work

ROUNDS = 3
BF16 = torch.bfloat16


class Item(NamedTuple):
    """A case to measure. Fields that `hubert-fast bench` has as options mean the same here."""

    model: str
    providers: str
    protocol: str = "model"
    lengths: str = "librispeech"
    audio_seconds: float = 2560.0
    batch_seconds: float = 1280.0
    batch_utterances: int = 64
    rounds: int = ROUNDS
    dtype: torch.dtype = BF16

    @property
    def case(self) -> str:
        """Return a description that is unique among the cases of one model and dtype."""
        batch = f"{self.batch_utterances} utterances" if self.protocol == "leaderboard" else f"{self.batch_seconds:g} s"
        return f"{self.protocol}, {self.lengths}, {self.audio_seconds:g} s in batches of {batch}"


ONE = dict(lengths="fixed:5", audio_seconds=100.0, batch_seconds=5.0)  # utterances of five seconds, one at a time
HEADLINE = (
    Item("large", "ours hf-sdpa-sorted hf-sdpa hf-flash-sorted accelerate"),
    Item("base", "ours hf-sdpa-sorted accelerate"),
    Item("large", "ours ours-padded ours-no-graphs hf-sdpa", **ONE),
    Item("base", "ours ours-padded ours-no-graphs hf-sdpa", **ONE),
    Item("large", "ours hf-sdpa", "leaderboard", audio_seconds=1200.0),
)
COMPILED = (  # those that compile fastest first, as a stage that is killed keeps only the rows of the items before
    Item("large", "ours hf-compile-layers-sorted", audio_seconds=1280.0),
    # one utterance, so that only one shape is compiled
    Item("large", "ours-graphs hf-compile-graphs", lengths="fixed:5", audio_seconds=5.0, batch_seconds=5.0, rounds=20),
    Item("large", "ours hf-compile-sorted", audio_seconds=1280.0),
)
FEW = dict(lengths="fixed:0.05", audio_seconds=0.1, batch_seconds=0.1, batch_utterances=2, rounds=1, dtype=torch.float32)
TINY_HEADLINE = (
    Item("tiny", "ours ours-graphs hf-sdpa-sorted hf-flash", **FEW),
    Item("tiny-large", "ours accelerate hf-sdpa", "leaderboard", **FEW),
)
TINY_COMPILED = (Item("tiny", "ours-graphs hf-compile-graphs", **FEW),)  # without providers that take a minute to compile


def headline(run: Run) -> None:
    """Add rows of the most important models to models.csv."""
    _measure(run, "headline", TINY_HEADLINE if run.tiny else HEADLINE)


def compiled(run: Run) -> None:
    """Add rows of transformers under `torch.compile` to models.csv."""
    _measure(run, "compile", TINY_COMPILED if run.tiny else COMPILED)


def _measure(run: Run, stage: str, items: tuple[Item, ...]) -> None:
    table = Table(run.out / "models.csv", f"stage case {COLUMNS} ceiling")
    subject: Subject | None = None
    for item in items:
        row = {"stage": stage, "model": item.model, "dtype": NAMES[item.dtype], "case": item.case}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            if subject is None or (subject.name, subject.dtype) != (item.model, item.dtype):
                subject = None  # keep only one in memory
                gc.collect()
                subject = Subject.random(item.model, run.device, item.dtype)
            rate, name = sustained_or_burst(run, item.dtype)
            if rate is None:
                rate, name = ceiling(item.dtype, run.device), "the best of a few products, measured in this process"
            plan = Plan(item.protocol, item.batch_seconds, item.batch_utterances, item.rounds, rate)
            work = Work.of(item.lengths, item.audio_seconds)
            for measured in measure(subject, work, item.providers.split(), plan, run.announce):
                table.add(**row | measured, ceiling=name)
