"""Compute the positional convolution, grouped with 128 taps, as a matrix product whose left operand is never stored.

A row of the product stands for FRAMES neighbouring frames of an utterance, which together read `kernel + FRAMES - 1` frames of
input: a row has that many times the group's channels as inputs, and FRAMES times the group's channels as outputs. Where tap
`j - r` of frame r lies outside the kernel, the weight is zero: this wastes FRAMES - 1 of about 131 steps, but reads frames from
the cache once instead of FRAMES times. No row spans two utterances, so that frames beyond an end can be masked by row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import MAX_GROUP_CHANNELS, check_devices, check_dtypes, check_shape, precision_of, rows_of
from .gelu import form_of, gelu
from .schedule import parts_of


@triton.jit(do_not_specialize=["n_spans"])
def _conv_positional_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    spans_ptr,
    n_spans,
    x_stride_row,
    residual_stride_row,
    n_channels,
    KERNEL: tl.constexpr,
    CHANNELS: tl.constexpr,
    GELU: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program computes BLOCK_M rows of FRAMES frames for one group: convolution, bias, GELU, residual add."""
    group = tl.program_id(1)
    index = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    known = index < n_spans
    frame = tl.load(spans_ptr + index * 3, mask=known, other=0)
    begin = tl.load(spans_ptr + index * 3 + 1, mask=known, other=0)
    end = tl.load(spans_ptr + index * 3 + 2, mask=known, other=0)

    n_k: tl.constexpr = (KERNEL + FRAMES - 1) * CHANNELS
    columns = tl.arange(0, BLOCK_N)
    step = columns // CHANNELS  # which of the FRAMES
    channel = columns % CHANNELS
    x_ptr += group * CHANNELS
    weight_ptr += group.to(tl.int64) * (KERNEL * CHANNELS * CHANNELS)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, n_k, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        position = k // CHANNELS
        source = frame[:, None] + (position - KERNEL // 2)[None, :]
        reads = (source >= begin[:, None]) & (source < end[:, None])
        if n_k % BLOCK_K != 0:
            reads = reads & (k < n_k)[None, :]
        x = tl.load(x_ptr + source.to(tl.int64) * x_stride_row + (k % CHANNELS)[None, :], mask=reads, other=0.0)
        tap = position[:, None] - step[None, :]
        exists = (tap >= 0) & (tap < KERNEL)
        if FRAMES * CHANNELS != BLOCK_N:
            exists = exists & (columns < FRAMES * CHANNELS)[None, :]
        if n_k % BLOCK_K != 0:
            exists = exists & (k < n_k)[:, None]
        place = (tap * CHANNELS + (k % CHANNELS)[:, None]) * CHANNELS + channel[None, :]
        weight = tl.load(weight_ptr + place, mask=exists, other=0.0)
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)
    group_channel = group * CHANNELS
    if BLOCK_N >= 256:
        # in quarters: next to 128 accumulators, a thread has no registers for that many other values
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        _finish_halves(
            left, bias_ptr, residual_ptr, out_ptr, frame, end, 0, group_channel, residual_stride_row, n_channels,
            CHANNELS, FRAMES, GELU, HAS_RESIDUAL, BLOCK_M, BLOCK_N // 2,
        )  # fmt: skip
        _finish_halves(
            right, bias_ptr, residual_ptr, out_ptr, frame, end, BLOCK_N // 2, group_channel, residual_stride_row, n_channels,
            CHANNELS, FRAMES, GELU, HAS_RESIDUAL, BLOCK_M, BLOCK_N // 2,
        )  # fmt: skip
    else:
        _finish(
            acc, bias_ptr, residual_ptr, out_ptr, frame, end, columns, group_channel, residual_stride_row, n_channels,
            CHANNELS, FRAMES, GELU, HAS_RESIDUAL,
        )  # fmt: skip


