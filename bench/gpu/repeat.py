"""Check that the same inputs give the same bits. A race between copies and products would make results differ."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu import op_cases
from gpu.cases import TINY, Case
from gpu.run import NAMES, Run, Table
from hubert_fast.check.cases import SIZES, Where
from hubert_fast.check.selections import REPEATED
from hubert_fast.check.values import differing

FRAMES, CALLS = 15_000, 40
BUILDERS = tuple(getattr(op_cases, op) for op in REPEATED)


def repeat_cases(run: Run) -> Iterator[Case]:
    """Yield the ops that multiply matrices, in the dtypes in which they could race."""
    size, lengths = (TINY, [4, 5]) if run.tiny else (SIZES["large"], run.utterance_frames(FRAMES))
    for dtype in (torch.float32,) if run.tiny else (torch.bfloat16, torch.float16):
        for build in BUILDERS:
            yield build(size, lengths, Where(dtype, run.device))


def repeat(run: Run) -> None:
    """Write repeat.csv: for each op, the number of calls whose bits differ from those of the first."""
    table = Table(run.out / "repeat.csv", "op shape dtype calls differ status")
    calls = 2 if run.tiny else CALLS
    for case in repeat_cases(run):
        row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            torch.manual_seed(0)
            call = case.providers()["ours"].prepare(*case.make())
            differ = differing(call, calls)
            table.add(**row, calls=calls, differ=differ, status="differs" if differ else "ok")
