"""Run a recipe and compare what it leaves in `result`."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

RELATIVE_ERROR = {  # of the largest value, since the graphs round in other orders
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


@dataclass
class Outcome:
    """What a recipe gave: a result, or an exception."""

    result: Any = None
    error: BaseException | None = None


@contextlib.contextmanager
def working_folder(files: Path) -> Iterator[None]:
    """Work in a temporary folder that has links to what is in `files`."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        for path in files.iterdir():
            os.symlink(path, Path(folder, path.name))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run(source: str, name: str, files: Path) -> Outcome:
    """Run a recipe as a program of its own would run beside `files`, from fixed seeds."""
    module = types.ModuleType(f"recipe_{name}")
    sys.modules[module.__name__] = module  # so that its classes can be pickled
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    silent = io.StringIO()
    try:
        with (
            working_folder(files),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            exec(compile(source, f"{name}.py", "exec"), vars(module))
    except Exception as error:
        return Outcome(error=error)
    finally:
        del sys.modules[module.__name__]
        if "accelerate" in sys.modules:  # its settings are one for a process
            sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)
    return Outcome(vars(module)["result"])


def difference(actual: Any, expected: Any, where: str = "result") -> str | None:
    """Return the first difference between two results, or `None` if they are equal.

    Texts, integers, keys, shapes and dtypes must be equal. Floating-point numbers may differ by rounding.
    """
    actual, expected = (value.item() if isinstance(value, np.generic) else value for value in (actual, expected))
    if isinstance(expected, float) and isinstance(actual, float):
        actual, expected = torch.tensor(actual), torch.tensor(expected)
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return _difference_of_tensors(actual, expected, where)
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or list(map(str, actual)) != list(map(str, expected)):
            return f"{where}: {_short(actual)} instead of {_short(expected)}"
        pairs = [(f"{where}[{key!r}]", actual[key], expected[key]) for key in expected]
    elif isinstance(expected, (list, tuple)):
        if not isinstance(actual, (list, tuple)) or len(actual) != len(expected):
            return f"{where}: {_short(actual)} instead of {_short(expected)}"
        pairs = [(f"{where}[{index}]", *pair) for index, pair in enumerate(zip(actual, expected))]
    else:
        equal = type(actual) is type(expected) and actual == expected
        return None if equal else f"{where}: {_short(actual)} instead of {_short(expected)}"
    return next((found for place, one, other in pairs if (found := difference(one, other, place))), None)


def _difference_of_tensors(actual: Any, expected: Any, where: str) -> str | None:
    if isinstance(actual, torch.Tensor) != isinstance(expected, torch.Tensor) or not hasattr(actual, "dtype"):
        return f"{where}: a {type(actual).__name__} instead of a {type(expected).__name__}"
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return f"{where}: {actual.dtype} {list(actual.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if not expected.is_floating_point():
        return None if torch.equal(actual, expected) else f"{where}: {_short(actual)} instead of {_short(expected)}"
    if not torch.equal(actual.isfinite(), expected.isfinite()):
        return f"{where}: {_short(actual)} instead of {_short(expected)}"
    one, other = (tensor.double().nan_to_num(0, 0, 0) for tensor in (actual, expected))
    if not other.numel():
        return None
    error = ((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()
    return f"{where}: relative error {error:.1e}" if error > RELATIVE_ERROR[expected.dtype] else None


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {list(value)}" if isinstance(value, Mapping) else repr(value)
    return text if len(text) < 300 else text[:300] + "..."
