"""Rebuild NumPy arrays from pickles that were read inertly, without running what the pickles name.

NumPy pickles an array as a call of `_reconstruct` with a state or, since protocol 5, as a call of `_frombuffer`. joblib writes
the array's bytes into the stream after an object that describes them (`inert_joblib`). Only arrays of numbers are rebuilt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inert_pickle import Inert
from .codebook import CentroidsError

RECONSTRUCT = re.compile(r"numpy\.(_?core)\.multiarray\._reconstruct")
FROM_BUFFER = re.compile(r"numpy\.(_?core)\.numeric\._frombuffer")
NUMBERS = re.compile(r"[fiub](?:1|2|4|8|16)")  # kind and size in bytes


class StoredArray(Inert):
    """An array of a joblib file.

    Attributes:
        values: The array; `None` if it is an array of Python objects, which is not rebuilt.
    """

    values: np.ndarray | None = None


def array_of(value: Any) -> np.ndarray | None:
    """Return the array that a value stands for: a NumPy array, a tensor, or an array that was read inertly.

    Return `None` for other values. Raises `CentroidsError` for an array of objects and for a damaged one.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, StoredArray):
        if value.values is None:
            raise CentroidsError("it holds an array of Python objects, which is not rebuilt: expected an array of numbers")
        return value.values
    if isinstance(value, Inert):
        if RECONSTRUCT.fullmatch(value.kind):
            return _reconstructed(value.state)
        return _from_buffer(value.arguments) if FROM_BUFFER.fullmatch(value.kind) else None
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return None


def dtype_of(value: Any) -> np.dtype | None:
    """Return the dtype that was read inertly; `None` for one of objects.

    Raises:
        CentroidsError: It is not a dtype of plain numbers.
    """
    if isinstance(value, Inert) and value.kind == "numpy.dtype" and value.arguments:
        code, state = _text(value.arguments[0]), value.state
        if code in ("O", "O8", "O4"):
            return None
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else "="
        if isinstance(code, str) and NUMBERS.fullmatch(code) and order in ("<", ">", "=", "|"):
            return np.dtype(code if order == "|" else order + code)
        raise CentroidsError(f"it holds an array of dtype {str(code)[:40]!r}: expected numbers")
    raise CentroidsError("it holds an array whose dtype is missing: the file is damaged, so download it again")


def items_in(shape: Any) -> int:
    """Return the number of items of an array of a shape that was read from a file. Raises `CentroidsError` for a bad one."""
    is_shape = isinstance(shape, tuple) and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)
    if not is_shape:
        raise CentroidsError("it holds an array whose shape is not a tuple of sizes: the file is damaged, so download it again")
    return math.prod(shape)


def shaped(data: Any, dtype: np.dtype, shape: tuple[int, ...], is_fortran: bool) -> np.ndarray:
    """Return an array over the bytes `data`. Raises `CentroidsError` if their number does not fit the shape."""
    expected = items_in(shape) * dtype.itemsize
    if len(data) != expected:
        raise CentroidsError(
            f"it holds an array of shape {list(shape)} and dtype {dtype}, which should have {expected:,} bytes but has "
            f"{len(data):,}: the file is cut off or damaged, so download it again"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _reconstructed(state: Any) -> np.ndarray:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise CentroidsError("it holds an array without a state: the file is damaged, so download it again")
    shape, dtype, is_fortran, data = state[-4:]
    return _rebuilt(data, dtype, shape, bool(is_fortran))


def _from_buffer(arguments: Sequence[Any]) -> np.ndarray:
    if len(arguments) != 4:
        raise CentroidsError("it holds an array without a shape: the file is damaged, so download it again")
    data, dtype, shape, order = arguments
    return _rebuilt(data, dtype, shape, order == "F")


def _rebuilt(data: Any, dtype: Any, shape: Any, is_fortran: bool) -> np.ndarray:
    items_in(shape)
    rebuilt = dtype_of(dtype)
    if rebuilt is None:
        raise CentroidsError("it holds an array of Python objects, which is not rebuilt: expected an array of numbers")
    # protocols up to 2 hold bytes as a call of _codecs.encode with text; pickles of Python 2, as text
    if isinstance(data, Inert) and data.kind == "_codecs.encode" and data.arguments:
        data = data.arguments[0]
    if isinstance(data, str):
        try:
            data = data.encode("latin-1")
        except UnicodeEncodeError:
            raise CentroidsError("it holds an array whose bytes are damaged: download the file again") from None
    if not isinstance(data, bytes | bytearray):
        raise CentroidsError("it holds an array without its bytes: the file is damaged, so download it again")
    return shaped(data, rebuilt, shape, is_fortran)


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
