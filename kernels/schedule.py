"""How many frames there are, and which part of which utterance each program works on."""

from __future__ import annotations

import numpy as np
import torch


def frames_of(length: int, kernel: int, stride: int) -> int:
    """Return how many frames a convolution without padding has; sizes may be symbols of ``torch.compile``."""
    return torch.sym_max(0, (length - kernel) // stride + 1)


def parts_of(counts: torch.Tensor, size: int, entries: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut utterances of ``counts`` frames ``[B]`` into parts of ``size``; the last of each may be smaller.

    entries: how many parts there are at most: their number is not asked for, as it may lie on a GPU. Returns, for each entry,
    its utterance, its first frame within it, and whether there is such a part.
    """
    ends = ((counts + size - 1) // size).cumsum(0)
    index = torch.arange(entries, device=counts.device)
    if not len(counts):
        return index, index, index < 0
    utterance = torch.searchsorted(ends, index, right=True).clamp(max=len(counts) - 1)
    before = torch.where(utterance > 0, ends[utterance - 1], 0)
    return utterance, (index - before) * size, index < ends[-1]


def parts_on_host(counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut utterances of ``counts`` frames ``[B]`` as :func:`parts_of` does, on the host, which knows how many parts there are.

    Returns, for each part, its utterance and its first frame within it, and how many parts each utterance has ``[B]``.
    """
    parts = -(-counts // size)
    utterance = np.repeat(np.arange(len(counts)), parts)
    return utterance, ranges(np.zeros_like(parts), parts) * size, parts


def ranges(starts: np.ndarray, counts: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    """Return ``starts[i]`` to ``starts[i] + counts[i] - 1`` for each i, end to end: ``[sum(counts)]``."""
    before = counts.cumsum() - counts
    return np.repeat((starts - before).astype(dtype), counts) + np.arange(counts.sum(), dtype=dtype)
