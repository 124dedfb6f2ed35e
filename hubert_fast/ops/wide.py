"""The dtype of arithmetic in definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def widened(x: Tensor, *others: Tensor | None) -> tuple:
    """Return all in float32, or in float64 when ``x`` is: what is ``None`` stays so."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(wide), *(None if other is None else other.to(wide) for other in others)


def given(*tensors: Tensor | None) -> list[Tensor]:
    """Return those that are there."""
    return [tensor for tensor in tensors if tensor is not None]


def without_autocast(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Have a definition compute as it says, whatever autocast would make of its products."""

    @wraps(definition)
    def run(x: Tensor, *arguments: Any, **named: Any) -> Any:
        kind = x.device.type
        if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
            return definition(x, *arguments, **named)
        with torch.autocast(kind, enabled=False):
            return definition(x, *arguments, **named)

    return run


def check_cu_seqlens(cu_seqlens: Tensor) -> None:
    """Raise ``ValueError`` unless these are whole numbers ``[B + 1]``."""
    if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or not len(cu_seqlens):
        raise ValueError(f"cu_seqlens must be whole numbers [B + 1], but are {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
