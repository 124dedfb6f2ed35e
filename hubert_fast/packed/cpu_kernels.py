"""Run all but the large products on a CPU with AVX-512, in C++ (csrc/*_cpu.cpp), for inference.

Attention, the positional convolution, the first convolution, LayerNorm and GELU. They compute in float32 and use the threads of
PyTorch. `why_not` and its like say whether they can run; callers ask before they call.
Axes: N packed frames, C channels, H heads, D head dim, T windows, K taps, G groups, L points of a transform.
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

from .grid import Grid

BFLOAT16, DTYPES = torch.bfloat16, (torch.float32, torch.bfloat16)
INTERFACE = 2  # as in csrc/cpu.cpp
LANES, MAX_HEAD_DIM = 16, 128


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
    if head_dim % LANES or not 0 < head_dim <= MAX_HEAD_DIM:
        return f"the head dim must be a multiple of {LANES} up to {MAX_HEAD_DIM}, but is {head_dim}"
    if (reason := why_not(dtype)) is not None:
        return reason
    if dtype == BFLOAT16 and _extension().has_bfloat16_tiles():
        return "this CPU has AMX, with which PyTorch's attention is faster in bfloat16"
    return None


@cache
def why_not_positions(channels: int, groups: int, points: int) -> str | None:
    """Return why `positions` cannot run with L = `points` on float32, or `None` if it can."""
    if (reason := why_not(torch.float32)) is not None:
        return reason
    kernels, width = _extension(), channels // groups
    if width % LANES or width > kernels.MAX_POSITION_CHANNELS:
        return f"groups must have a multiple of {LANES} channels, up to {kernels.MAX_POSITION_CHANNELS}, but have {width}"
    if points > kernels.MAX_POSITION_POINTS:
        return f"transforms can have up to {kernels.MAX_POSITION_POINTS} points, but have {points}"
    return None


@cache
def why_not_first_convolution(dtype: torch.dtype, channels: int, kernel: int) -> str | None:
    """Return why `first_convolution` cannot run with results of `dtype`, or `None` if it can."""
    if (reason := why_not(dtype)) is not None:
        return reason
    kernels = _extension()
    if channels % LANES or channels > kernels.MAX_FIRST_CHANNELS:
        return f"there must be a multiple of {LANES} channels, up to {kernels.MAX_FIRST_CHANNELS}, but there are {channels}"
    if kernel > kernels.MAX_FIRST_KERNEL:
        return f"there can be up to {kernels.MAX_FIRST_KERNEL} taps, but there are {kernel}"
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
    if head_dim % LANES or not 0 < head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"the head dim must be a multiple of {LANES} up to {MAX_HEAD_DIM}, but is {head_dim}")
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


def positions(
    x: Tensor, padding: Tensor, spectrum: Tensor, bias: Tensor, kernel: int, grid: Grid, stream: Tensor | None = None
) -> Tensor:
    """Convolve each utterance of `x` `[N, C]` as `positions.convolve` does; given a stream, return `stream + GELU(that)`.

    All tensors are float32. An utterance does not depend on its neighbours in the batch.

    Args:
        padding: The frame with which utterances are padded to `grid.padded` frames, `[C]`.
        spectrum: From `position_spectrum`, `[L/2+1, G, C/G (in), 2, C/G (out)]`.
        bias: `[C]`.
        kernel: The number of taps, K.
        stream: `[N, C]`; it may be `x`.

    Raises:
        ValueError: Shapes, dtypes or strides are not supported.
        RuntimeError: The extension cannot run here; see `why_not_positions`.
    """
    frequencies, groups, width, _, _ = spectrum.shape
    points, channels = 2 * (frequencies - 1), groups * width
    if (reason := why_not_positions(channels, groups, points)) is not None:
        raise RuntimeError(reason)
    if not 0 < kernel <= points:
        raise ValueError(f"a transform of {points} points takes 1 to {points} taps, but there are {kernel}")
    rows, channel = (grid.frames, channels), (channels,)
    _check_operands(x=(x, rows), padding=(padding, channel), spectrum=(spectrum, spectrum.shape), bias=(bias, channel))
    if stream is not None:
        _check_operands(stream=(stream, rows))
    kernels, out, hop = _extension(), torch.empty_like(x), points - kernel + 1
    pairs = min(sum(-(-count // (2 * hop)) for count in grid.counts), kernels.POSITION_PAIRS)
    buffer = x.new_empty(frequencies * pairs * 4 * channels)
    kernels.positions(
        x.data_ptr(),
        0 if stream is None else stream.data_ptr(),
        padding.data_ptr(),
        spectrum.data_ptr(),
        bias.data_ptr(),
        out.data_ptr(),
        buffer.data_ptr(),
        grid.counts,
        grid.padded or 0,
        channels,
        groups,
        kernel,
        points,
        torch.get_num_threads(),
    )
    return out


def position_spectrum(spectrum: Tensor) -> Tensor:
    """Lay out a spectrum `[L/2+1, G, in, out]` from `weights.spectrum_of` for `positions`: `[L/2+1, G, in, 2, out]`."""
    points = 2 * (len(spectrum) - 1)
    return torch.stack([spectrum.real, spectrum.imag], 3).div_(points)


def first_convolution(
    windows: Tensor, mean: Tensor | None, weight: Tensor, bias: Tensor | None, layer: nn.LayerNorm | None, dtype: torch.dtype
) -> Tensor:
    """Convolve windows of samples, then apply a layer norm if there is one, and exact GELU.

    Args:
        windows: Float32 `[T, K]`, with adjacent samples in each window, such as from `Tensor.unfold`.
        mean: Subtracted from each window, float32 `[K]`; `None` for nothing.
        weight: Float32 `[C, K]`.
        bias: Float32 `[C]`; `None` for none.
        layer: The layer norm; `None` for none.
        dtype: The dtype of the result, float32 or bfloat16.

    Returns:
        `[T, C]`, contiguous.

    Raises:
        ValueError: Shapes, dtypes or strides are not supported.
        RuntimeError: The extension cannot run here; see `why_not_first_convolution`.
    """
    (frames, kernel), channels = windows.shape, len(weight)
    if (reason := why_not_first_convolution(dtype, channels, kernel)) is not None:
        raise RuntimeError(reason)
    address, stride = _check_rows("windows", windows, torch.float32)
    operands = {"mean": (mean, (kernel,)), "weight": (weight, (channels, kernel)), "bias": (bias, (channels,))}
    _check_operands(**{name: (operand, shape) for name, (operand, shape) in operands.items() if operand is not None})
    out = windows.new_empty(frames, channels, dtype=dtype)
    eps, norm_weight, norm_bias = _norm_of(layer, channels)
    _kernels(dtype).first_convolution(
        address,
        weight.data_ptr(),
        0 if mean is None else mean.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        kernel,
        stride,
        out.data_ptr(),
        dtype == BFLOAT16,
        0 if norm_weight is None else norm_weight.data_ptr(),
        0 if norm_bias is None else norm_bias.data_ptr(),
        norm_weight is not None and norm_weight.dtype == BFLOAT16,
        eps,
        frames,
        channels,
        torch.get_num_threads(),
    )
    return out


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
    eps, weight, bias = _norm_of(layer, shape[1])
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


def _norm_of(layer: nn.LayerNorm | None, channels: int) -> tuple[float, Tensor | None, Tensor | None]:
    """Return epsilon, weight and bias of a layer norm over `channels`, as the extension reads them; without one, no tensors."""
    if layer is None:
        return 0.0, None, None
    if tuple(layer.normalized_shape) != (channels,):
        raise ValueError(f"the layer norm must be over {channels} channels, but is over {list(layer.normalized_shape)}")
    if layer.weight is None or layer.bias is None:
        raise ValueError("the layer norm must have a weight and a bias")
    weight, bias = _readable(layer.weight), _readable(layer.bias)
    return (layer.eps, weight, bias) if bias.dtype == weight.dtype else (layer.eps, weight.float(), bias.float())


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


def _check_operands(**operands: tuple[Tensor, tuple[int, ...]]) -> None:
    """Check that tensors are contiguous float32 of the given shapes."""
    for name, (x, shape) in operands.items():
        if x.shape != shape or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous float32 {list(shape)}, but is {x.dtype} {list(x.shape)} with strides {x.stride()}"
            )
        _check_inference(x)


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
