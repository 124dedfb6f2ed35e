"""The feature encoder as matrix products, over one flat waveform, in slices of time that fit a cache.

In channels-last form frame t of a convolution is a product of ``kernel * C_in`` numbers that lie side by side. Convolutions are
local, so a slice of frames needs only its own samples: memory does not grow with the audio, and activations stay in cache.

GroupNorm with one group per channel never sees its input. With windows x_t of the waveform, m = mean x_t and
G = mean x_t x_t^T - m m^T, channel c has mean w_c . m and variance w_c^T G w_c; scale and shift go into the convolution's weight.
Sums are float64: speech makes G nearly singular, and a high-pass filter w cancels most of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed_audio import Grid

SLICE_BYTES_CPU = 1 << 23  # activations of the first convolution, the largest: within the second-level caches and below
SLICE_BYTES_GPU = 1 << 29
WINDOWS_AT_ONCE = 1 << 16


def activate(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an activation, in place where PyTorch can."""
    return torch.ops.aten.gelu_(x) if function is F.gelu else function(x)


def encode_features(
    layers: nn.ModuleList, matrices: tuple[Tensor, ...], waveform: Tensor, grid: Grid, rows: list[Tensor], hop: int
) -> Tensor:
    """Compute all frames of the grid up to its end, ``[grid.end, C_conv]``, from a flat waveform ``[S]``.

    layers: the ``ConvLayer`` modules. matrices: their weights, of :class:`PackedWeights`.
    rows: for GroupNorm, the samples over which each utterance's statistics are taken, ``[S_i]`` each.
    """
    dtype = matrices[-1].dtype
    # per utterance for GroupNorm, else one for all
    first = _normalized_weights(layers[0], matrices[0], grid, rows) if layers[0].norm == "group" else None
    out = waveform.new_empty(grid.end, len(matrices[-1]), dtype=dtype)
    per_frame = hop // layers[0].conv.stride[0]  # frames of the first convolution to one of the last
    budget = SLICE_BYTES_GPU if waveform.is_cuda else SLICE_BYTES_CPU
    step = max(8, budget // (per_frame * len(matrices[0]) * dtype.itemsize))
    field = _receptive_field(layers)
    for begin in range(0, grid.end, step):
        end = min(begin + step, grid.end)
        samples = waveform[begin * hop : (end - 1) * hop + field].to(matrices[0].dtype)
        windows = samples.unfold(0, layers[0].conv.kernel_size[0], layers[0].conv.stride[0])
        if first is None:
            x = F.linear(windows, matrices[0], _cast(layers[0].conv.bias, windows.dtype))
            x = _normalized(x, layers[0])
        else:
            x = _by_utterance(windows, *first, [(start - begin) * per_frame for start in grid.starts])
        x = activate(x, layers[0].activation).to(dtype)
        for layer, matrix in zip(layers[1:], matrices[1:]):
            x = F.linear(_windows(x, layer.conv), matrix, _cast(layer.conv.bias, dtype))
            x = activate(_normalized(x, layer), layer.activation)
        out[begin:end] = x
    return out


def _windows(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Return the inputs of each output frame, ``[T_in, C] -> [T, kernel * C]``; a view unless they overlap."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    frames, channels = (len(x) - kernel) // stride + 1, x.shape[1]
    windows = x.as_strided((frames, kernel * channels), (stride * channels, 1))
    return windows.contiguous() if kernel > stride else windows  # BLAS refuses rows that overlap


def _normalized(x: Tensor, layer: nn.Module) -> Tensor:
    if layer.norm != "layer":
        return x
    norm = layer.layer_norm
    return F.layer_norm(x, norm.normalized_shape, _cast(norm.weight, x.dtype), _cast(norm.bias, x.dtype), norm.eps)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _receptive_field(layers: nn.ModuleList) -> int:
    samples = 1
    for layer in reversed(layers):
        samples = (samples - 1) * layer.conv.stride[0] + layer.conv.kernel_size[0]
    return samples


def _by_utterance(windows: Tensor, weights: Tensor, biases: Tensor, starts: list[int]) -> Tensor:
    """Give windows ``[T, kernel]`` the weights ``[B, C, kernel]`` of the utterance in which they lie, which start at ``starts``."""
    out = windows.new_empty(len(windows), weights.shape[1])
    ends = [*starts[1:], len(windows)]
    for weight, bias, start, end in zip(weights, biases, starts, ends):
        start, end = max(start, 0), min(end, len(windows))
        if start < end:
            torch.addmm(bias, windows[start:end], weight.t(), out=out[start:end])
    return out


def _normalized_weights(layer: nn.Module, matrix: Tensor, grid: Grid, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Fold GroupNorm into the convolution: weights ``[B, C, kernel]`` and biases ``[B, C]``, one for each utterance."""
    mean, covariance = window_statistics(rows, layer.conv.kernel_size[0], layer.conv.stride[0])
    norm, weight = layer.layer_norm, matrix.double()
    variance = torch.einsum("ck,bkj,cj->bc", weight, covariance, weight).clamp(min=0)
    scale = norm.weight.double() * (variance + norm.eps).rsqrt()
    # the convolution's own bias is part of the mean, and goes with it
    bias = norm.bias.double() - scale * (mean @ weight.t())
    return (scale[..., None] * weight).to(matrix.dtype), bias.to(matrix.dtype)


def window_statistics(rows: list[Tensor], kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return mean ``[B, kernel]`` and covariance ``[B, kernel, kernel]``, float64, of the windows of each waveform ``[S_i]``.

    A row without a window has NaN, which no frame ever meets.
    """
    means, covariances = [], []
    for row in rows:
        windows = row.unfold(0, kernel, stride) if len(row) >= kernel else row.new_empty(0, kernel)
        total = torch.zeros(kernel, dtype=torch.float64, device=row.device)
        products = torch.zeros(kernel, kernel, dtype=torch.float64, device=row.device)
        for part in windows.split(WINDOWS_AT_ONCE):
            part = part.double()
            total += part.sum(0)
            products.addmm_(part.t(), part)
        mean = total / len(windows) if len(windows) else total.fill_(torch.nan)
        means.append(mean)
        covariances.append(products / max(len(windows), 1) - torch.outer(mean, mean))
    if not rows:
        return torch.empty(0, kernel, dtype=torch.float64), torch.empty(0, kernel, kernel, dtype=torch.float64)
    return torch.stack(means), torch.stack(covariances)
