"""Which graph serves a call of a ``HubertModel``: the packed one where it may, else the definition, and why.

The packed graph reads weights and runs no module, so it stands aside for whatever a module might do: train, record gradients,
return attentions, run hooks, be replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from .cuda_graphs import GraphCache
from .devices import upload
from .dispatch import use_triton
from .grid import Grid, starts_on_grid
from .kernels.schedule import ranges
from .packed import encode
from .packed_audio import PackedAudio
from .packed_features import SampleSpans
from .packed_kernels import encode_on_kernels, why_not_on_kernels
from .packed_weights import WeightCache
from .untouched import Watch, has_hook

logger = logging.getLogger(__name__)

GRADIENT = "a gradient may be needed: call the model under torch.no_grad() or torch.inference_mode()"
DEVICES = ("cpu", "cuda")  # what the packed graph was made for: float64 sums and Fourier transforms
WRAPPED = {"forward"}  # a forward set on the object, by a library that wraps it, has already run when the class's own does


class FastPath:
    """What a ``HubertModel`` keeps for its packed graph. Caches only: safe to drop at any time. Copies and pickles start empty.

    weights: laid out for the graph in plain PyTorch. cuda_graphs: of the graph on kernels, for short batches; setting its
    ``limit`` to 0 switches them off, which copies and pickles keep.
    """

    def __init__(self, graphs: int | None = None) -> None:
        self.weights = WeightCache()
        self.cuda_graphs = GraphCache(graphs)
        self._watch: Watch | None = None

    def __deepcopy__(self, memo: Any) -> FastPath:
        return FastPath(self.cuda_graphs.limit)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return FastPath, (self.cuda_graphs.limit,)

    def why_not(self, model: nn.Module, kind: type[nn.Module], waveforms: Tensor, whole_call: bool) -> str | None:
        """Say why the packed graph may not serve ``model`` on ``waveforms``; ``None`` when it may.

        kind: the class it knows. whole_call: whether the model's own hooks and wrappers run around this call.
        """
        if type(model) is not kind:
            return f"{type(model).__qualname__} is not {kind.__qualname__} itself, and may compute something else"
        if getattr(model, "_is_replica", False):  # which shares this object, and lives for one call
            return "the model is a replica of nn.DataParallel"
        reason = unserved(model, waveforms)
        if reason is not None:
            return reason
        if self._watch is None:
            self._watch = Watch(kind, model.config)
        if not whole_call and has_hook(model):
            return "the model has a hook, which runs around forward alone"
        return self._watch.look(model, WRAPPED if whole_call else set())[1]


def unserved(model: nn.Module, waveforms: Tensor) -> str | None:
    """Say what about the state of PyTorch, the model or the input is not the packed graph's business."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the model is being compiled or traced"
    if model.training:
        return "the model is training"
    if torch.is_grad_enabled() and (waveforms.requires_grad or any(weight.requires_grad for weight in model.parameters())):
        return GRADIENT
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "derivatives or batches are being taken by a function transform"
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode, such as FakeTensorMode or FlopCounterMode, is watching"
    if waveforms.is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    if waveforms.device.type not in DEVICES:
        return f"the device is {waveforms.device}, and neither a CPU nor CUDA"
    if _has_any_global_hook():
        return "there are hooks on all modules"
    return None


def compute_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of matrix products: autocast's, as for the definition, else that of the weights."""
    weight = model.feature_projection.projection.weight
    if torch.is_autocast_enabled(weight.device.type) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def is_on_kernels(model: nn.Module, samples: Tensor) -> bool:
    """Whether the packed graph of a ``HubertModel`` runs on kernels. ``ValueError`` and ``RuntimeError`` as in ``dispatch``."""
    dtype = compute_dtype(model)
    return use_triton(samples, also=(torch.int16,), unless=why_not_on_kernels(model, dtype), dtype=dtype)


