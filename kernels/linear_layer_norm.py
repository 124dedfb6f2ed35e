"""Compute a matrix product fused with bias, LayerNorm over all columns and GELU. A program holds whole rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import precision_of
from .gelu import form_of, gelu


@triton.jit(do_not_specialize=["n_rows"])
def _linear_layer_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    out_ptr,
    n_rows,
    x_stride_row,
    eps,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program computes BLOCK_M rows of ``gelu(norm(x weight^T + bias))``, in two halves of the columns, in fp32."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real_rows = tl.minimum(rows, n_rows - 1).to(tl.int64)
    left = tl.arange(0, BLOCK_HALF)
    right = left + BLOCK_HALF
    # beyond the edge, the last column is computed again, but neither stored nor part of the statistics
    real_left = tl.minimum(left, N_OUT - 1)
    real_right = tl.minimum(right, N_OUT - 1)
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + real_rows[:, None] * x_stride_row + k[None, :]
    left_ptrs = weight_ptr + real_left[None, :] * N_IN + k[:, None]
    right_ptrs = weight_ptr + real_right[None, :] * N_IN + k[:, None]
    acc_left = tl.zeros([BLOCK_M, BLOCK_HALF], dtype=tl.float32)
    acc_right = tl.zeros([BLOCK_M, BLOCK_HALF], dtype=tl.float32)
    for first in range(0, N_IN, BLOCK_K):
        inside = k < N_IN - first
        x = tl.load(x_ptrs, mask=inside[None, :], other=0.0)
        weight_left = tl.load(left_ptrs, mask=inside[:, None], other=0.0)
        weight_right = tl.load(right_ptrs, mask=inside[:, None], other=0.0)
        acc_left = tl.dot(x, weight_left, acc_left, input_precision=PRECISION)
        acc_right = tl.dot(x, weight_right, acc_right, input_precision=PRECISION)
        x_ptrs += BLOCK_K
        left_ptrs += BLOCK_K
        right_ptrs += BLOCK_K
    if HAS_BIAS:
        acc_left += tl.load(bias_ptr + real_left).to(tl.float32)[None, :]
        acc_right += tl.load(bias_ptr + real_right).to(tl.float32)[None, :]
    acc_left = tl.where((left < N_OUT)[None, :], acc_left, 0.0)
    acc_right = tl.where((right < N_OUT)[None, :], acc_right, 0.0)
    mean = ((tl.sum(acc_left, axis=1) + tl.sum(acc_right, axis=1)) / N_OUT)[:, None]
    acc_left = tl.where((left < N_OUT)[None, :], acc_left - mean, 0.0)
    acc_right = tl.where((right < N_OUT)[None, :], acc_right - mean, 0.0)
    variance = (tl.sum(acc_left * acc_left, axis=1) + tl.sum(acc_right * acc_right, axis=1)) / N_OUT
    share = (1.0 / tl.sqrt(variance + eps))[:, None]
    _finish(acc_left * share, norm_weight_ptr, norm_bias_ptr, out_ptr, rows, left, n_rows, N_OUT, GELU)
    _finish(acc_right * share, norm_weight_ptr, norm_bias_ptr, out_ptr, rows, right, n_rows, N_OUT, GELU)


@triton.jit
def _finish(x, norm_weight_ptr, norm_bias_ptr, out_ptr, rows, columns, n_rows, N_OUT: tl.constexpr, GELU: tl.constexpr):
    """Scale and shift normalised columns, apply GELU and store."""
    inside = columns < N_OUT
    x = x * tl.load(norm_weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    x = gelu(x + tl.load(norm_bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :], GELU)
    out_ptrs = out_ptr + rows.to(tl.int64)[:, None] * N_OUT + columns[None, :]
    tl.store(out_ptrs, x.to(out_ptr.dtype.element_ty), mask=(rows < n_rows)[:, None] & inside[None, :])


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
) -> None:
    """Fill `out` `[N, C_out]` from the rows of `x` `[N, C_in]`, which may overlap and which `linear` has checked."""
    n_rows, n_in = x.shape
    if out.numel():
        blocks = tuning.linear_layer_norm(len(weight), x.element_size(), tuning.capability_of(x.device))
        with torch.cuda.device_of(x):
            _linear_layer_norm_kernel[(tuning.cdiv(n_rows, blocks["BLOCK_M"]),)](
                x, weight.contiguous(), weight if bias is None else bias.contiguous(), norm_weight.contiguous(),
                norm_bias.contiguous(), out, n_rows, x.stride(0), eps, N_IN=n_in, N_OUT=len(weight), HAS_BIAS=bias is not None,
                GELU=form_of(x.dtype), PRECISION=precision_of(x.dtype), **blocks,
            )  # fmt: skip
