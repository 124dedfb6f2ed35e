"""Lay out weights for the graph in plain PyTorch: on first use, and again when one of their parameters has changed.

Two things are always stored a second time: the convolutions of the feature encoder, and the spectrum of the positional
convolution with weight norm applied. For hubert-large in float32 that is 17 + 68 MB beside 1.26 GB, for base 17 + 38 MB beside
378 MB. Where oneDNN computes (see `onednn`), the linear layers are stored a second time, too, in its layout: 1.21 GB for large,
340 MB for base. `WeightCache.pack` turns that on or off. Other weights are read from the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..devices import is_out_of_memory
from ..dispatch import packing_requested
from . import cpu_kernels, onednn
from .memory import available_bytes

if TYPE_CHECKING:
    from ..modeling import HubertModel

logger = logging.getLogger("hubert_fast.packed")

SAMPLED_ELEMENTS = 1024  # how many elements of a large tensor are compared
COMPARED_WHOLE = 1 << 14  # tensors of up to this many elements are compared whole
SAMPLED_OF_LINEAR = 64  # elements that are compared of each linear layer's weight: there are hundreds of them
SHARE_OF_MEMORY = 4  # by default, linear layers are packed if the copy takes less than this part of the available memory
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integer dtype by bytes per element


class PackedWeights(NamedTuple):
    """Weights in the layout of the graph in plain PyTorch.

    Attributes:
        dtype: The dtype of matrix products.
        convolutions: A matrix `[C_out, kernel * C_in]` for each; the first has the dtype of statistics (`stream_dtype`). If
            oneDNN computes, all but the first are in its layout.
        positions: The spectrum of the positional convolution, complex `[L/2+1, G, C/G (in), C/G (out)]`; if `cpu_kernels`
            computes it, in the layout of `position_spectrum`.
        linears: The weights of linear layers in oneDNN's layout; empty if they are not packed. Those of queries, keys and
            values are packed together, `[3 C, C]`, under the attention block.
        by_onednn: Whether oneDNN computes products and convolutions.
        rows_in_cpp: Whether `cpu_kernels` computes LayerNorm.
        attention_in_cpp: Whether `cpu_kernels` computes attention.
        positions_in_cpp: Whether `cpu_kernels` computes the positional convolution.
        first_in_cpp: Whether `cpu_kernels` computes the first convolution.
    """

    dtype: torch.dtype
    convolutions: tuple[Tensor, ...]
    positions: Tensor
    linears: dict[nn.Module, Tensor]
    by_onednn: bool
    rows_in_cpp: bool
    attention_in_cpp: bool
    positions_in_cpp: bool
    first_in_cpp: bool


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


class _LinearSource:
    """The state of linear layers' weights. Of these there are hundreds, so a few elements of each are compared.

    Refers to the memory of the weights, so that one operation reads the elements of all.
    """

    def __init__(self, weights: list[Tensor]):
        self._states = self._states_of(weights)
        self._views = [self._view(weight.data) for weight in weights]
        self._sample = torch.cat(self._views)

    @staticmethod
    def _states_of(weights: list[Tensor]) -> list[tuple]:
        return [(id(weight), weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights]

    @staticmethod
    def _view(weight: Tensor) -> Tensor:
        diagonal = weight.diagonal()  # a view, whatever the strides are, with an element of every row or column
        return diagonal[:: max(len(diagonal) // SAMPLED_OF_LINEAR, 1)].view(BITS[weight.element_size()])

    def is_still(self, weights: list[Tensor]) -> bool:
        return self._states == self._states_of(weights) and torch.equal(self._sample, torch.cat(self._views))


class _Entry(NamedTuple):
    """Weights and the states of the parameters from which they were computed. `linears` is `None` if those are not packed."""

    source: _Source
    linears: _LinearSource | None
    weights: PackedWeights

    def is_still(self, tensors: list[Tensor], linears: list[Tensor]) -> bool:
        return self.source.is_still(tensors) and (self.linears is None or self.linears.is_still(linears))


class WeightCache:
    """The `PackedWeights` of one model, for each dtype they are computed in. Copies and pickles of the cache are empty.

    A parameter counts as changed when its identity, address or version counter has changed, as `load_state_dict`, `.to` and
    in-place edits do. For edits that PyTorch does not count (through `.data`, by fused optimizers), a thousand elements of
    each convolution are compared, some 64 of each linear layer, and all elements of small tensors. This detects every edit
    that scales, shifts or replaces a tensor, and in convolutions also a tap or a channel. After an edit of single elements or
    rows through `.data`, call `clear`.

    Attributes:
        pack: Whether linear layers are stored a second time in oneDNN's layout, where oneDNN computes. `None` packs them if
            the copy takes less than a quarter of the available memory. The environment variable `HUBERT_FAST_PACK` (0 or 1)
            takes precedence.
    """

    def __init__(self, pack: bool | None = None) -> None:
        self.pack = pack
        self._entries: dict[torch.dtype, _Entry] = {}

    def __deepcopy__(self, memo: Any) -> WeightCache:
        return WeightCache(self.pack)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return WeightCache, (self.pack,)

    def clear(self) -> None:
        """Drop all weights; the next call computes them again."""
        self._entries = {}

    def weights_of(self, model: HubertModel, dtype: torch.dtype) -> PackedWeights:
        """Return the weights of a model for computing in `dtype`. Lay them out if they are not up to date. Thread-safe."""
        convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
        positional = model.encoder.pos_conv_embed.conv
        tensors = [*(conv.weight for conv in convolutions), *positional.parameters()]
        layers = linear_layers(model)
        linears: list[Any] = [layer._parameters["weight"] for layer in layers]
        dtypes = dtype, stream_dtype(dtype)  # the first convolution computes in the second
        by_onednn = tensors[0].device.type == "cpu" and all(onednn.why_not(each) is None for each in dtypes)
        entries = self._entries
        if (
            dtype not in entries
            or entries[dtype].weights.by_onednn is not by_onednn
            or not entries[dtype].is_still(tensors, linears)
        ):
            kept = {other: entry for other, entry in entries.items() if other != dtype and entry.is_still(tensors, linears)}
            self._entries = kept  # frees stale weights before new ones take memory
            # read the state first: the next call then notices a change that is made during the layout
            source, linear_source = _Source(tensors), None
            weights = _lay_out(model, dtype, by_onednn)
            if by_onednn and self._packs(linears, dtype):
                linear_source = _LinearSource(linears)
                weights = weights._replace(linears=_packed(model, dtype))
            # in one assignment, since other threads may read it at any time
            self._entries = entries = {**kept, dtype: _Entry(source, linear_source if weights.linears else None, weights)}
        return entries[dtype].weights

    def _packs(self, linears: list[Tensor], dtype: torch.dtype) -> bool:
        requested = packing_requested()
        if requested is None:
            requested = self.pack
        if requested is not None:
            return requested
        size, available = sum(weight.numel() for weight in linears) * dtype.itemsize, available_bytes()
        if available is None or size * SHARE_OF_MEMORY < available:
            return True
        logger.debug(f"linear layers are not packed: {size} bytes are too much of the {available} bytes of available memory")
        return False


def linear_layers(model: HubertModel) -> list[nn.Linear]:
    """Return the linear layers that the packed graph computes, those of adapters included."""
    layers: list[Any] = [model.feature_projection.projection]
    for layer in model.encoder.layers:
        parts = layer._modules  # attributes of modules take five times as long, and this runs in every call
        attention, feed_forward, adapter = parts["attention"], parts["feed_forward"], parts.get("adapter_layer")
        layers += map(attention._modules.__getitem__, ("q_proj", "k_proj", "v_proj", "out_proj"))  # type: ignore[union-attr]
        layers += map(feed_forward._modules.__getitem__, ("intermediate_dense", "output_dense"))  # type: ignore[union-attr]
        if adapter is not None:
            layers += map(adapter._modules.__getitem__, ("linear_1", "linear_2"))
    return layers


def _packed(model: HubertModel, dtype: torch.dtype) -> dict[nn.Module, Tensor]:
    """Pack linear layers for oneDNN; return nothing if memory does not suffice."""
    blocks = [layer.attention for layer in model.encoder.layers]
    joint = {block: (block.q_proj, block.k_proj, block.v_proj) for block in blocks}
    inside = {projection for projections in joint.values() for projection in projections}
    try:
        with torch.inference_mode(False), torch.no_grad():
            packed: dict[nn.Module, Tensor] = {}
            for layer in linear_layers(model):
                if layer not in inside:
                    packed[layer] = onednn.packed_linear(layer.weight.detach().to(dtype))
            for block, projections in joint.items():
                weight = torch.cat([projection.weight.detach() for projection in projections])
                packed[block] = onednn.packed_linear(weight.to(dtype))
            return packed
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("linear layers are not packed, since memory does not suffice: calls take up to a tenth more time")
        return {}


def _lay_out(model: HubertModel, dtype: torch.dtype, by_onednn: bool) -> PackedWeights:
    first, *others = [layer.conv for layer in model.feature_extractor.conv_layers]
    positional, config, stream = model.encoder.pos_conv_embed.conv, model.config, stream_dtype(dtype)
    (kernel,), (taps,) = positional.kernel_size, first.kernel_size
    reasons = {
        "rows_in_cpp": cpu_kernels.why_not(dtype) or cpu_kernels.why_not(stream),
        "attention_in_cpp": cpu_kernels.why_not_attention(dtype, config.hidden_size // config.num_attention_heads),
        "positions_in_cpp": cpu_kernels.why_not(stream)
        or cpu_kernels.why_not_positions(config.hidden_size, positional.groups, points_of(kernel)),
        "first_in_cpp": cpu_kernels.why_not(stream) or cpu_kernels.why_not_first_convolution(dtype, len(first.weight), taps),
    }
    in_cpp = {name: first.weight.device.type == "cpu" and not reason for name, reason in reasons.items()}
    # ordinary tensors, even if the first call happens to run in inference mode
    with torch.inference_mode(False), torch.no_grad():
        weights = [matrix_of(first, stream)]
        for conv in others:
            if by_onednn:
                weights.append(onednn.packed_convolution(conv.weight.detach().to(dtype), conv.stride[0]))
            else:
                weights.append(matrix_of(conv, dtype))
        spectrum = spectrum_of(positional.weight.detach().to(stream), positional.groups)
        if in_cpp["positions_in_cpp"]:
            spectrum = cpu_kernels.position_spectrum(spectrum)
    return PackedWeights(dtype, tuple(weights), spectrum, {}, by_onednn, **in_cpp)
