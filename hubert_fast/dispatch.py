"""Which implementation an op runs on: ``eager`` (PyTorch, the definition) or ``triton`` (our kernels).

``auto`` takes Triton for CUDA tensors where it can run, else eager. The environment variable ``HUBERT_FAST_BACKEND`` sets
the choice; a forced backend that cannot run raises with the reason. This is the only module that reads the environment.
The choice is between implementations of :mod:`hubert_fast.ops`, and between the two forms of the packed graph, on kernels or in
plain PyTorch. The definition of a model (training, attentions) is plain PyTorch always.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

BACKENDS = ("eager", "triton")
BACKEND_VARIABLE = "HUBERT_FAST_BACKEND"
CUDA_GRAPHS_VARIABLE = "HUBERT_FAST_CUDA_GRAPHS"
LEAST_CAPABILITY = (8, 0)  # shared memory of 99 KB, bfloat16, asynchronous copies


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
    if torch.version.hip is not None:
        return "kernels are made for NVIDIA GPUs, and this torch is built for AMD's"
    if interpreting():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"
    return _lacking(os.environ.get("CC"), os.environ.get("PATH"))


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
    value = os.environ.get(CUDA_GRAPHS_VARIABLE)
    if value not in (None, "0", "1"):
        raise ValueError(f"{CUDA_GRAPHS_VARIABLE} must be 0 or 1, but is {value!r}")
    return None if value is None else value == "1"


def asked() -> str:
    """Return the backend that ``HUBERT_FAST_BACKEND`` asks for, ``auto`` when it is not set. ``ValueError`` when unknown."""
    return _checked(os.environ.get(BACKEND_VARIABLE, "auto"))


def _checked(choice: str) -> str:
    if choice not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {' or '.join(BACKENDS)}, but is {choice!r}")
    return choice


def use_triton(
    *tensors: torch.Tensor, backend: str | None = None, also: tuple[torch.dtype, ...] = (), unless: str | None = None
) -> bool:
    """Decide for one call on ``tensors``. ``backend`` (``auto``, ``eager``, ``triton``) wins over the environment.

    also: dtypes that this kernel takes beside floating-point ones. unless: why this caller cannot use kernels, if it cannot.

    Raises ``ValueError`` for an unknown backend and ``RuntimeError`` when a forced one cannot run on these tensors.
    """
    choice = asked() if backend is None else _checked(backend)
    if choice == "eager":
        return False
    reason = why_not("triton") or _why_not_on(tensors, also) or unless
    if choice == "triton" and reason is not None:
        raise RuntimeError(f"backend triton was asked for, but cannot run: {reason}")
    # interpreted kernels are for tests: auto does not choose them
    return reason is None and (choice == "triton" or not interpreting())


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
