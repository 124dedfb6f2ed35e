"""From the waveform on: normalisation, statistics for a GroupNorm, the convolutions of the feature encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import upload
from ..dispatch import use_triton
from .wide import given, widened, without_autocast

INT16_SCALE = 1 / 32768
VARIANCE_FLOOR = 1e-7  # what feature extractors add to the variance
WINDOWS_AT_ONCE = 1 << 16


def check_spans(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> None:
    """Raise ``ValueError`` unless utterances lie within the samples, one start to a length."""
    inside = len(starts) == len(lengths) and samples.dim() == 1
    if not (inside and all(start >= 0 and 0 <= length <= len(samples) - start for start, length in zip(starts, lengths))):
        raise ValueError(
            f"starts and lengths must be of utterances within {list(samples.shape)} samples, "
            f"but are {list(starts)} and {list(lengths)}"
        )


def check_norm_pair(weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise ``ValueError`` for a norm with a scale and no shift, or the other way round."""
    if (weight is None) != (bias is None):
        missing, given = ("norm_bias", "norm_weight") if bias is None else ("norm_weight", "norm_bias")
        raise ValueError(f"norm_weight and norm_bias must come together, but there is {given} and no {missing}")


@without_autocast
def normalize_waveforms_eager(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Define :func:`normalize_waveforms`."""
    out = torch.zeros(samples.shape, dtype=torch.promote_types(samples.dtype, torch.float32), device=samples.device)
    for start, length in zip(starts, lengths):
        if length:
            utterance = samples[start : start + length].to(out.dtype)
            if samples.dtype == torch.int16:
                utterance.mul_(INT16_SCALE)
            variance, mean = torch.var_mean(utterance, correction=0)
            out[start : start + length] = (utterance - mean) / (variance + VARIANCE_FLOOR).sqrt()
    return out


@torch.library.custom_op("hubert_fast::normalize_waveforms", mutates_args=())
def _normalize_waveforms_triton(samples: Tensor, starts: list[int], lengths: list[int]) -> Tensor:
    from ..kernels import waveforms as kernel

    return kernel.launch(samples, upload(kernel.work_of(lengths, starts), samples.device))


@_normalize_waveforms_triton.register_fake
def _(samples: Tensor, starts: list[int], lengths: list[int]) -> Tensor:
    return samples.new_empty(samples.shape, dtype=torch.float32)


def normalize_waveforms(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], *, backend: str | None = None
) -> Tensor:
    """Scale each utterance to zero mean and unit variance, as preprocessors with ``do_normalize`` do: float32 ``[S]``,
    float64 of float64.

    samples: ``[S]``, floating point, or int16, which counts as value / 32768.
    starts, lengths: of the utterances, in samples. What lies
    between them becomes zeros.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    Source: transformers' ``Wav2Vec2FeatureExtractor``; Chan et al. 1979 for joining partial variances.
    """
    check_spans(samples, starts, lengths)
    if use_triton(samples, backend=backend, also=(torch.int16,)):
        return _normalize_waveforms_triton(samples, list(starts), list(lengths))
    return normalize_waveforms_eager(samples, starts, lengths)


@without_autocast
def window_statistics_eager(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Define :func:`window_statistics`."""
    sums = torch.zeros(len(starts), kernel, dtype=torch.float64, device=samples.device)
    products = torch.zeros(len(starts), kernel, kernel, dtype=torch.float64, device=samples.device)
    for row, (start, length) in enumerate(zip(starts, lengths)):
        if length >= kernel:
            for part in samples[start : start + length].unfold(0, kernel, stride).split(WINDOWS_AT_ONCE):
                part = part.double()
                sums[row] += part.sum(0)
                products[row].addmm_(part.t(), part)
    return _moments(sums, products, upload(_share(lengths, kernel, stride), samples.device))


def _moments(sums: Tensor, products: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance from sums over windows and one over their number ``[B]``; of none, NaN."""
    means = sums * share[:, None]
    return means, products * share[:, None, None] - means[:, :, None] * means[:, None, :]


def _share(lengths: Sequence[int], kernel: int, stride: int) -> Tensor:
    windows = [(length - kernel) // stride + 1 if length >= kernel else 0 for length in lengths]
    return 1 / torch.tensor(windows, dtype=torch.float64)


class WindowTables(NamedTuple):
    """What the kernel of :func:`window_statistics` is told, on its device.

    work: int64 ``[chunks, 2]``. places: where the sums of each chunk go among ``B * most``, int64 ``[chunks]``. most: chunks of
    the longest utterance. share: one over the windows of each utterance ``[B]``.
    """

    work: Tensor
    places: Tensor
    most: int
    share: Tensor

    @classmethod
    def of(cls, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, device: torch.device) -> WindowTables:
        """Lay out utterances in chunks."""
        from ..kernels import window_statistics as module

        work, chunks = module.work_of(lengths, starts, kernel, stride)
        most = max(chunks, default=0)
        places = [torch.arange(count) + row * most for row, count in enumerate(chunks)]
        places = torch.cat(places) if places else torch.empty(0, dtype=torch.int64)
        return cls(upload(work, device), upload(places, device), most, upload(_share(lengths, kernel, stride), device))


def window_moments(samples: Tensor, tables: WindowTables, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Run the kernel of :func:`window_statistics`; the sums of chunks are added in a fixed order."""
    from ..kernels import window_statistics as module

    def by_utterance(parts: Tensor) -> Tensor:
        padded = parts.new_zeros(len(tables.share) * tables.most, *parts.shape[1:])
        return padded.index_copy_(0, tables.places, parts).unflatten(0, (len(tables.share), tables.most)).sum(1)

    partial = module.launch(samples, tables.work, kernel, stride)
    return _moments(*(by_utterance(parts) for parts in partial), tables.share)


@torch.library.custom_op("hubert_fast::window_statistics", mutates_args=())
def _window_statistics_triton(
    samples: Tensor, starts: list[int], lengths: list[int], kernel: int, stride: int
) -> tuple[Tensor, Tensor]:
    return window_moments(samples, WindowTables.of(starts, lengths, kernel, stride, samples.device), kernel, stride)


@_window_statistics_triton.register_fake
def _(samples: Tensor, starts: list[int], lengths: list[int], kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    means = samples.new_empty(len(starts), kernel, dtype=torch.float64)
    return means, means.new_empty(len(starts), kernel, kernel)


def window_statistics(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean ``[B, kernel]`` and covariance ``[B, kernel, kernel]``, float64, of what a convolution of one channel reads.

    samples: ``[S]``. starts, lengths: of the utterances, in samples. An utterance without a window has NaN.
    A channel of weight w has mean ``w . mean`` and variance ``w^T covariance w`` over time: all that a GroupNorm needs.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    """
    check_spans(samples, starts, lengths)
    if use_triton(samples, backend=backend):
        return _window_statistics_triton(samples, list(starts), list(lengths), kernel, stride)
    return window_statistics_eager(samples, starts, lengths, kernel, stride)


def _frames(length: int | torch.SymInt, kernel: int | torch.SymInt, stride: int) -> int | torch.SymInt:
    """Frames of a convolution, of sizes that may be symbols."""
    return torch.sym_max(0, (length - kernel) // stride + 1)


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
    return samples.new_empty(_frames(samples.shape[0], weight.shape[-2], stride), weight.shape[-1], dtype=dtype)


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
    return x.new_empty(_frames(x.shape[0], weight.shape[1] // x.shape[1], stride), weight.shape[0])


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
