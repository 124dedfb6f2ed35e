"""The feature encoder as matrix products, over one flat waveform, in slices of time that fit a cache.

In channels-last form frame t of a convolution is a product of ``kernel * C_in`` numbers that lie side by side. Convolutions are
local, so a slice of frames needs only its own samples: memory does not grow with the audio, and activations stay in cache.

GroupNorm with one group per channel never sees its input. With windows x_t of the waveform, m = mean x_t and
G = mean x_t x_t^T - m m^T, channel c has mean w_c . m and variance w_c^T G w_c: m is taken from the windows, and the scale goes
into the convolution's weight. Sums are float64: speech makes G nearly singular, and a high-pass filter w cancels most of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import HubertConfig
from .grid import Grid
from .ops.waveforms import window_statistics_eager
from .packed_layers import activate, cast, norm

SLICE_BYTES_CPU = 1 << 23  # activations of the first convolution, the largest: within the second-level caches and below
SLICE_BYTES_GPU = 9 << 26


class SampleSpans(NamedTuple):
    """Stretches of a buffer ``samples`` ``[S]``, of which statistics are taken: one an utterance."""

    samples: Tensor
    starts: list[int]
    lengths: list[int]


class FirstConvolution(NamedTuple):
    """The first convolution with a GroupNorm folded in, for each utterance: ``weight (x - mean) + bias``.

    weights: ``[B, C, kernel]``. means: of the windows, ``[B, kernel]``. bias: ``[C]``.
    """

    weights: Tensor
    means: Tensor
    bias: Tensor


def encode_features(
    layers: nn.ModuleList, matrices: tuple[Tensor, ...], waveform: Tensor, grid: Grid, spans: SampleSpans, config: HubertConfig
) -> Tensor:
    """Compute all frames of the grid up to its end, ``[grid.end, C_conv]``, from a flat waveform ``[S]``.

    layers: the ``ConvLayer`` modules. matrices: their weights, of :class:`PackedWeights`.
    spans: for GroupNorm, the samples over which each utterance's statistics are taken.
    """
    dtype, hop = matrices[-1].dtype, config.inputs_to_logits_ratio
    first = None
    if layers[0].norm == "group":
        (kernel,), (stride,) = layers[0].conv.kernel_size, layers[0].conv.stride
        first = fold(layers[0], matrices[0], *window_statistics_eager(*spans, kernel, stride))
    out = waveform.new_empty(grid.end, len(matrices[-1]), dtype=dtype)
    per_frame = hop // layers[0].conv.stride[0]  # frames of the first convolution to one of the last
    budget = SLICE_BYTES_GPU if waveform.is_cuda else SLICE_BYTES_CPU
    step = max(8, budget // (per_frame * len(matrices[0]) * dtype.itemsize))
    for begin in range(0, grid.end, step):
        end = min(begin + step, grid.end)
        samples = waveform[begin * hop : (end - 1) * hop + config.receptive_field].to(matrices[0].dtype)
        windows = samples.unfold(0, layers[0].conv.kernel_size[0], layers[0].conv.stride[0])
        if first is None:
            x = F.linear(windows, matrices[0], cast(layers[0].conv.bias, windows.dtype))
            x = norm(x, layers[0].layer_norm) if layers[0].norm == "layer" else x
        else:
            x = _by_utterance(windows, first, [(start - begin) * per_frame for start in grid.starts])
        x = activate(x, layers[0].activation).to(dtype)
        for layer, matrix in zip(layers[1:], matrices[1:]):
            x = F.linear(_windows(x, layer.conv), matrix, cast(layer.conv.bias, dtype))
            x = activate(norm(x, layer.layer_norm) if layer.norm == "layer" else x, layer.activation)
        out[begin:end] = x
    return out


def _windows(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Return the inputs of each output frame, ``[T_in, C] -> [T, kernel * C]``; a view unless they overlap."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    frames, channels = (len(x) - kernel) // stride + 1, x.shape[1]
    windows = x.as_strided((frames, kernel * channels), (stride * channels, 1))
    return windows.contiguous() if kernel > stride else windows  # BLAS refuses rows that overlap


def _by_utterance(windows: Tensor, first: FirstConvolution, starts: list[int]) -> Tensor:
    """Convolve windows ``[T, kernel]`` each by the weight of the utterance in which they lie; these start at ``starts``."""
    out = windows.new_empty(len(windows), first.weights.shape[1])
    ends = [*starts[1:], len(windows)]
    for weight, mean, start, end in zip(first.weights, first.means, starts, ends):
        start, end = max(start, 0), min(end, len(windows))
        if start < end:
            torch.addmm(first.bias, windows[start:end] - mean, weight.t(), out=out[start:end])
    return out


def fold(layer: nn.Module, matrix: Tensor, means: Tensor, covariances: Tensor) -> FirstConvolution:
    """Fold a GroupNorm into the convolution ``matrix`` ``[C, kernel]`` before it, by the statistics of its windows."""
    weight = matrix.double()
    variance = torch.einsum("ck,bkj,cj->bc", weight, covariances, weight).clamp(min=0)
    scale = (variance + layer.layer_norm.eps).rsqrt() * layer.layer_norm.weight.double()
    # the convolution's own bias is part of the mean, and goes with it
    return FirstConvolution(
        (scale[..., None] * weight).to(matrix.dtype), means.to(matrix.dtype), layer.layer_norm.bias.to(matrix.dtype)
    )
