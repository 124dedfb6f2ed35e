"""Weights as the packed graph wants them: made once, and again when what they were made from changes.

Linear layers and norms are read where they are. Only two things are kept a second time: the convolutions of the feature
encoder as matrices, and the positional convolution, weight norm folded in, as its spectrum. For hubert-large in float32 that
is 17 + 68 MB beside 1.26 GB, for base 17 + 38 MB beside 378 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .packed_positions import spectrum

PROBED_ELEMENTS = 1024


class PackedWeights(NamedTuple):
    """What is kept: a matrix ``[C_out, kernel * C_in]`` for each convolution, the positional spectrum ``[L/2+1, G, C_in, C_out]``.

    The first matrix has the dtype that statistics are computed in, which see :func:`wide`.
    """

    convolutions: tuple[Tensor, ...]
    positions: Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of residual streams and statistics beside weights of ``dtype``: float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)


class _Source:
    """A parameter as it was when something was made from it."""

    def __init__(self, tensor: Tensor):
        self.state = self._state(tensor)
        self.sample = None if tensor.is_cuda else self._sample(tensor).clone()

    @staticmethod
    def _state(tensor: Tensor) -> tuple:
        version = None if tensor.is_inference() else tensor._version  # inference tensors count no changes
        # its id and no reference: a strong one would keep memory, a weak one forbids torch.utils.swap_tensors
        return id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape

    @staticmethod
    def _sample(tensor: Tensor) -> Tensor:
        flat = tensor.detach().reshape(-1)
        return flat[:: max(1, len(flat) // PROBED_ELEMENTS)]

    def is_still(self, tensor: Tensor) -> bool:
        # The sample is for edits through .data, which PyTorch does not count. On a GPU looking at it would stop the queue.
        return self.state == self._state(tensor) and (
            self.sample is None or torch.equal(self.sample, self._sample(tensor))
        )


class WeightCache:
    """The :class:`PackedWeights` of one model, by the dtype they are computed in. Copies and pickles of it are empty.

    A change is seen by the parameter's identity, address and version counter, which ``load_state_dict``, ``.to``, optimizers and
    in-place edits alter. Edits through ``.data``, which PyTorch does not count, are seen on a CPU by a sample of about a
    thousand elements of each tensor, so anything that scales, adds to or replaces the whole of it; on a GPU they are not: call
    ``clear`` after those.
    """

    def __init__(self) -> None:
        self._entries: dict[torch.dtype, tuple[list[_Source], PackedWeights]] = {}

    def __deepcopy__(self, memo: Any) -> WeightCache:
        return WeightCache()

    def __reduce__(self) -> tuple[Callable, tuple]:
        return WeightCache, ()

    def clear(self) -> None:
        """Forget everything; the next call makes it anew."""
        self._entries = {}

    def weights_of(self, model: nn.Module, dtype: torch.dtype) -> PackedWeights:
        """Return the weights of a ``HubertModel`` for computing in ``dtype``, made now if need be. Threads may do so at once."""
        convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
        positional = model.encoder.pos_conv_embed.conv
        tensors = [*(conv.weight for conv in convolutions), *positional.parameters()]
        entry = self._entries.get(dtype)
        if entry is None or not all(source.is_still(tensor) for source, tensor in zip(entry[0], tensors)):
            # read the state first: what changes meanwhile is then seen next time
            sources = [_Source(tensor) for tensor in tensors]
            fresh = {dtype: (sources, _make(convolutions, positional, dtype))}
            current = entry is None and all(self._is_current(other, tensors) for other in list(self._entries.values()))
            self._entries = {**self._entries, **fresh} if current else fresh
            entry = fresh[dtype]
        return entry[1]

    @staticmethod
    def _is_current(entry: tuple[list[_Source], PackedWeights], tensors: list[Tensor]) -> bool:
        return all(source.is_still(tensor) for source, tensor in zip(entry[0], tensors))


def _make(convolutions: list[nn.Conv1d], positional: nn.Conv1d, dtype: torch.dtype) -> PackedWeights:
    # ordinary tensors, whatever the mode of the call that happens to be the first
    with torch.inference_mode(False), torch.no_grad():
        matrices = []
        for index, conv in enumerate(convolutions):
            weight = conv.weight.detach().to(dtype if index else wide(dtype))
            matrices.append(weight.permute(0, 2, 1).reshape(len(weight), -1))  # the first has one input channel: a view
        return PackedWeights(tuple(matrices), spectrum(positional.weight.detach().to(wide(dtype)), positional.groups))
