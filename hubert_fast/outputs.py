"""What a forward call returns: read it by attribute, by key, by index or as a tuple."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree


class ModelOutput(dict):
    """Base of the output classes: a dictionary whose fields are attributes too. Fields that are ``None`` have no entry.

    ``output.logits``, ``output["logits"]``, ``output[0]`` and ``logits, *rest = output.to_tuple()`` all work.
    """

    fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        added = inspect.get_annotations(cls)
        cls.fields = (*cls.fields, *(name for name in added if name not in cls.fields))
        pytree.register_pytree_node(  # torch.export, FSDP and DataParallel look for tensors in what a model returns
            cls,
            lambda output: (list(output.values()), tuple(output)),
            lambda values, names: cls(zip(names, values)),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def __init__(self, entries: dict[str, Any] | Iterable[tuple[str, Any]] = (), /, **values: Any):
        values = dict(entries, **values)
        if unknown := [name for name in values if name not in self.fields]:
            raise TypeError(f"{type(self).__name__} has {', '.join(self.fields)}, but got {', '.join(unknown)}")
        super().__init__({name: values[name] for name in self.fields if values.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has {', '.join(self.fields)}, and no {name}")
        if value is None:
            self.pop(name, None)
        else:
            self[name] = value

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{key!r} is not in this output, which has {', '.join(self)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are there, in their order."""
        return tuple(self[name] for name in self.fields if name in self)


class BaseModelOutput(ModelOutput):
    """Output of ``HubertModel``.

    last_hidden_state: ``[B, T, C]``.
    hidden_states: ``num_hidden_layers + 1`` tensors ``[B, T, C]``, the first being the input of the first layer.
    attentions: ``num_hidden_layers`` tensors ``[B, H, T, T]``, the softmax of every layer; ``None`` for one that LayerDrop
        skipped.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None


class CausalLMOutput(ModelOutput):
    """Output of ``HubertForCTC``: ``loss`` (scalar, with labels), ``logits`` ``[B, T, V]`` before the softmax."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None


class SequenceClassifierOutput(ModelOutput):
    """Output of ``HubertForSequenceClassification``: ``loss`` (scalar, with labels), ``logits`` ``[B, num_labels]``."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None


class PackedModelOutput(ModelOutput):
    """Output of ``HubertModel.forward_packed``: N frames of all utterances side by side, no padding.

    last_hidden_state: ``[N, C]``.
    hidden_states: ``num_hidden_layers + 1`` tensors ``[N, C]``, the first being the input of the first layer.
    cu_seqlens: int32 ``[B + 1]``; utterance i has frames ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor

    def unpack(self, name: str | None = None) -> list[Any]:
        """Return a list of ``[frames_i, ...]``, views of the batch, one for each utterance.

        name: of a field; the first unless given. Of ``hidden_states`` each utterance has a tuple.

        This waits for no device as long as ``cu_seqlens`` is the tensor that the model returned; any other is read back.

        Raises ``KeyError`` when this output has no such field, or one that is not of utterances.
        """
        name = self.fields[0] if name is None else name
        if name == "cu_seqlens":
            raise KeyError("cu_seqlens is where utterances begin, and nothing that each has a part of")
        value = self[name]
        sizes = list(counts_of(self))
        if isinstance(value, tuple):
            return list(zip(*(part.split(sizes) for part in value)))
        return list(value.split(sizes))


class PackedCausalLMOutput(PackedModelOutput):
    """Output of ``HubertForCTC.forward_packed``: ``logits`` ``[N, V]`` before the softmax; else as ``PackedModelOutput``."""

    fields = ()
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor


class PackedTokenOutput(PackedModelOutput):
    """Output of ``HubertForCTC.argmax_packed``: of each frame the best token, ``ids``, and ``log_probs``, its log-probability.

    ids: int32 ``[N]``. log_probs: float32 ``[N]``. cu_seqlens: int32 ``[B + 1]``.
    """

    fields = ()
    ids: torch.Tensor
    log_probs: torch.Tensor
    cu_seqlens: torch.Tensor


class PackedSequenceClassifierOutput(PackedModelOutput):
    """Output of ``HubertForSequenceClassification.forward_packed``: ``logits`` ``[B, num_labels]``, one row an utterance."""

    fields = ()
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor

    def unpack(self, name: str | None = None) -> list[Any]:
        """Return a list with what each utterance has: its logits ``[num_labels]``, or a tuple of its hidden states."""
        return list(self.logits) if name in (None, "logits") else super().unpack(name)


Packed = TypeVar("Packed", bound=PackedModelOutput)


def keep_counts(output: Packed, counts: Sequence[int]) -> Packed:
    """Note on the host how many frames each utterance has, as ``cu_seqlens`` of ``output`` says; return ``output``.

    The numbers go with that tensor, not with the output: they count for as long as the output has it.
    """
    vars(output)["_counted"] = (output["cu_seqlens"], tuple(counts))
    return output


def counts_of(output: PackedModelOutput) -> Sequence[int]:
    """Return how many frames each utterance has, without waiting for the device where :func:`keep_counts` noted it."""
    cu_seqlens = output.cu_seqlens
    known, counts = vars(output).get("_counted", (None, ()))
    return counts if known is not None and known is cu_seqlens else cu_seqlens.diff().tolist()
