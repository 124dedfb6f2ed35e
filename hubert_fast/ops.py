"""The operations that have kernels: per op its definition in plain PyTorch, its registration, its public function.

The definition is what the op means: tests hold the kernel to it, and it runs wherever the kernel cannot.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import use_triton


def layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Define :func:`layer_norm`: statistics and arithmetic in float32 (float64 for float64), rounded once at the end."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return F.layer_norm(x.to(wide), x.shape[-1:], weight.to(wide), bias.to(wide), eps).to(x.dtype)


@torch.library.custom_op("hubert_fast::layer_norm", mutates_args=())
def _layer_norm_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from .kernels import layer_norm as kernel

    return kernel.launch(x, weight, bias, eps)


@_layer_norm_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str | None = None) -> Tensor:
    """Normalise the last axis of ``x`` ``[..., C]`` to zero mean and unit variance, then scale and shift by ``[C]``.

    The kernel has no backward and no float64: there ``auto`` takes the definition and a forced ``triton`` raises
    ``RuntimeError``. See :mod:`hubert_fast.dispatch` for ``backend``. Source: Ba et al. 2016.
    """
    if use_triton(x, weight, bias, backend=backend):
        return _layer_norm_triton(x, weight, bias, eps)
    return layer_norm_eager(x, weight, bias, eps)
