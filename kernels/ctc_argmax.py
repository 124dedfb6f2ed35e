"""Compute the most probable token of each frame and its log-probability from hidden states, without storing the logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import check_devices, check_dtypes, check_shape, precision_of, rows_of
from .linear import product


@triton.jit(do_not_specialize=["n_rows"])
def _ctc_argmax_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    ids_ptr,
    log_probs_ptr,
    n_rows,
    x_stride_row,
    N_IN: tl.constexpr,
    VOCABULARY: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program goes over the vocabulary for BLOCK_M frames: arg-max, and log-sum-exp as attention has it."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_offsets = tl.minimum(rows, n_rows - 1).to(tl.int64) * x_stride_row
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    best = tl.zeros([BLOCK_M], dtype=tl.int32)
    for first in range(0, VOCABULARY, BLOCK_V):
        tokens = first + tl.arange(0, BLOCK_V)
        real = tl.minimum(tokens, VOCABULARY - 1)
        logits = product(x_ptr, weight_ptr, x_offsets, real.to(tl.int64) * N_IN, N_IN, BLOCK_M, BLOCK_V, BLOCK_K, PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias_ptr + real).to(tl.float32)[None, :]
        logits = tl.where((tokens < VOCABULARY)[None, :], logits, float("-inf"))
        top, where = tl.max(logits, axis=1, return_indices=True)
        best = tl.where(top > peak, where + first, best)  # the first of equal logits, as in torch
        new_peak = tl.maximum(peak, top)
        # avoid inf - inf = NaN, where torch returns a number
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        total = total * tl.exp(peak - base) + tl.sum(tl.exp(logits - base[:, None]), axis=1)
        peak = new_peak
    tl.store(ids_ptr + rows, best, mask=rows < n_rows)
    tl.store(log_probs_ptr + rows, -tl.log(total), mask=rows < n_rows)


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the argmax of `x weight^T + bias`, int32 `[...]`, and its log-probability, float32 `[...]`, for `x` `[..., C]`.

    Args:
        x: The hidden states, `[..., C]`.
        weight: `[V, C]` in the dtype of `x`.
        bias: `[V]`.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    check_devices(x=x, weight=weight, bias=bias)
    check_dtypes(x=x)
    vocabulary, n_in = weight.shape
    check_shape("x", x, (*x.shape[:-1], n_in), f"weight {list(weight.shape)}")
    check_shape("bias", bias, (vocabulary,), f"weight {list(weight.shape)}")
    if weight.dtype != x.dtype or not vocabulary:
        raise ValueError(f"weight must be {x.dtype}, like x, and not empty, but is {weight.dtype} {list(weight.shape)}")
    rows = rows_of(x)
    ids = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    log_probs = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    if len(rows):
        blocks = tuning.ctc_argmax(vocabulary, x.element_size(), tuning.capability_of(x.device))
        with torch.cuda.device_of(x):
            _ctc_argmax_kernel[(tuning.cdiv(len(rows), blocks["BLOCK_M"]),)](
                rows, weight.contiguous(), weight if bias is None else bias.contiguous(), ids, log_probs, len(rows),
                rows.stride(0), N_IN=n_in, VOCABULARY=vocabulary, HAS_BIAS=bias is not None,
                PRECISION=precision_of(x.dtype), **blocks,
            )  # fmt: skip
    return ids, log_probs
