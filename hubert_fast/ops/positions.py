"""The positional convolution with all that belongs to it."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from ..kernels.checks import MAX_GROUP_CHANNELS
from .wide import check_cu_seqlens, given, widened, without_autocast


@without_autocast
def conv_positional_eager(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor | None = None, gelu: bool = True
) -> Tensor:
    """Define :func:`conv_positional`."""
    groups, kernel = weight.shape[:2]
    wide, taps, bias, added = widened(x, weight, bias, residual)
    taps = taps.permute(0, 3, 2, 1).flatten(0, 1)  # as conv1d has it: [C, C/G, kernel]
    out = torch.zeros_like(wide)
    bounds = cu_seqlens.tolist()
    for begin, end in pairwise(bounds):
        if end > begin:
            rows = F.conv1d(wide[begin:end].t()[None], taps, bias, padding=kernel // 2, groups=groups)
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
    """Convolve each utterance of a packed batch over time, in groups, with zeros beyond its ends; then GELU and residual add.

    x: ``[N, C]``. weight: ``[G, kernel, C/G (in), C/G (out)]`` of x's dtype, weight norm folded in. bias: ``[C]``.
    cu_seqlens: int32 ``[B + 1]``, where utterances begin and the last one ends; they may be empty. What is of none
    has zeros. residual: ``[N, C]``.
    Returns ``[N, C]`` in the dtype of the residual, else of ``x``. Frame t sees frames ``t - kernel // 2`` and on, as
    ``conv1d(padding=kernel // 2)`` without its last frame where the kernel is even.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    Source: Baevski et al. 2020 (wav2vec 2.0), section 2.
    """
    check_cu_seqlens(cu_seqlens)
    channels, wide_groups = weight.shape[-1], None
    if channels > MAX_GROUP_CHANNELS:
        wide_groups = f"groups have {channels} channels, but the kernel takes up to {MAX_GROUP_CHANNELS}"
    if use_triton(*given(x, weight, bias, residual), backend=backend, unless=wide_groups):
        return _conv_positional_triton(x, weight, bias, cu_seqlens, residual, gelu)
    return conv_positional_eager(x, weight, bias, cu_seqlens, residual, gelu)
