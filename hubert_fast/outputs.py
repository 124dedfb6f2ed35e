"""Define the outputs of the models: dictionaries that can also be read by attribute, by index and as a tuple."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    pass


class ModelOutput(dict):
    """The base class of outputs: a dictionary whose entries are also attributes. Fields that are `None` have no entry.

    `output.logits`, `output["logits"]`, `output[0]` and `logits, *rest = output.to_tuple()` all work.
    """

    fields: tuple[str, ...] = ()
    plain: type[ModelOutput] | None = None  # the class from which `returned` derived this one

    def __init_subclass__(cls) -> None:
        added = inspect.get_annotations(cls)
        cls.fields = (*cls.fields, *(name for name in added if name not in cls.fields))
        pytree.register_pytree_node(  # torch.export, FSDP and DataParallel look for tensors in the output of a model
            cls,
            lambda output: (list(output.values()), tuple(output)),
            lambda values, names: cls(zip(names, values)),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def __init__(self, entries: dict[str, Any] | Iterable[tuple[str, Any]] = (), /, **values: Any):
        values = dict(entries, **values)
        if unknown := [name for name in values if name not in self.fields]:
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self.fields)}, but got {', '.join(unknown)}")
        super().__init__({name: values[name] for name in self.fields if values.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        if name in self.fields or name in self:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has the fields {', '.join(self.fields)}, but no {name}")
        if value is None:
            self.pop(name, None)
        else:
            self[name] = value

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{key!r} is not in this output, which has {', '.join(self)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return self.plain or type(self), (dict(self),), vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not `None`, in their order."""
        return tuple(self[name] for name in self.fields if name in self)


Output = TypeVar("Output", bound=ModelOutput)


def is_traced_part(module: torch.nn.Module) -> bool:
    """Return whether `torch.jit.trace` is tracing a module that contains `module`."""
    names = torch.jit._trace._trace_module_map  # of all modules below the traced one, which is "__module"
    return names is not None and names.get(module, "__module") != "__module"


def returned(output: Output, model: Any, return_dict: bool | None) -> Output | tuple:
    """Return an output in the form that a call asks for: an object, or a tuple if `return_dict` is false.

    `None` means the configuration's setting. If transformers is imported, `isinstance` takes the object for one of its
    outputs: pipelines move the entries of those to another device without losing the attributes. The class of the object is
    then a subclass of that of `output`; its copies and pickles have the latter.
    """
    if not (model.config.return_dict if return_dict is None else return_dict):
        return output.to_tuple()
    if torch.jit.is_tracing() and not is_traced_part(model):  # only built-in containers leave a traced function
        return dict(output)  # type: ignore[return-value]
    if torch.compiler.is_compiling() or "transformers.utils.generic" not in sys.modules:
        return output
    any_output = sys.modules["transformers.utils.generic"].ModelOutput
    theirs = getattr(sys.modules.get("transformers.modeling_outputs"), type(output).__name__, any_output)
    result = _class_for_transformers(type(output), theirs)(output)
    vars(result).update(vars(output))
    return result


@functools.cache
def _class_for_transformers(cls: type[Output], theirs: type) -> type[Output]:
    """Return a subclass whose instances give a class of transformers as their `__class__`.

    `isinstance` reads that if the type itself is no subclass; `unittest.mock` relies on it, too.
    """
    names = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.ForTransformers", "plain": cls}
    return type(cls.__name__, (cls,), {**names, "__class__": property(lambda output: theirs)})


