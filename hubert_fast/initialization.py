"""Draw initial weights as transformers does: equal seeds give equal weights.

Versions of transformers draw in different orders. `DrawOrder` describes them; the installed version decides, so that a script
gets the same weights from both libraries. Without transformers the newest order holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

# The functions of `torch.nn.init` that a function mode sees. Layers of PyTorch call them for their default weights.
DEFAULT_DRAWS = {nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OTHER_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
INITIALIZED = "_is_hf_initialized"  # transformers' name for the mark on a module whose weights are drawn or loaded


class DrawOrder(NamedTuple):
    """The order in which a version of transformers draws initial weights.

    Attributes:
        draws_embedding_twice: Whether the SpecAugment mask embedding is drawn in the constructor and again after the layers.
        draws_convolutions_twice: Whether a convolution is drawn from a normal distribution before its Kaiming initialisation.
        loads_without_defaults: Whether loading a checkpoint draws no default weights for the layers of PyTorch.
        loads_with_weight_norm: Whether loading a checkpoint draws for a weight-normed convolution, although it is loaded.
        draws_without_layerdrop: Whether training draws a number for each layer although LayerDrop is off.
    """

    draws_embedding_twice: bool
    draws_convolutions_twice: bool
    loads_without_defaults: bool
    loads_with_weight_norm: bool
    draws_without_layerdrop: bool


NEWEST = DrawOrder(True, True, True, True, False)
ORDERS = (  # first version -> order; compared with 4.34.1, 4.48.0, 5.17.0 and 5.23.0
    ((5, 23), NEWEST),
    ((5, 13), DrawOrder(True, True, True, True, True)),
    ((5, 0), DrawOrder(True, False, True, True, True)),
    ((4, 52), DrawOrder(True, False, True, False, True)),
    ((4, 35), DrawOrder(False, False, True, False, True)),
    ((0, 0), DrawOrder(False, False, False, False, True)),
)


@cache
def draw_order() -> DrawOrder:
    """Return the order of the installed transformers, which is not imported; the newest order if none is installed."""
    try:
        major, minor, *_ = metadata.version("transformers").split(".")
        installed = int(major), int(minor)
    except (metadata.PackageNotFoundError, ValueError):
        return NEWEST
    return next(order for first, order in ORDERS if installed >= first)


@torch.no_grad()
def initialize_module(module: nn.Module, std: float, order: DrawOrder) -> None:
    """Initialise the weights of one module, not of those below it, as transformers' Hubert does.

    Linear weights are normal, convolution weights Kaiming-normal, biases 0, norms 1 and 0. A weight-normed convolution keeps
    PyTorch's default weight: transformers initialises the computed weight, which weight norm overwrites. The draws happen all
    the same, since later ones depend on them.

    Args:
        std: The standard deviation of linear weights (`initializer_range`).
        order: The order of draws. Newer orders also cover other convolutions, embeddings, LSTMs and multi-head attention,
            which an own head may have.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        _zero(module.bias)
    elif isinstance(module, nn.Conv1d):
        weight = module.weight.clone() if is_parametrized(module) else module.weight
        if order.draws_convolutions_twice:
            nn.init.normal_(weight, std=std)
        nn.init.kaiming_normal_(weight)
        _zero(module.bias)
    elif isinstance(module, NORMS):
        if module.weight is not None:
            nn.init.ones_(module.weight)
        _zero(module.bias)
        if getattr(module, "running_mean", None) is not None:
            module.reset_running_stats()  # type: ignore[operator]
    elif not order.draws_convolutions_twice:
        return
    elif isinstance(module, OTHER_CONVOLUTIONS):
        nn.init.normal_(module.weight, std=std)
        _zero(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=std)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    elif isinstance(module, nn.LSTM):
        for name, parameter in module.named_parameters():
            if "weight" in name:
                nn.init.xavier_uniform_(parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)
    elif isinstance(module, nn.MultiheadAttention):
        module._reset_parameters()


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


class _NoDraws(TorchFunctionMode):
    """Leave out the default draws of PyTorch's layers: their weights stay uninitialised memory."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in DEFAULT_DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


class _DrawsAside(TorchFunctionMode):
    """Make the default draws of PyTorch's layers from a generator of their own, which the state of the global one seeds."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, ()))
        self._state = torch.Generator().manual_seed(seed).get_state()

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function not in DEFAULT_DRAWS:
            return function(*args, **(kwargs or {}))
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            result = function(*args, **(kwargs or {}))
            self._state = torch.get_rng_state()
        return result


_is_loading: ContextVar[bool] = ContextVar("_is_loading", default=False)


def is_loading() -> bool:
    """Return whether `from_pretrained` is constructing a model, which then leaves initialisation to `initialize_missing`."""
    return _is_loading.get()


@contextmanager
def loading(order: DrawOrder) -> Iterator[None]:
    """Construct a model within `from_pretrained`.

    The constructor of a head draws its default weights without moving the global generator on, if `order` says so.
    """
    token = _is_loading.set(True)
    try:
        with _DrawsAside() if order.loads_without_defaults else nullcontext():
            yield
    finally:
        _is_loading.reset(token)


@contextmanager
def encoder_construction(order: DrawOrder) -> Iterator[None]:
    """Construct the encoder, without default draws if its weights are being loaded and `order` says so."""
    with _NoDraws() if is_loading() and order.loads_without_defaults else nullcontext():
        yield


@torch.no_grad()
def initialize_missing(model: nn.Module, loaded: set[str], order: DrawOrder) -> None:
    """Initialise the weights of `model` that a checkpoint lacks, in the order of draws; loaded ones keep their values.

    Args:
        model: A `HubertPreTrainedModel`, constructed within `loading`.
        loaded: The keys of its `state_dict` that are loaded.
        order: The order of draws.
    """
    missing = {id(tensor) for name, tensor in model.state_dict(keep_vars=True).items() if name not in loaded}

    # transformers passes over the loaded modules of a class that is not its own
    draws_for_weight_norm = order.loads_with_weight_norm and type(model).__module__.split(".")[0] == __package__

    def visit(module: nn.Module, initialize: Callable[[nn.Module], None]) -> None:
        for child in module.children():
            visit(child, getattr(child, "_init_weights", initialize))
        tensors = list(_tensors_of(module))
        lacks_some = any(id(tensor) in missing for tensor in tensors)
        if lacks_some or (draws_for_weight_norm and is_parametrized(module)):
            kept = [(tensor, tensor.clone()) for tensor in tensors if id(tensor) not in missing]
            if lacks_some and is_parametrized(module):
                _reset_weight_norm(module)
            initialize(module)
            for tensor, value in kept:
                tensor.copy_(value)
        setattr(module, INITIALIZED, True)

    visit(model, model._init_weights)  # type: ignore[arg-type]


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield the weights and buffers of a module itself, with those that weight norm keeps in modules below it."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    if is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def _reset_weight_norm(module: nn.Module) -> None:
    with torch.random.fork_rng(devices=[]):
        module.weight = nn.init.kaiming_uniform_(torch.empty_like(module.weight), a=math.sqrt(5))  # type: ignore[arg-type]
