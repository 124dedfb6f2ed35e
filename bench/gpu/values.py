"""Compare every op on kernels with its definition in float64, as `hubert-fast check` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from gpu.run import NAMES, Run, Table
from hubert_fast.check.cases import OpCase, Where
from hubert_fast.check.selections import every_case
from hubert_fast.check.values import held_to_float64

# Ops whose matrix products take longest to compile.
SLOW_TO_COMPILE = ("linear_gelu", "linear_add", "conv_gelu", "conv_positional")


def value_cases(run: Run) -> Iterator[OpCase]:
    """Yield every case in all dtypes. Interpreted runs leave out bfloat16, which the interpreter computes wrongly."""
    for dtype in (torch.float16, torch.float32) if run.tiny else (torch.bfloat16, torch.float16, torch.float32):
        yield from every_case(Where(dtype, run.device), small=run.tiny)


def shard_of(cases: Iterable[OpCase], shard: int, shards: int) -> list[OpCase]:
    """Distribute cases over processes, starting with those that take longest to compile. Return the cases of one process."""
    return sorted(cases, key=lambda case: case.op not in SLOW_TO_COMPILE)[shard::shards]


def values(run: Run, shard: int = 0, shards: int = 1) -> None:
    """Add the rows of one shard to values.csv."""
    table = Table(run.out / "values.csv", "op shape dtype relative_error max_error tolerance reason status")
    for case in shard_of(value_cases(run), shard, shards):
        row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            table.add(**row, **held_to_float64(case))
        if not run.tiny:
            torch.cuda.empty_cache()  # the other processes need it
