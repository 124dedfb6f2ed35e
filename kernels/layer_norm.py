"""Layer normalisation over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450), optionally followed by GELU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import check_norm, rows_of
from .gelu import form_of, gelu


@triton.jit
def normalized(x, inside, n_columns, eps):
    """Centre and scale the rows of a tile ``[M, BLOCK]`` of fp32 values, of which ``inside`` says what counts."""
    mean = tl.sum(tl.where(inside, x, 0.0), axis=1) / n_columns
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / n_columns
    return centred * (1.0 / tl.sqrt(variance + eps))[:, None]


@triton.jit(do_not_specialize=["n_rows"])
def _layer_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    x_stride_row,
    n_rows,
    n_columns,
    eps,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program normalises BLOCK_M rows, with mean and variance in fp32 from the rows held in registers."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK)
    inside = (columns < n_columns)[None, :]
    mask = inside & (rows < n_rows)[:, None]
    offsets = rows.to(tl.int64)[:, None]
    x = tl.load(x_ptr + offsets * x_stride_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    out = normalized(x, inside, n_columns, eps) * weight[None, :] + bias[None, :]
    if GELU is not None:
        out = gelu(out, GELU)
    tl.store(out_ptr + offsets * n_columns + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    apply_gelu: bool = False,
) -> torch.Tensor:
    """Normalise `x` `[..., C]` with `weight` and `bias` `[C]`. Return a contiguous tensor of the same shape.

    Args:
        x: `[..., C]`.
        weight: The scale, `[C]`.
        bias: The shift, `[C]`.
        eps: Added to the variance.
        dtype: The dtype of the result; by default that of `x`.
        apply_gelu: Apply GELU to the result.

    Raises:
        ValueError: Shapes, dtypes or devices do not match, or C is above 16,384.
    """
    check_norm(x, weight, bias)
    rows = rows_of(x)
    out = torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device)
    if out.numel():
        blocks = tuning.layer_norm(x.shape[-1], rows.shape[0])
        with torch.cuda.device_of(x):
            _layer_norm_kernel[(tuning.cdiv(rows.shape[0], blocks["BLOCK_M"]),)](
                rows, weight.contiguous(), bias.contiguous(), out, rows.stride(0), *rows.shape, eps,
                GELU=form_of(out.dtype) if apply_gelu else None, **blocks,
            )  # fmt: skip
    return out
