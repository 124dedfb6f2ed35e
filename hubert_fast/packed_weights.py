"""Weights as the packed graph wants them: made once, and again when what they were made from changes.

Linear layers and norms are read where they are. Only two things are kept a second time: the convolutions of the feature
encoder as matrices, and the positional convolution, weight norm folded in, as its spectrum. For hubert-large in float32 that
is 17 + 68 MB beside 1.26 GB, for base 17 + 38 MB beside 378 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .packed_positions import spectrum

PROBED_ELEMENTS = 1024  # of a tensor that has more than
PROBED_WHOLE = 1 << 14
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class PackedWeights(NamedTuple):
    """What is kept: for each convolution a matrix ``[C_out, kernel * C_in]``; positions, ``[L/2+1, G, C_in, C_out]``.

    The first matrix has the dtype that statistics are computed in, which see :func:`wide`.
    """

    convolutions: tuple[Tensor, ...]
    positions: Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of residual streams and statistics beside weights of ``dtype``: float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)


def matrix_of(conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return a convolution's weight as a matrix ``[C_out, kernel * C_in]``, the taps outermost; a view of one input channel."""
    weight = conv.weight.detach().to(dtype)
    return weight.permute(0, 2, 1).reshape(len(weight), -1)


class _Source:
    """Parameters as they were when something was made from them."""

    def __init__(self, tensors: list[Tensor]):
        self.states = [self._state(tensor) for tensor in tensors]
        self.sample = self._sample(tensors)

    @staticmethod
    def _state(tensor: Tensor) -> tuple:
        version = None if tensor.is_inference() else tensor._version  # inference tensors count no changes
        # its id and no reference: a strong one would keep memory, a weak one forbids torch.utils.swap_tensors
        return id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape

    @staticmethod
    def _sample(tensors: list[Tensor]) -> Tensor:
        """Some elements of each, as bits, so that NaN equals itself."""
        parts = []
        for tensor in tensors:
            flat = tensor.detach().reshape(-1)
            if len(flat) > PROBED_WHOLE:
                flat = flat[:: next_prime(len(flat) // PROBED_ELEMENTS)]  # all taps and all channels in turn
            parts.append(flat.view(BITS[flat.element_size()]).to(torch.int64))
        return torch.cat(parts)

    def is_still(self, tensors: list[Tensor]) -> bool:
        # The sample is for changes that PyTorch does not count: through .data, by fused optimizers, of inference tensors.
        return self.states == [self._state(tensor) for tensor in tensors] and torch.equal(self.sample, self._sample(tensors))


@cache
def next_prime(number: int) -> int:
    """Return the smallest prime that is not below ``number``."""
    number = max(number, 2)
    while any(number % factor == 0 for factor in range(2, isqrt(number) + 1)):
        number += 1
    return number


class WeightCache:
    """The :class:`PackedWeights` of one model, by the dtype they are computed in. Copies and pickles of it are empty.

    A change is seen by the parameter's identity, address and version counter, which ``load_state_dict``, ``.to`` and in-place
    edits alter. What PyTorch does not count (edits through ``.data``, fused optimizers) is seen by a thousand elements of each
    tensor and all of a small one: whatever scales, adds to or replaces a tensor, a tap or a channel. After an edit of single
    elements through ``.data`` call :meth:`clear`.
    """

    def __init__(self) -> None:
        self._entries: dict[torch.dtype, tuple[_Source, PackedWeights]] = {}

    def __deepcopy__(self, memo: Any) -> WeightCache:
        return WeightCache()

    def __reduce__(self) -> tuple[Callable, tuple]:
        return WeightCache, ()

    def clear(self) -> None:
        """Forget everything; the next call makes it anew."""
        self._entries = {}

    def weights_of(self, model: nn.Module, dtype: torch.dtype) -> PackedWeights:
        """Return the weights of a ``HubertModel`` for computing in ``dtype``, made now if need be. Safe among threads."""
        convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
        positional = model.encoder.pos_conv_embed.conv
        tensors = [*(conv.weight for conv in convolutions), *positional.parameters()]
        entries = self._entries
        if dtype not in entries or not entries[dtype][0].is_still(tensors):
            kept = {other: entry for other, entry in entries.items() if other != dtype and entry[0].is_still(tensors)}
            # what the parameters are is read first: a change meanwhile is then seen at the next call
            source = _Source(tensors)
            # in one assignment: other threads may be here too
            self._entries = entries = {**kept, dtype: (source, _make(convolutions, positional, dtype))}
        return entries[dtype][1]


def _make(convolutions: list[nn.Conv1d], positional: nn.Conv1d, dtype: torch.dtype) -> PackedWeights:
    # ordinary tensors, whatever the mode of the call that happens to be the first
    with torch.inference_mode(False), torch.no_grad():
        matrices = []
        for index, conv in enumerate(convolutions):
            matrices.append(matrix_of(conv, dtype if index else wide(dtype)))
        return PackedWeights(tuple(matrices), spectrum(positional.weight.detach().to(wide(dtype)), positional.groups))
