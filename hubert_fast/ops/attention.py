"""Compute self-attention within utterances, packed or padded."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.checks import check_shape
from .precision import check_cu_seqlens, in_full_precision, present, without_autocast


@without_autocast
def attention_eager(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Compute `attention` in plain PyTorch: its definition."""
    heads = [x.transpose(0, 1) for x in in_full_precision(q, k, v)]  # [H, N, D]
    out = torch.zeros_like(heads[0])
    bounds = cu_seqlens.tolist()
    for begin, end in pairwise(bounds):
        query, key, value = (x[:, begin:end] for x in heads)
        out[:, begin:end] = (query * q.shape[-1] ** -0.5 @ key.transpose(1, 2)).softmax(-1) @ value
    return out.transpose(0, 1).to(q.dtype).contiguous()


@torch.library.custom_op("hubert_fast::attention", mutates_args=())
def _attention_triton(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    from ..kernels import attention as kernel

    bounds = cu_seqlens.long()
    counts, block = bounds.diff(), kernel.block_of(q.shape[-1], q.dtype, q.device)
    work = kernel.work_of(counts, bounds[:-1], counts, block, q.shape[0] // block + counts.shape[0])
    return kernel.launch(q, k, v, work, fill=True)


@_attention_triton.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    return q.new_empty(q.shape)


def attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, *, backend: str | None = None) -> Tensor:
    """Attend within each utterance of a packed batch, scaled by `D ** -0.5`.

    Source: Vaswani et al. 2017; Dao 2023.

    Args:
        q, k, v: Queries, keys and values, `[N, H, D]` with any strides, such as views of one product `[N, 3C]`. The kernel
            takes D up to 128.
        cu_seqlens: int32 `[B + 1]`, the boundaries between utterances. Utterances may be empty.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[N, H, D]` in the dtype of `q`; zeros in rows that belong to no utterance.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    check_cu_seqlens(cu_seqlens)
    for name, operand in (("k", k), ("v", v)):
        check_shape(name, operand, tuple(q.shape), f"q {list(q.shape)}")
    if use_triton(q, k, v, backend=backend):
        return _attention_triton(q, k, v, cu_seqlens)
    return attention_eager(q, k, v, cu_seqlens)


@without_autocast
def attention_padded_eager(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Compute `attention_padded` in plain PyTorch: its definition."""
    query, key, value = (x.transpose(1, 2) for x in in_full_precision(q, k, v))  # [B, H, T, D]
    scores = query * q.shape[-1] ** -0.5 @ key.transpose(2, 3)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None].bool(), -torch.inf)
    weights = scores.softmax(-1)
    if key_mask is not None:
        weights = torch.where(key_mask.any(-1)[:, None, None, None], weights, 0)
    return (weights @ value).transpose(1, 2).to(q.dtype).contiguous()


@torch.library.custom_op("hubert_fast::attention_padded", mutates_args=())
def _attention_padded_triton(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    from ..kernels import attention as kernel

    batch, frames = q.shape[:2]
    block = kernel.block_of(q.shape[-1], q.dtype, q.device)
    counts = torch.full((batch,), frames, device=q.device)
    starts = torch.arange(batch, device=q.device) * frames
    last = counts
    if key_mask is not None:  # keys after the last unmasked one are not read
        last = (key_mask.bool() * torch.arange(1, frames + 1, device=q.device)).amax(-1) if frames else counts
    work = kernel.work_of(counts, starts, last, block, batch * -(-frames // block))
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    out = kernel.launch(q, k, v, work, None if key_mask is None else key_mask.bool().flatten())
    return out.view(batch, frames, *q.shape[1:])


@_attention_padded_triton.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    return q.new_empty(q.shape)


def attention_padded(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """Attend within each row of a padded batch, scaled by `D ** -0.5`.

    Args:
        q, k, v: Queries, keys and values, `[B, T, H, D]` with any strides. The kernel takes D up to 128.
        key_mask: `[B, T]`, true for keys to attend to. Masked frames still attend as queries.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[B, T, H, D]`, contiguous, in the dtype of `q`; zeros in rows that have no key to attend to.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    if key_mask is not None and key_mask.shape != q.shape[:2]:
        raise ValueError(f"key_mask must be {list(q.shape[:2])} for q {list(q.shape)}, but is {list(key_mask.shape)}")
    if use_triton(*present(q, k, v), backend=backend):
        return _attention_padded_triton(q, k, v, key_mask)
    return attention_padded_eager(q, k, v, key_mask)
