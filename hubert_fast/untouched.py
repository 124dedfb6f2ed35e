"""Detect whether a model still is what its class and configuration define, so that another graph may compute for it.

A graph that reads only a model's weights bypasses whatever else somebody put there: an adapter, a hook, a quantised or
compiled layer, a replaced method, dropout that is left on. :class:`Blueprint` describes a model as it should be.
:meth:`Blueprint.compare` checks a model against it thoroughly, :func:`changed` quickly, and :class:`Snapshot` even more
quickly sees that nothing changed since the last check. :class:`Watch` runs the cheapest of these that suffices for a call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

# The hooks that transformers 5 leaves behind once hidden states or attentions were asked for; they do nothing by themselves.
OUTPUT_CAPTURING = "transformers.utils.output_capturing"
# Ways of computing the same attention.
ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


class Part(NamedTuple):
    """One module: its class, the shapes of its parameters, its attributes that are numbers or text, the names of all.

    tensors: which parameters and buffers it has, since one may be set to ``None``.
    """

    kind: type
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Any]
    names: frozenset[str]
    tensors: frozenset[str]


def _part(module: nn.Module) -> Part:
    own = vars(module)
    told = ((name, value) for name, value in own.items() if not name.startswith("_") and name != "training")
    values = {name: value for name, value in told if isinstance(value, (int, float, str, tuple))}
    shapes = {name: tuple(value.shape) for name, value in module._parameters.items() if value is not None}
    # a parametrized module has a class of its own, made for it
    kind = type(module).__bases__[0] if is_parametrized(module) else type(module)
    return Part(kind, shapes, values, frozenset(own), frozenset(_tensors(module)))


def _tensors(module: nn.Module) -> list[str]:
    return [name for own in (module._parameters, module._buffers) for name, value in own.items() if value is not None]


class Blueprint:
    """What every module of a model should be, from a model of the same class and configuration without memory for weights."""

    def __init__(self, kind: type[nn.Module], config: Any):
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # initial weights draw numbers
            self.parts = {name: _part(module) for name, module in kind(copy.deepcopy(config)).named_modules()}

    def compare(self, model: nn.Module) -> str | None:
        """Name the first module of ``model`` that is missing, added, or of another class or shape."""
        found = {name: _part(module) for name, module in model.named_modules()}
        for name in sorted({*found, *self.parts}):
            if name not in found or name not in self.parts:
                return f"{name} is {'missing' if name not in found else 'added'}"
            if found[name][:2] != self.parts[name][:2]:
                return _mismatch(name, found[name], self.parts[name])
        return None


def _mismatch(name: str, found: Part, expected: Part) -> str:
    return f"{name} is {_told(found)}, where the configuration makes it {_told(expected)}"


def _told(part: Part) -> str:
    return " ".join([part.kind.__qualname__, *(f"{name} {list(shape)}" for name, shape in part.shapes.items())])


class Seen(NamedTuple):
    """The modules below a model when it was looked at thoroughly, what it and each should be, and what was wrong with it."""

    below: list[nn.Module]
    parts: list[Part]
    why_not: str | None


class Watch:
    """Checks at every call that a model is what its class and configuration define, as cheaply as that call allows.

    When modules were added, removed or replaced, it compares the whole model with the blueprint. Otherwise it runs
    :func:`changed`. Once that has passed, it keeps a :class:`Snapshot`: later calls only compare the modules with the snapshot,
    and run :func:`changed` again when they differ.
    """

    def __init__(self, kind: type[nn.Module], config: Any):
        self._blueprint = Blueprint(kind, config)
        self._seen = Seen([], [], None)
        self._snapshot: Snapshot | None = None  # taken when nothing was wrong with the model

    def __getstate__(self) -> dict[str, Any]:
        return {"_blueprint": self._blueprint, "_seen": Seen([], [], None), "_snapshot": None}  # a copy watches another model

    def look(self, base: nn.Module, own: set[str]) -> tuple[Seen, str | None]:
        """Return what was seen of ``base``, the same object as last time unless its modules are others, and what is wrong now.

        own: attributes of ``base`` that are ours.
        """
        snapshot = self._snapshot
        if snapshot is not None and snapshot.is_still(base):
            return snapshot.seen, changed(base, [], snapshot.seen.parts[:1], own)
        self._snapshot = None  # which would keep layers that were replaced
        below, seen = walk(base), self._seen
        if len(below) != len(seen.below) or any(now is not then for now, then in zip(below, seen.below)):
            self._seen = seen = self._inspect(base, below)  # in one assignment: other threads may be here too
        if seen.why_not is not None:
            return seen, seen.why_not
        snapshot = Snapshot(base, seen)  # before the look that it stands for: another thread may change what comes after
        why_not = changed(base, seen.below, seen.parts, own)
        if why_not is None and snapshot.is_firm:
            self._snapshot = snapshot
        return seen, why_not

    def _inspect(self, base: nn.Module, below: list[nn.Module]) -> Seen:
        why_not = self._blueprint.compare(base)
        if why_not is not None:
            return Seen(below, [], why_not)
        names = {module: name for name, module in base.named_modules()}
        return Seen(below, [self._blueprint.parts[names[module]] for module in (base, *below)], None)


class Snapshot:
    """Remembers what :func:`changed` reads of the modules below a model. Comparing it takes a third of that function's time.

    It refers to nothing of the model itself: the model refers to the snapshot, and a cycle would keep the weights in memory
    until Python collects it.
    is_firm: Whether the values are immutable, so that equal means unchanged. A snapshot that is not firm is of no use.
    """

    def __init__(self, base: nn.Module, seen: Seen):
        self.seen = seen
        self._entries = list(map(dict, map(vars, seen.below)))  # before the rest: another thread may change what comes after
        self._tensors = [tensors for module in seen.below for tensors in (module._parameters, module._buffers)]
        self._others = [
            others
            for module in seen.below
            for others in (
                *(module._modules, module._forward_hooks, module._forward_pre_hooks),
                *(module._backward_hooks, module._backward_pre_hooks),
            )
        ]
        self._kinds = list({type(module) for module in seen.below})
        pairs = list(zip(seen.below, self._entries, seen.parts[1:]))
        self._added = {(type(module), name) for module, entries, part in pairs for name in entries.keys() - part.names}
        holders = {type(holder) for holder in (base._modules, *self._tensors, *self._others)}
        self.is_firm = all(issubclass(holder, dict) for holder in holders) and all(
            type(entries.get(name)) is type(value) for _, entries, part in pairs for name, value in part.values.items()
        )
        self._held = self._look(base) if self.is_firm else None

    def _look(self, base: nn.Module) -> tuple[list[Any], ...]:
        return (
            list(map(type, self.seen.below)),
            list(_values([base._modules, *self._others])),
            list(map(type, _values(self._tensors))),
            list(chain.from_iterable(filter(None, self._tensors))),
            [kind.forward for kind in self._kinds],
        )

    def is_still(self, base: nn.Module) -> bool:
        """Return whether the modules below ``base`` hold what they held; ``False`` also when this cannot be determined."""
        try:
            return (
                list(map(vars, self.seen.below)) == self._entries
                and self._look(base) == self._held
                and not any(hasattr(kind, name) for kind, name in self._added)
            )
        except Exception:  # from comparing values that somebody put there, such as tensors
            return False


def _values(dictionaries: list[dict[Any, Any]]) -> Iterable[Any]:
    """Return the values of all ``dictionaries``, one after another.

    For speed, the loop runs in C and skips empty dictionaries, which most are.
    """
    return chain.from_iterable(map(dict.values, filter(None, dictionaries)))


def walk(module: nn.Module) -> list[nn.Module]:
    """Return all modules below ``module``, as ``module.modules()`` does but in another order and ten times as fast."""
    found, stack = [], list(module._modules.values())
    while stack:
        child = stack.pop()
        if child is not None:
            found.append(child)
            stack.extend(child._modules.values())
    return found


def changed(base: nn.Module, below: list[nn.Module], parts: list[Part], own: set[str]) -> str | None:
    """Say what somebody did to ``base`` that reading its weights would bypass; ``None`` when nothing.

    below: all modules in ``base``. parts: what ``base`` and each of them should be.
    own: attributes of ``base`` that are ours. Its own hooks run around its forward, ours or not.
    """
    for module, part in zip([base, *below], parts):
        entries = vars(module)
        if type(module) is not part.kind and not is_parametrized(module):
            return _mismatch(_name_of(module, base), _part(module), part)
        if module.training:
            return f"{_name_of(module, base)} is in training mode"
        if differing := part.tensors.symmetric_difference(_tensors(module)):
            return f"{', '.join(sorted(differing))} of {_name_of(module, base)} is added or missing"
        for parameter in module._parameters.values():
            if parameter is not None and type(parameter) is not nn.Parameter:
                return f"{_name_of(module, base)} has weights of type {type(parameter).__qualname__}"
        if not entries.keys() <= part.names:
            for name in entries.keys() - part.names - (own if module is base else set()):
                if hasattr(type(module), name):
                    return f"{name} of {_name_of(module, base)} is replaced"
        if module is base:
            continue
        for name, value in part.values.items():
            if entries.get(name) != value:
                return f"{name} of {_name_of(module, base)} is {entries.get(name)!r}, and was {value!r}"
        if has_hook(module):
            return f"{_name_of(module, base)} has a hook"
    for kind in {type(module) for module in below}:
        if _is_patched(kind):
            return f"the forward of {kind.__qualname__} is patched"
    return None


def _is_patched(kind: type) -> bool:
    """Whether a class's forward was put there from elsewhere."""
    for ancestor in kind.__mro__:
        forward = vars(ancestor).get("forward")
        if forward is not None and ancestor is not nn.Module:
            return not (
                forward.__module__ == ancestor.__module__ and forward.__qualname__ == f"{ancestor.__qualname__}.forward"
            )
    return False


def has_hook(module: nn.Module) -> bool:
    """Whether a module has hooks, but those that transformers leaves behind."""
    if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    hooks += [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
    return any(getattr(hook, "__module__", None) != OUTPUT_CAPTURING for hook in hooks)


def _name_of(module: nn.Module, base: nn.Module) -> str:
    return next(name or "the model" for name, child in base.named_modules() if child is module)


def attention_is_unknown(config: Any) -> bool:
    """Whether the configuration names an attention that is not one of transformers' own."""
    name = getattr(config, "_attn_implementation", None)
    if name not in ATTENTIONS:
        return True
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
    except ImportError:  # before 4.48 attentions were classes
        return False
    return name in functions and not functions[name].__module__.startswith("transformers.")
