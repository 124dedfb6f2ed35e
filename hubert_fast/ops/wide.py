"""The dtype of arithmetic in definitions."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor, *others: Tensor | None) -> tuple:
    """Return all in float32, or in float64 when ``x`` is: what is ``None`` stays so."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(wide), *(None if other is None else other.to(wide) for other in others)


def given(*tensors: Tensor | None) -> list[Tensor]:
    """Return those that are there."""
    return [tensor for tensor in tensors if tensor is not None]
