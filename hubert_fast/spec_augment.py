"""Mask spans of time and of channels in training (SpecAugment, Park et al. 2019, https://arxiv.org/abs/1904.08779)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .input_checks import check_time_indices

if TYPE_CHECKING:
    from .modeling import HubertModel


def spec_augment(model: HubertModel, x: Tensor, mask_time_indices: Tensor | None) -> Tensor:
    """Mask spans of time, then spans of channels, in projected frames `[B, T, C]`.

    Args:
        mask_time_indices: bool `[B, T]`, the frames to replace by the mask embedding; sampled in training by default.
    """
    config = model.config
    batch, frames, channels = x.shape
    if mask_time_indices is not None:
        check_time_indices(model, mask_time_indices, batch, frames)
    elif model.training and config.mask_time_prob > 0:
        mask_time_indices = sample_spec_augment_mask(
            (batch, frames), config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        ).to(x.device)
    if mask_time_indices is not None:
        x = torch.where(mask_time_indices.bool()[..., None], model.masked_spec_embed.to(x.dtype), x)
    if model.training and config.mask_feature_prob > 0:
        mask = sample_spec_augment_mask(
            (batch, channels), config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
        ).to(x.device)
        x = x.masked_fill(mask[:, None], 0)
    return x


def sample_spec_augment_mask(shape: tuple[int, int], probability: float, length: int, min_masks: int) -> Tensor:
    """Draw a bool mask in which about `probability` of each row lies in spans of `length`.

    This is SpecAugment (Park et al. 2019, https://arxiv.org/abs/1904.08779) in the variant of wav2vec 2.0. It draws from
    NumPy's global generator in the same order as transformers, so equal seeds give equal masks: first a number that rounds the
    span count up or down at random, then the starts of the spans in each row. Spans may overlap.

    Args:
        shape: The numbers of rows and of positions.
        probability: The share of each row to mask, if no spans overlapped.
        length: The length of a span.
        min_masks: The smallest number of spans in a row, as far as they fit.

    Returns:
        bool `[rows, positions]`, on the CPU.

    Raises:
        ValueError: A span is longer than a row.
    """
    size = shape[1]
    if not 1 <= length <= size:
        raise ValueError(f"the mask length must be between 1 and the number of positions, {size}, but is {length}")
    spans = max(int(probability * size / length + np.random.rand(1).item()), min_masks)
    spans = min(spans, size // length)
    mask = torch.zeros(shape, dtype=torch.bool)
    if spans == 0:  # do not call the generator, which even an empty choice would advance
        return mask
    for row in mask.numpy():
        for start in np.random.choice(np.arange(size - length + 1), spans, replace=False):
            row[start : start + length] = True
    return mask
