"""Serve calls of a `transformers.HubertModel` by the packed graph, built around the layers of the object itself."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..config import HubertConfig
from ..input_checks import check_inputs
from ..modeling import HubertModel
from ..packed import GRADIENT, Inspection, Watch, attention_is_unknown, is_defined_in, run_padded, why_not_now

if TYPE_CHECKING:
    from transformers import HubertModel as TransformersHubertModel

# the name that users know: `accelerate` lives there
logger = logging.getLogger("hubert_fast.integrations.transformers")

SHARED_LAYERS = (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d)
STATE = "_hubert_fast"  # the attribute of a model that holds its FastForward
OWN_ATTRIBUTES = {"forward", "_replicate_for_data_parallel", STATE}  # set on the object by accelerate
# The methods of transformers' HubertModel that the packed graph stands in for.
METHODS = ("forward", "_get_feature_vector_attention_mask", "_get_feat_extract_output_lengths", "_mask_hidden_states")


def _own_forward(base: nn.Module) -> Callable[..., Any]:
    """Return the `forward` of a model without acceleration: transformers', or that of a class that it was given later."""
    from transformers import HubertModel as TransformersHubertModel

    cls = type(base)
    is_ours = cls.__module__ == "hubert_fast.transformers"
    return TransformersHubertModel.forward if is_ours else cls.forward


def _patched(own_forward: Callable[..., Any]) -> str | None:
    """Return which method of transformers' `HubertModel` somebody has replaced, or `None`."""
    from transformers import HubertModel as TransformersHubertModel

    if own_forward is not TransformersHubertModel.forward:
        return "the model was given another class"
    for name in METHODS:
        if not is_defined_in(getattr(TransformersHubertModel, name), "transformers"):
            return f"{name} of HubertModel is patched"
    return None


_signature_of = functools.lru_cache(maxsize=8)(inspect.signature)


