"""Define the measurements on which the rules of `kernels/tuning.py` rest: pairs of ways to compute the same result."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.cases import Call, Case, Provider, plain, ruled
from hubert_fast import ops
from hubert_fast.check.cases import STREAM, Size, Where, conv_gelu


def projections(size: Size, lengths: list[int], at: Where) -> Case:
    """Compute query, key and value by three products, or by one product with the weights concatenated."""
    n, c = sum(lengths), size.hidden

    def fused(x: Tensor, *weights: Tensor) -> Call:
        weight = torch.cat(weights)
        return lambda: F.linear(x, weight)

    return Case(
        "decision: q, k, v", f"{size.name} [{n}, {c}]", at.dtype,
        lambda: (at.normal(n, c), *(at.normal(c, c, scale=c**-0.5) for _ in range(3))), 6.0 * n * c * c,
        libraries={
            "three products": plain(lambda x, *weights: tuple(F.linear(x, weight) for weight in weights)),
            "one fused product": Provider(fused, lambda out: out.chunk(3, dim=1)),
        },
    )  # fmt: skip


def residual_add(size: Size, lengths: list[int], at: Where, n_in: int) -> Case:
    """Compute a product, a residual add and the next norm: the choice of `linear_add_by_library`."""
    n, c = sum(lengths), size.hidden

    def by_library(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *norm: Tensor) -> Call:
        from hubert_fast.kernels import add_layer_norm as kernel

        return lambda: kernel.launch(residual, F.linear(x, weight), bias, *norm, 1e-5, at.dtype, False)

    def by_triton(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *norm: Tensor) -> Call:
        from hubert_fast.kernels import layer_norm, linear

        def call() -> tuple[Tensor, Tensor]:
            total = linear.launch_add(x, weight, bias, residual)
            return total, layer_norm.launch(total, *norm, 1e-5, at.dtype)

        return call

    return Case(
        "decision: linear_add", f"{size.name} [{n}, {n_in}] to {c}", at.dtype,
        lambda: (at.normal(n, n_in), at.normal(c, n_in, scale=n_in**-0.5), at.normal(c), at.normal(n, c, dtype=STREAM),
                 at.normal(c), at.normal(c)),
        2.0 * n * n_in * c,
        libraries={"library product, add_layer_norm": Provider(by_library), "Triton, add inside": Provider(by_triton)},
    )  # fmt: skip


def norm_in_convolution(size: Size, lengths: list[int], at: Where, kernel: int) -> Case:
    """Apply LayerNorm in the epilogue of a strided convolution, or in a separate pass."""
    case = conv_gelu(size, lengths, at, kernel, norm=True)

    ours = partial(ruled, case.public, "tuning", "norm_in_convolution")
    return Case("decision: conv_gelu", case.shape, at.dtype, case.make, case.flop,
                libraries={"product, layer_norm": plain(ours(False)), "norm inside": plain(ours(True))})  # fmt: skip


def first_layer(size: Size, lengths: list[int], at: Where) -> Case:
    """Compute the first layer of base models, with GroupNorm and its statistics, on utterances of equal length."""
    batch, c, hop = len(lengths), size.conv, 320
    samples = hop * (sum(lengths) // batch)
    frames = (samples - 10) // 5 + 1
    starts = [row * samples for row in range(batch)]
    utterances = at.indices([row for row in range(batch) for _ in range(samples // hop)] + [batch - 1])

    def ours(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
        means, covariances = ops.window_statistics(x, starts, [samples] * batch, 10, 5, backend="triton")
        weight64 = weight.double()
        variance = torch.einsum("kc,bkj,jc->bc", weight64, covariances, weight64)
        folded = ((variance + 1e-5).rsqrt() * norm_weight.double())[:, None] * weight64
        return ops.conv_first(
            x, folded.float(), norm_bias, None, None, means.float(), utterances, 64, dtype=at.dtype, backend="triton"
        )

    def library(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Call:
        rows, taps = x.view(batch, 1, samples).to(at.dtype), weight.t()[:, None].to(at.dtype)
        return lambda: F.gelu(F.group_norm(F.conv1d(rows, taps, stride=5), c, norm_weight, norm_bias))

    def finish(out: Tensor) -> Tensor:  # drop the frames that straddle two utterances
        return F.pad(out, (0, 0, 0, batch * samples // 5 - len(out))).unflatten(0, (batch, -1))[:, :frames]

    return Case(
        "decision: first layer", f"{size.name} [{batch} of {samples}] to {c}, GroupNorm", at.dtype,
        lambda: (at.normal(batch * samples, dtype=torch.float32), at.normal(10, c, scale=0.3, dtype=torch.float32),
                 at.normal(c), at.normal(c)),
        20.0 * batch * frames * c,
        libraries={
            "ours, statistics by window": Provider(plain(ours).prepare, finish),
            "library: conv1d, group_norm, gelu": Provider(library, lambda out: out.transpose(1, 2)),
        },
    )  # fmt: skip


def decisions(size: Size, lengths: list[int], at: Where) -> list[Case]:
    """Return the cases on which the rules of `kernels/tuning.py` rest."""
    return [
        projections(size, lengths, at),
        residual_add(size, lengths, at, size.hidden),
        residual_add(size, lengths, at, size.inner),
        norm_in_convolution(size, lengths, at, 3),
        norm_in_convolution(size, lengths, at, 2),
        first_layer(size, lengths, at),
    ]
