"""Run definitions in float32 or float64, regardless of autocast and the dtypes of operands; check operands of several ops."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..dispatch import constant


def in_full_precision(x: Tensor, *others: Tensor | None) -> tuple:
    """Return all tensors in float32, or in float64 if `x` is float64. `None` stays `None`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(dtype), *(None if other is None else other.to(dtype) for other in others)


def present(*tensors: Tensor | None) -> list[Tensor]:
    """Return the tensors that are not `None`."""
    return [tensor for tensor in tensors if tensor is not None]


def without_autocast(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a definition so that it runs without autocast."""

    @wraps(definition)
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        device_type = x.device.type
        if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
            return definition(x, *args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return definition(x, *args, **kwargs)

    return run


@constant
def may_round_products(device_type: str) -> bool:
    """Return whether PyTorch's settings allow float32 products on `cpu` or `cuda` to round operands to tf32 or bfloat16."""
    if device_type == "cuda":
        from ..kernels.checks import tf32_allowed

        return tf32_allowed()
    if device_type != "cpu":
        return False
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")


def check_cu_seqlens(cu_seqlens: Tensor) -> None:
    """Raise `ValueError` unless `cu_seqlens` holds integers `[B + 1]`."""
    if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or not len(cu_seqlens):
        raise ValueError(f"cu_seqlens must be integers [B + 1], but are {cu_seqlens.dtype} {list(cu_seqlens.shape)}")


def check_norm_pair(weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise `ValueError` unless both parameters of a norm are given, or neither."""
    if (weight is None) != (bias is None):
        missing, given = ("norm_bias", "norm_weight") if bias is None else ("norm_weight", "norm_bias")
        raise ValueError(f"norm_weight and norm_bias must be given together, but got {given} without {missing}")
