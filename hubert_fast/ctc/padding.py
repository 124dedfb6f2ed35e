"""Fill the logits of padding, so that every kind of CTC decoding reads nothing from it."""

from __future__ import annotations

import torch
from torch import Tensor

CERTAIN = 100.0  # far from all other logits, but finite in half precision, also after a softmax at high temperature


def blank_padding(logits: Tensor, frame_counts: Tensor, blank_id: int | None) -> Tensor:
    """Return logits in which padded frames have `CERTAIN` for the blank, and `-CERTAIN` for all other tokens.

    Args:
        logits: `[B, T, V]`.
        frame_counts: int64 `[B]`, the frames of each row that are not padding.
        blank_id: The blank. If it is not a token of the vocabulary, padded frames are zero.
    """
    padding = logits.new_zeros(logits.shape[-1])
    if blank_id is not None and 0 <= blank_id < len(padding):
        padding = torch.where(torch.arange(len(padding), device=logits.device) == blank_id, CERTAIN, -CERTAIN).to(logits.dtype)
    is_frame = torch.arange(logits.shape[1], device=logits.device) < frame_counts[:, None]
    return torch.where(is_frame[..., None], logits, padding)
