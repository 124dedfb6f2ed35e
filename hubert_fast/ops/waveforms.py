"""From the waveform: normalisation, and statistics for a GroupNorm after the first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..devices import upload, upload_together
from ..dispatch import use_triton
from ..kernels.schedule import frames_of, ranges
from .wide import without_autocast

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

    scale = INT16_SCALE if samples.dtype == torch.int16 else 1.0
    return kernel.launch(samples, upload(kernel.work_of(lengths, starts), samples.device), scale, VARIANCE_FLOOR)


@_normalize_waveforms_triton.register_fake
def _(samples: Tensor, starts: list[int], lengths: list[int]) -> Tensor:
    return samples.new_empty(samples.shape, dtype=torch.float32)


def normalize_waveforms(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], *, backend: str | None = None
) -> Tensor:
    """Scale each utterance to zero mean and unit variance, as preprocessors with ``do_normalize`` do: float32 ``[S]``,
    float64 of float64.

    samples: ``[S]``, floating point, or int16, which counts as value / 32768. starts, lengths: of the utterances, in samples.
    What lies between them becomes zeros.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    Source: transformers' ``Wav2Vec2FeatureExtractor``; Chan et al. 1979 for joining partial variances.
    """
    check_spans(samples, starts, lengths)
    if use_triton(samples, backend=backend, also=(torch.int16,), of_waveforms=True):
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
    windows = [frames_of(length, kernel, stride) for length in lengths]
    return 1 / torch.tensor(windows, dtype=torch.float64)


class WindowTables(NamedTuple):
    """Tables that the kernel of :func:`window_statistics` reads, on its device.

    work: int64 ``[chunks, 2]``. places: where the sums of each chunk go among ``B * most``, int64 ``[chunks]``; those of a
    chunk without windows go to place ``B * most``, which nothing reads.
    share: one over the windows of each utterance, float64 ``[B]``. most: chunks of the longest utterance at most.
    """

    work: Tensor
    places: Tensor
    share: Tensor
    most: int

    @classmethod
    def of(cls, starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, device: torch.device) -> WindowTables:
        """Lay out utterances in chunks."""
        arrays, most = windows_on_host(starts, lengths, kernel, stride)
        return cls(*upload_together(arrays, device), most)


def chunks_at_most(samples: int, stride: int, utterances: int) -> tuple[int, int]:
    """Return how many chunks utterances within ``samples`` have at most: all together, and the longest of them."""
    from ..kernels import window_statistics as module

    windows = samples // stride
    return windows // module.CHUNK + utterances, -(-windows // module.CHUNK)


def windows_on_host(
    starts: Sequence[int], lengths: Sequence[int], kernel: int, stride: int, most: int | None = None
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Return ``work``, ``places`` and ``share`` of :class:`WindowTables`, on the host, and ``most``, counted unless given."""
    from ..kernels import window_statistics as module

    work, chunks = module.work_of(lengths, starts, kernel, stride)
    most = int(chunks.max(initial=0)) if most is None else most
    places = ranges(np.arange(len(chunks)) * most, chunks)
    with np.errstate(divide="ignore"):  # of no windows
        return (work, places, 1 / module.windows_of(lengths, kernel, stride)), most


def window_moments(samples: Tensor, tables: WindowTables, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Run the kernel of :func:`window_statistics`; the sums of chunks are added in a fixed order."""
    from ..kernels import window_statistics as module

    def by_utterance(parts: Tensor) -> Tensor:
        padded = parts.new_zeros(len(tables.share) * tables.most + 1, *parts.shape[1:])
        return padded.index_copy_(0, tables.places, parts)[:-1].unflatten(0, (len(tables.share), tables.most)).sum(1)

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
    if use_triton(samples, backend=backend, of_waveforms=True):
        return _window_statistics_triton(samples, list(starts), list(lengths), kernel, stride)
    return window_statistics_eager(samples, starts, lengths, kernel, stride)
