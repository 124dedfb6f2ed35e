"""Which implementation an op runs on: ``eager`` (PyTorch, the definition) or ``triton`` (our kernels).

``auto`` takes Triton for CUDA tensors where it can run and a check of the kernels has passed on this chip with this torch and
triton (:mod:`hubert_fast.check`), else eager. The environment variable ``HUBERT_FAST_BACKEND`` sets
the choice; a forced backend that cannot run raises with the reason. This is the only module that reads the environment.
The choice is between implementations of :mod:`hubert_fast.ops`, and between the two forms of the packed graph, on kernels or in
plain PyTorch. The definition of a model (training, attentions) is plain PyTorch always.
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
LEAST_CAPABILITY = (8, 0)  # shared memory of 99 KB, bfloat16, asynchronous copies
# Older ones ask for more shared memory than a chip has, spill registers, and compile some products for minutes.
LEAST_TRITON, LEAST_TRITON_TORCH = (3, 4), "2.8"


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU (``TRITON_INTERPRET=1``), as the tests do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have ``torch.compile`` take the result as it is, and not look into files and variables.

    As ``torch.compiler.assume_constant_result`` does, which imports the compiler, and triton with it.
    """
    function._dynamo_marked_constant = True
    return function


@_constant
def why_not(backend: str) -> str | None:
    """Return why ``backend`` cannot run in this process, or ``None`` when it can."""
    if backend == "eager":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if (reason := _old_triton()) is not None:
        return reason
    if torch.version.hip is not None:
        return "kernels are made for NVIDIA GPUs, and this torch is built for AMD's"
    if interpreting():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"
    return _lacking(os.environ.get("CC"), os.environ.get("PATH"))


@cache
def triton_version() -> str:
    """Return the version of the installed triton, which is not imported for it where its package says."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("triton")
    return importlib.import_module("triton").__version__


@cache
def _old_triton() -> str | None:
    found = triton_version()
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) >= LEAST_TRITON:
        return None
    least = ".".join(map(str, LEAST_TRITON))
    return f"kernels need triton {least} or newer, which torch {LEAST_TRITON_TORCH} and newer bring, but this is triton {found}"


@cache
def _lacking(compiler: str | None, path: str | None) -> str | None:
    """Say what triton lacks to build the few lines of C that start a kernel."""
    if not any(shutil.which(name, path=path) for name in ([compiler] if compiler else ["gcc", "clang"])):
        return f"triton needs a C compiler to start kernels, but there is no {compiler or 'gcc or clang'}"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"triton needs Python's headers to start kernels, but there is no Python.h in {headers}"
    return None


def cuda_graphs_asked() -> bool | None:
    """Return what ``HUBERT_FAST_CUDA_GRAPHS`` says: 1 for CUDA graphs of short batches, 0 for none, ``None`` when not set.

    Raises ``ValueError`` for any other value.
    """
    return _switch(CUDA_GRAPHS_VARIABLE)


def check_asked() -> bool:
    """Return whether ``auto`` takes kernels only after they passed a check: unless ``HUBERT_FAST_CHECK`` is 0.

    Raises ``ValueError`` for any value but 0 and 1.
    """
    return _switch(CHECK_VARIABLE) is not False


def _switch(variable: str) -> bool | None:
    value = os.environ.get(variable)
    if value not in (None, "0", "1"):
        raise ValueError(f"{variable} must be 0 or 1, but is {value!r}")
    return None if value is None else value == "1"


def cache_folder() -> Path | None:
    """Return the folder for what this package finds out: in ``XDG_CACHE_HOME``, else ``~/.cache``; ``None`` without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubert_fast"
    except RuntimeError:
        return None


def asked() -> str:
    """Return the backend that ``HUBERT_FAST_BACKEND`` asks for, ``auto`` when it is not set. ``ValueError`` when unknown."""
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
    """Decide for one call on ``tensors``. ``backend`` (``auto``, ``eager``, ``triton``) wins over the environment.

    also: dtypes that this kernel takes beside floating-point ones. unless: why this caller cannot use kernels, if it cannot.
    dtype: what the kernels compute in; that of 16 bits among the tensors unless given, or else float32.
    of_waveforms: whether the kernel is the same whatever the model computes in.

    Raises ``ValueError`` for an unknown backend and ``RuntimeError`` when a forced one cannot run on these tensors.
    """
    choice = asked() if backend is None else _checked(backend)
    if choice == "eager":
        return False
    reason = why_not("triton") or _why_not_on(tensors, also) or unless
    if choice == "triton" and reason is not None:
        raise RuntimeError(f"backend triton was asked for, but cannot run: {reason}")
    if choice == "triton":
        return True
    # interpreted kernels are for tests: auto does not choose them
    if reason is not None or interpreting():
        return False
    return _is_proven(tensors[0].device.index, None if of_waveforms else dtype or _dtype_of(tensors))


def _dtype_of(tensors: tuple[torch.Tensor, ...]) -> torch.dtype:
    for tensor in tensors:
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return tensor.dtype
    return torch.float32


@_constant
def _is_proven(device: int, dtype: torch.dtype | None) -> bool:
    """Whether kernels have passed a check on a CUDA device, in any dtype or in this one, which runs now if it never did."""
    if not check_asked():
        return True
    from .check.verdicts import why_not_proven

    return why_not_proven(torch.device("cuda", device), dtype) is None


def why_too_old(device: torch.device) -> str | None:
    """Return why kernels do not take a GPU of its generation; ``None`` when they do, and of what is no GPU."""
    return _too_old(device.index) if device.type == "cuda" else None


@_constant
def _too_old(device: int) -> str | None:
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_CAPABILITY:
        return f"kernels take GPUs of capability {LEAST_CAPABILITY} and above, but cuda:{device} has {found}"
    return None


def _why_not_on(tensors: tuple[torch.Tensor, ...], also: tuple[torch.dtype, ...]) -> str | None:
    for tensor in tensors:
        if tensor.is_cuda and not interpreting() and (reason := _too_old(tensor.device.index)) is not None:
            return reason
        if not tensor.is_cuda and not interpreting():
            return f"a tensor is on {tensor.device}, but kernels take CUDA tensors"
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, *also):
            return f"a tensor is {tensor.dtype}, but kernels take float32, float16 and bfloat16"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "a gradient is needed, but the kernel has no backward"
    return None
