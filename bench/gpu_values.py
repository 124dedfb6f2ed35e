"""Every op on kernels against its definition in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gpu_ops
import torch
from gpu_cases import SIZES, Case, Size, Where
from gpu_run import (
    NAMES,
    Run,
    Table,
    tensors,
)
from torch import Tensor

TOLERANCES = {  # of the relative error of a whole result, by its dtype, with the reason
    torch.float32: (1e-5, "sums in float32; products by three tf32 ones or in float32 proper"),
    torch.float16: (2e-3, "one rounding to fp16 (2^-11), operands of a second product rounded too"),
    torch.bfloat16: (1.6e-2, "one rounding to bf16 (2^-8), operands of a second product rounded too"),
    torch.float64: (1e-9, "float64 sums of the same products"),
}


# Their products take longest to compile.
SLOW_TO_COMPILE = ("linear_gelu", "linear_add", "conv_gelu", "conv_positional")
PRODUCTION = [1500, 0, 1, 2999]  # frames: more than 4,096 rows, from which on products run in the largest blocks


def value_cases(run: Run) -> Iterator[Case]:
    """Yield shapes that are odd in every way, smaller ones of what models have, and those of production."""
    odd = Size("odd", hidden=52, heads=4, inner=77, groups=4, kernel=5, conv=24, vocabulary=31)
    short, kernel = [1, 0, 7, 12], 8 if run.tiny else 128
    for dtype in (torch.float16, torch.float32) if run.tiny else (torch.bfloat16, torch.float16, torch.float32):
        at = Where(dtype, run.device)
        production = () if run.tiny else [(size, [250, 0, 1, 449]) for size in SIZES.values()]
        for size, lengths in ((odd, short), *production):
            yield from (builder(size, lengths, at) for builder in gpu_ops.BUILDERS)
            yield gpu_ops.conv_first_by_utterance(size, lengths, at)
            yield gpu_ops.conv_gelu(size, lengths, at, 2)
            yield gpu_ops.normalize_waveforms(size, lengths, at, pcm=True)
        yield gpu_ops.conv_gelu(odd._replace(pre_norm=False), short, at)
        yield gpu_ops.add_layer_norm(odd._replace(pre_norm=False), short, at)
        for head_dim in (32, 48, 64, 80, 96, 128):
            size = Size(f"head dim {head_dim}", hidden=2 * head_dim, heads=2)
            yield gpu_ops.attention(size, short if run.tiny else [130, 0, 1, 37], at)
            yield gpu_ops.attention_padded(size, short if run.tiny else [130, 0, 1, 37], at)
        for channels in (48, 64, 80):
            for taps in (kernel, kernel - 1):
                size = Size(f"{channels} channels", hidden=2 * channels, groups=2, kernel=taps)
                yield gpu_ops.conv_positional(size, short if run.tiny else [150, 0, 1, 37], at)

    for dtype in () if run.tiny else (torch.bfloat16, torch.float16):
        at = Where(dtype, run.device)
        for size in SIZES.values():
            # padded rows run in the blocks of packed ones, and their float64 scores would fill the memory
            builders = [build for build in gpu_ops.BUILDERS if build is not gpu_ops.attention_padded]
            yield from (builder(size, PRODUCTION, at) for builder in builders)
            yield gpu_ops.conv_first_by_utterance(size, PRODUCTION, at)
            yield gpu_ops.conv_gelu(size, PRODUCTION, at, 2)


def shard_of(cases: Iterable[Case], shard: int, shards: int) -> list[Case]:
    """Deal cases out among processes, what takes longest to compile first, and return those of one."""
    return sorted(cases, key=lambda case: case.op not in SLOW_TO_COMPILE)[shard::shards]


def values(run: Run, shard: int = 0, shards: int = 1) -> None:
    """Write values.csv, to which the other shards add their rows too."""
    table = Table(run.out / "values.csv", "op shape dtype relative_error max_error tolerance reason status")
    for case in shard_of(value_cases(run), shard, shards):
        row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            table.add(**row, **held_to_float64(case))
        if not run.tiny:
            torch.cuda.empty_cache()  # the other processes need it


def held_to_float64(case: Case) -> dict[str, Any]:
    """Run a case and its definition in float64, and return the columns of the result."""
    torch.manual_seed(0)
    arguments = case.make()
    with poisoned():
        found = case.public(*arguments)
    exact = [in_float64(argument) for argument in arguments]
    expected = case.definition(*exact, **({"dtype": torch.float64} if "dtype" in case.options else {}))
    pairs = zip(tensors(case.settle(found, *exact)), tensors(case.settle(expected, *exact)))
    return judged([(one, other) for one, other in pairs if other.numel()])


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that a result that is not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # which has torch.empty filled
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def in_float64(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dtype in (torch.int32, torch.bool):
        return value
    return value.double() / 32768 if value.dtype == torch.int16 else value.double()


def judged(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return the columns of the result that is worst against its tolerance. NaN is right only where the definition has it."""
    rows = []
    for found, expected in pairs:
        tolerance, reason = TOLERANCES[found.dtype]
        there = ~expected.isnan()
        error = found.double()[there] - expected.double()[there]
        relative = (error.norm() / expected[there].double().norm().clamp(min=1e-30)).item()
        status = "pass" if relative <= tolerance and found.shape == expected.shape else "fail"
        status = "fail: NaN" if found[there].isnan().any() else status
        rows.append(dict(relative_error=relative, max_error=error.abs().max().item(), tolerance=tolerance, reason=reason,
                         status=status))  # fmt: skip
    return max(rows, key=lambda row: (row["status"] != "pass", row["relative_error"] / row["tolerance"]))
