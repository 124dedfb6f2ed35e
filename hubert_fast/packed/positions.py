"""Compute the positional convolution of a packed batch by Fourier transforms of overlapping blocks (overlap-save).

Multiplied out, 128 taps over groups of 48 to 80 channels take 0.5 to 1.3 GFLOP per second of audio. A transform of 256 points
yields 129 frames for a thirtieth of that: one complex product `[blocks, C/G] x [C/G, C/G]` per group and frequency.
Axes: B utterances, N packed frames, C channels, K taps, G groups, L points of a transform.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..devices import upload
from ..layers import PositionalConvEmbedding
from .grid import Grid

BLOCKS_AT_ONCE = 64  # to bound the memory that long audio takes


def bias_of(conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return the bias of the positional convolution, which always has one, in `dtype`."""
    assert conv.bias is not None
    return conv.bias.to(dtype)


def normalize_positions(embedding: PositionalConvEmbedding, x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the batch norm before a positional convolution, if there is one. Also return a zero frame after the norm, `[C]`."""
    if not hasattr(embedding, "batch_norm"):
        return x, x.new_zeros(x.shape[1])
    batch_norm = embedding.batch_norm
    mean, variance = batch_norm.running_mean, batch_norm.running_var
    assert mean is not None and variance is not None  # they are None only in a batch norm that tracks no statistics
    scale = (variance.to(x.dtype) + batch_norm.eps).rsqrt() * batch_norm.weight.to(x.dtype)
    padding = batch_norm.bias.to(x.dtype) - mean.to(x.dtype) * scale
    return torch.addcmul(padding, x, scale), padding


class Blocks(NamedTuple):
    """Overlapping blocks of L frames, each of which yields `L - K + 1` frames of the convolution.

    Attributes:
        rows: The frame at each point, int64 `[blocks, L]`; N stands for a frame of zeros, N + 1 for the frame of padding.
        kept: The index of each of the batch's frames among the `blocks * (L - K + 1)` computed ones, int64 `[N]`.
        firsts: The number of the batch's frames before each block, `[blocks + 1]`.
    """

    rows: Tensor
    kept: Tensor
    firsts: list[int]


def blocks_of(grid: Grid, kernel: int, points: int) -> Blocks:
    """Cut every utterance into blocks of L = `points` frames, for a convolution of K = `kernel` taps.

    Beyond the ends of an utterance lie zeros, but padding up to `grid.padded` frames if that is not `None`.
    """
    hop = points - kernel + 1
    counts, starts = np.array(grid.counts, dtype=np.int64), np.array(grid.boundaries[:-1], dtype=np.int64)
    per_utterance = -(-counts // hop)
    utterance = np.repeat(np.arange(len(counts)), per_utterance)
    block = np.arange(len(utterance)) - (per_utterance.cumsum() - per_utterance)[utterance]
    count, start, first = counts[utterance, None], starts[utterance, None], block[:, None] * hop
    frame = first - kernel // 2 + np.arange(points)
    beyond = np.full_like(frame, grid.frames)
    if grid.padded is not None:
        beyond[(frame >= count) & (frame < grid.padded)] += 1
    rows = np.where((frame >= 0) & (frame < count), start + frame, beyond)
    kept = np.flatnonzero(first + np.arange(hop) < count)
    firsts = [0, *np.minimum(count - first, hop)[:, 0].cumsum().tolist()]
    return Blocks(torch.from_numpy(rows), torch.from_numpy(kept), firsts)


def convolve(x: Tensor, padding: Tensor, spectrum: Tensor, bias: Tensor, kernel: int, grid: Grid) -> Tensor:
    """Convolve each utterance of `x` `[N, C]` as `conv1d(padding=K // 2)[..., :frames]` does, with zeros beyond its ends.

    Args:
        padding: The frame with which utterances are padded to `grid.padded` frames, `[C]`.
        spectrum: The weight, complex `[L/2+1, G, C/G (in), C/G (out)]`, from `weights.spectrum_of`.
        bias: `[C]`.
        kernel: The number of taps, K.
    """
    channels, groups, points = x.shape[1], spectrum.shape[1], 2 * (len(spectrum) - 1)
    hop = points - kernel + 1
    blocks = blocks_of(grid, kernel, points)
    x = torch.cat([x, torch.zeros_like(padding)[None], padding[None]])
    rows, kept = blocks.rows, blocks.kept
    if x.is_cuda:
        rows, kept = upload(rows, x.device), upload(kept, x.device)
    out = x.new_empty(len(kept), channels)
    for first in range(0, len(rows), BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, len(rows))
        transformed = torch.fft.rfft(x[rows[first:last]], dim=1).unflatten(2, (groups, -1))  # [blocks, L/2+1, G, C/G]
        product = torch.matmul(transformed.permute(1, 2, 0, 3), spectrum)  # [L/2+1, G, blocks, C/G]
        product = product.permute(2, 0, 1, 3).flatten(2)
        frames = torch.fft.irfft(product, n=points, dim=1)[:, :hop].reshape(-1, channels)
        begin, end = blocks.firsts[first], blocks.firsts[last]
        torch.add(frames[kept[begin:end] - first * hop], bias, out=out[begin:end])
    return out