def is_recorded() -> bool:
    """Return whether the call is compiled, exported, traced or transformed: that would record how a graph is chosen."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def installed(base: nn.Module) -> FastForward | None:
    """Return the `FastForward` of `base`, even if other libraries have wrapped it; `None` if there is none."""
    return vars(base).get(STATE)


@functools.cache
def forward_function(cls: type[nn.Module]) -> Callable[..., Any]:
    """Return a function with the signature of `cls.forward` that calls the `FastForward` of a model.

    Unlike a `FastForward`, it refers to no model, so that what other libraries build from it and bind to a model also serves a
    copy of that model.
    """

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fast = installed(self)
        return cls.forward(self, *args, **kwargs) if fast is None else fast(*args, **kwargs)

    return stand_in_for(cls.forward)(forward)


def stand_in_for(own: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that gives a function the name, documentation and signature of transformers' own.

    Unlike `functools.wraps` it leaves no `__wrapped__`, which other libraries follow to what they take for the real function.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        functools.update_wrapper(function, own, updated=())
        del function.__wrapped__  # type: ignore[attr-defined]
        function.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        return function

    return decorate


class _BuiltGraph(NamedTuple):
    """A graph for a model in the state of its last inspection, or the reason why there is none."""

    inspection: Inspection | None
    graph: HubertModel | None
    why_not: str | None


class _LastCall:
    """What is known of the last call of each thread. A copy, or an unpickled object, knows of none.

    Attributes:
        local: Has `reason` and `count`, once the thread has made a call.
    """

    def __init__(self) -> None:
        self.local = threading.local()

    def __reduce__(self) -> tuple[type, tuple]:
        # `functools.update_wrapper` copies the attributes of a FastForward to what other libraries put around it
        return _LastCall, ()


class FastForward:
    """Replace the `forward` of a `transformers.HubertModel`: by ours for calls that we can serve, by its own for all others.

    Attributes:
        enabled: Whether our `forward` may serve calls.
    """

    KEPT = ("_config", "_watch", "_why_never", "enabled")  # by a copy, which builds a graph on the layers of the copied model

    def __init__(self, base: TransformersHubertModel):
        self.enabled = True
        self._config, self._watch, self._why_never = None, None, None
        try:
            self._config = copy.deepcopy(base.config)  # later changes to the configuration do not affect the model
            self._watch = Watch(type(base), self._config)
        except Exception as error:  # a configuration may hold anything, and what cannot be fast must still run
            self._why_never = f"the configuration is not supported: {type(error).__name__}: {error}"
        self._refer_to(base)

    def _refer_to(self, base: TransformersHubertModel) -> None:
        self._base = weakref.ref(base)  # base holds this object: a reference cycle would keep the weights until it is collected
        self._built = _BuiltGraph(None, None, None)
        self._reasons_logged: set[str] = set()
        self._last_call = _LastCall()

    def belongs_to(self, base: nn.Module) -> bool:
        """Return whether this serves `base`, rather than the model of which `base` is a shallow copy."""
        return self._base() is base

    @property
    def base(self) -> TransformersHubertModel:
        """The object whose `forward` this is."""
        base = self._base()
        assert base is not None, "the model of this forward no longer exists"
        return base

    @property
    def reason(self) -> str | None:
        """Why we did not serve the last call of this thread; `None` if we did."""
        return getattr(self._last_call.local, "reason", None)

    @reason.setter
    def reason(self, reason: str | None) -> None:
        self._last_call.local.reason = reason

    @property
    def __func__(self) -> Callable[..., Any]:
        """The function of a bound method. Hugging Face's Accelerate wraps it and binds the result to the model."""
        return forward_function(type(self.base))  # type: ignore[arg-type]

    @property
    def __wrapped__(self) -> Any:
        """transformers' own `forward` of the object. Tools such as transformers' Trainer read its signature from here."""
        return _own_forward(self.base).__get__(self.base)

    def replicate(self) -> nn.Module:
        """Create a copy of the model for `nn.DataParallel` on another device. The copy runs transformers' own `forward`."""
        replica = type(self.base)._replicate_for_data_parallel(self.base)
        vars(replica).pop("_replicate_for_data_parallel", None)
        vars(replica).pop(STATE, None)
        if vars(replica).get("forward") is self:
            del replica.forward
        return replica

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, **{name: getattr(self, name) for name in self.KEPT}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        base = state.pop("base")
        for name, value in state.items():
            setattr(self, name, value)
        self._refer_to(base)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        base = self.base
        if args and args[0] is base:  # a library saved this object and restored it as a bound method
            args = args[1:]
        own_forward = _own_forward(base)  # not `__wrapped__`: after a graph break torch.compile takes that for `base.forward`
        if not self.enabled:
            self._last_call.local.count = None
            return own_forward(base, *args, **kwargs)
        never = self._why_never or _patched(own_forward)
        if never is not None:
            return self._step_aside(never, own_forward, args, kwargs)
        arguments = _signature_of(own_forward).bind(base, *args, **kwargs).arguments
        arguments.pop("self")
        arguments = {**arguments.pop("kwargs", {}), **arguments}
        for name in ("output_attentions", "output_hidden_states"):
            if arguments.get(name) is None:
                arguments[name] = getattr(base.config, name)
        if arguments.get("return_dict") is None:
            arguments["return_dict"] = base.config.return_dict and not getattr(base.config, "torchscript", False)
        graph, reason = self._graph_for(base, arguments)
        if graph is None:
            assert reason is not None
            return self._step_aside(reason, own_forward, args, kwargs)
        self.reason = None
        return self._run(graph, arguments)

    def _step_aside(self, reason: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        self.reason = reason
        self._last_call.local.count = None
        self._log(reason)
        return own_forward(self.base, *args, **kwargs)

    def take_frame_counts(self) -> Callable[[], torch.Tensor | None] | None:
        """Return a function that counts the frames of the call that this thread made last, or `None` if it was not served.

        A call is returned only once. The function returns how many frames of each row are not padding, int64 `[B]`; `None` if
        the call had no mask.
        """
        count = getattr(self._last_call.local, "count", None)
        self._last_call.local.count = None
        return count

    def _log(self, reason: str) -> None:
        if not torch.compiler.is_compiling() and reason not in self._reasons_logged:
            self._reasons_logged.add(reason)
            logger.log(logging.WARNING if reason is GRADIENT else logging.INFO, "not accelerated: %s", reason)

    def _run(self, graph: HubertModel, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        waveforms, mask = arguments["input_values"], arguments.get("attention_mask")
        check_inputs(graph, waveforms, mask)
        last, states = run_padded(graph, waveforms, mask, graph.encoder.select(arguments["output_hidden_states"]))
        samples = None if mask is None else mask.sum(-1, dtype=torch.long)  # not the mask, which would stay in memory
        self._last_call.local.count = lambda: None if samples is None else graph.frame_counts(samples)
        output = BaseModelOutput(last_hidden_state=last, hidden_states=states)
        return output if arguments["return_dict"] else output.to_tuple()

    def _graph_for(self, base: TransformersHubertModel, arguments: dict[str, Any]) -> tuple[HubertModel | None, str | None]:
        """Return the graph for this call and `None`, or `None` and the reason why there is none."""
        reason = _unserved(base, arguments)
        if reason is not None:
            return None, reason
        assert self._watch is not None  # or there were a reason to step aside
        inspection, reason = self._watch.check(base, OWN_ATTRIBUTES)
        if reason is not None:
            return None, reason
        built = self._built
        if inspection is not built.inspection:
            self._built = built = self._build(base, inspection)  # in one assignment, since other threads may read it
        return built.graph, built.why_not

    def _build(self, base: TransformersHubertModel, inspection: Inspection) -> _BuiltGraph:
        try:
            return _BuiltGraph(inspection, _graph_on(base, self._config), None)
        except (AttributeError, TypeError, ValueError) as error:  # transformers interprets such a configuration differently
            return _BuiltGraph(inspection, None, f"the configuration is not supported: {error}")


def _unserved(base: TransformersHubertModel, arguments: dict[str, Any]) -> str | None:
    """Return why the fast graph cannot serve this call, or `None` if it can."""
    waveforms, mask = arguments["input_values"], arguments.get("attention_mask")
    if not isinstance(waveforms, torch.Tensor):
        return "input_values is not a tensor"
    reason = why_not_now(base, waveforms)
    if reason is not None:
        return reason
    if mask is not None and getattr(mask, "shape", None) != waveforms.shape:
        return "attention_mask does not have the shape of input_values"
    if waveforms.dim() != 2 or waveforms.dtype != base.dtype:
        return "input_values are not [batch, samples] in the dtype of the model"
    if arguments.get("mask_time_indices") is not None:
        return "mask_time_indices are given"
    for name, value in arguments.items():
        if name.startswith("output_") and name != "output_hidden_states" and value:
            return f"{name} is requested"
    if not isinstance(arguments["output_hidden_states"], bool):
        return "individual hidden states are requested"
    if attention_is_unknown(base.config):
        return f"the attention {base.config._attn_implementation!r} is not one of transformers' own"
    return None


def _graph_on(base: TransformersHubertModel, config: Any) -> HubertModel:
    """Return our encoder with the layers of `base`, and so with its parameters."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        # the configuration may be of a class of one's own, with another model_type
        graph = HubertModel(HubertConfig.from_dict(config.to_dict() | {"model_type": HubertConfig.model_type})).eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, SHARED_LAYERS):
            graph.set_submodule(name, base.get_submodule(name))
    # transformers 5 records hidden states as returned by the layers, before the final norm
    graph.encoder.final_norm_in_hidden_states = not getattr(type(base), "_can_record_outputs", None)
    return graph
