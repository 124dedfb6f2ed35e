"""From hidden states to the best token of each frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .wide import given, widened, without_autocast


@without_autocast
def ctc_argmax_eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Define :func:`ctc_argmax`."""
    log_probs, ids = F.linear(*widened(x, weight, bias)).log_softmax(-1).max(-1)
    return ids.int(), log_probs.float()


@torch.library.custom_op("hubert_fast::ctc_argmax", mutates_args=())
def _ctc_argmax_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    from ..kernels import ctc_argmax as kernel

    return kernel.launch(x, weight, bias)


@_ctc_argmax_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1], dtype=torch.int32), x.new_empty(x.shape[:-1], dtype=torch.float32)


def ctc_argmax(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the best token of each frame and its log-probability: int32 and float32 ``[...]``, what greedy decoding takes.

    x: hidden states ``[..., C]``. weight, bias: of the output layer, ``[V, C]`` of x's dtype and ``[V]``. The logits are never
    rounded to the dtype of ``x``, nor written. Of equal ones the first is best.

    Raises ``ValueError`` when the operands do not fit, ``RuntimeError`` when a forced backend cannot run.
    Source: Graves et al. 2006, section 3.2 (best path decoding).
    """
    if use_triton(*given(x, weight, bias), backend=backend):
        return _ctc_argmax_triton(x, weight, bias)
    return ctc_argmax_eager(x, weight, bias)