def encode_packed(
    model: nn.Module, audio: PackedAudio, grid: Grid, output_hidden_states: bool
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Run the packed graph of a ``HubertModel`` on packed audio: ``[N, C]``, and all hidden states if asked for.

    grid: that of the audio's lengths.
    """
    on_kernels = is_on_kernels(model, audio.samples)
    waveform = audio.waveform()
    spans = SampleSpans(waveform, [start * audio.hop_samples for start in grid.starts], list(audio.lengths))
    return _encode(model, on_kernels, waveform, grid, spans, output_hidden_states)


def _encode(
    model: nn.Module, on_kernels: bool, waveform: Tensor, grid: Grid, spans: SampleSpans, output_hidden_states: bool
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """On kernels where they can run and are chosen, else in plain PyTorch."""
    dtype = compute_dtype(model)
    logger.debug("packed, on kernels" if on_kernels else "packed, in plain PyTorch")
    if on_kernels:
        return encode_on_kernels(model, dtype, waveform, grid, spans, output_hidden_states)
    return encode(model, model.fast_path.weights.weights_of(model, dtype), waveform, grid, spans, output_hidden_states)


def encode_padded(
    model: nn.Module, input_values: Tensor, attention_mask: Tensor | None, output_hidden_states: bool
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Run the packed graph of a ``HubertModel`` on padded rows ``[B, S]``: ``[B, T, C]`` with zeros where frames are padding.

    Norms over time see the padding, as in transformers: a GroupNorm, and a batch norm before the positional convolution.
    """
    batch, samples = input_values.shape
    if attention_mask is None:
        lengths = [samples] * batch
    else:
        lengths = attention_mask.sum(-1, dtype=torch.long).clamp(0, samples).tolist()
    grid = Grid.of(lengths, model.config, padded_samples=samples)
    waveform = _flat(input_values, lengths, grid, model.config.inputs_to_logits_ratio)
    if all(length == samples for length in lengths):  # the statistics are those of packed audio
        spans = SampleSpans(waveform, [start * model.config.inputs_to_logits_ratio for start in grid.starts], lengths)
    else:
        spans = SampleSpans(input_values.reshape(-1), [row * samples for row in range(batch)], [samples] * batch)
    last, states = _encode(model, is_on_kernels(model, waveform), waveform, grid, spans, output_hidden_states)
    places = _places(grid, last.device)
    padded = [_padded(x, grid, places) for x in (last, *(states or ())[:-1])]
    if states is None:
        return padded[0], None
    # the last state of transformers 5 is not the last hidden state
    return padded[0], (*padded[1:], padded[0] if states[-1] is last else _padded(states[-1], grid, places))


def _places(grid: Grid, device: torch.device) -> Tensor | None:
    """Return where true frames go among padded ones, int64 ``[N]``; ``None`` when there is no padding."""
    batch, frames = len(grid.counts), grid.padded
    if grid.frames == batch * frames:
        return None
    return upload(torch.from_numpy(ranges(np.arange(batch) * frames, np.array(grid.counts))), device)


def _padded(x: Tensor, grid: Grid, places: Tensor | None) -> Tensor:
    """Put packed frames ``[N, C]`` into rows ``[B, T, C]``; a view when there is no padding."""
    batch, frames = len(grid.counts), grid.padded
    if places is None:
        return x.view(batch, frames, x.shape[1])
    return x.new_zeros(batch * frames, x.shape[1]).index_copy_(0, places, x).view(batch, frames, x.shape[1])


def _flat(input_values: Tensor, lengths: list[int], grid: Grid, hop: int) -> Tensor:
    """Lay the true samples of padded rows end to end; a view when they lie so."""
    samples = input_values.shape[1]
    if samples % hop == 0 and all(length == samples for length in lengths):
        return input_values.reshape(-1)
    flat = input_values.new_zeros(starts_on_grid(lengths, hop)[1] * hop)
    for row, start, length in zip(input_values, grid.starts, lengths):
        flat[start * hop :][:length] = row[:length]
    return flat
