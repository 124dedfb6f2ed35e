"""Which spans SpecAugment masks (Park et al. 2019, https://arxiv.org/abs/1904.08779; wav2vec 2.0's variant)."""

from __future__ import annotations

import numpy as np
import torch


def sample_mask(shape: tuple[int, int], probability: float, length: int, min_masks: int) -> torch.Tensor:
    """Draw a bool mask ``[rows, size]`` in which about ``probability`` of each row lies in spans of ``length``.

    Draws from NumPy's global generator in the order that transformers does, so equal seeds give equal masks: one
    number that rounds the span count up or down at random, then the starts of each row, which may overlap.

    Raises ``ValueError`` when a span is longer than a row.
    """
    size = shape[1]
    if not 1 <= length <= size:
        raise ValueError(f"the mask length must be between 1 and the {size} positions there are, but is {length}")
    spans = max(int(probability * size / length + np.random.rand(1).item()), min_masks)
    spans = min(spans, size // length)
    mask = torch.zeros(shape, dtype=torch.bool)
    if spans == 0:  # no draw from the generator, which even an empty choice would advance
        return mask
    for row in mask.numpy():
        for start in np.random.choice(np.arange(size - length + 1), spans, replace=False):
            row[start : start + length] = True
    return mask
