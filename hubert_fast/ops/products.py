"""Linear layers with what follows them: GELU, or the residual add."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .wide import given, widened, without_autocast


@without_autocast
def linear_gelu_eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Define :func:`linear_gelu`."""
    return F.gelu(F.linear(*widened(x, weight, bias))).to(x.dtype)


@torch.library.custom_op("hubert_fast::linear_gelu", mutates_args=())
def _linear_gelu_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_gelu(x, weight, bias)


@_linear_gelu_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str | None = None) -> Tensor:
    """Apply a linear layer and the exact GELU: ``[..., C_in]`` to ``[..., C_out]``, in the dtype of ``x``.

    weight: ``[C_out, C_in]``, of x's dtype. bias: ``[C_out]``. Source: Hendrycks and Gimpel 2016.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    """
    if use_triton(*given(x, weight, bias), backend=backend):
        return _linear_gelu_triton(x, weight, bias)
    return linear_gelu_eager(x, weight, bias)


@without_autocast
def linear_add_eager(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Define :func:`linear_add`."""
    x, weight, bias, wide = widened(x, weight, bias, residual)
    return (F.linear(x, weight, bias) + wide).to(residual.dtype)


@torch.library.custom_op("hubert_fast::linear_add", mutates_args=())
def _linear_add_triton(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_add(x, weight, bias, residual)


@_linear_add_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return residual.new_empty(residual.shape)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, backend: str | None = None) -> Tensor:
    """Apply a linear layer and add the residual stream: ``[..., C_in]`` to ``[..., C_out]``, in the residual's dtype.

    weight: ``[C_out, C_in]``, of x's dtype. bias: ``[C_out]``. residual: ``[..., C_out]``.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    """
    if use_triton(*given(x, weight, bias, residual), backend=backend):
        return _linear_add_triton(x, weight, bias, residual)
    return linear_add_eager(x, weight, bias, residual)
