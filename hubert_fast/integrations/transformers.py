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
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from ..config import as_hubert_config
from ..modeling import HubertModel

logger = logging.getLogger(__name__)

SHARED_LAYERS = (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d)
# Ways of computing the same attention. What a user registers under another name may be another attention.
ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# The hooks that transformers 5 leaves behind once hidden states or attentions were asked for; they do nothing by themselves.
OUTPUT_CAPTURING = "transformers.utils.output_capturing"
GRADIENT = "a gradient may be needed: call the model under torch.no_grad() or torch.inference_mode()"


def accelerate(model: nn.Module) -> nn.Module:
    """Give a transformers Hubert model, 4.34.1 to 5, fast inference. Changes that object and returns it.

    model: a ``HubertModel``, ``HubertForCTC`` or ``HubertForSequenceClassification`` of transformers, or a module that holds
        one, such as a pipeline's model.

    The model's own ``forward`` serves a call that trains, may need a gradient, asks for attentions or gives
    ``mask_time_indices``; when a layer has a hook, a replaced ``forward``, an adapter, quantised or compiled weights; and under
    ``torch.compile``. The logger ``hubert_fast.integrations.transformers`` says so, once for each reason.

    Raises ``TypeError`` when there is no such model, ``ValueError`` when another library has replaced its ``forward``.
    """
    for base in _hubert_models(model):
        fast = _installed(base)
        if fast is not None:
            fast.enabled = True
        elif "forward" in vars(base):
            raise ValueError(f"the forward of this {type(base).__name__} is already replaced by {vars(base)['forward']!r}")
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
            if vars(base)["forward"] is fast:
                del base.forward, base._replicate_for_data_parallel
    return model


def _hubert_models(model: nn.Module) -> list[nn.Module]:
    from transformers import HubertModel as TransformersHubertModel

    # not subclasses: what they override would be bypassed
    found = [child for child in _walk(model) if type(child) is TransformersHubertModel] if isinstance(model, nn.Module) else []
    if not found:
        raise TypeError(
            f"expected a Hubert model of transformers, but got a {type(model).__module__}.{type(model).__qualname__}"
        )
    return found


def _walk(module: nn.Module) -> list[nn.Module]:
    """``list(module.modules())``, in another order and ten times as fast: this runs in every call."""
    found, stack = [], [module]
    while stack:
        child = stack.pop()
        if child is not None:
            found.append(child)
            stack.extend(child._modules.values())
    return found


def _installed(base: nn.Module) -> FastForward | None:
    """Return the fast forward of ``base``, also from below what others wrapped around it."""
    forward = vars(base).get("forward")
    while forward is not None and not isinstance(forward, FastForward):
        forward = getattr(forward, "__wrapped__", None)
    return forward


