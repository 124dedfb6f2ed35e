"""Add the residual and the bias of the preceding product and apply LayerNorm, in one pass between two Transformer blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import check_devices, check_dtypes, check_norm, check_shape, rows_of
from .layer_norm import normalized


@triton.jit(do_not_specialize=["n_rows"])
def _add_layer_norm_kernel(
    x_ptr,
    delta_ptr,
    delta_bias_ptr,
    weight_ptr,
    bias_ptr,
    stream_ptr,
    normed_ptr,
    x_stride_row,
    delta_stride_row,
    n_rows,
    n_columns,
    eps,
    HAS_DELTA_BIAS: tl.constexpr,
    POST: tl.constexpr,
    HAS_NORMED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program adds and normalises BLOCK_M rows; the stream goes on as the sum, or as its norm if POST."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK)
    inside = (columns < n_columns)[None, :]
    mask = inside & (rows < n_rows)[:, None]
    offsets = rows.to(tl.int64)[:, None]
    total = tl.load(x_ptr + offsets * x_stride_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    total += tl.load(delta_ptr + offsets * delta_stride_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_DELTA_BIAS:
        total += tl.load(delta_bias_ptr + columns, mask=columns < n_columns, other=0.0).to(tl.float32)[None, :]
    weight = tl.load(weight_ptr + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    normed = normalized(total, inside, n_columns, eps) * weight[None, :] + bias[None, :]
    places = offsets * n_columns + columns[None, :]
    if POST:
        tl.store(stream_ptr + places, normed.to(stream_ptr.dtype.element_ty), mask=mask)
    else:
        tl.store(stream_ptr + places, total.to(stream_ptr.dtype.element_ty), mask=mask)
    if HAS_NORMED:
        tl.store(normed_ptr + places, normed.to(normed_ptr.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    delta: torch.Tensor,
    delta_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    post: bool,
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the residual stream, in the dtype of `x`, and `norm(x + delta + delta_bias)` in `dtype`.

    Args:
        x: The residual stream, `[..., C]`.
        delta: The output of a block, `[..., C]`.
        delta_bias: The bias that `delta` still lacks, `[C]`; `None` if there is none.
        weight: The scale of the norm, `[C]`.
        bias: The shift of the norm, `[C]`.
        eps: Added to the variance.
        dtype: The dtype of the returned norm.
        post: Return the norm as the stream, instead of the sum. If `dtype` is that of `x`, one tensor is returned twice.
        in_place: Overwrite `x` with the stream if `x` is contiguous.

    Raises:
        ValueError: Shapes, dtypes or devices do not match, or C is above 16,384.
    """
    check_norm(x, weight, bias)
    check_shape("delta", delta, tuple(x.shape), f"x {list(x.shape)}")
    check_shape("delta_bias", delta_bias, (x.shape[-1],), f"x {list(x.shape)}")
    check_devices(x=x, delta=delta, delta_bias=delta_bias)
    check_dtypes(delta=delta)
    rows, added = rows_of(x), rows_of(delta)
    stream = x if in_place and x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    is_same = post and dtype == x.dtype
    normed = stream if is_same else torch.empty(x.shape, dtype=dtype, device=x.device)
    if x.numel():
        blocks = tuning.layer_norm(x.shape[-1], len(rows))
        with torch.cuda.device_of(x):
            _add_layer_norm_kernel[(tuning.cdiv(len(rows), blocks["BLOCK_M"]),)](
                rows, added, weight if delta_bias is None else delta_bias.contiguous(), weight.contiguous(), bias.contiguous(),
                stream, normed, rows.stride(0), added.stride(0), *rows.shape, eps,
                HAS_DELTA_BIAS=delta_bias is not None, POST=post, HAS_NORMED=not is_same, **blocks,
            )  # fmt: skip
    return stream, normed
