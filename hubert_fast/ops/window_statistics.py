"""Compute statistics of the windows that the first convolution reads, which determine those of a GroupNorm after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..devices import upload, upload_together
from ..dispatch import use_triton
from ..kernels.schedule import frames_of, ranges
from .precision import without_autocast
from .waveforms import check_spans

WINDOWS_AT_ONCE = 1 << 16


@without_autocast
def window_statistics_eager(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Compute `window_statistics` in plain PyTorch: its definition."""
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
    """Return mean and covariance from sums over windows, NaN where there are none. `share` `[B]` is 1 / their number."""
    means = sums * share[:, None]
    return means, products * share[:, None, None] - means[:, :, None] * means[:, None, :]


def _share(lengths: Sequence[int], kernel: int, stride: int) -> Tensor:
    windows = [frames_of(length, kernel, stride) for length in lengths]
    return 1 / torch.tensor(windows, dtype=torch.float64)


class WindowTables(NamedTuple):
    """Tables that the kernel of `window_statistics` reads, on its device.

    Attributes:
        work: The work list: first sample and number of windows of each chunk, int64 `[chunks, 2]`.
        slots: The slot among `B * chunk_limit` for the sums of each chunk, int64 `[chunks]`. A chunk without windows gets slot
            `B * chunk_limit`, which nothing reads.
        share: 1 / the number of windows of each utterance, float64 `[B]`.
        chunk_limit: The largest number of chunks of an utterance, or an upper bound for it.
    """

    work: Tensor
    slots: Tensor
    share: Tensor
    chunk_limit: int

    @classmethod
    def of(cls, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, device: torch.device) -> WindowTables:
        """Divide utterances into chunks."""
        arrays, chunk_limit = windows_on_host(starts, lengths, kernel, stride)
        work, slots, share = upload_together(arrays, device)
        return cls(work, slots, share, chunk_limit)


def max_chunks(samples: int, stride: int, utterances: int) -> tuple[int, int]:
    """Return upper bounds for the number of chunks of all utterances within `samples`, and of the longest one."""
    from ..kernels import window_statistics as module

    windows = samples // stride
    return windows // module.CHUNK + utterances, -(-windows // module.CHUNK)


def windows_on_host(
    starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, chunk_limit: int | None = None
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Return `work`, `slots` and `share` of `WindowTables` as arrays, and `chunk_limit`, which is counted if it is `None`."""
    from ..kernels import window_statistics as module

    work, chunks = module.work_of(lengths, starts, kernel, stride)
    chunk_limit = int(chunks.max(initial=0)) if chunk_limit is None else chunk_limit
    slots = ranges(np.arange(len(chunks)) * chunk_limit, chunks)
    with np.errstate(divide="ignore"):  # utterances without windows
        return (work, slots, 1 / module.windows_of(lengths, kernel, stride)), chunk_limit


def window_moments(samples: Tensor, tables: WindowTables, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Run the kernel of `window_statistics`. It adds the sums of chunks in a fixed order, so that results are reproducible."""
    from ..kernels import window_statistics as module

    def by_utterance(parts: Tensor) -> Tensor:
        padded = parts.new_zeros(len(tables.share) * tables.chunk_limit + 1, *parts.shape[1:])
        return padded.index_copy_(0, tables.slots, parts)[:-1].unflatten(0, (len(tables.share), tables.chunk_limit)).sum(1)

    sums, products = module.launch(samples, tables.work, kernel, stride)
    return _moments(by_utterance(sums), by_utterance(products), tables.share)


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
    """Return mean and covariance of the windows that a convolution of a waveform reads, for each utterance.

    An output channel with weight w has mean `w . mean` and variance `w^T covariance w` over time. A GroupNorm with one
    group per channel needs nothing else.

    Args:
        samples: The waveforms, `[S]`.
        starts: The first sample of each utterance.
        lengths: The number of samples of each utterance.
        kernel: The kernel size of the convolution, in samples.
        stride: Its stride, in samples.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        Mean `[B, kernel]` and covariance `[B, kernel, kernel]` in float64; NaN for an utterance without a window.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    check_spans(samples, starts, lengths)
    if use_triton(samples, backend=backend, of_waveforms=True):
        return _window_statistics_triton(samples, list(starts), list(lengths), kernel, stride)
    return window_statistics_eager(samples, starts, lengths, kernel, stride)
