"""Read PyTorch pickles that hold objects of other libraries, without those libraries and without running anything of theirs.

fairseq's checkpoints hold configurations and dictionaries as objects of classes (omegaconf, argparse, fairseq itself),
which ``weights_only=True`` refuses. Here tensors and plain containers are rebuilt; every other class or function that a
pickle names becomes an :class:`Inert` object, which only keeps what it was given. Nothing that a pickle names is imported,
called or changed.
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
from .weight_formats import SAFETENSORS, ZIPPED, format_of


class _Maker:
    """Stands for one of torch's functions in a pickle, which can call it and do nothing else to it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle sets attributes of a function")


# What a pickle may name: the makers of tensors (storages are torch.load's own business) and plain containers.
ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Maker(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Maker(torch._utils._rebuild_parameter),
    ("torch", "Size"): torch.Size,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}


class Inert:
    """An object that is not rebuilt: ``kind`` is its class, ``arguments`` what it was made from, ``state`` its attributes."""

    kind = ""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = named
        return made

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def ignore(self, *entries: Any) -> None:
        """Take what a pickle puts into a container: of no use here."""

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


def load_inert(path: str | Path) -> Any:
    """Read a file that ``torch.save`` wrote, on the CPU; objects that are no tensors or containers come out inert.

    Raises :class:`CheckpointError` when the file is missing, damaged or no PyTorch file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected a file that torch.save wrote")
    layout = format_of(path)
    if layout == SAFETENSORS:
        raise CheckpointError(
            f"{path} is a safetensors file; expected a file that torch.save wrote: a folder in Hugging Face's format needs no "
            f"conversion"
        )
    reader = SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=_load)
    try:
        if layout == ZIPPED and path.suffix != ".safetensors":  # of a path, torch.load lets the name say what the file is
            return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False, mmap=True)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:  # torch.load has no common class for what a damaged file can lead to
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None


def entries(value: Any) -> dict[str, Any]:
    """Return the entries of a dictionary, an omegaconf ``DictConfig`` or an ``argparse.Namespace``; none for anything else."""
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        value = state.get("_content", state) if isinstance(state, dict) else {}
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """Return the number, text or ``None`` that an entry holds: omegaconf wraps it in a node, enumerations in a member."""
    for _ in range(4):  # a member in a node is two deep
        if not isinstance(value, Inert):
            return value
        if "_val" in entries(value):
            value = entries(value)["_val"]
        else:
            value = value.arguments[0] if len(value.arguments) == 1 else None
    return None
