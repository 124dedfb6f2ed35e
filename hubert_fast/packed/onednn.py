"""Call oneDNN's matrix products and convolutions on CPUs with AVX-512, with bias and GELU computed inside.

In float32, `F.linear` calls MKL, which reaches less than half of oneDNN's speed on AMD CPUs. oneDNN also takes
weights in a layout of its own (`packed_linear`, `packed_convolution`), which saves 5 to 10 % of the time, and convolves rows
`[T, C]` without a copy of the overlapping windows.

The operators are those to which `torch.compile` lowers linear layers. They are private, so `why_not` compares their results
with float64 before they are first used.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tolerances import OP_TOLERANCES, largest_error

# Packed layouts do not depend on the number of rows, unless there is only one row.
TYPICAL_ROWS = 512


def why_not(dtype: torch.dtype) -> str | None:
    """Return why oneDNN cannot compute in `dtype` here, or why `F.linear` is as good; `None` when oneDNN is to be used."""
    if not torch.backends.mkldnn.enabled:  # may change at any time
        return "torch.backends.mkldnn is disabled"
    return _why_not(dtype)


@cache
def _why_not(dtype: torch.dtype) -> str | None:
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"this is {platform.machine()}, where F.linear is fast"
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return "this CPU has no AVX-512, without which F.linear is as fast"  # measured: oneDNN takes 1.1 times as long
    if not torch.backends.mkldnn.is_available():
        return "this torch is built without oneDNN"
    supported = {
        torch.float32: lambda: True,
        torch.bfloat16: lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    try:
        if dtype not in supported or not supported[dtype]():
            return f"oneDNN does not multiply {dtype} on this CPU"
        error = _error(dtype)
    except Exception as problem:  # the operators may have changed in any way
        return f"oneDNN's operators in torch {torch.__version__} are not the expected ones: {problem}"
    if not error <= OP_TOLERANCES[dtype].value:
        return f"oneDNN's operators in torch {torch.__version__} differ from float64 by {error:.1e}"
    return None


@torch.inference_mode()
def _error(dtype: torch.dtype) -> float:
    """Return the largest relative error of all operators on small numbers that are exact in `dtype`."""
    x, weight, bias = (torch.arange(count, dtype=torch.float64).sin().mul(64).round() / 64 for count in (17 * 32, 48 * 96, 48))
    x, weight = x.view(17, 32), weight.view(48, 32, 3)
    rows, taps, offset = x.to(dtype), weight.to(dtype), bias.to(dtype)
    tap = taps[:, :, 1].contiguous()
    product = F.gelu(F.linear(x, weight[:, :, 1], bias))
    convolved = F.gelu(F.conv1d(x.t()[None], weight, bias, stride=2))[0].t()
    results = (
        (linear(rows, tap, offset, gelu=True), product),
        (linear(rows, packed_linear(tap), offset, gelu=True), product),
        (linear(rows, packed_linear(tap), None), F.linear(x, weight[:, :, 1])),
        (convolution(rows, packed_convolution(taps, 2), offset, 3, 2, gelu=True), convolved),
    )
    return max(largest_error(actual, expected) for actual, expected in results)


def packed_linear(weight: Tensor) -> Tensor:
    """Return a linear layer's weight `[C_out, C_in]` in oneDNN's layout, as an opaque tensor for `linear`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)


def packed_convolution(weight: Tensor, stride: int) -> Tensor:
    """Return a convolution's weight `[C_out, C_in, K]` in oneDNN's layout, as an opaque tensor for `convolution`."""
    weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    size = [1, weight.shape[1], 1, stride * TYPICAL_ROWS]
    return torch.ops.mkldnn._reorder_convolution_weight(weight, [0, 0], [1, stride], [1, 1], 1, size)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Apply a linear layer, and GELU if requested, to rows `[N, C_in]`. The weight may be packed."""
    # with other strides oneDNN takes a path that is a thousand times slower
    if weight.layout == torch.strided and not weight.is_contiguous():
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, *_epilogue(gelu))


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int, gelu: bool = False) -> Tensor:
    """Convolve rows, and apply GELU if requested: `[T, C_in] -> [(T - K) // stride + 1, C_out]`.

    Args:
        weight: The weight from `packed_convolution`.
        kernel: The number of taps, K.
    """
    frames, channels = x.shape
    if frames < kernel:
        raise ValueError(f"a convolution of {kernel} taps needs as many frames, but got {frames}")
    image = x.view(1, 1, frames, channels).permute(0, 3, 1, 2)  # [1, C, 1, T] in memory format channels_last
    operator = torch.ops.mkldnn._convolution_pointwise
    out = operator(image, weight, bias, [0, 0], [1, stride], [1, 1], 1, *_epilogue(gelu))
    return out[0, :, 0].t().contiguous()  # no copy: the result is in channels_last, too


def _epilogue(gelu: bool) -> tuple[str, list[Any], str]:
    return "gelu" if gelu else "none", [], "none"  # "none": GELU by erf, not by tanh
