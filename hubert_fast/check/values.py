"""A kernel's answer held to its definition in float64, and to itself: the same inputs must give the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .cases import OpCase

TOLERANCES = {  # of the relative error of a whole result, by its dtype, with the reason
    torch.float32: (1e-5, "sums in float32; products by three tf32 ones or in float32 proper"),
    torch.float16: (2e-3, "one rounding to fp16 (2^-11), operands of a second product rounded too"),
    torch.bfloat16: (1.6e-2, "one rounding to bf16 (2^-8), operands of a second product rounded too"),
    torch.float64: (1e-9, "float64 sums of the same products"),
}


def held_to_float64(case: OpCase) -> dict[str, Any]:
    """Run a case and its definition in float64; return relative_error, max_error, tolerance, reason and status.

    status: ``"pass"``, or a word that begins with ``"fail"``.
    """
    torch.manual_seed(0)
    arguments = case.make()
    with poisoned():
        found = case.public(*arguments)
    exact = [_in_float64(argument) for argument in arguments]
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


def _in_float64(value: Any) -> Any:
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


def differing(call: Callable[[], Any], calls: int) -> int:
    """Return how many of so many calls gave other bits than the first."""
    first = [tensor.clone() for tensor in tensors(call())]
    return sum(any(map(_differ, first, tensors(call()))) for _ in range(calls))


def _differ(one: Tensor, other: Tensor) -> bool:
    """Return whether any bit differs. Bytes are compared, since NaN equals nothing."""
    return not torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in arguments or results."""
    return [x for x in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(x, Tensor)]