@triton.jit
def _finish_halves(
    acc, bias_ptr, residual_ptr, out_ptr, frame, end, first, group_channel, residual_stride_row, n_channels,
    CHANNELS: tl.constexpr, FRAMES: tl.constexpr, GELU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Finish BLOCK columns from ``first`` on, one half after the other."""
    left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK // 2)), (0, 2, 1)))
    columns = first + tl.arange(0, BLOCK // 2)
    _finish(
        left, bias_ptr, residual_ptr, out_ptr, frame, end, columns, group_channel, residual_stride_row, n_channels,
        CHANNELS, FRAMES, GELU, HAS_RESIDUAL,
    )  # fmt: skip
    _finish(
        right, bias_ptr, residual_ptr, out_ptr, frame, end, columns + BLOCK // 2, group_channel, residual_stride_row,
        n_channels, CHANNELS, FRAMES, GELU, HAS_RESIDUAL,
    )  # fmt: skip


@triton.jit
def _finish(
    acc, bias_ptr, residual_ptr, out_ptr, frame, end, columns, group_channel, residual_stride_row, n_channels,
    CHANNELS: tl.constexpr, FRAMES: tl.constexpr, GELU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Add the bias to some columns of a tile, apply GELU, add the residual, and store it frame by frame."""
    channel = group_channel + columns % CHANNELS
    acc += tl.load(bias_ptr + channel).to(tl.float32)[None, :]
    if GELU is not None:
        acc = gelu(acc, GELU)
    row = frame[:, None] + (columns // CHANNELS)[None, :]
    mask = (row < end[:, None]) & (columns < FRAMES * CHANNELS)[None, :]
    if HAS_RESIDUAL:
        residual_ptrs = residual_ptr + row.to(tl.int64) * residual_stride_row + channel[None, :]
        acc += tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row.to(tl.int64) * n_channels + channel[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


def spans_of(counts: torch.Tensor, starts: torch.Tensor, frames: int, entries: int) -> torch.Tensor:
    """Return the rows of the product, int32 `[entries, 3]`: first frame, and the first and last + 1 frame of its utterance.

    Nothing is read back from the device of the arguments.

    Args:
        counts: The number of frames of each utterance, `[B]`.
        starts: The first frame of each utterance, `[B]`.
        frames: The number of frames of a row.
        entries: An upper bound for the number of rows needed; surplus rows have no frames.
    """
    utterance, first, inside = parts_of(counts, frames, entries)
    start = starts[utterance]
    columns = start + first, start, (start + counts[utterance]) * inside
    return torch.stack(columns, dim=1).to(torch.int32)


def frames_of(channels: int, kernel: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many frames a row of the product has, for groups of `channels`."""
    return tuning.conv_positional(channels, kernel, dtype.itemsize, tuning.capability_of(device))["FRAMES"]


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    spans: torch.Tensor,
    residual: torch.Tensor | None = None,
    apply_gelu: bool = True,
    dtype: torch.dtype | None = None,
    fill: bool = False,
) -> torch.Tensor:
    """Return `gelu(conv(x) + bias) + residual` `[N, C]` for the frames of utterances that `spans` lists.

    Args:
        x: The projected frames, `[N, C]`.
        weight: `[G, kernel, C/G (in), C/G (out)]` in the dtype of `x`.
        bias: `[C]`.
        spans: The rows from `spans_of`.
        residual: `[N, C]`.
        apply_gelu: Whether to apply GELU.
        dtype: The dtype of the result; by default that of the residual, or else of `x`.
        fill: Zero the frames that no span covers, which are otherwise undefined.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    if x.dim() != 2 or weight.dim() != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(
            f"x must be [N, C] and weight [G, kernel, C/G, C/G], but they are {list(x.shape)} and {list(weight.shape)}"
        )
    groups, kernel, channels, _ = weight.shape
    if channels > MAX_GROUP_CHANNELS:
        raise ValueError(f"groups may have up to {MAX_GROUP_CHANNELS} channels, but have {channels}")
    check_shape("x", x, (len(x), groups * channels), f"weight {list(weight.shape)}")
    check_shape("bias", bias, (groups * channels,), f"weight {list(weight.shape)}")
    check_shape("residual", residual, tuple(x.shape), f"x {list(x.shape)}")
    check_devices(x=x, weight=weight, bias=bias, spans=spans, residual=residual)
    check_dtypes(x=x, residual=residual)
    if weight.dtype != x.dtype:
        raise ValueError(f"weight must be {x.dtype} as x is, but is {weight.dtype}")
    x = rows_of(x)
    added = None if residual is None else rows_of(residual)
    dtype = dtype or (x.dtype if residual is None else residual.dtype)
    out = (torch.zeros if fill else torch.empty)(x.shape, dtype=dtype, device=x.device)
    if out.numel() and len(spans):
        blocks = tuning.conv_positional(channels, kernel, x.element_size(), tuning.capability_of(x.device))
        with torch.cuda.device_of(x):
            _conv_positional_kernel[(tuning.cdiv(len(spans), blocks["BLOCK_M"]), groups)](
                x, weight.contiguous(), bias.contiguous(), out if added is None else added, out, spans, len(spans), x.stride(0),
                0 if added is None else added.stride(0), x.shape[1], KERNEL=kernel, CHANNELS=channels,
                GELU=form_of(dtype) if apply_gelu else None, HAS_RESIDUAL=added is not None,
                PRECISION=precision_of(x.dtype), **blocks,
            )  # fmt: skip
    return out
