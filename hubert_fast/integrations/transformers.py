"""Accelerate inference of a transformers model in place, until it is restored.

`accelerate` replaces `forward` of the `transformers.HubertModel` object inside a model; classes and modules stay unchanged. The
fast graph is built around the object's own layers, so that it shares the weights and sees their changes (`load_state_dict`,
`.to`, `.half`, an optimizer). Each call decides anew whether the fast graph can serve it. Otherwise the object's own `forward`
does. A `HubertForCTC` also gets a hook that gives the logits of padding to the blank.

`hubert_fast.transformers` defines subclasses of transformers' classes that are accelerated from birth.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..ctc.padding import blank_padding
from ..packed import is_defined_in, walk
from .fast_forward import STATE, FastForward, installed, is_recorded

if TYPE_CHECKING:
    from transformers import HubertModel as TransformersHubertModel


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
            if "forward" not in vars(base) and type(base) not in _accelerated_classes():
                base.forward = fast  # somebody has removed it
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
        if finish_logits not in head._forward_hooks.values():
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
    """Return the CTC models with transformers' `forward`. Those with one of their own may return anything."""
    from transformers import HubertForCTC as TransformersHubertForCTC

    forward = TransformersHubertForCTC.forward
    if not is_defined_in(forward, "transformers"):
        return []
    return [module for module in (model, *walk(model)) if getattr(type(module), "forward", None) is forward]


def finish_logits(model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Give the logits of padded frames to the blank, and add `frame_counts` to the output: a hook of `HubertForCTC`.

    Calls whose encoder ran transformers' own `forward` keep transformers' logits.
    """
    fast = None if is_recorded() else installed(model.hubert)
    count = None if fast is None else fast.take_frame_counts()
    if count is None:
        return output
    logits = output.get("logits") if isinstance(output, dict) else output[output[0].dim() == 0]  # after the loss, a scalar
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3:  # another hook has changed the output
        return output
    counts = count()
    if counts is None:
        counts = torch.full((len(logits),), logits.shape[1], device=logits.device)
    else:
        counts = counts.to(logits.device)
        padded = blank_padding(logits, counts, model.config.pad_token_id)
        if not isinstance(output, dict):
            return tuple(padded if value is logits else value for value in output)
        output["logits"] = padded
    if isinstance(output, dict):
        output.frame_counts = counts  # type: ignore[attr-defined]
    return output


def _innermost(forward: Any) -> Any:
    """Return `forward`, or its function if it is a bound method: another library may have bound a `FastForward`."""
    return forward if isinstance(forward, FastForward) else getattr(forward, "__func__", forward)
