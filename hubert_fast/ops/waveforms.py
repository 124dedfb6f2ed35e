"""Normalise waveforms to zero mean and unit variance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..devices import upload
from ..dispatch import use_triton
from .precision import without_autocast

INT16_SCALE = 1 / 32768
VARIANCE_FLOOR = 1e-7  # added to the variance, as by feature extractors


def check_spans(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> None:
    """Raise `ValueError` unless every utterance lies within the samples, with one start for each length."""
    inside = len(starts) == len(lengths) and samples.dim() == 1
    if not (inside and all(start >= 0 and 0 <= length <= len(samples) - start for start, length in zip(starts, lengths))):
        raise ValueError(
            f"starts and lengths must describe utterances within {list(samples.shape)} samples, "
            f"but are {list(starts)} and {list(lengths)}"
        )


@without_autocast
def normalize_waveforms_eager(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Compute `normalize_waveforms` in plain PyTorch: its definition."""
    out = torch.zeros(samples.shape, dtype=torch.promote_types(samples.dtype, torch.float32), device=samples.device)
    for start, length in zip(starts, lengths):
        if length:
            utterance = samples[start : start + length].to(out.dtype)
            if samples.dtype == torch.int16:
                utterance.mul_(INT16_SCALE)
            variance, mean = torch.var_mean(utterance, correction=0)
            out[start : start + length] = (utterance - mean) / (variance + VARIANCE_FLOOR).sqrt()
    return out


@torch.library.custom_op("hubert_fast::normalize_waveforms", mutates_args=())
def _normalize_waveforms_triton(samples: Tensor, starts: list[int], lengths: list[int]) -> Tensor:
    from ..kernels import waveforms as kernel

    scale = INT16_SCALE if samples.dtype == torch.int16 else 1.0
    return kernel.launch(samples, upload(kernel.work_of(lengths, starts), samples.device), scale, VARIANCE_FLOOR)


@_normalize_waveforms_triton.register_fake
def _(samples: Tensor, starts: list[int], lengths: list[int]) -> Tensor:
    return samples.new_empty(samples.shape, dtype=torch.float32)


def normalize_waveforms(
    samples: Tensor, starts: Sequence[int], lengths: Sequence[int], *, backend: str | None = None
) -> Tensor:
    """Scale each utterance to zero mean and unit variance, as preprocessors with `do_normalize` do.

    Source: transformers' `Wav2Vec2FeatureExtractor`; Chan et al. 1979 for combining partial variances.

    Args:
        samples: `[S]`, floating point, or int16, where value v stands for v / 32768.
        starts: The first sample of each utterance.
        lengths: The number of samples of each utterance.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[S]` in float32, or float64 for float64; zeros between utterances.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    check_spans(samples, starts, lengths)
    if use_triton(samples, backend=backend, also=(torch.int16,), of_waveforms=True):
        return _normalize_waveforms_triton(samples, list(starts), list(lengths))
    return normalize_waveforms_eager(samples, starts, lengths)
