"""Fast inference for a live transformers model: on that one object, until it is undone.

``accelerate`` sets ``forward`` on the ``transformers.HubertModel`` object inside the model it is given, and on nothing else: no
class or module is changed. The fast graph is built around the object's own layers, so weights are shared, and what
changes them (``load_state_dict``, ``.to``, ``.half``, an optimizer) reaches both. Every call decides afresh whether
the fast graph may serve it; when not, the object's own ``forward`` does.
"""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import as_hubert_config
from ..input_checks import check_inputs
from ..modeling import HubertModel
from ..packed import GRADIENT, Inspection, Watch, attention_is_unknown, run_padded, walk, why_not_now

logger = logging.getLogger(__name__)

SHARED_LAYERS = (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d)
OURS = {"forward", "_replicate_for_data_parallel"}  # what accelerate sets on an object


def accelerate(model: nn.Module) -> nn.Module:
    """Give a transformers Hubert model, 4.34.1 to 5, fast inference. Changes that object and returns it.

    model: a ``HubertModel``, ``HubertForCTC`` or ``HubertForSequenceClassification`` of transformers, or a module that holds
        one, such as a PEFT model.

    The model's own ``forward`` serves a call that trains, may need a gradient, asks for attentions or gives
    ``mask_time_indices``; while a layer has a hook, an adapter, quantised or compiled weights, or was changed in another way;
    and under ``torch.compile``. The logger ``hubert_fast.integrations.transformers`` says so, once for each reason.

    Raises ``TypeError`` when there is no such model, ``ValueError`` when another library has replaced its ``forward``.
    """
    for base in _hubert_models(model):
        fast = _installed(base)
        if fast is not None:
            fast.enabled = True
        elif "forward" in vars(base) and inspect.unwrap(_innermost(base.forward)) is not inspect.unwrap(type(base).forward):
            name = getattr(base.forward, "__qualname__", type(base.forward).__qualname__)
            raise ValueError(f"the forward of this {type(base).__name__} is already replaced, by {name}")
        else:
            base.forward = FastForward(base)
            base._replicate_for_data_parallel = base.forward.replicate
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo :func:`accelerate`, and return the model; one that was not accelerated is left as it is.

    Raises ``TypeError`` when there is no transformers Hubert model in it.
    """
    for base in _hubert_models(model):
        fast = _installed(base)
        if fast is not None:
            fast.enabled = False  # for the case that something was wrapped around it since
            vars(base).pop("_replicate_for_data_parallel", None)
            if _innermost(vars(base)["forward"]) is fast:
                del base.forward
    return model


def _hubert_models(model: nn.Module) -> list[nn.Module]:
    from transformers import HubertModel as TransformersHubertModel

    # not subclasses: what they override would be bypassed
    modules = [model, *walk(model)] if isinstance(model, nn.Module) else []
    found = [module for module in modules if type(module) is TransformersHubertModel]
    if not found:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"expected a Hubert model of transformers, but got a {kind}")
    return found


def _innermost(forward: Any) -> Any:
    """A method made of a fast forward is that fast forward."""
    return getattr(forward, "__func__", forward)


def _installed(base: nn.Module) -> FastForward | None:
    """Return the fast forward of ``base``, also from below what others wrapped around it."""
    forward = _innermost(vars(base).get("forward"))
    while forward is not None and not isinstance(forward, FastForward):
        forward = _innermost(getattr(forward, "__wrapped__", None))
    return forward


class _Built(NamedTuple):
    """A graph for a model as it was at its last inspection, or why there is none."""

    inspection: Inspection | None
    graph: HubertModel | None
    why_not: str | None


class FastForward:
    """The ``forward`` of one ``transformers.HubertModel`` object: ours where a call allows it, its own otherwise.

    ``reason``: why the last call was not ours, ``None`` when it was.
    """

    def __init__(self, base: nn.Module):
        self.enabled = True
        self.reason: str | None = None
        self._config = copy.deepcopy(base.config)  # a model does not change with its configuration afterwards
        self._watch = Watch(type(base), self._config)
        self._refer_to(base)

    def _refer_to(self, base: nn.Module) -> None:
        self._base = weakref.ref(base)  # which holds this object: a cycle would keep the weights until it is collected
        self._signature = inspect.signature(type(base).forward)
        self._built = _Built(None, None, None)
        self._reasons_told: set[str] = set()

    @property
    def base(self) -> nn.Module:
        """The object whose forward this is."""
        return self._base()

    @property
    def __wrapped__(self):
        """The object's own forward, whose signature tools such as transformers' Trainer read from here."""
        return type(self.base).forward.__get__(self.base)

    def replicate(self) -> nn.Module:
        """Make ``nn.DataParallel``'s copy of the model for another device; it runs transformers' own forward."""
        replica = type(self.base)._replicate_for_data_parallel(self.base)
        vars(replica).pop("_replicate_for_data_parallel", None)
        if _innermost(vars(replica).get("forward")) is self:
            del replica.forward
        return replica

    def __getstate__(self) -> dict[str, Any]:
        # a copy builds a graph of its own, on the layers of the copied model
        made_here = ("_base", "_signature", "_built", "_reasons_told")
        return {"base": self.base, **{name: value for name, value in vars(self).items() if name not in made_here}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        base = state.pop("base")
        vars(self).update(state)
        self._refer_to(base)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        base = self.base
        if args and args[0] is base:  # made a method by a library that put it back where it found it
            args = args[1:]
        if not self.enabled:
            return self.__wrapped__(*args, **kwargs)
        arguments = self._signature.bind(base, *args, **kwargs).arguments
        arguments.pop("self")
        arguments = {**arguments.pop("kwargs", {}), **arguments}
        for name in ("output_attentions", "output_hidden_states"):
            if arguments.get(name) is None:
                arguments[name] = getattr(base.config, name)
        if arguments.get("return_dict") is None:
            arguments["return_dict"] = base.config.return_dict and not getattr(base.config, "torchscript", False)
        graph, self.reason = self._graph_for(base, arguments)
        if graph is None:
            self._tell(self.reason)
            return self.__wrapped__(*args, **kwargs)
        return self._run(graph, arguments)

    def _tell(self, reason: str) -> None:
        if not torch.compiler.is_compiling() and reason not in self._reasons_told:
            self._reasons_told.add(reason)
            logger.log(logging.WARNING if reason is GRADIENT else logging.INFO, "not accelerated: %s", reason)

    def _run(self, graph: HubertModel, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        waveforms, mask = arguments["input_values"], arguments.get("attention_mask")
        check_inputs(graph, waveforms, mask)
        last, states = run_padded(graph, waveforms, mask, arguments["output_hidden_states"])
        output = BaseModelOutput(last_hidden_state=last, hidden_states=states)
        return output if arguments["return_dict"] else output.to_tuple()

    def _graph_for(self, base: nn.Module, arguments: dict[str, Any]) -> tuple[HubertModel | None, str | None]:
        """Return the graph for this call, or ``None`` and the reason."""
        reason = _unserved(base, arguments)
        if reason is not None:
            return None, reason
        inspection, reason = self._watch.check(base, OURS)
        if reason is not None:
            return None, reason
        built = self._built
        if inspection is not built.inspection:
            self._built = built = self._build(base, inspection)  # in one assignment, since other threads may read it
        return built.graph, built.why_not

    def _build(self, base: nn.Module, inspection: Inspection) -> _Built:
        try:
            return _Built(inspection, _graph_on(base, self._config), None)
        except (AttributeError, TypeError, ValueError) as error:  # a configuration that transformers reads otherwise
            return _Built(inspection, None, f"the configuration is not served: {error}")


def _unserved(base: nn.Module, arguments: dict[str, Any]) -> str | None:
    """Say what about this call is not the fast graph's business."""
    waveforms, mask = arguments["input_values"], arguments.get("attention_mask")
    if not isinstance(waveforms, torch.Tensor):
        return "input_values are no tensor"
    reason = why_not_now(base, waveforms)
    if reason is not None:
        return reason
    if mask is not None and getattr(mask, "shape", None) != waveforms.shape:
        return "attention_mask has not the shape of input_values"
    if waveforms.dim() != 2 or waveforms.dtype != base.dtype:
        return "input_values are not [batch, samples] in the dtype of the model"
    if arguments.get("mask_time_indices") is not None:
        return "mask_time_indices are given"
    for name, value in arguments.items():
        if name.startswith("output_") and name != "output_hidden_states" and value:
            return f"{name} is asked for"
    if not isinstance(arguments["output_hidden_states"], bool):
        return "single hidden states are asked for"
    if attention_is_unknown(base.config):
        return f"the attention {base.config._attn_implementation!r} is not transformers' own"
    return None


def _graph_on(base: nn.Module, config: Any) -> HubertModel:
    """Our encoder around the layers of ``base``: its parameters are theirs."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        graph = HubertModel(as_hubert_config(config)).eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, SHARED_LAYERS):
            graph.set_submodule(name, base.get_submodule(name))
    # transformers 5 records hidden states as the layers return them, before the final norm
    graph.encoder.final_norm_in_hidden_states = not getattr(type(base), "_can_record_outputs", None)
    return graph
