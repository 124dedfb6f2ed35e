"""Lay out weights for the graph in plain PyTorch: on first use, and again when one of their parameters has changed.

Linear layers and norms are read from the model. Only two things are stored a second time: the convolutions of the feature
encoder as matrices, and the spectrum of the positional convolution with weight norm applied. For hubert-large in float32 that
is 17 + 68 MB beside 1.26 GB, for base 17 + 38 MB beside 378 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..modeling import HubertModel

SAMPLED_ELEMENTS = 1024  # how many elements of a large tensor are compared
COMPARED_WHOLE = 1 << 14  # tensors of up to this many elements are compared whole
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integer dtype by bytes per element


class PackedWeights(NamedTuple):
    """Weights in the layout of the graph in plain PyTorch.

    Attributes:
        convolutions: A matrix `[C_out, kernel * C_in]` for each; the first has the dtype of statistics (`stream_dtype`).
        positions: The spectrum of the positional convolution, complex `[L/2+1, G, C/G (in), C/G (out)]`.
    """

    convolutions: tuple[Tensor, ...]
    positions: Tensor


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the residual stream and of statistics for weights of `dtype`: float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)


def matrix_of(conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return a convolution's weight as a matrix `[C_out, kernel * C_in]`, taps outermost; a view for one input channel."""
    weight = conv.weight.detach().to(dtype)
    return weight.permute(0, 2, 1).reshape(len(weight), -1)


def points_of(kernel: int) -> int:
    """Return the length L of the positional convolution's transform: the smallest power of two not below `2 * kernel`."""
    return 1 << max(2 * kernel - 1, 1).bit_length()


def spectrum_of(weight: Tensor, groups: int) -> Tensor:
    """Transform a convolution's weight `[C, C/G, K]` to complex `[L/2+1, G, C/G (in), C/G (out)]`, as a correlation."""
    per_group = weight.unflatten(0, (groups, -1))  # [G, out, in, K]
    return torch.fft.rfft(per_group, n=points_of(weight.shape[-1])).conj().permute(3, 0, 2, 1).resolve_conj().contiguous()


class _Source:
    """The state of parameters at the time when weights were computed from them."""

    def __init__(self, tensors: list[Tensor]):
        self.states = [self._state(tensor) for tensor in tensors]
        self.sample = self._sample(tensors)

    @staticmethod
    def _state(tensor: Tensor) -> tuple:
        version = None if tensor.is_inference() else tensor._version  # inference tensors have no version counter
        # the id, not a reference: a strong one would keep memory, and a weak one makes torch.utils.swap_tensors fail
        return id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape

    @staticmethod
    def _sample(tensors: list[Tensor]) -> Tensor:
        """Return some elements of each tensor as bits, so that NaN equals itself."""
        parts = []
        for tensor in tensors:
            flat = tensor.detach().reshape(-1)
            if len(flat) > COMPARED_WHOLE:
                step = next_prime(len(flat) // SAMPLED_ELEMENTS)  # a prime step reaches all taps and channels in turn
                flat = flat[::step]
            parts.append(flat.view(BITS[flat.element_size()]).to(torch.int64))
        return torch.cat(parts)

    def is_still(self, tensors: list[Tensor]) -> bool:
        # The sample catches changes that PyTorch does not count: through .data, by fused optimizers, to inference tensors.
        return self.states == [self._state(tensor) for tensor in tensors] and torch.equal(self.sample, self._sample(tensors))


@cache
def next_prime(number: int) -> int:
    """Return the smallest prime that is not below `number`."""
    number = max(number, 2)
    while any(number % factor == 0 for factor in range(2, isqrt(number) + 1)):
        number += 1
    return number


class WeightCache:
    """The `PackedWeights` of one model, for each dtype they are computed in. Copies and pickles of the cache are empty.

    A parameter counts as changed when its identity, address or version counter has changed, as `load_state_dict`, `.to` and
    in-place edits do. For edits that PyTorch does not count (through `.data`, by fused optimizers), a thousand elements of
    each large tensor are compared, and all elements of a small one. This detects every edit that scales, shifts or replaces a
    tensor, a tap or a channel. After an edit of single elements through `.data`, call `clear`.
    """

    def __init__(self) -> None:
        self._entries: dict[torch.dtype, tuple[_Source, PackedWeights]] = {}

    def __deepcopy__(self, memo: Any) -> WeightCache:
        return WeightCache()

    def __reduce__(self) -> tuple[Callable, tuple]:
        return WeightCache, ()

    def clear(self) -> None:
        """Drop all weights; the next call computes them again."""
        self._entries = {}

    def weights_of(self, model: HubertModel, dtype: torch.dtype) -> PackedWeights:
        """Return the weights of a model for computing in `dtype`. Lay them out if they are not up to date. Thread-safe."""
        convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
        positional = model.encoder.pos_conv_embed.conv
        tensors = [*(conv.weight for conv in convolutions), *positional.parameters()]
        entries = self._entries
        if dtype not in entries or not entries[dtype][0].is_still(tensors):
            kept = {other: entry for other, entry in entries.items() if other != dtype and entry[0].is_still(tensors)}
            # read the state first: the next call then notices a change that is made during the layout
            source = _Source(tensors)
            # in one assignment, since other threads may read it at any time
            self._entries = entries = {**kept, dtype: (source, _lay_out(convolutions, positional, dtype))}
        return entries[dtype][1]


def _lay_out(convolutions: list[nn.Conv1d], positional: nn.Conv1d, dtype: torch.dtype) -> PackedWeights:
    # ordinary tensors, even if the first call happens to run in inference mode
    with torch.inference_mode(False), torch.no_grad():
        matrices = [matrix_of(conv, dtype if index else stream_dtype(dtype)) for index, conv in enumerate(convolutions)]
        weight = positional.weight.detach().to(stream_dtype(dtype))
        return PackedWeights(tuple(matrices), spectrum_of(weight, positional.groups))