class FastForward:
    """The ``forward`` of one ``transformers.HubertModel`` object: ours where a call allows it, its own otherwise.

    ``reason``: why the last call was not ours, ``None`` when it was.
    """

    def __init__(self, base: nn.Module):
        self.base = base
        self.enabled = True
        self.reason: str | None = None
        self._reasons_told: set[str] = set()
        self._plain = _layout(_pristine(base))
        self._built_on: list[nn.Module] = []
        self._graph: HubertModel | None = None
        self._why_not_built: str | None = None

    @property
    def __wrapped__(self):
        """The object's own forward, whose signature tools such as transformers' Trainer read from here."""
        return type(self.base).forward.__get__(self.base)

    def replicate(self) -> nn.Module:
        """Make ``nn.DataParallel``'s copy of the model for another device; it runs transformers' own forward."""
        replica = type(self.base)._replicate_for_data_parallel(self.base)
        del replica.forward, replica._replicate_for_data_parallel
        return replica

    def __getstate__(self) -> dict[str, Any]:
        # a copy builds a graph of its own, on the layers of the copied model
        return {**vars(self), "_built_on": [], "_graph": None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.enabled:
            return self.__wrapped__(*args, **kwargs)
        arguments = inspect.signature(self.__wrapped__).bind(*args, **kwargs).arguments
        arguments = {**arguments.pop("kwargs", {}), **arguments}
        for name in ("output_attentions", "output_hidden_states", "return_dict"):
            if arguments.get(name) is None:
                arguments[name] = getattr(self.base.config, name)
        self.reason = self._why_not(arguments)
        if self.reason is not None:
            if self.reason not in self._reasons_told and not torch.compiler.is_compiling():
                self._reasons_told.add(self.reason)
                logger.log(logging.WARNING if self.reason is GRADIENT else logging.INFO, "not accelerated: %s", self.reason)
            return self.__wrapped__(*args, **kwargs)
        return self._run(arguments)

    def _run(self, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        output = self._graph(
            arguments["input_values"],
            attention_mask=arguments.get("attention_mask"),
            output_attentions=False,
            output_hidden_states=arguments["output_hidden_states"],
            return_dict=True,
        )
        output = BaseModelOutput(last_hidden_state=output.last_hidden_state, hidden_states=output.hidden_states)
        return output if arguments["return_dict"] else output.to_tuple()

    def _why_not(self, arguments: dict[str, Any]) -> str | None:
        base = self.base
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return "the model is being compiled or traced"
        if base.training:
            return "the model is training"
        if torch.is_grad_enabled():
            input_values = arguments["input_values"]
            if input_values.requires_grad or any(parameter.requires_grad for parameter in base.parameters()):
                return GRADIENT
        if arguments.get("mask_time_indices") is not None:
            return "mask_time_indices are given"
        for name, value in arguments.items():
            if name.startswith("output_") and name != "output_hidden_states" and value:
                return f"{name} is asked for"
        if not isinstance(arguments["output_hidden_states"], bool):
            return "single hidden states are asked for"
        if getattr(base.config, "_attn_implementation", None) not in ATTENTIONS:
            return f"the attention is {base.config._attn_implementation!r}"
        if _has_any_global_hook():
            return "there are hooks on all modules"
        modules = _walk(base)
        return _touched(base, modules) or self._build(modules)

    def _build(self, modules: list[nn.Module]) -> str | None:
        """Build the graph on the layers that are there now, or say why that cannot be."""
        if len(modules) != len(self._built_on) or any(now is not then for now, then in zip(modules, self._built_on)):
            self._built_on, self._graph = modules, None
            self._why_not_built = _difference(_layout(self.base), self._plain)
            if self._why_not_built is None:
                self._graph = _graph_on(self.base)
        return self._why_not_built


def _pristine(base: nn.Module) -> nn.Module:
    """Make a model of the same configuration in which nobody has replaced anything, without memory for weights."""
    with torch.device("meta"):
        return type(base)(copy.deepcopy(base.config))


def _layout(base: nn.Module) -> dict[str, str]:
    """Return the class and the parameters' shapes of every module below ``base``."""
    layout = {}
    for name, module in base.named_modules():
        shapes = [f"{key} {list(value.shape)}" for key, value in module._parameters.items() if value is not None]
        layout[name] = " ".join([type(module).__qualname__, *shapes])
    return layout


def _difference(found: dict[str, str], expected: dict[str, str]) -> str | None:
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            return f"{name} is {found.get(name)}, where the configuration makes it {expected.get(name)}"
    return None


def _touched(base: nn.Module, modules: list[nn.Module]) -> str | None:
    """Name what would be bypassed: hooks, replaced forwards, compiled modules and weights that are no plain tensors."""
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None and type(parameter) is not nn.Parameter:
                return f"{_name_of(module, base)} has weights of type {type(parameter).__qualname__}"
        if module is base:  # its own hooks run around this forward, which is the replaced one
            continue
        if _has_hook(module):
            return f"{_name_of(module, base)} has a hook"
        if "forward" in vars(module) or module._compiled_call_impl is not None:
            return f"the forward of {_name_of(module, base)} is replaced or compiled"
    return None


def _has_hook(module: nn.Module) -> bool:
    if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    hooks += [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
    return any(getattr(hook, "__module__", None) != OUTPUT_CAPTURING for hook in hooks)


def _name_of(module: nn.Module, base: nn.Module) -> str:
    return next(name or "the model" for name, child in base.named_modules() if child is module)


def _graph_on(base: nn.Module) -> HubertModel:
    """Our encoder around the layers of ``base``: its parameters are theirs."""
    with torch.device("meta"):
        graph = HubertModel(as_hubert_config(base.config)).eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, SHARED_LAYERS):
            graph.set_submodule(name, base.get_submodule(name))
    # transformers 5 records hidden states as the layers return them, before the final norm
    graph.encoder.final_norm_in_hidden_states = not getattr(type(base), "_can_record_outputs", None)
    return graph
