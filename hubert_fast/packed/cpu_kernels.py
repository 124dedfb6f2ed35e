"""Run attention, LayerNorm and GELU on a CPU with AVX-512, in C++ (csrc/attention_cpu.cpp, csrc/rows_cpu.cpp), for inference.

They compute in float32 and use the threads of PyTorch. `why_not` and `why_not_attention` say whether they can run; callers ask
before they call. Axes: N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

BFLOAT16, DTYPES = torch.bfloat16, (torch.float32, torch.bfloat16)
INTERFACE = 1  # as in csrc/cpu.cpp
HEAD_DIM_UNIT, MAX_HEAD_DIM = 16, 128


@cache
def why_not(dtype: torch.dtype) -> str | None:
    """Return why the row operations cannot run with inputs of `dtype`, or `None` if they can."""
    if dtype not in DTYPES:
        return f"the kernels for CPUs support float32 and bfloat16, not {dtype}"
    if find_spec("hubert_fast._cpu") is None:
        return "the C++ extension hubert_fast._cpu is not built; installing hubert_fast where a C++ compiler is builds it"
    try:
        _extension()
    except (ImportError, OSError, _Unavailable) as error:
        return str(error)
    return None


@cache
def why_not_attention(dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why `attention` cannot or should not run, or `None` if it should."""
    if head_dim % HEAD_DIM_UNIT or not 0 < head_dim <= MAX_HEAD_DIM:
        return f"the head dim must be a multiple of {HEAD_DIM_UNIT} up to {MAX_HEAD_DIM}, but is {head_dim}"
    if (reason := why_not(dtype)) is not None:
        return reason
    if dtype == BFLOAT16 and _extension().has_bfloat16_tiles():
        return "this CPU has AMX, with which PyTorch's attention is faster in bfloat16"
    return None


class _Unavailable(Exception):
    """The extension cannot run here."""


@cache
def _extension() -> ModuleType:
    """Return the extension, connected to PyTorch's threads.

    Raises:
        ImportError: The extension cannot be imported.
        _Unavailable: It cannot run on this CPU, or cannot use PyTorch's threads.
    """
    from .. import _cpu

    if getattr(_cpu, "interface", None) != INTERFACE:
        raise _Unavailable("the C++ extension hubert_fast._cpu was built from other sources: install hubert_fast again")
    if reason := _cpu.unsupported():
        raise _Unavailable(reason)
    _cpu.set_parallel(_openmp_entry())
    return _cpu


def _openmp_entry() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP runtime that PyTorch uses; its threads are then PyTorch's own."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # already loaded, so this only adds a reference; a symbol is also searched in the libraries that it depends on
        entry = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError) as error:
        raise _Unavailable(f"PyTorch's OpenMP runtime has no entry point for the extension: {error}") from error
    address = ctypes.cast(entry, ctypes.c_void_p).value
    assert address is not None
    return address


def attention(q: Tensor, k: Tensor, v: Tensor, counts: Sequence[int], num_heads: int) -> Tensor:
    """Attend within utterances of `counts` frames, scaled by `D ** -0.5`. Scores and probabilities are float32.

    Args:
        q, k, v: `[N, C]`, float32 or bfloat16; rows may have any distance, such as those of views of one product `[N, 3C]`.
        counts: The frames of each utterance, N in all. Utterances may be empty.
        num_heads: H; C is H * D.

    Returns:
        `[N, C]`, contiguous.

    Raises:
        ValueError: Shapes, dtypes or strides are not supported.
        RuntimeError: The extension cannot run here; see `why_not_attention`.
    """
    shape, dtype = q.shape, q.dtype
    if len(shape) != 2 or k.shape != shape or v.shape != shape or shape[1] % num_heads or sum(counts) != shape[0]:
        raise ValueError(
            f"q, k and v must be [{sum(counts)}, multiple of {num_heads}], but are {list(shape)}, {list(k.shape)} and "
            f"{list(v.shape)}"
        )
    head_dim = shape[1] // num_heads
    if head_dim % HEAD_DIM_UNIT or not 0 < head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"the head dim must be a multiple of {HEAD_DIM_UNIT} up to {MAX_HEAD_DIM}, but is {head_dim}")
    if min(counts, default=0) < 0:
        raise ValueError(f"counts must not be negative, but are {list(counts)}")
    rows = [_check_rows(name, x, dtype) for name, x in (("q", q), ("k", k), ("v", v))]
    kernels = _kernels(dtype)
    out = q.new_empty(shape)
    addresses, strides = zip(*rows)
    kernels.attention(
        *addresses,
        out.data_ptr(),
        *strides,
        shape[1],
        counts,
        num_heads,
        head_dim,
        dtype == BFLOAT16,
        _has_bfloat16_dot(),
        torch.get_num_threads(),
    )
    return out