class BaseModelOutput(ModelOutput):
    """The output of `HubertModel`.

    Attributes:
        last_hidden_state: `[B, T, C]`; absent if the call named layers.
        hidden_states: `num_hidden_layers + 1` tensors `[B, T, C]`: the input of the first layer, then the output of each layer;
            or those of the layers that the call named.
        attentions: `num_hidden_layers` tensors `[B, H, T, T]`: the attention weights, after the softmax, of each layer; `None`
            in place of a layer that LayerDrop skipped.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None


class CausalLMOutput(ModelOutput):
    """The output of `HubertForCTC`.

    `frame_counts`, int64 `[B]`, has the frames of each row that are not padding; it is no entry of the dictionary. It is `None`
    in a compiled or exported model, and in an output that DataParallel or a pipeline has rebuilt.

    Attributes:
        loss: The CTC loss, a scalar, if labels were given.
        logits: `[B, T, V]`, before the softmax.
        hidden_states: As in `BaseModelOutput`.
        attentions: As in `BaseModelOutput`.
    """

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None

    @property
    def frame_counts(self) -> torch.Tensor | None:
        """The frames of each row that are not padding, int64 `[B]`."""
        return vars(self).get("_frame_counts")

    def keep_frame_counts(self, frame_counts: torch.Tensor) -> None:
        """Store `frame_counts` beside the entries."""
        vars(self)["_frame_counts"] = frame_counts


class SequenceClassifierOutput(ModelOutput):
    """The output of `HubertForSequenceClassification`.

    Attributes:
        loss: The loss, a scalar, if labels were given.
        logits: `[B, num_labels]`, before the softmax.
        hidden_states: As in `BaseModelOutput`.
        attentions: As in `BaseModelOutput`.
    """

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor | None, ...] | None


class PackedModelOutput(ModelOutput):
    """The output of `HubertModel.forward_packed`: the N frames of all utterances, one after the other, without padding.

    Attributes:
        last_hidden_state: `[N, C]`; absent if the call named layers.
        hidden_states: `num_hidden_layers + 1` tensors `[N, C]`: the input of the first layer, then the output of each layer; or
            those of the layers that the call named.
        cu_seqlens: int32 `[B + 1]`. The frames of utterance i are `cu_seqlens[i]` to `cu_seqlens[i + 1]`, exclusive.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor

    def unpack(self, name: str | None = None) -> list[Any]:
        """Split a field into one view `[frames_i, ...]` for each utterance.

        Splitting does not synchronise with the device as long as `cu_seqlens` is the tensor that the model returned. The
        contents of any other tensor are read back.

        Args:
            name: The field; by default the first one present. For `hidden_states` each utterance gets a tuple of views.

        Raises:
            KeyError: This output has no such field, or the field is `cu_seqlens`.
        """
        name = next(iter(self)) if name is None else name
        if name == "cu_seqlens":
            raise KeyError("cu_seqlens cannot be unpacked: it holds the boundaries between utterances")
        value = self[name]
        sizes = list(counts_of(self))
        if isinstance(value, tuple):
            return list(zip(*(part.split(sizes) for part in value)))
        return list(value.split(sizes))


class PackedCausalLMOutput(PackedModelOutput):
    """The output of `HubertForCTC.forward_packed`.

    Attributes:
        logits: `[N, V]`, before the softmax.
        hidden_states: As in `PackedModelOutput`.
        cu_seqlens: As in `PackedModelOutput`.
    """

    fields = ()
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor


class PackedTokenOutput(PackedModelOutput):
    """The output of `HubertForCTC.argmax_packed`: the most probable token of each frame.

    Attributes:
        ids: The tokens, int32 `[N]`.
        log_probs: Their log-probabilities, float32 `[N]`.
        cu_seqlens: As in `PackedModelOutput`.
    """

    fields = ()
    ids: torch.Tensor
    log_probs: torch.Tensor
    cu_seqlens: torch.Tensor


class PackedSequenceClassifierOutput(PackedModelOutput):
    """The output of `HubertForSequenceClassification.forward_packed`.

    Attributes:
        logits: `[B, num_labels]`, before the softmax: one row for each utterance.
        hidden_states: As in `PackedModelOutput`.
        cu_seqlens: As in `PackedModelOutput`.
    """

    fields = ()
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    cu_seqlens: torch.Tensor

    def unpack(self, name: str | None = None) -> list[Any]:
        """Split a field by utterance: by default `logits`, into `[num_labels]` each; else as in `PackedModelOutput.unpack`."""
        return list(self.logits) if name in (None, "logits") else super().unpack(name)


Packed = TypeVar("Packed", bound=PackedModelOutput)


def keep_counts(output: Packed, counts: Sequence[int]) -> Packed:
    """Store the frame count of each utterance, which `cu_seqlens` of `output` implies, on the host; return `output`.

    The counts belong to that tensor: once the output gets another `cu_seqlens`, they no longer apply.
    """
    vars(output)["_host_counts"] = (output["cu_seqlens"], tuple(counts))
    return output


def counts_of(output: PackedModelOutput) -> Sequence[int]:
    """Return the frame count of each utterance, without synchronising with the device if `keep_counts` stored them."""
    cu_seqlens = output.cu_seqlens
    counted_tensor, counts = vars(output).get("_host_counts", (None, ()))
    return counts if counted_tensor is not None and counted_tensor is cu_seqlens else cu_seqlens.diff().tolist()
