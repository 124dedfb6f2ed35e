"""Compute the first convolution, with a single input channel, the norm after it and GELU, in one pass over the waveform.

The kernel computes in float32, without tensor cores. `conv_first_product` computes 16-bit results.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import conv_first_product, tuning
from .checks import check_devices, check_norm, check_shape
from .gelu import form_of, gelu
from .layer_norm import normalized
from .schedule import frames_of


@triton.jit(do_not_specialize=["n_frames"])
def _conv_first_kernel(
    samples_ptr,
    weight_ptr,
    mean_ptr,
    bias_ptr,
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
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program computes all channels of BLOCK_T frames, which lie in one utterance."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    frames = first + tl.arange(0, BLOCK_T)
    channels = tl.arange(0, BLOCK_C)
    inside = channels < CHANNELS
    if BY_UTTERANCE:
        utterance = tl.load(utterance_ptr + first // FRAMES_PER_HOP).to(tl.int64)
        weight_ptr += utterance * (KERNEL * CHANNELS)
        mean_ptr += utterance * KERNEL
    acc = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    for tap in tl.static_range(KERNEL):
        x = tl.load(samples_ptr + frames * STRIDE + tap, mask=frames < n_frames, other=0.0).to(tl.float32)
        if BY_UTTERANCE:
            x -= tl.load(mean_ptr + tap)
        acc += x[:, None] * tl.load(weight_ptr + tap * CHANNELS + channels, mask=inside, other=0.0)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    if HAS_NORM:
        acc = normalized(acc, inside[None, :], CHANNELS, eps)
        acc = acc * tl.load(norm_weight_ptr + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
        acc = acc + tl.load(norm_bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    acc = gelu(acc, GELU)
    out_ptrs = out_ptr + frames[:, None] * CHANNELS + channels[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(frames < n_frames)[:, None] & inside[None, :])


def launch(
    samples: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    means: torch.Tensor | None,
    utterances: torch.Tensor | None,
    frames_per_hop: int,
    stride: int,
    eps: float,
    dtype: torch.dtype,
    taps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve `samples` `[S]`, apply LayerNorm if its weights are given, and GELU. Return `[T, C]` in `dtype`.

    Args:
        samples: The waveform, `[S]`.
        weight: float32 `[kernel, C]`; or one weight for each utterance, `[B, kernel, C]`.
        bias: `[C]`.
        norm_weight, norm_bias: The scale and shift of a LayerNorm, `[C]`.
        means: With a weight for each utterance, the means to subtract from its windows first, `[B, kernel]`.
        utterances: With a weight for each utterance, the utterance of each hop, int32.
        frames_per_hop: The number of frames in a hop.
        stride: The stride, in samples.
        eps: Added to the variance of the LayerNorm.
        dtype: The dtype of the result.
        taps: The result of `prepared` for the same weights, if several calls share it.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    check_devices(
        samples=samples,
        weight=weight,
        bias=bias,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        means=means,
        utterances=utterances,
    )
    by_utterance = means is not None
    if samples.dim() != 1 or weight.dim() != 2 + by_utterance or weight.dtype != torch.float32 or stride < 1:
        raise ValueError(
            f"samples must be [S], weight float32 {'[B, kernel, C]' if by_utterance else '[kernel, C]'}, and the stride at "
            f"least 1, but they are {list(samples.shape)}, {weight.dtype} {list(weight.shape)} and {stride}"
        )
    kernel, channels = weight.shape[-2:]
    check_shape("bias", bias, (channels,), f"weight {list(weight.shape)}")
    check_shape("means", means, (len(weight), kernel), f"weight {list(weight.shape)}")
    count = frames_of(len(samples), kernel, stride)
    out = torch.empty(count, channels, dtype=dtype, device=samples.device)
    if norm_weight is not None and norm_bias is not None:
        check_norm(out, norm_weight, norm_bias)
    if by_utterance and (utterances is None or len(utterances) * frames_per_hop < count):
        hops = 0 if utterances is None else len(utterances)
        raise ValueError(f"utterances must cover {count} frames, {frames_per_hop} per hop, but have {hops} hops")
    if not out.numel():
        return out
    if taps is None:
        taps = prepared(weight, bias, norm_weight is not None, frames_per_hop, dtype)
    if taps is not None:
        vectors = (None if vector is None else vector.contiguous() for vector in (norm_weight, norm_bias, means, utterances))
        conv_first_product.launch(samples.contiguous(), taps, *vectors, frames_per_hop, kernel, stride, eps, out)
    else:
        utterances = weight if utterances is None else utterances.contiguous()
        blocks = tuning.conv_first(channels, frames_per_hop if by_utterance else 64)
        with torch.cuda.device_of(samples):
            _conv_first_kernel[(tuning.cdiv(count, blocks["BLOCK_T"]),)](
                samples.contiguous(), weight.contiguous(), weight if means is None else means.contiguous(),
                weight if bias is None else bias.contiguous(), weight if norm_weight is None else norm_weight.contiguous(),
                weight if norm_bias is None else norm_bias.contiguous(), utterances, out,
                count, eps, CHANNELS=channels, KERNEL=kernel, STRIDE=stride, FRAMES_PER_HOP=frames_per_hop,
                BY_UTTERANCE=by_utterance, HAS_BIAS=bias is not None, HAS_NORM=norm_weight is not None,
                GELU=form_of(dtype), **blocks,
            )  # fmt: skip
    return out


def prepared(
    weight: torch.Tensor, bias: torch.Tensor | None, has_norm: bool, frames_per_hop: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return the `taps` for `launch`, or `None` if results in `dtype` need none."""
    if not conv_first_product.takes(weight.shape[-1], frames_per_hop, weight.dim() == 3, dtype):
        return None
    return conv_first_product.taps_of(weight, bias, has_norm)
