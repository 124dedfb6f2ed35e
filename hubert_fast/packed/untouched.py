"""Detect whether a model is still what its class and configuration define, so that another graph may compute for it.

A graph that reads only a model's weights bypasses everything else that may have been added: an adapter, a hook, a quantised or
compiled layer, a replaced method, dropout left on. `Blueprint` describes a model as it should be. `Blueprint.compare` checks a
model against it thoroughly, `why_changed` checks it quickly, and a `Snapshot` shows even more quickly that nothing has changed
since the last check. `Watch` runs the cheapest of these that is sufficient for a call.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

# The module of the harmless hooks that transformers 5 leaves on a model after a call that returns hidden states or attentions.
OUTPUT_CAPTURING = "transformers.utils.output_capturing"
# Attributes without effect in evaluation mode, the only one in which another graph serves.
WITHOUT_EFFECT = {"gradient_checkpointing"}
# transformers' names for its implementations of attention, which all compute the same.
ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


class Part(NamedTuple):
    """A module as it should be.

    Attributes:
        shapes: The shapes of its parameters.
        values: Its public attributes that are numbers, text or tuples.
        names: The names of all its attributes.
        tensors: The names of its parameters and buffers that are not `None`.
    """

    cls: type
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Any]
    names: frozenset[str]
    tensors: frozenset[str]


def _part(module: nn.Module) -> Part:
    own = vars(module)
    ignored = WITHOUT_EFFECT | {"training"}
    public = ((name, value) for name, value in own.items() if not name.startswith("_") and name not in ignored)
    values = {name: value for name, value in public if isinstance(value, (int, float, str, tuple))}
    shapes = {name: tuple(value.shape) for name, value in module._parameters.items() if value is not None}
    # PyTorch gives a parametrized module a class of its own
    cls = type(module).__bases__[0] if is_parametrized(module) else type(module)
    return Part(cls, shapes, values, frozenset(own), frozenset(_tensors(module)))


def _tensors(module: nn.Module) -> list[str]:
    return [name for own in (module._parameters, module._buffers) for name, value in own.items() if value is not None]


class Blueprint:
    """A description of every module of a model, from a model of the same class and configuration on the meta device."""

    def __init__(self, cls: type[nn.Module], config: Any):
        # initialising weights draws random numbers
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            self.parts = {name: _part(module) for name, module in cls(copy.deepcopy(config)).named_modules()}

    def compare(self, model: nn.Module) -> str | None:
        """Describe the first module of `model` that is missing, added, or of another class or shape; `None` if all match."""
        parts = {name: _part(module) for name, module in model.named_modules()}
        for name in sorted({*parts, *self.parts}):
            if name not in parts or name not in self.parts:
                return f"{name} is {'missing' if name not in parts else 'added'}"
            if parts[name][:2] != self.parts[name][:2]:
                return _mismatch(name, parts[name], self.parts[name])
        return None


def _mismatch(name: str, part: Part, expected: Part) -> str:
    return f"{name} is {_described(part)}, but the configuration defines {_described(expected)}"


def _described(part: Part) -> str:
    return " ".join([part.cls.__qualname__, *(f"{name} {list(shape)}" for name, shape in part.shapes.items())])


class Inspection(NamedTuple):
    """The result of a thorough check of a model.

    Attributes:
        below: The modules below the model.
        parts: What the model and each of these modules should be; empty if the check failed.
        why_not: The reason why the check failed; `None` if it passed.
    """

    below: list[nn.Module]
    parts: list[Part]
    why_not: str | None


class Watch:
    """Check at every call, as cheaply as possible, that a model is still what its class and configuration define.

    When modules were added, removed or replaced, it compares the whole model with the blueprint. Otherwise it runs
    `why_changed`. Once that has passed, it keeps a `Snapshot`: later calls compare the modules with the snapshot, and run
    `why_changed` again only when they differ.
    """

    def __init__(self, cls: type[nn.Module], config: Any):
        self._blueprint = Blueprint(cls, config)
        self._inspection = Inspection([], [], None)
        self._snapshot: Snapshot | None = None  # taken after a check that passed

    def __getstate__(self) -> dict[str, Any]:
        # a copy watches another model
        return {"_blueprint": self._blueprint, "_inspection": Inspection([], [], None), "_snapshot": None}

    def check(self, base: nn.Module, own: set[str]) -> tuple[Inspection, str | None]:
        """Return the latest inspection of `base`, and why the model may not be served, or `None`.

        The inspection is the same object until modules are replaced.

        Args:
            own: Names of the attributes of `base` that hubert_fast itself sets.
        """
        snapshot = self._snapshot
        if snapshot is not None and snapshot.is_still(base):
            return snapshot.inspection, why_changed(base, [], snapshot.inspection.parts[:1], own)
        self._snapshot = None  # it would keep replaced layers in memory
        below, inspection = walk(base), self._inspection
        if len(below) != len(inspection.below) or any(now is not then for now, then in zip(below, inspection.below)):
            self._inspection = inspection = self._inspect(base, below)  # in one assignment, since other threads may read it
        if inspection.why_not is not None:
            return inspection, inspection.why_not
        snapshot = Snapshot(base, inspection)  # before the check: another thread may change the model meanwhile
        why_not = why_changed(base, inspection.below, inspection.parts, own)
        if why_not is None and snapshot.is_firm:
            self._snapshot = snapshot
        return inspection, why_not

    def _inspect(self, base: nn.Module, below: list[nn.Module]) -> Inspection:
        why_not = self._blueprint.compare(base)
        if why_not is not None:
            return Inspection(below, [], why_not)
        names = {module: name for name, module in base.named_modules()}
        return Inspection(below, [self._blueprint.parts[names[module]] for module in (base, *below)], None)


class Snapshot:
    """A copy of everything that `why_changed` reads from the modules below a model. Comparing it takes a third of the time.

    It holds no reference to the model itself: the model refers to the snapshot, and a cycle would keep the weights in memory
    until Python collects it.

    Attributes:
        is_firm: Whether all copied values are immutable, so that equal values mean no change. If not, the snapshot is useless.
    """

    def __init__(self, base: nn.Module, inspection: Inspection):
        self.inspection = inspection
        self._entries = list(map(dict, map(vars, inspection.below)))  # first: another thread may change modules meanwhile
        self._tensors = [tensors for module in inspection.below for tensors in (module._parameters, module._buffers)]
        self._others = [
            others
            for module in inspection.below
            for others in (
                *(module._modules, module._forward_hooks, module._forward_pre_hooks),
                *(module._backward_hooks, module._backward_pre_hooks),
            )
        ]
        self._classes = list({type(module) for module in inspection.below})
        pairs = list(zip(inspection.below, self._entries, inspection.parts[1:]))
        self._added = {(type(module), name) for module, entries, part in pairs for name in entries.keys() - part.names}
        holders = {type(holder) for holder in (base._modules, *self._tensors, *self._others)}
        self.is_firm = all(issubclass(holder, dict) for holder in holders) and all(
            type(entries.get(name)) is type(value) for _, entries, part in pairs for name, value in part.values.items()
        )
        self._values = self._read(base) if self.is_firm else None

    def _read(self, base: nn.Module) -> tuple[list[Any], ...]:
        return (
            list(map(type, self.inspection.below)),
            list(_values([base._modules, *self._others])),
            list(map(type, _values(self._tensors))),
            list(chain.from_iterable(filter(None, self._tensors))),  # type: ignore[arg-type]
            [cls.forward for cls in self._classes],
        )

    def is_still(self, base: nn.Module) -> bool:
        """Return whether the modules below `base` are unchanged; `False` also when this cannot be determined."""
        try:
            return (
                list(map(vars, self.inspection.below)) == self._entries
                and self._read(base) == self._values
                and not any(hasattr(cls, name) for cls, name in self._added)
            )
        except Exception:  # comparing arbitrary values, such as tensors, may raise anything
            return False


def _values(dictionaries: list[dict[Any, Any]]) -> Iterable[Any]:
    """Return the values of all `dictionaries`, one after another.

    For speed, the loop runs in C and skips empty dictionaries, which most of them are.
    """
    return chain.from_iterable(map(dict.values, filter(None, dictionaries)))


def walk(module: nn.Module) -> list[nn.Module]:
    """Return all modules below `module`: those of `module.modules()` in another order, ten times as fast."""
    below: list[nn.Module] = []
    stack = list(module._modules.values())
    while stack:
        child = stack.pop()
        if child is not None:
            below.append(child)
            stack.extend(child._modules.values())
    return below


def why_changed(base: nn.Module, below: list[nn.Module], parts: list[Part], own: set[str]) -> str | None:
    """Return a change to `base` that a graph reading only weights would miss, or `None`.

    Hooks on `base` itself do not count: they run around its forward, whichever graph computes it.

    Args:
        below: All modules below `base`.
        parts: What `base` and each of them should be.
        own: Names of the attributes of `base` that hubert_fast itself sets.
    """
    for module, part in zip([base, *below], parts):
        entries = vars(module)
        if type(module) is not part.cls and not is_parametrized(module):
            return _mismatch(_name_of(module, base), _part(module), part)
        if module.training:
            return f"{_name_of(module, base)} is in training mode"
        if differing := part.tensors.symmetric_difference(_tensors(module)):
            return f"{', '.join(sorted(differing))} of {_name_of(module, base)} is added or missing"
        for parameter in module._parameters.values():
            if parameter is not None and type(parameter) is not nn.Parameter:
                return f"{_name_of(module, base)} has weights of type {type(parameter).__qualname__}"
        if not entries.keys() <= part.names:
            for name in entries.keys() - part.names - WITHOUT_EFFECT - (own if module is base else set()):
                if hasattr(type(module), name):
                    return f"{name} of {_name_of(module, base)} is replaced"
        if module is base:
            continue
        for name, value in part.values.items():
            if entries.get(name) != value:
                return f"{name} of {_name_of(module, base)} is {entries.get(name)!r}, but should be {value!r}"
        if has_hook(module):
            return f"{_name_of(module, base)} has a hook"
    for cls in {type(module) for module in below}:
        if _is_patched(cls):
            return f"the forward of {cls.__qualname__} is patched"
    return None


def _is_patched(cls: type) -> bool:
    """Return whether the `forward` of a class was defined outside its library and assigned to it."""
    for ancestor in cls.__mro__:
        forward = vars(ancestor).get("forward")
        if forward is not None and ancestor is not nn.Module:
            return not is_defined_in(forward, ancestor.__module__.partition(".")[0])
    return False


@functools.lru_cache(maxsize=1024)
def is_defined_in(function: Any, package: str) -> bool:
    """Return whether a function and all that it wraps come from files of a package, or of PyTorch.

    Names are no evidence: `functools.wraps` gives a patch the names of what it replaces.
    """
    folders = tuple(_folder(name) for name in (package, "torch"))
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is None or not code.co_filename.startswith(folders):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


@functools.cache
def _folder(package: str) -> str:
    file = getattr(sys.modules.get(package), "__file__", None)
    return os.path.join(os.path.dirname(file), "") if file else package


def has_hook(module: nn.Module) -> bool:
    """Return whether a module has hooks besides those that transformers leaves on it."""
    if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    hooks += [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
    return any(getattr(hook, "__module__", None) != OUTPUT_CAPTURING for hook in hooks)


def _name_of(module: nn.Module, base: nn.Module) -> str:
    return next(name or "the model" for name, child in base.named_modules() if child is module)


def attention_is_unknown(config: Any) -> bool:
    """Return whether the configuration names an implementation of attention that is not one of transformers' own."""
    name = getattr(config, "_attn_implementation", None)
    if name not in ATTENTIONS:
        return True
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
    except ImportError:  # before 4.48, attentions were classes
        return False
    if name in functions and not is_defined_in(functions[name], "transformers"):
        return True
    module = sys.modules.get("transformers.models.hubert.modeling_hubert")
    eager = getattr(module, "eager_attention_forward", None)  # the model's own, in no table
    return name in (None, "eager") and eager is not None and not is_defined_in(eager, "transformers")
