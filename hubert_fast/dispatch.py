"""Which implementation an op runs on: ``eager`` (PyTorch, the definition) or ``triton`` (our kernels).

``auto`` takes Triton for CUDA tensors where it can run, else eager. The environment variable ``HUBERT_FAST_BACKEND`` sets
the choice; a forced backend that cannot run raises with the reason. This is the only module that reads the environment.
"""

from __future__ import annotations

import importlib.util
import os

import torch

BACKENDS = ("eager", "triton")
BACKEND_VARIABLE = "HUBERT_FAST_BACKEND"


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU (``TRITON_INTERPRET=1``), as the tests do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not(backend: str) -> str | None:
    """Return why ``backend`` cannot run in this process, or ``None`` when it can."""
    if backend == "eager":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not interpreting() and not torch.cuda.is_available():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"
    return None


def use_triton(*tensors: torch.Tensor, backend: str | None = None) -> bool:
    """Decide for one call. ``backend`` (``auto``, ``eager``, ``triton``) wins over the environment.

    Raises ``ValueError`` for an unknown backend and ``RuntimeError`` when a forced one cannot run on these tensors.
    """
    choice = backend or os.environ.get(BACKEND_VARIABLE, "auto")
    if choice not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {' or '.join(BACKENDS)}, but is {choice!r}")
    if choice == "eager":
        return False
    reason = why_not("triton")
    if reason is None and not interpreting():
        elsewhere = next((tensor.device for tensor in tensors if not tensor.is_cuda), None)
        reason = None if elsewhere is None else f"a tensor is on {elsewhere}, but kernels take CUDA tensors"
    if choice == "triton" and reason is not None:
        raise RuntimeError(f"backend triton was asked for, but cannot run: {reason}")
    # interpreted kernels are for tests: auto does not choose them
    return reason is None and (choice == "triton" or not interpreting())
