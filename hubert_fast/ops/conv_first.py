"""Compute the first convolution of the feature encoder, with the norm and GELU that follow it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.schedule import frames_of
from .precision import check_norm_pair, in_full_precision, present, without_autocast


@without_autocast
def conv_first_eager(
    samples: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    means: Tensor | None = None,
    utterances: Tensor | None = None,
    frames_per_hop: int = 1,
    stride: int = 5,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute `conv_first` in plain PyTorch: its definition."""
    full, taps, bias, norm_weight, norm_bias, means = in_full_precision(samples, weight, bias, norm_weight, norm_bias, means)
    kernel = weight.shape[-2]
    windows = full.unfold(0, kernel, stride) if len(full) >= kernel else full.new_empty(0, kernel)
    if means is None:
        out = windows @ taps
    else:
        if utterances is None:
            raise ValueError("means need utterances (the utterance of each hop), but utterances is None")
        of_frame = utterances[torch.arange(len(windows), device=samples.device) // frames_per_hop]
        out = full.new_empty(len(windows), weight.shape[-1])
        for utterance in range(len(means)):
            chosen = of_frame == utterance
            out[chosen] = (windows[chosen] - means[utterance]) @ taps[utterance]
    out = out if bias is None else out + bias
    if norm_weight is not None:
        out = F.layer_norm(out, out.shape[-1:], norm_weight, norm_bias, eps)
    return F.gelu(out).to(dtype or samples.dtype)


@torch.library.custom_op("hubert_fast::conv_first", mutates_args=())
def _conv_first_triton(
    samples: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    means: Tensor | None,
    utterances: Tensor | None,
    frames_per_hop: int,
    stride: int,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    from ..kernels import conv_first as kernel

    return kernel.launch(samples, weight, bias, norm_weight, norm_bias, means, utterances, frames_per_hop, stride, eps, dtype)


@_conv_first_triton.register_fake
def _(
    samples: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    means: Tensor | None,
    utterances: Tensor | None,
    frames_per_hop: int,
    stride: int,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    return samples.new_empty(frames_of(samples.shape[0], weight.shape[-2], stride), weight.shape[-1], dtype=dtype)


def conv_first(
    samples: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    means: Tensor | None = None,
    utterances: Tensor | None = None,
    frames_per_hop: int = 1,
    *,
    stride: int = 5,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolve a waveform and apply GELU, optionally after a LayerNorm.

    A GroupNorm with one group per channel can be folded in: each utterance then has its own weight, and `means` are subtracted
    from the windows first.

    Args:
        samples: The waveform, `[S]`.
        weight: float32 `[kernel, C]`; with a folded GroupNorm `[B, kernel, C]`.
        bias: `[C]`.
        norm_weight, norm_bias: The scale and shift of a LayerNorm before GELU, `[C]`: both or neither.
        means: With a folded GroupNorm, the mean window of each utterance, `[B, kernel]`.
        utterances: With a folded GroupNorm, the utterance of each hop, int32 `[hops]`.
        frames_per_hop: The number of output frames in a hop.
        stride: The stride, in samples.
        eps: Added to the variance of the LayerNorm.
        dtype: The dtype of the result; by default that of `samples`.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[T, C]`, channels last.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    dtype = dtype or samples.dtype
    arguments = samples, weight, bias, norm_weight, norm_bias, means, utterances, frames_per_hop, stride, eps, dtype
    check_norm_pair(norm_weight, norm_bias)
    if use_triton(*present(samples, weight, bias, norm_weight, norm_bias, means), backend=backend):
        return _conv_first_triton(*arguments)
    return conv_first_eager(*arguments)
