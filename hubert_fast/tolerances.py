"""Define how results are compared, and every tolerance of the package and its tests with its reason."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PART = 1 << 26  # values compared at once: a float64 copy of a result of gigabytes may not fit into memory


class Tolerance(NamedTuple):
    """The largest error that counts as rounding, as a share of the expected value, and the reason for it."""

    value: float
    reason: str


# The result of one op, against its definition or a library call.
OP_TOLERANCES = {
    torch.float64: Tolerance(1e-9, "float64 sums of the same products"),
    torch.float32: Tolerance(1e-5, "sums in float32; products in float32, or by three tf32 products"),
    torch.float16: Tolerance(2e-3, "one rounding to fp16 (2^-11), and another of the operands of a second product"),
    torch.bfloat16: Tolerance(1.6e-2, "one rounding to bf16 (2^-8), and another of the operands of a second product"),
}

# The logits of a whole model, against transformers or the plain graph in float32.
MODEL_TOLERANCES = {
    torch.float32: Tolerance(1e-4, "float32 sums in another order"),
    torch.float16: Tolerance(1e-2, "a rounding to fp16 (2^-11) in every layer"),
    torch.bfloat16: Tolerance(5e-2, "a rounding to bf16 (2^-8) in every layer"),
}

# Results that tests compare, on models of a few layers: in float32, except the last one.
TEST_TOLERANCES = {
    "small op": Tolerance(1e-6, "one rounding to float32 (2^-24), with room for short sums"),
    "same graph": Tolerance(1e-5, "the same operations in the same order; only sums inside library calls may differ in order"),
    "other graph": Tolerance(1e-5, "the same mathematics written another way, four to six layers deep"),
    "attention": Tolerance(1e-5, "attention by an explicit softmax against a fused kernel"),
    "CPU attention": Tolerance(
        3e-6, "C++ against float64, per number and relative to 1 at least: sums of hundreds of products"
    ),
    "CPU norm": Tolerance(1e-6, "C++ against float64, per number and relative to 1 at least: float32 sums of 16 lanes"),
    "CPU convolution": Tolerance(
        3e-6, "C++ against float64, per number and relative to 1 at least: float32 sums over taps, and transforms of 512 points"
    ),
    "CPU GELU": Tolerance(
        3e-7, "C++ against float64, per number and relative to 1 at least: polynomials with an error of 4e-8"
    ),
    "rounding to bfloat16": Tolerance(4e-3, "half the distance of neighbouring numbers, 2^-8"),
    "squared distance": Tolerance(
        1e-6,
        "sums of up to 1,280 products in float32, relative to (|x| + |c|)^2: 1e-7 measured, and 2e-6 and more with tf32",
    ),
    "gradient": Tolerance(
        2e-5,
        "long sums of terms of both signs: each side is up to 8e-6 from float64, and transformers 4.34.1 on two threads 7e-6 "
        "from itself on one",
    ),
    "half-precision model": Tolerance(
        3.2e-2,
        "two graphs that round at different points of every layer: 2e-3 measured in float16, eight times that expected in "
        "bfloat16, doubled for other random weights",
    ),
}


def largest_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest error as a share of the largest expected value; infinite for NaN or a different shape."""
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.numel():
        return 0.0
    pairs = zip(actual.flatten().split(PART), expected.flatten().split(PART))
    parts = [torch.stack(((a.double() - b.double()).abs().max(), b.double().abs().max())) for a, b in pairs]
    error, largest = torch.stack(parts).amax(0).tolist()
    error /= max(largest, 1e-30)
    return error if error == error else float("inf")
