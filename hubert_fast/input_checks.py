"""Check the inputs of model calls. Each error says what was expected and what was passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from .packed.audio import PackedAudio

if TYPE_CHECKING:
    from .config import HubertConfig
    from .modeling import HubertModel

Method = TypeVar("Method", bound=Callable[..., Any])


def named_keywords_only(forward: Method) -> Method:
    """Let `inspect.signature` show a method without its `**unknown`, from which `refuse_keywords` makes a clear error.

    Trainer takes from the signature which columns of a data set a model reads, and how it scales a loss.
    """
    signature = inspect.signature(forward)
    named = [entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return forward


def refuse_keywords(model: nn.Module, unknown: Iterable[str]) -> NoReturn:
    """Raise `TypeError` for keywords that `model.forward` does not have. The message names them and those that exist."""
    known = ", ".join(inspect.signature(type(model).forward).parameters).removeprefix("self, ")
    raise TypeError(f"{type(model).__name__} got unknown arguments: {', '.join(unknown)}. Its arguments are {known}")


def check_inputs(model: HubertModel, input_values: Tensor, attention_mask: Tensor | None) -> None:
    """Raise `ValueError` for a waveform or mask that `forward` cannot take."""
    if not isinstance(input_values, Tensor):
        raise ValueError(f"input_values must be a tensor, but is a {type(input_values).__name__}")
    if input_values.dim() != 2:
        raise ValueError(f"input_values must be [batch, samples], but has shape {list(input_values.shape)}")
    if not input_values.is_floating_point():
        raise ValueError(f"input_values must be floating point, but is {input_values.dtype}: use a processor first")
    if input_values.shape[1] < model.config.receptive_field:
        raise ValueError(
            f"input_values needs at least {model.config.receptive_field} samples for one frame, "
            f"but has shape {list(input_values.shape)}"
        )
    dtype = model.feature_extractor.conv_layers[0].conv.weight.dtype
    if input_values.dtype != dtype and not torch.is_autocast_enabled(input_values.device.type):
        raise ValueError(f"input_values must be {dtype} like the weights, but is {input_values.dtype}")
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor):
        raise ValueError(f"attention_mask must be a tensor, but is a {type(attention_mask).__name__}")
    if attention_mask.shape != input_values.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_values, {list(input_values.shape)}, "
            f"but has {list(attention_mask.shape)}"
        )


def check_packed(audio: PackedAudio, config: HubertConfig) -> None:
    """Raise `TypeError` for anything but `PackedAudio`, and `ValueError` if its hop is not the model's."""
    if not isinstance(audio, PackedAudio):
        raise TypeError(
            f"forward_packed takes PackedAudio, but got a {type(audio).__name__}: create one with PackedAudio.from_waveforms"
        )
    hop = config.inputs_to_logits_ratio
    if audio.hop_samples != hop:
        raise ValueError(f"audio must be packed with hop_samples={hop} for this model, but has {audio.hop_samples}")


def check_time_indices(model: HubertModel, mask_time_indices: Tensor, batch: int, frames: int) -> None:
    """Raise `ValueError` for a SpecAugment mask of another shape, or for a model without a mask embedding."""
    if mask_time_indices.shape != (batch, frames):
        raise ValueError(
            f"mask_time_indices must be [batch, frames], here {[batch, frames]}, but has {list(mask_time_indices.shape)}"
        )
    if not hasattr(model, "masked_spec_embed"):
        raise ValueError(
            "mask_time_indices needs the mask embedding, which a model has when mask_time_prob or mask_feature_prob "
            "is above 0 in its configuration, but both are 0"
        )


def check_ctc_labels(labels: Tensor, batch: int, config: HubertConfig) -> None:
    """Raise `ValueError` unless labels are integers `[batch, length]` below the vocabulary size, and the blank is in it."""
    _check_labels(labels, batch)
    if labels.dim() != 2 or len(labels) != batch or (labels.is_floating_point() and (labels != labels.floor()).any()):
        raise ValueError(
            f"labels must be whole numbers [batch, length], with {batch} rows here, but are {labels.dtype} {list(labels.shape)}"
        )
    if labels.numel() and labels.max() >= config.vocab_size:
        raise ValueError(f"labels must be below vocab_size ({config.vocab_size}), but reach {int(labels.max())}")
    blank = config.pad_token_id
    if blank is None or not 0 <= blank < config.vocab_size:
        raise ValueError(f"pad_token_id is CTC's blank and must be an output, 0 to {config.vocab_size - 1}, but is {blank}")


def check_class_labels(labels: Tensor, batch: int, config: HubertConfig) -> None:
    """Raise `ValueError` unless there is one label per row, which names a class or is -100."""
    _check_labels(labels, batch)
    if labels.numel() != batch:
        raise ValueError(f"labels must have one entry for each of the {batch} rows, but have shape {list(labels.shape)}")
    classes = config.num_labels
    if classes == 1:
        return
    if labels.is_floating_point():
        raise ValueError(f"labels must be whole numbers to choose among {classes} classes, but are {labels.dtype}")
    known = ((labels >= 0) & (labels < classes)) | (labels == -100)
    if not known.all():
        raise ValueError(f"labels must be 0 to {classes - 1}, or -100 to be ignored, but one is {int(labels[~known][0])}")


def _check_labels(labels: Tensor, batch: int) -> None:
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor, but are a {type(labels).__name__}")
    if batch == 0:
        raise ValueError("labels need at least one row of input_values, but the batch is empty")
