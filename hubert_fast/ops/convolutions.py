"""The convolutions of the feature encoder, channels last, with the norm and GELU that follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.schedule import frames_of
from .wide import given, widened, without_autocast


def check_norm_pair(weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise ``ValueError`` for a norm with a scale and no shift, or the other way round."""
    if (weight is None) != (bias is None):
        missing, given = ("norm_bias", "norm_weight") if bias is None else ("norm_weight", "norm_bias")
        raise ValueError(f"norm_weight and norm_bias must come together, but there is {given} and no {missing}")


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
    """Define :func:`conv_first`."""
    wide, taps, bias, norm_weight, norm_bias, means = widened(samples, weight, bias, norm_weight, norm_bias, means)
    kernel = weight.shape[-2]
    windows = wide.unfold(0, kernel, stride) if len(wide) >= kernel else wide.new_empty(0, kernel)
    if means is None:
        out = windows @ taps
    else:
        of_frame = utterances[torch.arange(len(windows), device=samples.device) // frames_per_hop]
        out = wide.new_empty(len(windows), weight.shape[-1])
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
    """Convolve a waveform ``[S]`` and apply GELU: channels-last ``[T, C]`` in ``dtype`` (that of the samples when left out).

    weight: float32 ``[kernel, C]``. bias: ``[C]``. norm_weight, norm_bias: of a LayerNorm before GELU, ``[C]``.

    A GroupNorm with one group per channel is folded in: weight ``[B, kernel, C]`` by utterance, means ``[B, kernel]`` of its
    windows, which are taken from the samples first, and utterances, int32: which of the B each hop of ``frames_per_hop`` frames
    is of.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    """
    dtype = dtype or samples.dtype
    arguments = samples, weight, bias, norm_weight, norm_bias, means, utterances, frames_per_hop, stride, eps, dtype
    check_norm_pair(norm_weight, norm_bias)
    if use_triton(*given(samples, weight, bias, norm_weight, norm_bias, means), backend=backend):
        return _conv_first_triton(*arguments)
    return conv_first_eager(*arguments)


@without_autocast
def conv_gelu_eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    stride: int = 2,
    eps: float = 1e-5,
) -> Tensor:
    """Define :func:`conv_gelu`."""
    wide, matrix, bias, norm_weight, norm_bias = widened(x, weight, bias, norm_weight, norm_bias)
    taps = matrix.unflatten(1, (-1, x.shape[1])).transpose(1, 2)  # as conv1d has it: [C_out, C_in, kernel]
    if len(x) < taps.shape[2]:
        return x.new_empty(0, len(weight))
    out = F.conv1d(wide.t()[None], taps, bias, stride=stride)[0].t()
    if norm_weight is not None:
        out = F.layer_norm(out, out.shape[-1:], norm_weight, norm_bias, eps)
    return F.gelu(out).to(x.dtype).contiguous()


@torch.library.custom_op("hubert_fast::conv_gelu", mutates_args=())
def _conv_gelu_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: int,
    eps: float,
) -> Tensor:
    from ..kernels import linear as kernel

    return kernel.launch_convolution(x, weight, bias, norm_weight, norm_bias, stride, eps)


@_conv_gelu_triton.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: int,
    eps: float,
) -> Tensor:
    return x.new_empty(frames_of(x.shape[0], weight.shape[1] // x.shape[1], stride), weight.shape[0])


def conv_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    stride: int = 2,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """Convolve over time and apply GELU, channels last: ``[T_in, C_in]`` to ``[T, C_out]``, in the dtype of ``x``.

    weight: ``[C_out, kernel * C_in]`` of x's dtype, the taps outermost. bias: ``[C_out]``.
    norm_weight, norm_bias: of a LayerNorm before GELU, ``[C_out]``. The kernel reads overlapping windows where they lie.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    """
    check_norm_pair(norm_weight, norm_bias)
    if use_triton(*given(x, weight, bias, norm_weight, norm_bias), backend=backend):
        return _conv_gelu_triton(x, weight, bias, norm_weight, norm_bias, stride, eps)
    return conv_gelu_eager(x, weight, bias, norm_weight, norm_bias, stride, eps)
