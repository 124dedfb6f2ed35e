"""Single layers as the packed graph applies them: in the dtype that it says, in place and in memory used again where it can."""

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


class Scratch:
    """Memory for what lives shortly, used again and again in one call.

    A fresh allocation of megabytes comes from the operating system page by page: in float32 on a CPU that was a tenth of all time.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return ``[rows, columns]`` of anything; it is overwritten when the same name is taken in the same dtype again."""
        memory = self._memory.get((name, dtype))
        if memory is None or len(memory) < rows * columns:
            self._memory[name, dtype] = memory = torch.empty(rows * columns, dtype=dtype, device=self._device)
        return memory[: rows * columns].view(rows, columns)

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x weight^T + bias``, ``[rows, C_in]`` by ``[C_out, C_in]``, in memory taken under ``name``."""
        out = self.take(name, len(x), len(weight), x.dtype)
        return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)

    def linear(self, name: str, x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        """Apply a linear layer in ``dtype``, into memory taken under ``name``."""
        return self.product(name, x.to(dtype), layer.weight.to(dtype), cast(layer.bias, dtype))


def add_linear_(x: Tensor, source: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Add a linear layer of ``source``, computed in ``dtype``, to ``x`` in place."""
    if x.dtype != dtype:
        return x.add_(linear(source, layer, dtype))
    if layer.bias is not None:
        x += layer.bias.to(dtype)
    return x.addmm_(source, layer.weight.to(dtype).t())


def activate(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an activation, in place where PyTorch can."""
    return torch.ops.aten.gelu_(x) if function is F.gelu else function(x)
