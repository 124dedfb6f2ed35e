"""The exact GELU (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), for the epilogues of other kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """Apply ``x / 2 * (1 + erf(x / sqrt 2))`` to fp32 values."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
