"""Compute the positional convolution, with GELU and the residual add."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.checks import MAX_GROUP_CHANNELS
from .precision import check_cu_seqlens, in_full_precision, present, without_autocast


@without_autocast
def conv_positional_eager(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor | None = None, gelu: bool = True
) -> Tensor:
    """Compute `conv_positional` in plain PyTorch: its definition."""
    groups, kernel = weight.shape[:2]
    full, taps, bias, added = in_full_precision(x, weight, bias, residual)
    taps = taps.permute(0, 3, 2, 1).flatten(0, 1)  # the layout of conv1d: [C, C/G, kernel]
    out = torch.zeros_like(full)
    bounds = cu_seqlens.tolist()
    for begin, end in pairwise(bounds):
        if end > begin:
            rows = F.conv1d(full[begin:end].t()[None], taps, bias, padding=kernel // 2, groups=groups)
            rows = rows[0, :, : end - begin].t()  # an even kernel yields one frame too many
            rows = F.gelu(rows) if gelu else rows
            out[begin:end] = rows if added is None else rows + added[begin:end]
    return out.to(x.dtype if residual is None else residual.dtype)


@torch.library.custom_op("hubert_fast::conv_positional", mutates_args=())
def _conv_positional_triton(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor | None, gelu: bool
) -> Tensor:
    from ..kernels import conv_positional as kernel

    bounds = cu_seqlens.long()
    counts, frames = bounds.diff(), kernel.frames_of(weight.shape[2], weight.shape[1], weight.dtype, weight.device)
    spans = kernel.spans_of(counts, bounds[:-1], frames, x.shape[0] // frames + counts.shape[0])
    return kernel.launch(x, weight, bias, spans, residual, gelu, fill=True)


@_conv_positional_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor | None, gelu: bool) -> Tensor:
    like = x if residual is None else residual
    return like.new_empty(x.shape)


def conv_positional(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cu_seqlens: Tensor,
    residual: Tensor | None = None,
    *,
    gelu: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Convolve each utterance of a packed batch over time, in groups; apply GELU and a residual add.

    Each utterance is padded with zeros. Frame t depends on the `kernel` frames from `t - kernel // 2` on, as in
    `conv1d(padding=kernel // 2)`; an even kernel yields one frame too many, and the last one is dropped. Source: Baevski et al.
    2020 (wav2vec 2.0), section 2.

    Args:
        x: The projected frames, `[N, C]`.
        weight: `[G, kernel, C/G (in), C/G (out)]` in the dtype of `x`, with weight norm applied.
        bias: `[C]`.
        cu_seqlens: int32 `[B + 1]`, the boundaries between utterances. Utterances may be empty.
        residual: `[N, C]`, added after GELU.
        gelu: Whether to apply GELU.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        `[N, C]` in the dtype of `residual` if it is given, else of `x`; zeros in rows that belong to no utterance.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    check_cu_seqlens(cu_seqlens)
    channels, unsupported = weight.shape[-1], None
    if channels > MAX_GROUP_CHANNELS:
        unsupported = f"groups have {channels} channels, but the kernel takes up to {MAX_GROUP_CHANNELS}"
    if use_triton(*present(x, weight, bias, residual), backend=backend, unless=unsupported):
        return _conv_positional_triton(x, weight, bias, cu_seqlens, residual, gelu)
    return conv_positional_eager(x, weight, bias, cu_seqlens, residual, gelu)
