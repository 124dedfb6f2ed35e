"""Sum the windows that the first convolution reads, and their outer products, for the statistics of a GroupNorm.

With windows x_t in R^10, m = mean x_t and G = mean x_t x_t^T - m m^T, a channel of weight w has mean w.m and variance w^T G w.
Sums are float64: speech makes G nearly singular, and high-pass filters cancel most of it. This is cheap even where float64 has
a 64th of the rate: a window takes 256 products here (55 would be enough), and 5,120 in the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from .checks import check_devices, check_dtypes
from .schedule import parts_on_host

CHUNK = 1024  # windows of a program: 64 sequential steps
BLOCK = 16  # windows in a step, each with 16 x 16 sums


@triton.jit
def _window_sums_kernel(
    samples_ptr,
    work_ptr,
    sums_ptr,
    products_ptr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program sums windows, and products of their taps, over some windows of one utterance."""
    index = tl.program_id(0)
    first = tl.load(work_ptr + index * 2)
    count = tl.load(work_ptr + index * 2 + 1)
    taps = tl.arange(0, TAPS)
    sums = tl.zeros([TAPS, BLOCK], dtype=tl.float64)
    products = tl.zeros([TAPS, TAPS, BLOCK], dtype=tl.float64)
    for done in range(0, count, BLOCK):
        window = done + tl.arange(0, BLOCK)
        places = first + window[None, :] * STRIDE + taps[:, None]
        mask = (window < count)[None, :] & (taps < KERNEL)[:, None]
        x = tl.load(samples_ptr + places, mask=mask, other=0.0).to(tl.float64)
        sums += x
        products += x[:, None, :] * x[None, :, :]
    tl.store(sums_ptr + index * TAPS + taps, tl.sum(sums, axis=1))
    pairs = taps[:, None] * TAPS + taps[None, :]
    tl.store(products_ptr + index.to(tl.int64) * (TAPS * TAPS) + pairs, tl.sum(products, axis=2))


def work_of(
    lengths: Sequence[int], starts: Sequence[int], kernel: int, stride: int, chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """Return the work list, int64 `[chunks, 2]` (first sample, windows), and the number of chunks of each utterance, `[B]`."""
    windows = windows_of(lengths, kernel, stride)
    utterance, first, chunks = parts_on_host(windows, chunk)
    firsts = np.asarray(starts, dtype=np.int64)[utterance] + first * stride
    return np.stack([firsts, np.minimum(chunk, windows[utterance] - first)], axis=1), chunks


def windows_of(lengths: Sequence[int], kernel: int, stride: int) -> np.ndarray:
    """Return the number of windows of each utterance, int64 `[B]`."""
    return np.maximum((np.asarray(lengths, dtype=np.int64) - kernel) // stride + 1, 0)


def launch(samples: torch.Tensor, work: torch.Tensor, kernel: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the windows of each chunk, and their outer products, in float64.

    Args:
        samples: The waveforms, `[S]`.
        work: The work list from `work_of`.
        kernel: The length of a window, in samples.
        stride: The samples from one window to the next.

    Returns:
        The sums of windows, `[chunks, kernel]`, and of their outer products, `[chunks, kernel, kernel]`.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    if samples.dim() != 1:
        raise ValueError(f"samples must be [S], but are {list(samples.shape)}")
    check_dtypes(samples=samples)
    check_devices(samples=samples, work=work)
    taps = max(triton.next_power_of_2(kernel), 2)
    sums = torch.empty(len(work), taps, dtype=torch.float64, device=samples.device)
    products = torch.empty(len(work), taps, taps, dtype=torch.float64, device=samples.device)
    if len(work):
        with torch.cuda.device_of(samples):
            _window_sums_kernel[(len(work),)](
                samples.contiguous(), work, sums, products, KERNEL=kernel, STRIDE=stride, TAPS=taps, BLOCK=BLOCK,
                num_warps=8,
            )  # fmt: skip
    return sums[:, :kernel], products[:, :kernel, :kernel]
