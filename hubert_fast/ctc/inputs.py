"""Check the input of greedy decoding, and convert it to ids on the host and a span of frames for each utterance."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ID_DTYPES = (np.int64, np.int32, np.int16, np.uint8)


def best_of(
    logits_or_ids: torch.Tensor | np.ndarray, log_probs: torch.Tensor | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the best id of each frame and, if known, its log-probability, on the host: both `[N]` or `[B, T]`."""
    frames = logits_or_ids
    if isinstance(frames, np.ndarray) and np.issubdtype(frames.dtype, np.floating):
        frames = _logits(frames)
    if isinstance(frames, torch.Tensor) and frames.is_floating_point():
        if frames.dim() not in (2, 3) or frames.shape[-1] == 0:
            raise ValueError(f"logits must be [N, V] or [B, T, V], but have shape {list(frames.shape)}")
        if log_probs is not None:
            raise ValueError("log_probs may be given only with ids: for logits they are computed")
        with torch.no_grad():
            frames = frames if frames.dtype == torch.float64 else frames.float()
            best, best_ids = frames.max(dim=-1)
            best_log_probs = best - frames.logsumexp(dim=-1)
            return best_ids.to("cpu", torch.int32).numpy(), best_log_probs.to("cpu", torch.float32).numpy()
    ids = _host(frames, "ids")
    if ids.dtype not in ID_DTYPES:
        raise ValueError(f"ids must be int64, int32, int16 or uint8, but are {ids.dtype}")
    if ids.ndim not in (1, 2):
        raise ValueError(f"ids must be [N] or [B, T], but have shape {list(ids.shape)}")
    if log_probs is None:
        return ids, None
    log_probs = _host(log_probs, "log_probs")
    if log_probs.shape != ids.shape or not np.issubdtype(log_probs.dtype, np.floating):
        raise ValueError(
            f"log_probs must be floating point of the ids' shape, {list(ids.shape)}, "
            f"but are {log_probs.dtype} {list(log_probs.shape)}"
        )
    return ids, log_probs


def _logits(values: np.ndarray) -> torch.Tensor:
    if values.dtype.itemsize > 8:
        raise ValueError(f"logits must be float16, float32 or float64, but are {values.dtype}")
    # torch does not take other byte orders or negative strides, and warns about read-only memory
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _host(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach()
        return (values.float() if values.is_floating_point() else values).cpu().numpy()
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{name} must be a tensor or an array, but are a {type(values).__name__}")
    return values


def spans_of(
    shape: tuple[int, ...], cu_seqlens_or_lengths: torch.Tensor | np.ndarray | Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first frame and the length of each utterance among the flattened frames of `shape`, both int64 `[B]`."""
    packed, values = len(shape) == 1, cu_seqlens_or_lengths
    name = "cu_seqlens" if packed else "lengths"
    if values is None:
        if packed:
            raise ValueError("packed frames need cu_seqlens, the boundaries between utterances, but got None")
        values = np.full(shape[0], shape[1])
    try:
        if isinstance(values, (torch.Tensor, np.ndarray)):
            values = _host(values, name)
        else:
            values = np.array([operator.index(entry) for entry in values], dtype=np.int64)
    except (AttributeError, OverflowError, TypeError):
        raise ValueError(f"{name} must be whole numbers, but are {cu_seqlens_or_lengths!r}") from None
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers in one dimension, but are {values.dtype} {list(values.shape)}")
    values = values.astype(np.int64)
    if packed:
        if len(values) == 0:
            raise ValueError("cu_seqlens need at least one entry, the start of the first utterance, but are empty")
        for before, after in itertools.pairwise([0, *values.tolist(), shape[0]]):
            if after < before:
                problem = f"go from {before} to {after} in {_short(values)}"
                raise ValueError(f"cu_seqlens must not decrease and must lie within 0 to {shape[0]} frames, but {problem}")
        return values[:-1].copy(), np.diff(values)
    if len(values) != shape[0]:
        raise ValueError(f"lengths must have {shape[0]} entries, one per utterance, but has {len(values)}")
    outside = values[(values < 0) | (values > shape[1])]
    if len(outside):
        raise ValueError(f"lengths must be 0 to {shape[1]}, the number of frames, but one is {outside[0]}")
    return np.arange(shape[0], dtype=np.int64) * shape[1], values


def _short(values: np.ndarray) -> str:
    return str(values.tolist()) if len(values) <= 12 else f"{len(values)} numbers"
