"""Read PyTorch pickles that contain objects of other libraries, without those libraries and without running their code.

fairseq's checkpoints store configurations and dictionaries as objects of omegaconf, argparse and fairseq itself, which
`weights_only=True` does not load. Here tensors and plain containers are rebuilt. Every other class or function in a pickle
becomes an `Inert` object, which only stores its arguments. Nothing that a pickle names is imported, called or modified.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .hub import CheckpointError, first_line


class _CallOnly:
    """Wrap a function of torch so that a pickle can call it but not set attributes on it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle sets attributes of a function")


# What a pickle may name: functions that rebuild tensors, and plain containers. torch.load itself rebuilds the storages.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _CallOnly(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _CallOnly(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _CallOnly(torch._utils._rebuild_parameter),
    ("torch", "Size"): torch.Size,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}


class Inert:
    """A placeholder for an object that is not rebuilt.

    Attributes:
        kind: The qualified name of its class.
        arguments: The positional arguments of its constructor.
        state: Its attributes, as the pickle stores them.
    """

    kind = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        inert = super().__new__(cls)
        inert.arguments = arguments
        inert.state = named
        return inert

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def ignore(self, *entries: Any) -> None:
        """Discard what a pickle adds to a container, as nothing reads it."""

    __setitem__ = append = extend = add = ignore


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        return type("Inert", (Inert,), {"kind": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def load_inert(path: Path, mmap: bool = False) -> Any:
    """Read a file that `torch.save` wrote, on the CPU; objects other than tensors and containers become `Inert`.

    Args:
        path: The file.
        mmap: Map the file into memory instead of reading it. Needs the zip format and a name that does not end in
            `.safetensors`.

    Raises:
        CheckpointError: The file is damaged.
    """
    reader = SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=_load)
    try:
        if mmap:
            return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False, mmap=True)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:  # torch.load raises many unrelated exceptions for damaged files
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None


def entries(value: Any) -> dict[str, Any]:
    """Return the entries of a dictionary, an omegaconf `DictConfig` or an `argparse.Namespace`; for other values, `{}`."""
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        value = state.get("_content", state) if isinstance(state, dict) else {}
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """Unwrap the number, text or `None` inside an omegaconf node or an enumeration member."""
    for _ in range(4):  # an enumeration member in a node is wrapped twice
        if not isinstance(value, Inert):
            return value
        if "_val" in entries(value):
            value = entries(value)["_val"]
        else:
            value = value.arguments[0] if len(value.arguments) == 1 else None
    return None
