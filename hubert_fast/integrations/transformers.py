"""Accelerate inference of a transformers model in place, until it is restored.

`accelerate` replaces `forward` of the `transformers.HubertModel` object inside a model; classes and modules stay unchanged. The
fast graph is built around the object's own layers, so that it shares the weights and sees their changes (`load_state_dict`,
`.to`, `.half`, an optimizer). Each call decides anew whether the fast graph can serve it. Otherwise the object's own `forward`
does. A `HubertForCTC` also gets a hook that gives the logits of padding to the blank.

`hubert_fast.transformers` defines subclasses of transformers' classes that are accelerated from birth.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..config import as_hubert_config
from ..ctc.padding import blank_padding
from ..input_checks import check_inputs
from ..modeling import HubertModel
from ..packed import GRADIENT, Inspection, Watch, attention_is_unknown, run_padded, walk, why_not_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import HubertModel as TransformersHubertModel

logger = logging.getLogger(__name__)

SHARED_LAYERS = (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d)
STATE = "_hubert_fast"  # the attribute of a model that holds its FastForward
OWN_ATTRIBUTES = {"forward", "_replicate_for_data_parallel", STATE}  # set on the object by accelerate


def accelerate(model: nn.Module) -> nn.Module:
    """Accelerate inference of a HuBERT model of transformers 4.34.1 to 5, in place.

    The model's own `forward` still serves calls that train, may need a gradient, request attentions or pass
    `mask_time_indices`; calls under `torch.compile`; and all calls while a layer has a hook, an adapter, or quantised or
    compiled weights, or is changed in some other way. The logger `hubert_fast.integrations.transformers` logs each reason once.

    A `HubertForCTC` called with an `attention_mask` for inference returns +100 for the blank and -100 for all other tokens in
    frames that are padding, and its output has an attribute `frame_counts`, int64 `[B]`: how many frames of each row are not.

    Args:
        model: A `HubertModel`, `HubertForCTC` or `HubertForSequenceClassification` of transformers, or a module that contains
            one, such as a PEFT model.

    Returns:
        The same object.

    Raises:
        TypeError: `model` contains no HuBERT model of transformers.
        ValueError: Another library has replaced the `forward` of the model.
    """
    for base in _hubert_models(model):
        fast = installed(base)
        if fast is not None:
            fast.enabled = True
        elif type(base) in _accelerated_classes():
            vars(base)[STATE] = FastForward(base)
        elif "forward" in vars(base) and inspect.unwrap(_innermost(base.forward)) is not inspect.unwrap(type(base).forward):
            name = getattr(base.forward, "__qualname__", type(base.forward).__qualname__)
            raise ValueError(f"the forward of this {type(base).__name__} has already been replaced, by {name}")
        else:
            vars(base)[STATE] = forward = FastForward(base)
            base.forward = forward
            base._replicate_for_data_parallel = forward.replicate  # type: ignore[method-assign]
    for head in _ctc_models(model):
        # our own subclass finishes them in its forward
        if not hasattr(head, "finishes_logits") and finish_logits not in head._forward_hooks.values():
            head.register_forward_hook(finish_logits, with_kwargs=True)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`. A model that is not accelerated is left unchanged.

    Args:
        model: The model, or a module that contains it.

    Returns:
        The same object.

    Raises:
        TypeError: `model` contains no HuBERT model of transformers.
    """
    for base in _hubert_models(model):
        fast = installed(base)
        if fast is None and type(base) in _accelerated_classes():
            vars(base)[STATE] = fast = FastForward(base)
        if fast is None:
            continue
        fast.enabled = False  # takes effect even if another library has wrapped it
        vars(base).pop("_replicate_for_data_parallel", None)
        if _innermost(vars(base).get("forward")) in (fast, fast.__func__):
            del base.forward, vars(base)[STATE]
    for head in _ctc_models(model):
        for key in [key for key, hook in head._forward_hooks.items() if hook is finish_logits]:
            del head._forward_hooks[key], head._forward_hooks_with_kwargs[key]
    return model


def _hubert_models(model: nn.Module) -> list[TransformersHubertModel]:
    from transformers import HubertModel as TransformersHubertModel

    modules = [model, *walk(model)] if isinstance(model, nn.Module) else []
    # not other subclasses, whose overrides would be bypassed
    classes = (TransformersHubertModel, *_accelerated_classes())
    matching: list[Any] = [module for module in modules if type(module) in classes]
    if not matching:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"expected a HuBERT model of transformers, but got a {kind}")
    return matching


def _accelerated_classes() -> list[type]:
    """Return our subclass of transformers' HubertModel, if it has been imported."""
    module = sys.modules.get("hubert_fast.transformers")
    return [] if module is None else [module.HubertModel]


def _ctc_models(model: nn.Module) -> list[Any]:
    from transformers import HubertForCTC as TransformersHubertForCTC

    return [module for module in (model, *walk(model)) if isinstance(module, TransformersHubertForCTC)]


