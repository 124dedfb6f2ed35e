"""Compute the best token of each frame from hidden states, without storing logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import use_triton
from .precision import in_full_precision, present, without_autocast


@without_autocast
def ctc_argmax_eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `ctc_argmax` in plain PyTorch: its definition."""
    log_probs, ids = F.linear(*in_full_precision(x, weight, bias)).log_softmax(-1).max(-1)
    return ids.int(), log_probs.float()


@torch.library.custom_op("hubert_fast::ctc_argmax", mutates_args=())
def _ctc_argmax_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    from ..kernels import ctc_argmax as kernel

    return kernel.launch(x, weight, bias)


@_ctc_argmax_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1], dtype=torch.int32), x.new_empty(x.shape[:-1], dtype=torch.float32)


def ctc_argmax(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the best token of each frame and its log-probability, the input of greedy decoding.

    The kernel neither rounds the logits to the dtype of `x` nor stores them.
    Source: Graves et al. 2006, section 3.2 (best path decoding).

    Args:
        x: The hidden states, `[..., C]`.
        weight: The weight of the output layer, `[V, C]` in the dtype of `x`.
        bias: The bias of the output layer, `[V]`.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        The token ids, int32 `[...]` (the first of equally likely tokens), and their log-probabilities, float32 `[...]`.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    if use_triton(*present(x, weight, bias), backend=backend):
        return _ctc_argmax_triton(x, weight, bias)
    return ctc_argmax_eager(x, weight, bias)
