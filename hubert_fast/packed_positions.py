"""The positional convolution over packed frames, by Fourier transforms of blocks (overlap-save).

128 taps over groups of 48 to 80 channels are 0.5 to 1.3 GFLOP per second of audio when multiplied out. A spectrum of 256 points
yields 129 frames, for a thirtieth of that: a complex product of ``[blocks, C_in] x [C_in, C_out]`` per group and frequency.
Axes: N packed frames, K taps, L points of a block, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .devices import upload
from .grid import Grid

BLOCKS_AT_ONCE = 64  # bounds what long audio holds in memory


def points(kernel: int) -> int:
    """Return L: the power of two that is at least twice the kernel, of which L - kernel + 1 frames come out."""
    return 1 << max(2 * kernel - 1, 1).bit_length()


def spectrum(weight: Tensor, groups: int) -> Tensor:
    """Transform a convolution's weight ``[C, C/G, K]`` to complex ``[L/2+1, G, C/G (in), C/G (out)]``, as a correlation."""
    per_group = weight.unflatten(0, (groups, -1))  # [G, out, in, K]
    return torch.fft.rfft(per_group, n=points(weight.shape[-1])).conj().permute(3, 0, 2, 1).resolve_conj().contiguous()


class Blocks(NamedTuple):
    """Blocks of frames such that each has all that its middle needs. Row N of the frames is zeros, row N + 1 padding.

    rows: frame of each point, int64 ``[blocks, L]``.
    kept: which of the ``blocks * (L - K + 1)`` frames that come out are true, int64 ``[N]``.
    firsts: how many true frames lie before each block, ``[blocks + 1]``.
    """

    rows: Tensor
    kept: Tensor
    firsts: list[int]


def blocks_of(grid: Grid, kernel: int) -> Blocks:
    """Cut every utterance into blocks. Beyond its ends are zeros; up to ``grid.padded``, if given, there is padding instead."""
    size = points(kernel)
    hop = size - kernel + 1
    counts = torch.tensor(grid.counts, dtype=torch.long)
    starts = torch.tensor(grid.boundaries[:-1], dtype=torch.long)
    per_utterance = (counts + hop - 1) // hop
    utterance = torch.repeat_interleave(torch.arange(len(counts)), per_utterance)
    block = torch.arange(len(utterance)) - (per_utterance.cumsum(0) - per_utterance)[utterance]
    count, start = counts[utterance, None], starts[utterance, None]
    frame = block[:, None] * hop - kernel // 2 + torch.arange(size)
    beyond = torch.full_like(frame, grid.frames)
    if grid.padded is not None:
        beyond[(frame >= count) & (frame < grid.padded)] += 1
    rows = torch.where((frame >= 0) & (frame < count), start + frame, beyond)
    kept = (block[:, None] * hop + torch.arange(hop) < count).flatten().nonzero()[:, 0]
    firsts = [0, *(count[:, 0] - block * hop).clamp(max=hop).cumsum(0).tolist()]
    return Blocks(rows, kept, firsts)


def convolve(x: Tensor, padding: Tensor, weight: Tensor, bias: Tensor, kernel: int, grid: Grid) -> Tensor:
    """Convolve each utterance of ``x`` ``[N, C]`` with zeros beyond its ends, as ``conv1d(padding=K // 2)[..., :frames]`` does.

    padding: what stands after the utterance up to ``grid.padded`` frames, ``[C]``. weight: of :func:`spectrum`. bias: ``[C]``.
    """
    channels, groups, size = x.shape[1], weight.shape[1], points(kernel)
    hop = size - kernel + 1
    blocks = blocks_of(grid, kernel)
    x = torch.cat([x, torch.zeros_like(padding)[None], padding[None]])
    rows, kept = upload(blocks.rows, x.device), upload(blocks.kept, x.device)
    out = x.new_empty(len(kept), channels)
    for first in range(0, len(rows), BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, len(rows))
        points_in = torch.fft.rfft(x[rows[first:last]], dim=1).unflatten(2, (groups, -1))  # [blocks, F, G, C/G]
        points_out = torch.matmul(points_in.permute(1, 2, 0, 3), weight)  # [F, G, blocks, C/G]
        points_out = points_out.permute(2, 0, 1, 3).flatten(2)
        frames = torch.fft.irfft(points_out, n=size, dim=1)[:, :hop].reshape(-1, channels)
        begin, end = blocks.firsts[first], blocks.firsts[last]
        torch.add(frames[kept[begin:end] - first * hop], bias, out=out[begin:end])
    return out
