"""Compute products fused with what follows: linear layers with GELU or a residual add, convolutions with norm and GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.schedule import frames_of
from .precision import check_norm_pair, in_full_precision, present, without_autocast


@without_autocast
def linear_gelu_eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `linear_gelu` in plain PyTorch: its definition."""
    return F.gelu(F.linear(*in_full_precision(x, weight, bias))).to(x.dtype)


@torch.library.custom_op("hubert_fast::linear_gelu", mutates_args=())
def _linear_gelu_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_gelu(x, weight, bias)


@_linear_gelu_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str | None = None) -> Tensor:
    """Apply a linear layer and the exact GELU. Source: Hendrycks and Gimpel 2016.

    Args:
        x: The input, `[..., C_in]`.
        weight: `[C_out, C_in]`, in the dtype of `x`.
        bias: `[C_out]`.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[..., C_out]` in the dtype of `x`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    if use_triton(*present(x, weight, bias), backend=backend):
        return _linear_gelu_triton(x, weight, bias)
    return linear_gelu_eager(x, weight, bias)


@without_autocast
def linear_add_eager(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Compute `linear_add` in plain PyTorch: its definition."""
    x, weight, bias, full = in_full_precision(x, weight, bias, residual)
    return (F.linear(x, weight, bias) + full).to(residual.dtype)


@torch.library.custom_op("hubert_fast::linear_add", mutates_args=())
def _linear_add_triton(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_add(x, weight, bias, residual)


@_linear_add_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return residual.new_empty(residual.shape)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, backend: str | None = None) -> Tensor:
    """Apply a linear layer and add the result to the residual stream.

    Args:
        x: The input, `[..., C_in]`.
        weight: `[C_out, C_in]`, in the dtype of `x`.
        bias: `[C_out]`.
        residual: The residual stream, `[..., C_out]`.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[..., C_out]` in the dtype of `residual`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    if use_triton(*present(x, weight, bias, residual), backend=backend):
        return _linear_add_triton(x, weight, bias, residual)
    return linear_add_eager(x, weight, bias, residual)


@without_autocast
def conv_gelu_eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    stride: int = 2,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `conv_gelu` in plain PyTorch: its definition."""
    full, matrix, bias, norm_weight, norm_bias = in_full_precision(x, weight, bias, norm_weight, norm_bias)
    taps = matrix.unflatten(1, (-1, x.shape[1])).transpose(1, 2)  # the layout of conv1d: [C_out, C_in, kernel]
    if len(x) < taps.shape[2]:
        return x.new_empty(0, len(weight))
    out = F.conv1d(full.t()[None], taps, bias, stride=stride)[0].t()
    if norm_weight is not None:
        out = F.layer_norm(out, out.shape[-1:], norm_weight, norm_bias, eps)
    return F.gelu(out).to(x.dtype).contiguous()


@torch.library.custom_op("hubert_fast::conv_gelu", mutates_args=())
def _conv_gelu_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: int,
    eps: float,
) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_convolution(x, weight, bias, norm_weight, norm_bias, stride, eps)


@_conv_gelu_triton.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: int,
    eps: float,
) -> Tensor:
    return x.new_empty(frames_of(x.shape[0], weight.shape[1] // x.shape[1], stride), weight.shape[0])


def conv_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    stride: int = 2,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """Convolve over time, channels last, and apply GELU, optionally after a LayerNorm.

    The kernel reads overlapping windows in place.

    Args:
        x: The input, `[T_in, C_in]`.
        weight: `[C_out, kernel * C_in]`, with taps as the outer axis of its rows, in the dtype of `x`.
        bias: `[C_out]`.
        norm_weight, norm_bias: The scale and shift of a LayerNorm before GELU, `[C_out]`: both or neither.
        stride: The stride, in frames.
        eps: Added to the variance of the LayerNorm.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[T, C_out]` in the dtype of `x`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    check_norm_pair(norm_weight, norm_bias)
    if use_triton(*present(x, weight, bias, norm_weight, norm_bias), backend=backend):
        return _conv_gelu_triton(x, weight, bias, norm_weight, norm_bias, stride, eps)
    return conv_gelu_eager(x, weight, bias, norm_weight, norm_bias, stride, eps)
