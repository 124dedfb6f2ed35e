"""Bring the inputs of a call into one form, whether they come as keywords, as a list or as a dictionary, and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from ...config import HubertConfig

ARGUMENTS = ("input_values", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds")
SWITCHES = ("output_attentions", "output_hidden_states", "return_dict")


class Inputs(NamedTuple):
    """The inputs of a call that have an effect, and the options with the configuration's settings filled in."""

    input_values: tf.Tensor
    attention_mask: tf.Tensor | None
    head_mask: tf.Tensor | None
    labels: tf.Tensor | None
    output_attentions: bool
    output_hidden_states: bool
    return_dict: bool


def gather_inputs(config: HubertConfig, input_values: Any, dtype: str, names: tuple[str, ...], **given: Any) -> Inputs:
    """Return the inputs of a call.

    Args:
        config: The configuration, which holds the defaults of the options.
        input_values: The first argument: waveforms `[B, S]`, a list of inputs in the order of `names`, or a dictionary.
        dtype: The dtype to cast waveforms to.
        names: The names that a list or dictionary may hold.
        given: The other arguments. Those that are `None` count as not given.

    Raises:
        ValueError: An input is missing, unknown, given twice or of a wrong shape or dtype.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in _first_argument(input_values, names).items():
        if value is not None and values.setdefault(name, value) is not value:
            raise ValueError(f"{name} is given twice: in the first argument and as a keyword")
    if "inputs_embeds" in values:
        raise ValueError("inputs_embeds must be None: a HuBERT reads waveforms, which are input_values")
    if "input_values" not in values:
        raise ValueError("input_values are missing: pass waveforms [batch, samples], float, at 16 kHz")
    inputs = Inputs(
        input_values=_waveforms(values["input_values"], config, dtype),
        attention_mask=_tensor(values.get("attention_mask"), tf.int32),
        head_mask=_tensor(values.get("head_mask"), dtype),
        labels=_tensor(values.get("labels")),
        **{name: bool(values.get(name, getattr(config, name))) for name in SWITCHES},
    )
    _check_shapes(inputs, config)
    return inputs


def _first_argument(first: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the inputs that the first argument holds, by name."""
    if first is None:
        return {}
    if isinstance(first, Mapping):
        if unknown := [str(name) for name in first if name not in names and name not in SWITCHES]:
            raise ValueError(f"inputs must be among {', '.join(names)}, but the dictionary has {', '.join(unknown)}")
        return dict(first)
    if isinstance(first, (list, tuple)) and all(entry is None or hasattr(entry, "shape") for entry in first):
        if len(first) > len(names):
            raise ValueError(
                f"a list of inputs has at most {len(names)} entries, {', '.join(names)}, but this has {len(first)}"
            )
        return dict(zip(names, first))
    return {"input_values": first}


def _tensor(value: Any, dtype: Any = None) -> tf.Tensor | None:
    if value is None:
        return None
    tensor = tf.convert_to_tensor(value)
    return tensor if dtype is None else tf.cast(tensor, dtype)


def _waveforms(value: Any, config: HubertConfig, dtype: str) -> tf.Tensor:
    """Return waveforms as a tensor `[B, S]` of `dtype`. Raises `ValueError` for anything else."""
    waveforms = tf.convert_to_tensor(value)
    if waveforms.shape.rank != 2:
        raise ValueError(f"input_values must be [batch, samples], but have shape {_listed(waveforms)}")
    if not (waveforms.dtype.is_floating or waveforms.dtype.is_integer):
        raise ValueError(f"input_values must be numbers, but are {waveforms.dtype.name}")
    samples = waveforms.shape[1]
    if samples is not None and samples < config.receptive_field:
        raise ValueError(
            f"input_values must have at least {config.receptive_field} samples, one frame, but have only {samples}: pad them"
        )
    return tf.cast(waveforms, dtype)


def _check_shapes(inputs: Inputs, config: HubertConfig) -> None:
    shape, mask, labels = inputs.input_values.shape, inputs.attention_mask, inputs.labels
    if mask is not None and not mask.shape.is_compatible_with(shape):
        raise ValueError(f"attention_mask must have the shape of input_values, {list(shape)}, but has {_listed(mask)}")
    if labels is not None:
        if labels.shape.rank != 2 or not labels.shape[:1].is_compatible_with(shape[:1]):
            raise ValueError(f"labels must be [batch, length], with {shape[0]} rows here, but have shape {_listed(labels)}")
        blank = config.pad_token_id
        if blank is None or not 0 <= blank < config.vocab_size:
            raise ValueError(f"pad_token_id is CTC's blank and must be an output, 0 to {config.vocab_size - 1}, but is {blank}")
    if inputs.head_mask is not None:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        if inputs.head_mask.shape not in ((heads,), (layers, heads)):
            raise ValueError(f"head_mask must be [{heads}] or [{layers}, {heads}], but has shape {_listed(inputs.head_mask)}")


def _listed(tensor: tf.Tensor) -> str:
    return "unknown" if tensor.shape.rank is None else str(list(tensor.shape))
