"""How many frames there are, and which part of which utterance each program works on."""

from __future__ import annotations

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
