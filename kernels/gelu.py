"""Compute the exact GELU (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415) in the epilogues of other kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..dispatch import interpreting


def form_of(dtype: torch.dtype) -> str:
    """Return how kernels compute GELU for results in `dtype`: `"erf"` or `"tanh"`.

    erf takes 37 instructions per value and tanh 8, one of which is the hardware's `tanh.approx`. The absolute error of tanh is
    at most 3e-5 (measured on an H200, from -9 to 9), so the small results of large negative values have no relative accuracy.
    For normal numbers the relative error after rounding is 1.664e-3 for both in bfloat16, and in float16 2.10e-4 for tanh and
    2.08e-4 for erf. float32 uses erf, and so does the interpreter, which cannot run PTX.
    """
    return "tanh" if dtype.itemsize == 2 and not interpreting() else "erf"


@triton.jit
def gelu(x, FORM: tl.constexpr):
    """Apply ``x / 2 * (1 + erf(x / sqrt 2))`` to fp32 values; FORM is of :func:`form_of`."""
    half = 0.5 * x
    if FORM == "tanh":
        # erf(x / sqrt 2) = tanh(x p(x^2)): p fitted to |x| below 6.3, where both are 1 in float32, and constant from there on
        square = tl.minimum(x * x, 40.0)
        argument = x * (0.797479 + square * (0.0370058 - 3.49e-4 * square))
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [argument], dtype=tl.float32, is_pure=True, pack=1)
        return half + half * tanh
    else:
        return half * (1.0 + tl.erf(x * 0.7071067811865476))
