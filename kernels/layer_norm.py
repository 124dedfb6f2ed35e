"""Layer normalisation over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MAX_COLUMNS = 16384  # one program holds a row in registers


@triton.jit
def _layer_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    x_stride_row,
    n_columns,
    eps,
    BLOCK: tl.constexpr,
):
    """One program normalises one row, with mean and variance in fp32 from the row held in registers."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n_columns
    x = tl.load(x_ptr + row * x_stride_row + columns, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / n_columns
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / n_columns
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    out = centred * (1.0 / tl.sqrt(variance + eps)) * weight + bias
    tl.store(out_ptr + row * n_columns + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


def blocks(n_columns: int) -> dict[str, int]:
    """Return the launch parameters for rows of ``n_columns``: the block, and warps so that a thread holds about 8 values."""
    block = triton.next_power_of_2(n_columns)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise ``x`` ``[..., C]``; ``weight`` and ``bias`` are ``[C]``. Returns a contiguous tensor of x's shape and dtype.

    Raises ``ValueError`` when shapes, dtypes or devices do not fit or C is above 16,384.
    """
    columns = x.shape[-1]
    if weight.shape != (columns,) or bias.shape != (columns,):
        raise ValueError(
            f"weight and bias must be [{columns}] for x {list(x.shape)}, but are {list(weight.shape)} and {list(bias.shape)}"
        )
    if not x.device == weight.device == bias.device:
        raise ValueError(f"x, weight and bias must share a device, but are on {x.device}, {weight.device}, {bias.device}")
    if not 1 <= columns <= MAX_COLUMNS:
        raise ValueError(f"the last axis must have 1 to {MAX_COLUMNS} columns, but has {columns}")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"x must be float32, float16 or bfloat16, but is {x.dtype}")
    rows = x.reshape(-1, columns)
    if rows.stride(-1) != 1 or rows.stride(0) < columns:
        rows = rows.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        with torch.cuda.device_of(x):
            _layer_norm_kernel[(rows.shape[0],)](
                rows, weight.contiguous(), bias.contiguous(), out, rows.stride(0), columns, eps, **blocks(columns)
            )
    return out
