"""Compare a kernel with its definition in float64, and repeated calls with each other: equal inputs must give equal bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..tolerances import OP_TOLERANCES
from .cases import OpCase


def held_to_float64(case: OpCase) -> dict[str, Any]:
    """Run a case and its definition in float64, and return `relative_error`, `max_error`, `tolerance`, `reason` and `status`.

    The status is `"pass"`, or begins with `"fail"`.
    """
    torch.manual_seed(0)
    arguments = case.make()
    with poisoned():
        actual = case.public(*arguments)
    exact = [_in_float64(argument) for argument in arguments]
    expected = case.definition(*exact, **({"dtype": torch.float64} if "dtype" in case.options else {}))
    pairs = zip(tensors(case.settle(actual, *exact)), tensors(case.settle(expected, *exact)))
    return judged([(result, reference) for result, reference in pairs if reference.numel()])


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that values that a kernel fails to write are noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # makes torch.empty fill its memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _in_float64(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dtype in (torch.int32, torch.bool):
        return value
    return value.double() / 32768 if value.dtype == torch.int16 else value.double()


def judged(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return the columns of the result that is worst relative to its tolerance. NaN passes only where the definition has it."""
    rows = []
    for actual, expected in pairs:
        tolerance, reason = OP_TOLERANCES[actual.dtype]
        is_number = ~expected.isnan()
        error = actual.double()[is_number] - expected.double()[is_number]
        relative = (error.norm() / expected[is_number].double().norm().clamp(min=1e-30)).item()
        status = "pass" if relative <= tolerance and actual.shape == expected.shape else "fail"
        status = "fail: NaN" if actual[is_number].isnan().any() else status
        rows.append(dict(relative_error=relative, max_error=error.abs().max().item(), tolerance=tolerance, reason=reason,
                         status=status))  # fmt: skip
    return max(rows, key=lambda row: (row["status"] != "pass", row["relative_error"] / row["tolerance"]))


def differing(call: Callable[[], Any], calls: int) -> int:
    """Return how many of `calls` further calls return bits that differ from those of the first."""
    first = [tensor.clone() for tensor in tensors(call())]
    return sum(any(map(_differ, first, tensors(call()))) for _ in range(calls))


def _differ(first: Tensor, second: Tensor) -> bool:
    """Return whether any bit differs. Bytes are compared, since NaN is not equal to itself."""
    return not torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors among arguments or results."""
    return [x for x in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(x, Tensor)]
