"""Compute LayerNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .precision import in_full_precision, without_autocast


@without_autocast
def layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Compute `layer_norm` in plain PyTorch: its definition."""
    full, weight, bias = in_full_precision(x, weight, bias)
    return F.layer_norm(full, x.shape[-1:], weight, bias, eps).to(x.dtype)


@torch.library.custom_op("hubert_fast::layer_norm", mutates_args=())
def _layer_norm_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from ..kernels import layer_norm as kernel

    return kernel.launch(x, weight, bias, eps)


@_layer_norm_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str | None = None) -> Tensor:
    """Normalise the last axis of `x` to zero mean and unit variance, then scale and shift it. Source: Ba et al. 2016.

    The kernel has no backward pass and does not support float64: `auto` then runs the definition.

    Args:
        x: `[..., C]`.
        weight: The scale, `[C]`.
        bias: The shift, `[C]`.
        eps: Added to the variance.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[..., C]` in the dtype of `x`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    if use_triton(x, weight, bias, backend=backend):
        return _layer_norm_triton(x, weight, bias, eps)
    return layer_norm_eager(x, weight, bias, eps)
