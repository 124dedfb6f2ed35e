"""Add a block's output to the residual stream and apply LayerNorm, between two blocks of a Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .precision import in_full_precision, present, without_autocast


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
    """Compute `add_layer_norm` in plain PyTorch: its definition."""
    full, added, added_bias, weight, bias = in_full_precision(x, delta, delta_bias, weight, bias)
    total = full + added if added_bias is None else full + added + added_bias
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
    return stream, normed.clone() if normed is stream else normed  # the outputs of a custom op must not alias


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
    """Add a block's output to the residual stream and normalise the sum.

    Source: Ba et al. 2016; Xiong et al. 2020 for pre-LN and post-LN.

    Args:
        x: The residual stream, `[..., C]`.
        delta: The block's output, `[..., C]`, of any dtype.
        delta_bias: `[C]`, the bias of the product that computed `delta`, if it has not been added yet.
        weight: The scale of the norm, `[C]`.
        bias: The shift of the norm, `[C]`.
        eps: Added to the variance.
        dtype: The dtype of the returned norm; by default that of `x`.
        post: Return the norm as the stream, as in post-LN Transformers, instead of the sum.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        The stream, in the dtype of `x`, and its norm, in `dtype`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    dtype = dtype or x.dtype
    if use_triton(*present(x, delta, delta_bias, weight, bias), backend=backend):
        return _add_layer_norm_triton(x, delta, delta_bias, weight, bias, eps, dtype, post)
    return add_layer_norm_eager(x, delta, delta_bias, weight, bias, eps, dtype, post)
