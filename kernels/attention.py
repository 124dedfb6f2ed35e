"""Compute self-attention without a matrix of scores in memory: online softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867)
in blocks of keys (Dao 2023, https://arxiv.org/abs/2307.08691), for utterances of any lengths in one launch.

A work list with one entry for each block of queries of each utterance balances the load: the longest utterances come first,
so that the last programs to start are the shortest.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .checks import MAX_HEAD_DIM, check_devices, check_dtypes, check_shape, precision_of
from .schedule import parts_of


@triton.jit
def _attend(
    q, q_rest, q_ptr, q_offsets, asked, k_ptr, v_ptr, mask_ptr, k_stride_row, v_stride_row, keys, n_keys,
    acc, acc_rest, peak, total, scale,
    RELOAD: tl.constexpr, D: tl.constexpr, D_MAIN: tl.constexpr, D_REST: tl.constexpr, CHECKED: tl.constexpr,
    HAS_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to one block of keys: update the accumulators, and the peak of each query's scaled scores and the
    sum of their ``exp2``.

    RELOAD: read the queries again (as volatile, or the compiler would keep them in registers regardless).
    """
    d = tl.arange(0, D_MAIN)
    rows = keys.to(tl.int64)
    there = keys < n_keys
    # complete blocks with a head dim that is a power of two need no mask
    main_mask = there[:, None] & (d < D)[None, :]
    k_ptrs = k_ptr + rows[:, None] * k_stride_row + d[None, :]
    v_ptrs = v_ptr + rows[:, None] * v_stride_row + d[None, :]
    if CHECKED or D < D_MAIN:
        k = tl.load(k_ptrs, mask=main_mask, other=0.0)
    else:
        k = tl.load(k_ptrs)
    if RELOAD:
        q = tl.load(q_ptr + q_offsets + d[None, :], mask=asked & (d < D)[None, :], other=0.0, volatile=True)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if D_REST > 0:
        rest = D_MAIN + tl.arange(0, D_REST)
        rest_mask = there[:, None] & (rest < D)[None, :]
        k_rest = tl.load(k_ptr + rows[:, None] * k_stride_row + rest[None, :], mask=rest_mask, other=0.0)
        if RELOAD:
            q_rest = tl.load(q_ptr + q_offsets + rest[None, :], mask=asked & (rest < D)[None, :], other=0.0, volatile=True)
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision=PRECISION)
    if HAS_MASK:
        there = there & (tl.load(mask_ptr + keys, mask=there, other=0) != 0)
    if CHECKED or HAS_MASK:
        scores = tl.where(there[None, :], scores, float("-inf"))
    # scale after taking the maximum (scale is positive), so that scaling becomes part of a fused multiply-add
    new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
    # all scores of a block may be -inf, and -inf minus -inf is NaN
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weights, axis=1)
    weights = weights.to(k.dtype)
    if CHECKED or D < D_MAIN:
        v = tl.load(v_ptrs, mask=main_mask, other=0.0)
    else:
        v = tl.load(v_ptrs)
    acc = tl.dot(weights, v, acc * shrink[:, None], input_precision=PRECISION)
    if D_REST > 0:
        rest = D_MAIN + tl.arange(0, D_REST)
        rest_mask = there[:, None] & (rest < D)[None, :]
        v_rest = tl.load(v_ptr + rows[:, None] * v_stride_row + rest[None, :], mask=rest_mask, other=0.0)
        acc_rest = tl.dot(weights, v_rest, acc_rest * shrink[:, None], input_precision=PRECISION)
    return acc, acc_rest, new_peak, total


