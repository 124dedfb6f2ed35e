"""Decide whether the packed graph may serve a call, and whether it runs on kernels; otherwise give the reason.

The packed graph reads weights and runs no module. So it leaves a call to the definition whenever a module might do more than
compute with its weights: train, record gradients, return attentions, run hooks, or compute something else because it was
replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..dispatch import use_triton
from ..kernels.checks import MAX_GROUP_CHANNELS, MAX_HEAD_DIM
from ..layers import activation
from .cuda_graphs import GraphCache
from .untouched import Watch, has_hook
from .weights import WeightCache

if TYPE_CHECKING:
    from ..modeling import HubertModel

GRADIENT = "a gradient may be needed: call the model under torch.no_grad() or torch.inference_mode()"
DEVICES = ("cpu", "cuda")  # they have float64 sums and Fourier transforms, which the packed graph needs
# A library may replace `forward` on the instance. Its wrapper runs before the class's own `forward` does, so serving the latter
# does not bypass it.
WRAPPED = {"forward"}


class FastPath:
    """Hold the caches of a model's packed graph. They are safe to drop at any time; copies and pickles start empty.

    Attributes:
        weights: Weights laid out for the graph in plain PyTorch.
        cuda_graphs: Graphs of short batches on kernels. A `limit` of 0 turns them off; copies and pickles keep the limit.
    """

    def __init__(self, cuda_graph_limit: int | None = None) -> None:
        self.weights = WeightCache()
        self.cuda_graphs = GraphCache(cuda_graph_limit)
        self._watch: Watch | None = None

    def __deepcopy__(self, memo: Any) -> FastPath:
        return FastPath(self.cuda_graphs.limit)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return FastPath, (self.cuda_graphs.limit,)

    def why_not(self, model: nn.Module, cls: type[nn.Module], waveforms: Tensor, whole_call: bool) -> str | None:
        """Return why the packed graph may not serve `model` on `waveforms`; `None` when it may.

        Args:
            cls: The class for which the graph is written.
            waveforms: The input of the call.
            whole_call: Whether the model's own hooks and wrappers run around this call.
        """
        if type(model) is not cls:
            return f"{type(model).__qualname__} is not {cls.__qualname__} itself, and may compute something else"
        if getattr(model, "_is_replica", False):  # shares this object, and lives for one call
            return "the model is a replica of nn.DataParallel"
        reason = why_not_now(model, waveforms)
        if reason is not None:
            return reason
        if not whole_call and has_hook(model):
            return "the model has a hook, which forward_packed would bypass"
        if self._watch is None:
            self._watch = Watch(cls, model.config)
        return self._watch.check(model, WRAPPED if whole_call else set())[1]


def why_not_now(model: nn.Module, waveforms: Tensor) -> str | None:
    """Return why PyTorch's state, the model's mode or the input rules out the packed graph; `None` if nothing does."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the model is being compiled or traced"
    if model.training:
        return "the model is training"
    if torch.is_grad_enabled() and (waveforms.requires_grad or any(weight.requires_grad for weight in model.parameters())):
        return GRADIENT
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "a function transform is taking derivatives or batching"
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode is active, such as FakeTensorMode or FlopCounterMode"
    if waveforms.is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    if waveforms.device.type not in DEVICES:
        return f"the device is {waveforms.device}, but must be a CPU or a CUDA device"
    if _has_any_global_hook():
        return "PyTorch has hooks that run on all modules"
    return None


def compute_dtype(model: HubertModel) -> torch.dtype:
    """Return the dtype of matrix products: autocast's if it is enabled, as in the definition, else that of the weights."""
    weight = model.feature_projection.projection.weight
    if torch.is_autocast_enabled(weight.device.type) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def is_on_kernels(model: HubertModel, samples: Tensor) -> bool:
    """Return whether the packed graph of a model runs on kernels. Raises the errors of `dispatch.use_triton`."""
    dtype = compute_dtype(model)
    return use_triton(samples, also=(torch.int16,), unless=why_not_on_kernels(model, dtype), dtype=dtype)


def why_not_on_kernels(model: HubertModel, dtype: torch.dtype) -> str | None:
    """Return the reason why kernels do not support a model in `dtype`; `None` if they do."""
    config = model.config
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the model computes in {dtype}, but kernels support only float32, float16 and bfloat16"
    convolutions: list[Any] = [*model.feature_extractor.conv_layers, model.encoder.pos_conv_embed]
    for name, functions in (
        ("feat_extract_activation", [layer.activation for layer in convolutions]),
        ("hidden_act", [layer.feed_forward.intermediate_act_fn for layer in model.encoder.layers]),
    ):
        if any(function is not F.gelu for function in functions):
            is_replaced = activation(getattr(config, name)) is F.gelu
            value = "replaced in a module" if is_replaced else repr(getattr(config, name))
            return f"{name} is {value}, but kernels support only 'gelu'"
    head_dim = config.hidden_size // config.num_attention_heads
    if head_dim > MAX_HEAD_DIM:
        return f"heads have {head_dim} channels, but kernels take up to {MAX_HEAD_DIM}"
    per_group = config.hidden_size // config.num_conv_pos_embedding_groups
    if per_group > MAX_GROUP_CHANNELS:
        return f"positional groups have {per_group} channels, but kernels take up to {MAX_GROUP_CHANNELS}"
    return None
