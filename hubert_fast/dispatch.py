"""Choose the backend of an op: `eager` (plain PyTorch, the definition) or `triton` (our kernels).

`auto` chooses Triton for CUDA tensors if it can run, and if `hubert_fast.check` has verified the kernels on this chip with this
torch and triton; otherwise it chooses eager. The environment variable `HUBERT_FAST_BACKEND` overrides it. A backend that is
requested but cannot run raises an error with the reason. No other module takes settings from the environment;
`__main__` sets a variable of OpenMP.

The backend applies to the ops of `hubert_fast.ops` and to the packed graph, which can run on kernels or in plain PyTorch. The
definition of a model, which trains and returns attentions, always runs in plain PyTorch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

BACKENDS = ("eager", "triton")
BACKEND_VARIABLE = "HUBERT_FAST_BACKEND"
CUDA_GRAPHS_VARIABLE = "HUBERT_FAST_CUDA_GRAPHS"
CHECK_VARIABLE = "HUBERT_FAST_CHECK"
PACK_VARIABLE = "HUBERT_FAST_PACK"
MIN_CAPABILITY = (8, 0)  # 99 KB of shared memory, bfloat16, asynchronous copies
# With older versions, kernels need more shared memory than a chip has or spill registers, and some take minutes to compile.
MIN_TRITON, MIN_TRITON_TORCH = (3, 4), "2.8"


def interpreting() -> bool:
    """Return whether Triton interprets its kernels on the CPU (`TRITON_INTERPRET=1`), as in the tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `torch.compile` treat the result of a function as a constant, instead of tracing reads of files and variables.

    `torch.compiler.assume_constant_result` does the same, but imports the compiler, and with it triton.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def why_not(backend: str) -> str | None:
    """Return why `backend` cannot run in this process, or `None` when it can."""
    if backend == "eager":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if (reason := _old_triton()) is not None:
        return reason
    if torch.version.hip is not None:
        return "kernels need an NVIDIA GPU, but this torch is built for AMD GPUs"
    if interpreting():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"
    return _missing_build_tool(os.environ.get("CC"), os.environ.get("PATH"))


@cache
def triton_version() -> str:
    """Return the version of the installed triton, from the metadata of its package if possible, without importing it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("triton")
    return importlib.import_module("triton").__version__


@cache
def _old_triton() -> str | None:
    version = triton_version()
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= MIN_TRITON:
        return None
    required = ".".join(map(str, MIN_TRITON))
    return f"kernels need triton {required} or newer, as with torch {MIN_TRITON_TORCH} and newer, but this is triton {version}"


@cache
def _missing_build_tool(compiler: str | None, path: str | None) -> str | None:
    """Return what is missing to build the C code with which triton starts a kernel; `None` if nothing is."""
    if not any(shutil.which(name, path=path) for name in ([compiler] if compiler else ["gcc", "clang"])):
        return "triton needs a C compiler to start kernels, but " + (
            f"there is no {compiler}" if compiler else "neither gcc nor clang was found"
        )
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"triton needs the headers of Python to start kernels, but there is no Python.h in {headers}"
    return None


def cuda_graphs_requested() -> bool | None:
    """Return whether `HUBERT_FAST_CUDA_GRAPHS` is 1, which enables CUDA graphs of short batches, or 0; `None` if it is not set.

    Raises `ValueError` for any other value.
    """
    return _switch(CUDA_GRAPHS_VARIABLE)


def packing_requested() -> bool | None:
    """Return whether `HUBERT_FAST_PACK` is 1, which stores linear layers again for oneDNN, or 0; `None` if it is not set.

    Raises `ValueError` for any other value.
    """
    return _switch(PACK_VARIABLE)


def check_required() -> bool:
    """Return whether `auto` requires kernels to have passed a check. `HUBERT_FAST_CHECK=0` lifts the requirement.

    Raises `ValueError` for values other than 0 and 1.
    """
    return _switch(CHECK_VARIABLE) is not False


def _switch(variable: str) -> bool | None:
    value = os.environ.get(variable)
    if value not in (None, "0", "1"):
        raise ValueError(f"{variable} must be 0 or 1, but is {value!r}")
    return None if value is None else value == "1"


def cache_folder() -> Path | None:
    """Return the cache folder of this package, in `XDG_CACHE_HOME` or else `~/.cache`; `None` if there is no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubert_fast"
    except RuntimeError:
        return None


def requested_backend() -> str:
    """Return the value of `HUBERT_FAST_BACKEND`, by default `auto`. Raises `ValueError` if there is no such backend."""
    return _checked(os.environ.get(BACKEND_VARIABLE, "auto"))


def _checked(choice: str) -> str:
    if choice not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {' or '.join(BACKENDS)}, but is {choice!r}")
    return choice


def use_triton(
    *tensors: torch.Tensor,
    backend: str | None = None,
    also: tuple[torch.dtype, ...] = (),
    unless: str | None = None,
    dtype: torch.dtype | None = None,
    of_waveforms: bool = False,
) -> bool:
    """Decide whether a call on `tensors` runs on kernels.

    Args:
        tensors: The operands.
        backend: `auto`, `eager` or `triton`. It takes precedence over the environment.
        also: Dtypes that the kernel accepts in addition to floating-point ones.
        unless: The reason why the caller cannot use kernels; `None` if it can.
        dtype: The dtype in which the kernels compute; by default that of the first 16-bit tensor, or else float32.
        of_waveforms: Whether the kernel processes waveforms, which it does in the same way for every dtype of the model.

    Raises:
        ValueError: There is no such backend.
        RuntimeError: `triton` was requested, but cannot run on these tensors.
    """
    choice = requested_backend() if backend is None else _checked(backend)
    if choice == "eager":
        return False
    reason = why_not("triton") or _why_not_on(tensors, also) or unless
    if choice == "triton" and reason is not None:
        raise RuntimeError(f"backend triton was requested, but cannot run: {reason}")
    if choice == "triton":
        return True
    # interpreted kernels serve tests only: auto never chooses them
    if reason is not None or interpreting():
        return False
    return _is_verified(tensors[0].device.index, None if of_waveforms else dtype or _dtype_of(tensors))


def _dtype_of(tensors: tuple[torch.Tensor, ...]) -> torch.dtype:
    for tensor in tensors:
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return tensor.dtype
    return torch.float32


@constant
def _is_verified(device: int, dtype: torch.dtype | None) -> bool:
    """Return whether kernels pass their check on a CUDA device in a dtype (`None`: any). Run the check if it has never run."""
    if not check_required():
        return True
    from .check.verdicts import why_not_proven

    return why_not_proven(torch.device("cuda", device), dtype) is None


def why_too_old(device: torch.device) -> str | None:
    """Return why kernels do not support a GPU of this generation; `None` if they do, and for devices other than GPUs."""
    return _too_old(device.index) if device.type == "cuda" else None


@constant
def _too_old(device: int) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"kernels need a GPU of compute capability {MIN_CAPABILITY} or higher, but cuda:{device} has {capability}"
    return None


def _why_not_on(tensors: tuple[torch.Tensor, ...], also: tuple[torch.dtype, ...]) -> str | None:
    for tensor in tensors:
        if tensor.is_cuda and not interpreting() and (reason := _too_old(tensor.device.index)) is not None:
            return reason
        if not tensor.is_cuda and not interpreting():
            return f"a tensor is on {tensor.device}, but kernels need CUDA tensors"
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, *also):
            return f"a tensor is {tensor.dtype}, but kernels support only float32, float16 and bfloat16"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "a gradient is required, but the kernel has no backward pass"
    return None
