"""Single layers as the packed graph applies them: in the dtype that it says, and in place where that saves a pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a parameter in ``dtype``; one that a layer does not have stays ``None``."""
    return None if tensor is None else tensor.to(dtype)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Apply a layer norm in the dtype of ``x``."""
    return F.layer_norm(x, layer.normalized_shape, cast(layer.weight, x.dtype), cast(layer.bias, x.dtype), layer.eps)


def linear(x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Apply a linear layer in ``dtype``."""
    return F.linear(x.to(dtype), layer.weight.to(dtype), cast(layer.bias, dtype))


def activate(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an activation, in place where PyTorch can."""
    return torch.ops.aten.gelu_(x) if function is F.gelu else function(x)
