"""Normalise the samples of each utterance, int16 or floating point, to zero mean and unit variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from .checks import DTYPES, check_devices
from .schedule import parts_on_host

CHUNK = 8192  # samples in an entry of the work list; they are held in registers, 32 per thread
WARPS = 8


@triton.jit
def _moments_kernel(samples_ptr, work_ptr, moments_ptr, SCALE: tl.constexpr, CHUNK: tl.constexpr):
    """One program takes mean and sum of squared distances from it of one chunk, in fp32."""
    index = tl.program_id(0)
    first = tl.load(work_ptr + index * 4)
    count = tl.load(work_ptr + index * 4 + 1)
    places = tl.arange(0, CHUNK)
    inside = places < count
    x = tl.load(samples_ptr + first + places, mask=inside, other=0).to(tl.float32) * SCALE
    mean = tl.sum(x, axis=0) / count.to(tl.float32)
    distance = tl.where(inside, x - mean, 0.0)
    tl.store(moments_ptr + index * 2, mean)
    tl.store(moments_ptr + index * 2 + 1, tl.sum(distance * distance, axis=0))


@triton.jit
def _normalize_kernel(
    samples_ptr, work_ptr, moments_ptr, out_ptr, eps, SCALE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """One program normalises one chunk, joining the moments of all chunks of its utterance (Chan et al. 1979)."""
    work = work_ptr + tl.program_id(0) * 4
    first = tl.load(work)
    count = tl.load(work + 1)
    first_chunk = tl.load(work + 2)
    total = tl.load(work + 3)
    chunks = (total + CHUNK - 1) // CHUNK
    length = total.to(tl.float64)
    mean = total.to(tl.float64) * 0.0
    done = chunks * 0
    while done < chunks:
        chunk = done + tl.arange(0, BLOCK)
        inside = chunk < chunks
        sizes = tl.where(inside, tl.minimum(total - chunk * CHUNK, CHUNK), 0).to(tl.float64)
        means = tl.load(moments_ptr + (first_chunk + chunk) * 2, mask=inside, other=0.0).to(tl.float64)
        mean += tl.sum(sizes * means, axis=0) / length
        done += BLOCK
    squares = mean * 0.0
    done = chunks * 0
    while done < chunks:
        chunk = done + tl.arange(0, BLOCK)
        inside = chunk < chunks
        sizes = tl.where(inside, tl.minimum(total - chunk * CHUNK, CHUNK), 0).to(tl.float64)
        means = tl.load(moments_ptr + (first_chunk + chunk) * 2, mask=inside, other=0.0).to(tl.float64)
        within = tl.load(moments_ptr + (first_chunk + chunk) * 2 + 1, mask=inside, other=0.0).to(tl.float64)
        squares += tl.sum(within + sizes * (means - mean) * (means - mean), axis=0)
        done += BLOCK
    deviation = tl.sqrt((squares / length + eps).to(tl.float32))
    places = tl.arange(0, CHUNK)
    x = tl.load(samples_ptr + first + places, mask=places < count, other=0).to(tl.float32) * SCALE
    tl.store(out_ptr + first + places, (x - mean.to(tl.float32)) / deviation, mask=places < count)


def work_of(lengths: Sequence[int], starts: Sequence[int], chunk: int = CHUNK) -> torch.Tensor:
    """Return the work list, int64 `[chunks, 4]` on the host: first sample, samples; its utterance's first chunk and samples."""
    totals = np.asarray(lengths, dtype=np.int64)
    utterance, first, chunks = parts_on_host(totals, chunk)
    firsts, length = np.asarray(starts, dtype=np.int64)[utterance] + first, totals[utterance]
    first_chunk = (chunks.cumsum() - chunks)[utterance]
    return torch.from_numpy(np.stack([firsts, np.minimum(chunk, length - first), first_chunk, length], axis=1))


def launch(samples: torch.Tensor, work: torch.Tensor, scale: float, eps: float) -> torch.Tensor:
    """Normalise the utterances in `work`, from `samples` `[S]` (floating point or int16) times `scale`.

    Args:
        samples: The waveforms.
        work: The work list from `work_of`.
        scale: The factor of each sample.
        eps: Added to the variance.

    Returns:
        float32 `[S]`, with zeros between utterances.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    if samples.dim() != 1 or samples.dtype not in (torch.int16, *DTYPES):
        raise ValueError(f"samples must be [S], floating point or int16, but are {samples.dtype} {list(samples.shape)}")
    check_devices(samples=samples, work=work)
    out = torch.zeros(samples.shape, dtype=torch.float32, device=samples.device)
    if len(work):
        samples = samples.contiguous()
        moments = torch.empty(len(work), 2, dtype=torch.float32, device=samples.device)
        with torch.cuda.device_of(samples):
            _moments_kernel[(len(work),)](samples, work, moments, SCALE=scale, CHUNK=CHUNK, num_warps=WARPS)
            _normalize_kernel[(len(work),)](
                samples, work, moments, out, eps, SCALE=scale, CHUNK=CHUNK, BLOCK=64, num_warps=WARPS
            )
    return out
