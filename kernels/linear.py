"""Compute matrix products fused with the operations that follow: bias, GELU, a residual add.

Rows of the left operand may overlap in memory, so that a strided convolution in channels-last form is such a product too: with
kernel size 3 and stride 2, frame t reads the 3 * C numbers that begin at row 2t.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import layer_norm, linear_layer_norm, linear_persistent, tuning
from .checks import check_devices, check_dtypes, check_norm, check_shape, precision_of, rows_of
from .gelu import form_of, gelu
from .schedule import frames_of


@triton.jit
def product(
    x_ptr,
    weight_ptr,
    x_offsets,
    weight_offsets,
    N_IN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply rows at ``x_offsets`` ``[M]`` by rows of the weight at ``weight_offsets`` ``[N]``, in fp32."""
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + x_offsets[:, None] + k[None, :]
    weight_ptrs = weight_ptr + weight_offsets[None, :] + k[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, N_IN, BLOCK_K):
        if N_IN % BLOCK_K == 0:
            x = tl.load(x_ptrs)
            weight = tl.load(weight_ptrs)
        else:
            x = tl.load(x_ptrs, mask=(k < N_IN - first)[None, :], other=0.0)
            weight = tl.load(weight_ptrs, mask=(k < N_IN - first)[:, None], other=0.0)
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K
    return acc


