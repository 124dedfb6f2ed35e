"""Compute the first convolution on tensor cores, for 16-bit results, in one pass over the waveform like `conv_first`.

Samples and weights are each split into two bfloat16, a high part and the rest, and the three largest of the four products of
parts are summed. The error is 2^-16 of the sum of `|weight| |sample|`, while rounding the operands to 16 bits, as libraries do,
loses 2^-8; filters that cancel most of a signal expose both. Ten taps in three products, and the bias in two parts, make 32
columns. The mean over channels of a LayerNorm is subtracted from the weights, so that the product is already centred.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from ..dispatch import interpreting
from . import tuning
from .gelu import form_of, gelu


@triton.jit(do_not_specialize=["n_frames"])
def _conv_first_product_kernel(
    samples_ptr,
    taps_ptr,
    mean_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    utterance_ptr,
    out_ptr,
    n_frames,
    eps,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    FRAMES_PER_HOP: tl.constexpr,
    BY_UTTERANCE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    GELU: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program computes BLOCK_C channels, all if there is a norm, of BLOCK_T frames, which lie in one utterance."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    frames = first + tl.arange(0, BLOCK_T)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < CHANNELS
    k = tl.arange(0, WIDTH)
    tap = k % KERNEL
    part = k // KERNEL
    x_ptrs = samples_ptr + frames[:, None] * STRIDE + tap[None, :]
    x = tl.load(x_ptrs, mask=(frames < n_frames)[:, None] & (part < 3)[None, :], other=0.0).to(tl.float32)
    if BY_UTTERANCE:
        utterance = tl.load(utterance_ptr + first // FRAMES_PER_HOP).to(tl.int64)
        taps_ptr += utterance * (WIDTH * CHANNELS)
        x -= tl.load(mean_ptr + utterance * KERNEL + tap)[None, :]
    high = x.to(tl.bfloat16).to(tl.float32)
    x = tl.where((part == 1)[None, :], x - high, high)
    x = tl.where((part >= 3)[None, :], 1.0, x)  # columns of the bias
    taps = tl.load(taps_ptr + k[:, None] * CHANNELS + channels[None, :], mask=inside[None, :], other=0.0)
    acc = tl.dot(x.to(DTYPE), taps.to(DTYPE), input_precision="ieee")
    if HAS_NORM:
        scale = (1.0 / tl.sqrt(tl.sum(acc * acc, axis=1) / CHANNELS + eps))[:, None]
        acc = acc * scale
        acc = acc * tl.load(norm_weight_ptr + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
        acc = acc + tl.load(norm_bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    acc = gelu(acc, GELU)
    out_ptrs = out_ptr + frames[:, None] * CHANNELS + channels[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(frames < n_frames)[:, None] & inside[None, :])


def taps_of(weight: torch.Tensor, bias: torch.Tensor | None, centred: bool) -> torch.Tensor:
    """Return the weights for `launch`, bfloat16 `[..., WIDTH, C]`: the parts of the taps, then those of the bias.

    Args:
        weight: float32 `[..., kernel, C]`.
        bias: `[C]`.
        centred: Whether a norm over channels follows, whose mean is then subtracted here.
    """
    kernel = weight.shape[-2]
    bias = weight.new_zeros(weight.shape[-1]) if bias is None else bias.to(weight.dtype)
    rows = torch.cat([weight, bias.expand(*weight.shape[:-2], 1, -1)], dim=-2)
    if centred:
        rows = rows - rows.mean(-1, keepdim=True)
    high = rows.bfloat16()
    low = (rows - high).bfloat16()
    taps = torch.cat([high[..., :kernel, :], high[..., :kernel, :], low[..., :kernel, :], high[..., kernel:, :],
                      low[..., kernel:, :]], dim=-2)  # fmt: skip
    return F.pad(taps, (0, 0, 0, max(tuning.next_power_of_2(3 * kernel + 2), 16) - (3 * kernel + 2)))


def takes(channels: int, frames_per_hop: int, by_utterance: bool, dtype: torch.dtype) -> bool:
    """Return whether this kernel applies: 16-bit results, all frames of a block in one utterance, enough channels."""
    return dtype.itemsize == 2 and channels >= 16 and not (by_utterance and frames_per_hop % tuning.CONV_FIRST_FRAMES)


def launch(
    samples: torch.Tensor,
    taps: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    means: torch.Tensor | None,
    utterances: torch.Tensor | None,
    frames_per_hop: int,
    kernel: int,
    stride: int,
    eps: float,
    out: torch.Tensor,
) -> None:
    """Fill `out` `[T, C]`. `taps` comes from `taps_of`; the operands must have been checked by `conv_first`."""
    count, channels = out.shape
    blocks = tuning.conv_first_product(channels, norm_weight is not None)
    grid = tuning.cdiv(count, blocks["BLOCK_T"]), tuning.cdiv(channels, blocks["BLOCK_C"])
    with torch.cuda.device_of(samples):
        _conv_first_product_kernel[grid](
            samples, taps, taps if means is None else means, taps if norm_weight is None else norm_weight,
            taps if norm_bias is None else norm_bias, taps if utterances is None else utterances, out, count, eps,
            CHANNELS=channels, KERNEL=kernel, STRIDE=stride, FRAMES_PER_HOP=frames_per_hop, BY_UTTERANCE=means is not None,
            HAS_NORM=norm_weight is not None, GELU=form_of(out.dtype), WIDTH=taps.shape[-2],
            DTYPE=tl.float32 if interpreting() else tl.bfloat16, **blocks,
        )  # fmt: skip