@triton.jit
def _attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    out_ptr,
    work_ptr,
    q_stride_row,
    q_stride_head,
    k_stride_row,
    k_stride_head,
    v_stride_row,
    v_stride_head,
    n_heads,
    scale,
    D: tl.constexpr,
    HAS_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    D_MAIN: tl.constexpr,
    D_REST: tl.constexpr,
    RELOAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program computes one head of BLOCK_M queries of one utterance. ``scale`` includes log2 e, as exp2 is faster."""
    program = tl.program_id(0)
    head = (program % n_heads).to(tl.int64)
    work = work_ptr + program // n_heads * 4
    start = tl.load(work).to(tl.int64)
    first_query = tl.load(work + 1)
    n_queries = tl.load(work + 2)
    n_keys = tl.load(work + 3)

    queries = first_query + tl.arange(0, BLOCK_M)
    rows = start + queries
    d = tl.arange(0, D_MAIN)
    q_ptr += head * q_stride_head
    asked = (queries < n_queries)[:, None]
    main_mask = asked & (d < D)[None, :]
    q_offsets = rows[:, None] * q_stride_row
    q = tl.load(q_ptr + q_offsets + d[None, :], mask=main_mask, other=0.0)
    acc = tl.zeros([BLOCK_M, D_MAIN], dtype=tl.float32)
    rest = D_MAIN + tl.arange(0, D_REST if D_REST > 0 else 16)
    rest_mask = asked & (rest < D)[None, :]
    if D_REST > 0:
        q_rest = tl.load(q_ptr + q_offsets + rest[None, :], mask=rest_mask, other=0.0)
        acc_rest = tl.zeros([BLOCK_M, D_REST], dtype=tl.float32)
    else:
        q_rest = q
        acc_rest = acc

    k_ptr += start * k_stride_row + head * k_stride_head
    v_ptr += start * v_stride_row + head * v_stride_head
    mask_ptr += start
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    whole = n_keys // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        acc, acc_rest, peak, total = _attend(
            q, q_rest, q_ptr, q_offsets, asked, k_ptr, v_ptr, mask_ptr, k_stride_row, v_stride_row, keys, n_keys,
            acc, acc_rest, peak, total, scale, RELOAD, D, D_MAIN, D_REST, False, HAS_MASK, PRECISION,
        )  # fmt: skip
    if whole < n_keys:
        keys = whole + tl.arange(0, BLOCK_N)
        acc, acc_rest, peak, total = _attend(
            q, q_rest, q_ptr, q_offsets, asked, k_ptr, v_ptr, mask_ptr, k_stride_row, v_stride_row, keys, n_keys,
            acc, acc_rest, peak, total, scale, RELOAD, D, D_MAIN, D_REST, True, HAS_MASK, PRECISION,
        )  # fmt: skip
    # without any key the result is zero
    share = (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
    out_ptrs = out_ptr + rows[:, None] * (n_heads * D) + head * D
    tl.store(out_ptrs + d[None, :], (acc * share).to(out_ptr.dtype.element_ty), mask=main_mask)
    if D_REST > 0:
        tl.store(out_ptrs + rest[None, :], (acc_rest * share).to(out_ptr.dtype.element_ty), mask=rest_mask)


def work_of(counts: torch.Tensor, starts: torch.Tensor, n_keys: torch.Tensor, block: int, entries: int) -> torch.Tensor:
    """Return the work list, int32 `[entries, 4]`: first row, first query, queries and keys; longest utterances first.

    Nothing is read back from the device of the arguments.

    Args:
        counts: The number of queries of each utterance, `[B]`.
        starts: The first row of each utterance, `[B]`.
        n_keys: The number of keys of each utterance, `[B]`.
        block: The number of queries of an entry.
        entries: An upper bound for the number of entries needed; surplus entries have no queries.
    """
    counts, order = torch.sort(counts, descending=True, stable=True)
    utterance, first, inside = parts_of(counts, block, entries)
    columns = starts[order][utterance], first, counts[utterance] * inside, n_keys[order][utterance] * inside
    return torch.stack(columns, dim=1).to(torch.int32)


def block_of(head_dim: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many queries an entry of the work list has."""
    return tuning.attention(head_dim, dtype.itemsize, tuning.capability_of(device))["BLOCK_M"]


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    work: torch.Tensor,
    mask: torch.Tensor | None = None,
    fill: bool = False,
) -> torch.Tensor:
    """Return the attention of `q`, `k` and `v`, `[N, H, D]` with any strides, as a contiguous `[N, H, D]`.

    Args:
        q, k, v: Queries, keys and values, in one dtype.
        work: The work list from `work_of`.
        mask: The keys to attend to, bool `[N]`; `None` for all.
        fill: Zero the rows that no entry covers, which are otherwise undefined.

    Raises:
        ValueError: Shapes, dtypes or devices do not match, or D is above 128.
    """
    if q.dim() != 3 or q.shape[2] > MAX_HEAD_DIM:
        raise ValueError(f"q must be [N, H, D] with D up to {MAX_HEAD_DIM}, but is {list(q.shape)}")
    n_rows, n_heads, head_dim = q.shape
    check_shape("k", k, (n_rows, n_heads, head_dim), f"q {list(q.shape)}")
    check_shape("v", v, (n_rows, n_heads, head_dim), f"q {list(q.shape)}")
    check_shape("mask", mask, (n_rows,), f"q {list(q.shape)}")
    check_devices(q=q, k=k, v=v, work=work, mask=mask)
    check_dtypes(q=q)
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, but have {q.dtype}, {k.dtype} and {v.dtype}")
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out = (torch.zeros if fill else torch.empty)(q.shape, dtype=q.dtype, device=q.device)
    if out.numel() and len(work):
        capability = tuning.capability_of(q.device)
        blocks = tuning.attention(head_dim, q.element_size(), capability)
        exact = q.dtype == torch.float32 and tuning.exact_attention(head_dim, capability)
        with torch.cuda.device_of(q):
            _attention_kernel[(len(work) * n_heads,)](
                q, k, v, work if mask is None else mask.to(torch.uint8), out, work, *q.stride()[:2], *k.stride()[:2],
                *v.stride()[:2], n_heads, head_dim**-0.5 * 1.4426950408889634, D=head_dim, HAS_MASK=mask is not None,
                PRECISION="ieee" if exact else precision_of(q.dtype), **blocks,
            )  # fmt: skip
    return out
