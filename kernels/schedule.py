"""Count the frames of a convolution, and divide utterances into parts, one for each program."""

from __future__ import annotations

import numpy as np
import torch


def frames_of(length: int, kernel: int, stride: int) -> int:
    """Return the number of frames of a convolution without padding. Sizes may be symbols of `torch.compile`."""
    return torch.sym_max(0, (length - kernel) // stride + 1)


def parts_of(counts: torch.Tensor, size: int, entries: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Divide utterances of `counts` frames `[B]` into parts of `size`; the last part of each may be smaller.

    Args:
        counts: The number of frames of each utterance.
        size: The number of frames of a part.
        entries: An upper bound for the number of parts, which itself may be known only on a GPU.

    Returns:
        For each entry, `[entries]`: its utterance, its first frame in this utterance, and whether the part exists.
    """
    ends = ((counts + size - 1) // size).cumsum(0)
    index = torch.arange(entries, device=counts.device)
    if not len(counts):
        return index, index, index < 0
    utterance = torch.searchsorted(ends, index, right=True).clamp(max=len(counts) - 1)
    before = torch.where(utterance > 0, ends[utterance - 1], 0)
    return utterance, (index - before) * size, index < ends[-1]


def parts_on_host(counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide utterances of `counts` frames `[B]` like `parts_of`, on the host, where the number of parts is known.

    Return the utterance of each part, its first frame in this utterance, and the number of parts of each utterance, `[B]`.
    """
    parts = -(-counts // size)
    utterance = np.repeat(np.arange(len(counts)), parts)
    return utterance, ranges(np.zeros_like(parts), parts) * size, parts


def ranges(starts: np.ndarray, counts: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    """Concatenate the ranges `starts[i]` to `starts[i] + counts[i] - 1` for all i: `[sum(counts)]`."""
    before = counts.cumsum() - counts
    return np.repeat((starts - before).astype(dtype), counts) + np.arange(counts.sum(), dtype=dtype)