def finish_logits(model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Give the logits of padded frames to the blank, and add `frame_counts` to the output: a hook of `HubertForCTC`.

    Calls whose encoder ran transformers' own `forward` keep transformers' logits.
    """
    fast = installed(model.hubert)
    if fast is None or not fast.enabled or fast.reason is not None:
        return output
    logits = output["logits"] if isinstance(output, dict) else output[output[0].dim() == 0]  # after the loss, a scalar
    mask = (dict(zip(("input_values", "attention_mask"), args)) | kwargs).get("attention_mask")
    if mask is None:
        counts = torch.full((len(logits),), logits.shape[1], device=logits.device)
    else:
        counts = fast.frame_counts(mask).to(logits.device)
        frame_mask = torch.arange(logits.shape[1], device=logits.device) < counts[:, None]
        padded = blank_padding(logits, frame_mask, model.config.pad_token_id)
        if not isinstance(output, dict):
            return tuple(padded if value is logits else value for value in output)
        output["logits"] = padded
    if isinstance(output, dict):
        output.frame_counts = counts  # type: ignore[attr-defined]
    return output


def _innermost(forward: Any) -> Any:
    """Return `forward`, or its function if it is a bound method: another library may have bound a `FastForward`."""
    return forward if isinstance(forward, FastForward) else getattr(forward, "__func__", forward)


def _own_forward() -> Callable[..., Any]:
    """Return transformers' `HubertModel.forward`."""
    from transformers import HubertModel as TransformersHubertModel

    return TransformersHubertModel.forward


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


class FastForward:
    """Replace the `forward` of a `transformers.HubertModel`: by ours for calls that we can serve, by its own for all others.

    Attributes:
        enabled: Whether our `forward` may serve calls.
    """

    def __init__(self, base: TransformersHubertModel):
        self.enabled = True
        self._config = copy.deepcopy(base.config)  # later changes to the configuration do not affect the model
        self._watch = Watch(type(base), self._config)
        self._refer_to(base)

    def _refer_to(self, base: TransformersHubertModel) -> None:
        self._base = weakref.ref(base)  # base holds this object: a reference cycle would keep the weights until it is collected
        self._signature = inspect.signature(type(base).forward)
        self._built = _BuiltGraph(None, None, None)
        self._reasons_logged: set[str] = set()
        self._last_call = threading.local()

    @property
    def base(self) -> TransformersHubertModel:
        """The object whose `forward` this is."""
        base = self._base()
        assert base is not None, "the model of this forward no longer exists"
        return base

    @property
    def reason(self) -> str | None:
        """Why we did not serve the last call of this thread; `None` if we did."""
        return getattr(self._last_call, "reason", None)

    @reason.setter
    def reason(self, reason: str | None) -> None:
        self._last_call.reason = reason

    @property
    def __func__(self) -> Callable[..., Any]:
        """The function of a bound method. Hugging Face's Accelerate wraps it and binds the result to the model."""
        return forward_function(type(self.base))  # type: ignore[arg-type]

    @property
    def __wrapped__(self) -> Any:
        """transformers' own `forward` of the object. Tools such as transformers' Trainer read its signature from here."""
        return _own_forward().__get__(self.base)

    def replicate(self) -> nn.Module:
        """Create a copy of the model for `nn.DataParallel` on another device. The copy runs transformers' own `forward`."""
        replica = type(self.base)._replicate_for_data_parallel(self.base)
        vars(replica).pop("_replicate_for_data_parallel", None)
        vars(replica).pop(STATE, None)
        if _innermost(vars(replica).get("forward")) is self:
            del replica.forward
        return replica

    def __getstate__(self) -> dict[str, Any]:
        # a copy builds its own graph, on the layers of the copied model
        rebuilt = ("_base", "_signature", "_built", "_reasons_logged", "_last_call")
        return {"base": self.base, **{name: value for name, value in vars(self).items() if name not in rebuilt}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        base = state.pop("base")
        vars(self).update(state)
        self._refer_to(base)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        base = self.base
        if args and args[0] is base:  # a library saved this object and restored it as a bound method
            args = args[1:]
        own_forward = _own_forward()  # not `__wrapped__`: after a graph break torch.compile takes that for `base.forward`
        if not self.enabled:
            return own_forward(base, *args, **kwargs)
        arguments = self._signature.bind(base, *args, **kwargs).arguments
        arguments.pop("self")
        arguments = {**arguments.pop("kwargs", {}), **arguments}
        for name in ("output_attentions", "output_hidden_states"):
            if arguments.get(name) is None:
                arguments[name] = getattr(base.config, name)
        if arguments.get("return_dict") is None:
            arguments["return_dict"] = base.config.return_dict and not getattr(base.config, "torchscript", False)
        graph, reason = self._graph_for(base, arguments)
        self.reason = reason
        if graph is None:
            assert reason is not None
            self._log(reason)
            return own_forward(base, *args, **kwargs)
        return self._run(graph, arguments)

    def frame_counts(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return how many frames of each row are not padding, int64 `[B]`, once this has served a call."""
        assert self._built.graph is not None
        return self._built.graph.frame_counts(attention_mask.sum(-1, dtype=torch.long))

    def _log(self, reason: str) -> None:
        if not torch.compiler.is_compiling() and reason not in self._reasons_logged:
            self._reasons_logged.add(reason)
            logger.log(logging.WARNING if reason is GRADIENT else logging.INFO, "not accelerated: %s", reason)

    def _run(self, graph: HubertModel, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        waveforms, mask = arguments["input_values"], arguments.get("attention_mask")
        check_inputs(graph, waveforms, mask)
        last, states = run_padded(graph, waveforms, mask, arguments["output_hidden_states"])
        output = BaseModelOutput(last_hidden_state=last, hidden_states=states)
        return output if arguments["return_dict"] else output.to_tuple()

    def _graph_for(self, base: TransformersHubertModel, arguments: dict[str, Any]) -> tuple[HubertModel | None, str | None]:
        """Return the graph for this call and `None`, or `None` and the reason why there is none."""
        reason = _unserved(base, arguments)
        if reason is not None:
            return None, reason
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
        graph = HubertModel(as_hubert_config(config)).eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, SHARED_LAYERS):
            graph.set_submodule(name, base.get_submodule(name))
    # transformers 5 records hidden states as returned by the layers, before the final norm
    graph.encoder.final_norm_in_hidden_states = not getattr(type(base), "_can_record_outputs", None)
    return graph