def layer_norm_gelu_(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Apply a layer norm and then exact GELU to rows `[N, C]`, in place and in one pass. Return `x`."""
    return _transform(x, None, x, layer, gelu=True, post=False)


def gelu_(x: Tensor) -> Tensor:
    """Apply exact GELU to rows `[N, C]`, in place. Return `x`. The GELU of minus infinity is 0."""
    return _transform(x, None, x, None, gelu=True, post=False)


def add_layer_norm(x: Tensor, y: Tensor | None, layer: nn.LayerNorm, dtype: torch.dtype, *, post: bool = False) -> Tensor:
    """Add `y` to the residual stream `x` in place, unless it is `None`, and return the norm of the sum, in one pass.

    Args:
        x: The residual stream, float32 `[N, C]`.
        y: The output of a block, float32 or bfloat16 `[N, C]`.
        layer: The layer norm.
        dtype: The dtype of the result, float32 or bfloat16.
        post: Also replace the stream by its norm, as post-LN Transformers do. The result is then `x` itself if it is float32.
    """
    if x.dtype != torch.float32:
        raise ValueError(f"the residual stream must be float32, but is {x.dtype}")
    out = x if post and dtype == x.dtype else x.new_empty(x.shape, dtype=dtype)
    return _transform(x, y, out, layer, gelu=False, post=post)


def _transform(x: Tensor, y: Tensor | None, out: Tensor, layer: nn.LayerNorm | None, gelu: bool, post: bool) -> Tensor:
    shape, dtype = x.shape, x.dtype
    kernels = _kernels(dtype)
    operands = (x, out) if y is None else (x, out, y)
    for operand in operands:
        if operand.shape != shape or len(shape) != 2 or not operand.is_contiguous() or operand.dtype not in DTYPES:
            raise ValueError(
                f"operands must be contiguous rows of one shape [N, C] in float32 or bfloat16, but one is "
                f"{list(operand.shape)} in {operand.dtype} with strides {operand.stride()} beside {list(shape)}"
            )
        _check_inference(operand)
    eps, weight, bias = 0.0, None, None
    if layer is not None:
        if tuple(layer.normalized_shape) != (shape[1],):
            raise ValueError(f"the layer norm must be over {shape[1]} channels, but is over {list(layer.normalized_shape)}")
        if layer.weight is None or layer.bias is None:
            raise ValueError("the layer norm must have a weight and a bias")
        eps, weight, bias = layer.eps, _readable(layer.weight), _readable(layer.bias)
        if bias.dtype != weight.dtype:
            weight, bias = weight.float(), bias.float()
    kernels.transform_rows(
        x.data_ptr(),
        0 if y is None else y.data_ptr(),
        out.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        dtype == BFLOAT16,
        y is not None and y.dtype == BFLOAT16,
        out.dtype == BFLOAT16,
        weight is not None and weight.dtype == BFLOAT16,
        gelu,
        post,
        eps,
        shape[0],
        shape[1],
        torch.get_num_threads(),
    )
    return out


@cache
def _has_bfloat16_dot() -> bool:
    return _extension().has_bfloat16_dot()


@cache
def _kernels(dtype: torch.dtype) -> ModuleType:
    """Return the extension. Raise a RuntimeError if it cannot run with inputs of `dtype`."""
    if (reason := why_not(dtype)) is not None:
        raise RuntimeError(reason)
    return _extension()


def _check_rows(name: str, x: Tensor, dtype: torch.dtype) -> tuple[int, int]:
    """Return the address of `x` `[N, C]` and the distance of its rows in elements."""
    row_stride, stride = x.stride()
    if x.dtype != dtype or (stride != 1 and x.shape[1] > 1) or row_stride < 0:
        raise ValueError(f"{name} must be {dtype} with adjacent channels, but is {x.dtype} with strides {x.stride()}")
    _check_inference(x)
    return x.data_ptr(), row_stride


def _check_inference(x: Tensor) -> None:
    if not x.is_cpu:
        raise ValueError(f"tensors must be on the CPU, but one is on {x.device}")
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("the kernels for CPUs have no gradients: call them under torch.no_grad()")


def _readable(parameter: Tensor) -> Tensor:
    """Return a parameter as the extension reads it: contiguous, float32 or bfloat16."""
    if parameter.dtype not in DTYPES:
        parameter = parameter.float()
    return parameter.contiguous()
