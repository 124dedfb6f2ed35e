"""Hold the input of a model as arrays or tensors, and compute the lengths that padding and truncation give to rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LONGEST, MAX_LENGTH, DO_NOT_PAD = PADDING_NAMES = "longest", "max_length", "do_not_pad"


class BatchFeature(dict):
    """The input of a model: a dictionary from names to lists, arrays or tensors. Entries are also attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"this input has {', '.join(self)}, but no {name}")

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move the tensors of this input, also those in lists, and return this input. Other values stay as they are.

        Args:
            args: As in `torch.Tensor.to`: a device, a dtype or both. Only floating-point tensors change their dtype.
            kwargs: As in `torch.Tensor.to`: `device`, `dtype` and `non_blocking`.
        """
        device = kwargs.get("device", args[0] if args and not isinstance(args[0], torch.dtype) else None)
        of_integers = {"device": device, "non_blocking": kwargs.get("non_blocking", False)} if device is not None else None

        def moved(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(moved(entry) for entry in value)
            if not isinstance(value, torch.Tensor):
                return value
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            return value if of_integers is None else value.to(**of_integers)

        self.update({name: moved(value) for name, value in self.items()})
        return self


@dataclass(frozen=True)
class Padding:
    """The rows' lengths after padding.

    Attributes:
        strategy: `"longest"`, `"max_length"` or `"do_not_pad"`.
        max_length: The length of `"max_length"`, and the limit of truncation.
        multiple: Lengths are rounded up to a multiple of this number.
    """

    strategy: str
    max_length: int | None = None
    multiple: int | None = None

    @classmethod
    def of(cls, padding: bool | str | None, max_length: int | None, pad_to_multiple_of: int | None) -> Padding:
        """Return the padding that arguments of transformers' names request. Raises `ValueError` for other values."""
        for name, value, least in (("max_length", max_length, 0), ("pad_to_multiple_of", pad_to_multiple_of, 1)):
            if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < least):
                raise ValueError(f"{name} must be a whole number, {least} or more, or None, but is {value!r}")
        if padding is None or isinstance(padding, bool):
            return cls(LONGEST if padding else DO_NOT_PAD, max_length, pad_to_multiple_of)
        for strategy in PADDING_NAMES:
            if padding == strategy:  # transformers' enumeration of these names compares equal to them, too
                return cls(strategy, max_length, pad_to_multiple_of)
        raise ValueError(f"padding must be True, False, {', '.join(map(repr, PADDING_NAMES))}, but is {padding!r}")

    def rounded(self, length: int) -> int:
        """Return a length rounded up to a multiple of `multiple`."""
        return length if self.multiple is None else -(-length // self.multiple) * self.multiple

    def targets(self, lengths: Sequence[int]) -> list[int]:
        """Return the length of each row after padding."""
        if self.strategy == DO_NOT_PAD:
            return list(lengths)
        target = max(lengths, default=0) if self.strategy == LONGEST else self.max_length
        assert target is not None, "callers check max_length"
        return [max(length, self.rounded(target)) for length in lengths]


def check_tensors(return_tensors: str | None) -> None:
    """Raise `ValueError` unless `return_tensors` is `"pt"`, `"tf"`, `"np"` or `None`."""
    if return_tensors is not None and return_tensors not in ("pt", "tf", "np"):
        raise ValueError(f"return_tensors must be 'pt', 'tf', 'np' or None, but is {return_tensors!r}")


def kind_of(first: Any) -> str | None:
    """Return the value of `return_tensors` that keeps the type of a tensor of PyTorch or TensorFlow, or of an array."""
    if isinstance(first, torch.Tensor):
        return "pt"
    if _is_of_tensorflow(first):
        return "tf"
    return "np" if isinstance(first, np.ndarray) else None


def _is_of_tensorflow(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "tensorflow"


def as_tensor(array: np.ndarray, return_tensors: str) -> Any:
    """Return an array as a tensor of PyTorch (`"pt"`) or TensorFlow (`"tf"`, where int64 becomes int32, as in transformers).

    Raises:
        ImportError: TensorFlow is not installed.
    """
    if return_tensors == "pt":
        return torch.from_numpy(array)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("return_tensors='tf' needs TensorFlow: pip install 'hubert_fast[tensorflow]'") from error
    return tf.constant(array.astype(np.int32) if array.dtype == np.int64 else array)


def one_array(rows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return rows as one array `[B, L]`, or as an array of arrays `[B]` if their lengths differ."""
    if isinstance(rows, np.ndarray):
        return rows
    if len({len(row) for row in rows}) == 1:
        return np.stack(list(rows))
    array = np.empty(len(rows), object)
    array[:] = list(rows)
    return array


def converted(name: str, rows: Sequence[np.ndarray] | np.ndarray, return_tensors: str | None) -> Any:
    """Return rows as the kind of tensor that `return_tensors` names. Raises `ValueError` if they do not fit one."""
    if return_tensors is None:
        return rows
    array = one_array(rows)
    if return_tensors == "np":
        return array
    if array.dtype == object:
        lengths = [len(row) for row in rows]
        raise ValueError(
            f"{name} have {min(lengths)} to {max(lengths)} entries, which do not fit one tensor: pass padding=True, or leave "
            f"out return_tensors"
        )
    return as_tensor(array, return_tensors)


def on_host(values: Any) -> Any:
    """Return a tensor, also on a GPU, as a NumPy array, and anything else unchanged."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return values.numpy() if _is_of_tensorflow(values) else values


def columns(rows: Any, required: str, allowed: Iterable[str]) -> dict[str, Any]:
    """Return a dictionary of columns from one, or from a sequence of dictionaries, as a data collator receives them.

    Raises:
        ValueError: The required column is missing, rows have different keys, or there are columns that cannot be padded.
    """
    if not isinstance(rows, (list, tuple)):
        table = dict(rows)
    else:
        if len({frozenset(row) for row in rows}) > 1:
            raise ValueError(f"all entries must have the same keys, but have {', '.join(sorted({*map(str, map(list, rows))}))}")
        table = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    if required not in table:
        raise ValueError(f"expected {required} to pad, but got {', '.join(map(str, table)) or 'nothing'}")
    if others := [str(name) for name in table if name not in allowed]:
        raise ValueError(f"only {' and '.join(allowed)} can be padded, but got also {', '.join(others)}: leave these out")
    return table