@triton.jit(do_not_specialize=["n_rows"])
def _linear_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    n_rows,
    x_stride_row,
    residual_stride_row,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """One program computes a tile ``[BLOCK_M, BLOCK_N]`` of ``gelu(x weight^T + bias) + residual``, in fp32.

    Programs go down GROUP_M tiles before they go right, so that those that run together share operands in the cache.
    """
    program = tl.program_id(0)
    tiles_m = tl.cdiv(n_rows, BLOCK_M)
    tiles_n: tl.constexpr = (N_OUT + BLOCK_N - 1) // BLOCK_N
    group = program // (GROUP_M * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    within = program % (GROUP_M * tiles_n)
    rows = (group * GROUP_M + within % group_rows) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = (within // group_rows) * BLOCK_N + tl.arange(0, BLOCK_N)
    # beyond the edges, the last row or column is computed again, but not stored
    real_rows = tl.minimum(rows, n_rows - 1).to(tl.int64)
    if N_OUT % BLOCK_N == 0:
        real_columns = columns
    else:
        real_columns = tl.minimum(columns, N_OUT - 1)
    acc = product(
        x_ptr,
        weight_ptr,
        real_rows * x_stride_row,
        real_columns.to(tl.int64) * N_IN,
        N_IN,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        PRECISION,
    )
    if BLOCK_N >= 256:
        # one half after the other: next to 128 accumulators, a thread has no registers for that many other values
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        half = (within // group_rows) * BLOCK_N + tl.arange(0, BLOCK_N // 2)
        _finish(
            left, bias_ptr, residual_ptr, out_ptr, rows, half, n_rows, residual_stride_row, N_OUT, HAS_BIAS, GELU, HAS_RESIDUAL
        )
        _finish(
            right, bias_ptr, residual_ptr, out_ptr, rows, half + BLOCK_N // 2, n_rows, residual_stride_row, N_OUT, HAS_BIAS,
            GELU, HAS_RESIDUAL,
        )  # fmt: skip
    else:
        _finish(
            acc,
            bias_ptr,
            residual_ptr,
            out_ptr,
            rows,
            columns,
            n_rows,
            residual_stride_row,
            N_OUT,
            HAS_BIAS,
            GELU,
            HAS_RESIDUAL,
        )


@triton.jit
def _finish(
    acc, bias_ptr, residual_ptr, out_ptr, rows, columns, n_rows, residual_stride_row,
    N_OUT: tl.constexpr, HAS_BIAS: tl.constexpr, GELU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Add the bias to a tile, apply GELU, add the residual, and store it."""
    inside = columns < N_OUT
    mask = (rows < n_rows)[:, None] & inside[None, :]
    offsets = rows.to(tl.int64)[:, None]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GELU is not None:
        acc = gelu(acc, GELU)
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + offsets * residual_stride_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets * N_OUT + columns[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    apply_gelu: bool = False,
) -> None:
    """Fill `out` `[N, C_out]` from the rows of `x` `[N, C_in]`, which may overlap."""
    check_devices(x=x, weight=weight, bias=bias, residual=residual)
    check_dtypes(x=x)
    (n_rows, n_in), n_out = x.shape, len(weight)
    check_shape("weight", weight, (n_out, n_in), f"rows of {n_in}")
    check_shape("bias", bias, (n_out,), f"{n_out} outputs")
    if weight.dtype != x.dtype:
        raise ValueError(f"weight must be {x.dtype}, like x, but is {weight.dtype}")
    if not out.numel():
        return
    shape = n_rows, n_in, n_out, x.element_size(), tuning.capability_of(x.device)
    if residual is None and tuning.is_persistent(*shape) and linear_persistent.takes(x, weight, out):
        linear_persistent.launch(x, weight, bias, out, apply_gelu)
        return
    blocks = tuning.linear(*shape)
    tiles = tuning.cdiv(n_rows, blocks["BLOCK_M"]) * tuning.cdiv(n_out, blocks["BLOCK_N"])
    with torch.cuda.device_of(x):
        _linear_kernel[(tiles,)](
            x, weight.contiguous(), weight if bias is None else bias.contiguous(), out if residual is None else residual,
            out, n_rows, x.stride(0), 0 if residual is None else residual.stride(0),
            N_IN=n_in, N_OUT=n_out, HAS_BIAS=bias is not None, GELU=form_of(x.dtype) if apply_gelu else None,
            HAS_RESIDUAL=residual is not None, PRECISION=precision_of(x.dtype), **blocks,
        )  # fmt: skip


def launch_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return `gelu(x weight^T + bias)` `[..., C_out]` for `x` `[..., C_in]` and `weight` `[C_out, C_in]` in the dtype of `x`.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    rows = rows_of(x)
    out = x.new_empty(*x.shape[:-1], len(weight))
    _launch(rows, weight, bias, out.view(len(rows), len(weight)), apply_gelu=True)
    return out


def launch_add(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
    """Return `x weight^T + bias + residual` `[..., C_out]`, in the dtype of the residual.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    check_shape("residual", residual, (*x.shape[:-1], len(weight)), f"x {list(x.shape)} and {len(weight)} outputs")
    check_dtypes(residual=residual)
    rows = rows_of(x)
    out = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
    _launch(rows, weight, bias, out.view(len(rows), len(weight)), residual=rows_of(residual))
    return out


def launch_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    stride: int,
    eps: float,
) -> torch.Tensor:
    """Convolve `x` `[T_in, C_in]`, apply LayerNorm if its weights are given, and GELU. Return `[T, C_out]`.

    Args:
        x: The input, of any row stride.
        weight: `[C_out, kernel * C_in]`, with taps as the outer axis of its rows.
        bias: `[C_out]`.
        norm_weight, norm_bias: The scale and shift of a LayerNorm, `[C_out]`.
        stride: The stride, in frames.
        eps: Added to the variance of the LayerNorm.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    windows = windows_of(x.contiguous(), weight, stride)
    out = x.new_empty(len(windows), len(weight))
    if norm_weight is None or norm_bias is None:
        _launch(windows, weight, bias, out, apply_gelu=True)
        return out
    check_norm(out, norm_weight, norm_bias)
    n_in, n_out, itemsize = windows.shape[1], len(weight), x.element_size()
    if tuning.norm_in_convolution(n_in, n_out, itemsize, tuning.capability_of(x.device)) and n_out <= 512:
        linear_layer_norm.launch(windows, weight, bias, norm_weight, norm_bias, eps, out)
        return out
    _launch(windows, weight, bias, out)
    return layer_norm.launch(out, norm_weight, norm_bias, eps, apply_gelu=True)


def windows_of(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Return the inputs of each frame of a convolution, `[T, kernel * C_in]`, as a view with overlapping rows."""
    frames, channels = x.shape
    kernel, remainder = divmod(weight.shape[1], max(channels, 1))
    if remainder or kernel < 1 or stride < 1:
        raise ValueError(
            f"weight must be [C_out, kernel * {channels}] for x {list(x.shape)}, and the stride at least 1, "
            f"but they are {list(weight.shape)} and {stride}"
        )
    return x.as_strided((frames_of(frames, kernel, stride), kernel * channels), (stride * channels, 1))
