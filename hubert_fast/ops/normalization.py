"""LayerNorm, alone and between two blocks of a Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .wide import given, widened, without_autocast


@without_autocast
def layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Define :func:`layer_norm`: statistics and arithmetic in float32 (float64 for float64), rounded once at the end."""
    wide, weight, bias = widened(x, weight, bias)
    return F.layer_norm(wide, x.shape[-1:], weight, bias, eps).to(x.dtype)


@torch.library.custom_op("hubert_fast::layer_norm", mutates_args=())
def _layer_norm_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from ..kernels import layer_norm as kernel

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


@without_autocast
def add_layer_norm_eager(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    post: bool = False,
) -> tuple[Tensor, Tensor]:
    """Define :func:`add_layer_norm`."""
    wide, added, added_bias, weight, bias = widened(x, delta, delta_bias, weight, bias)
    total = wide + added if added_bias is None else wide + added + added_bias
    normed = F.layer_norm(total, x.shape[-1:], weight, bias, eps)
    return (normed if post else total).to(x.dtype), normed.to(dtype or x.dtype)


@torch.library.custom_op("hubert_fast::add_layer_norm", mutates_args=())
def _add_layer_norm_triton(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    post: bool,
) -> tuple[Tensor, Tensor]:
    from ..kernels import add_layer_norm as kernel

    stream, normed = kernel.launch(x, delta, delta_bias, weight, bias, eps, dtype, post)
    return stream, normed.clone() if normed is stream else normed  # results of an op may not be one tensor


@_add_layer_norm_triton.register_fake
def _(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    post: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=dtype)


def add_layer_norm(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
    post: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Add what a block computed to the residual stream and normalise: returns the stream, and its norm for the next block.

    x, delta: ``[..., C]``, of any two dtypes. delta_bias: ``[C]``, of the product that made ``delta``, if it is not in yet.
    weight, bias: ``[C]``. dtype: of the norm; that of ``x`` when left out. post: whether the stream goes on as the norm, as in
    post-LN Transformers, and not as the sum. The stream has the dtype of ``x``.

    Raises as :func:`layer_norm` does. Source: Ba et al. 2016; Xiong et al. 2020 for pre-LN and post-LN.
    """
    dtype = dtype or x.dtype
    if use_triton(*given(x, delta, delta_bias, weight, bias), backend=backend):
        return _add_layer_norm_triton(x, delta, delta_bias, weight, bias, eps, dtype, post)
    return add_layer_norm_eager(x, delta, delta_bias, weight, bias, eps, dtype, post)
