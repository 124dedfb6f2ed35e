"""Self-attention within each utterance of a packed batch. Axes: N packed frames, C channels, H heads, D head dim."""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import upload


def attention(q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...], num_heads: int) -> Tensor:
    """Attend within utterances of ``counts`` frames: ``[N, C]`` three times to ``[N, C]``, scaled by ``D ** -0.5``.

    No ``[T, T]`` matrix is held. On CUDA one call serves all utterances; on a CPU, whose kernel has no use for ragged batches,
    one call serves each run of neighbours of equal length.
    """
    if q.is_cuda:
        return _attention_jagged(q, k, v, counts, num_heads)
    out, start = [], 0
    for frames, run in groupby(counts):
        utterances = len(list(run))
        end = start + utterances * frames
        if end > start:
            heads = (
                x[start:end].view(utterances, frames, num_heads, -1).transpose(1, 2)  # [utterances, H, frames, D]
                for x in (q, k, v)
            )
            out.append(F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(end - start, -1))
        start = end
    if not out:
        return torch.empty_like(v)
    return out[0] if len(out) == 1 else torch.cat(out)


def _attention_jagged(q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...], num_heads: int) -> Tensor:
    counts = tuple(count for count in counts if count)
    if not counts:
        return torch.empty_like(v)
    offsets = upload(torch.tensor([0, *counts]).cumsum(0), q.device)
    heads = (
        torch.nested.nested_tensor_from_jagged(
            x.unflatten(-1, (num_heads, -1)), offsets, min_seqlen=min(counts), max_seqlen=max(counts)
        ).transpose(1, 2)
        for x in (q, k, v)
    )
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).values().flatten(1)
