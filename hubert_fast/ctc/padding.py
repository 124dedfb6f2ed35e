"""Fill the logits of padding, so that every kind of CTC decoding reads nothing from it."""

from __future__ import annotations

import torch
from torch import Tensor

CERTAIN = 100.0  # far from all other logits, but finite in half precision, also after a softmax at high temperature


def blank_padding(logits: Tensor, frame_mask: Tensor, blank_id: int | None) -> Tensor:
    """Return logits in which padded frames have `CERTAIN` for the blank, and `-CERTAIN` for all other tokens.

    Args:
        logits: `[B, T, V]`.
        frame_mask: bool `[B, T]`, false in padded frames.
        blank_id: The blank. If it is not a token of the vocabulary, padded frames are zero.
    """
    padding = logits.new_zeros(logits.shape[-1])
    if blank_id is not None and 0 <= blank_id < len(padding):
        padding = torch.where(torch.arange(len(padding), device=logits.device) == blank_id, CERTAIN, -CERTAIN).to(logits.dtype)
    return torch.where(frame_mask[..., None], logits, padding)
