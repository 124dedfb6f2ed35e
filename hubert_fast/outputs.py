"""What a forward call returns: read it by attribute, by key, by index or as a tuple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch


class ModelOutput:
    """Base of the output classes. Fields that are ``None`` count as absent, except as attributes.

    ``output.logits``, ``output["logits"]``, ``output[0]`` and ``logits, *rest = output.to_tuple()`` all work; iterating
    gives the keys, as in a dictionary.
    """

    def keys(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name) if name in self.keys() else default

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r} is not in this output, which has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()


@dataclass
class BaseModelOutput(ModelOutput):
    """Output of ``HubertModel``.

    last_hidden_state: ``[B, T, C]``.
    hidden_states: ``num_hidden_layers + 1`` tensors ``[B, T, C]``, the first being the input of the first layer.
    attentions: ``num_hidden_layers`` tensors ``[B, H, T, T]``, the softmax of every layer.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class CausalLMOutput(ModelOutput):
    """Output of ``HubertForCTC``: ``loss`` (scalar, with labels), ``logits`` ``[B, T, V]`` before the softmax."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Output of ``HubertForSequenceClassification``: ``loss`` (scalar, with labels), ``logits`` ``[B, num_labels]``."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None
