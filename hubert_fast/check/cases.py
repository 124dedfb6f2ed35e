"""Build every op at given shapes, with inputs. Kernels are checked on these cases, and `bench/` times them.

Axes: B utterances, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

STREAM = torch.float32  # dtype of the residual stream


class Size(NamedTuple):
    """The sizes of a model's layers."""

    name: str
    hidden: int = 1024
    heads: int = 16
    inner: int = 4096
    groups: int = 16
    kernel: int = 128
    conv: int = 512
    vocabulary: int = 32
    units: int = 500
    pre_norm: bool = True


SIZES = {
    "large": Size("large"),
    "base": Size("base", hidden=768, heads=12, inner=3072, pre_norm=False),
    "xlarge": Size("xlarge", hidden=1280, inner=5120),
}
ODD = Size("odd", hidden=52, heads=4, inner=77, groups=4, kernel=5, conv=24, vocabulary=31, units=101)


class Where(NamedTuple):
    """The dtype and device of inputs."""

    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Draw normally distributed numbers."""
        return torch.randn(shape, device=self.device).mul_(scale).to(dtype or self.dtype)

    def indices(self, values: list[int]) -> Tensor:
        """Return integers as an int32 tensor on the device."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)


@dataclass
class OpCase:
    """An op at a shape.

    Attributes:
        op: The name of its public function.
        shape: A description of the shape.
        dtype: The dtype of the inputs.
        make: Draws the arguments.
        flop: The number of floating-point operations of one call.
        options: The keyword arguments.
        settle: Maps a result, and the arguments in float64, to values that can be compared with the definition.
    """

    op: str
    shape: str
    dtype: torch.dtype
    make: Callable[[], tuple]
    flop: float
    options: dict[str, Any] = field(default_factory=dict)
    settle: Callable[..., Any] = lambda out, *arguments: out

    def public(self, *arguments: Any) -> Any:
        """Run the public function on kernels."""
        return getattr(ops, self.op)(*arguments, **self.options, backend="triton")

    def definition(self, *arguments: Any, **options: Any) -> Any:
        """Run the eager definition."""
        return getattr(ops, f"{self.op}_eager")(*arguments, **(self.options | options))


def frame_mask(lengths: list[int], device: torch.device) -> Tensor:
    """Return which frames of padded rows are not padding, bool `[B, T]`."""
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def bounds(lengths: list[int], at: Where) -> Tensor:
    """Return `cu_seqlens`, `[B + 1]`."""
    return at.indices([sum(lengths[:index]) for index in range(len(lengths) + 1)])


def sample_spans(lengths: list[int]) -> tuple[list[int], list[int], int]:
    """Return the first sample and the sample count of each packed utterance of `lengths` frames, and the total count."""
    samples = [320 * length + 80 if length else 7 for length in lengths]
    starts = [0]
    for count in samples:
        starts.append(starts[-1] + -(-count // 320) * 320)
    return starts[:-1], samples, starts[-1]


def linear_gelu(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, inner = sum(lengths), size.hidden, size.inner
    return OpCase(
        "linear_gelu", f"{size.name} [{n}, {c}] to {inner}", at.dtype,
        lambda: (at.normal(n, c), at.normal(inner, c, scale=c**-0.5), at.normal(inner)),
        2.0 * n * c * inner,
    )  # fmt: skip


def linear_add(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, inner = sum(lengths), size.hidden, size.inner
    return OpCase(
        "linear_add", f"{size.name} [{n}, {inner}] to {c}", at.dtype,
        lambda: (at.normal(n, inner), at.normal(c, inner, scale=inner**-0.5), at.normal(c), at.normal(n, c, dtype=STREAM)),
        2.0 * n * c * inner,
    )  # fmt: skip


def layer_norm(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c = sum(lengths), size.hidden
    return OpCase(
        "layer_norm", f"{size.name} [{n}, {c}]", at.dtype, lambda: (at.normal(n, c), at.normal(c), at.normal(c)), 8.0 * n * c
    )


def add_layer_norm(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, post = sum(lengths), size.hidden, not size.pre_norm
    return OpCase(
        "add_layer_norm", f"{size.name} [{n}, {c}] {'post' if post else 'pre'}-LN", at.dtype,
        lambda: (at.normal(n, c, dtype=STREAM), at.normal(n, c), at.normal(c), at.normal(c), at.normal(c)), 10.0 * n * c,
        {"dtype": at.dtype, "post": post},
    )  # fmt: skip


def attention(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c = sum(lengths), size.hidden

    def make() -> tuple:
        return *at.normal(n, 3 * c).unflatten(1, (3, size.heads, -1)).unbind(1), bounds(lengths, at)

    return OpCase(
        "attention", f"{size.name} [{n}, {size.heads}, {c // size.heads}] of {len(lengths)}", at.dtype, make,
        4.0 * c * sum(length**2 for length in lengths),
    )  # fmt: skip


def attention_padded(size: Size, lengths: list[int], at: Where) -> OpCase:
    batch, frames, c = len(lengths), max(lengths), size.hidden

    def make() -> tuple:
        q, k, v = at.normal(batch, frames, 3 * c).unflatten(2, (3, size.heads, -1)).unbind(2)
        return q, k, v, frame_mask(lengths, at.device)

    return OpCase(
        "attention_padded", f"{size.name} [{batch}, {frames}, {size.heads}, {c // size.heads}]", at.dtype, make,
        4.0 * c * frames * sum(lengths),
    )  # fmt: skip


def conv_positional(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, per_group = sum(lengths), size.hidden, size.hidden // size.groups

    def make() -> tuple:
        weight = at.normal(size.groups, size.kernel, per_group, per_group, scale=(size.kernel * per_group) ** -0.5)
        return at.normal(n, c), weight, at.normal(c), bounds(lengths, at), at.normal(n, c, dtype=STREAM)

    return OpCase(
        "conv_positional", f"{size.name} [{n}, {c}] {size.groups} groups, kernel {size.kernel}, of {len(lengths)}", at.dtype,
        make, 2.0 * n * c * per_group * size.kernel,
    )  # fmt: skip


def conv_first(size: Size, lengths: list[int], at: Where) -> OpCase:
    """Convolve with a LayerNorm, as in large models."""
    samples, c = sample_spans(lengths)[2], size.conv
    fp32 = torch.float32
    return OpCase(
        "conv_first", f"{size.name} [{samples}] to {c}, LayerNorm", at.dtype,
        lambda: (at.normal(samples, dtype=fp32), at.normal(10, c, scale=0.3, dtype=fp32), *(at.normal(c) for _ in range(3))),
        20.0 * c * ((samples - 10) // 5 + 1), {"dtype": at.dtype},
    )  # fmt: skip


def conv_first_by_utterance(size: Size, lengths: list[int], at: Where) -> OpCase:
    """Convolve with a folded GroupNorm, as in base models."""
    starts, _, samples = sample_spans(lengths)
    c, fp32 = size.conv, torch.float32

    def make() -> tuple:
        weight, means = at.normal(len(lengths), 10, c, scale=0.3, dtype=fp32), at.normal(len(lengths), 10, dtype=fp32)
        begins = torch.tensor(starts)
        utterances = torch.searchsorted(begins, torch.arange(samples // 320 + 1) * 320, right=True) - 1
        return at.normal(samples, dtype=fp32), weight, at.normal(c), None, None, means, at.indices(utterances.tolist()), 64

    return OpCase(
        "conv_first", f"{size.name} [{samples}] to {c}, by utterance", at.dtype, make, 20.0 * c * (samples // 5),
        {"dtype": at.dtype},
    )  # fmt: skip


def conv_gelu(size: Size, lengths: list[int], at: Where, kernel: int = 3, norm: bool | None = None) -> OpCase:
    """Convolve with kernel size 3 or 2. `norm` applies a LayerNorm, by default if the model is pre-LN."""
    norm = size.pre_norm if norm is None else norm
    n, c = sum(lengths) * (8 if kernel == 3 else 2), size.conv
    frames = (n - kernel) // 2 + 1

    def make() -> tuple:
        weight = at.normal(c, kernel * c, scale=(kernel * c) ** -0.5)
        return at.normal(n, c), weight, *((at.normal(c), at.normal(c), at.normal(c)) if norm else (None, None, None))

    return OpCase(
        "conv_gelu", f"{size.name} [{n}, {c}] kernel {kernel}{', LayerNorm' if norm else ''}", at.dtype, make,
        2.0 * frames * kernel * c * c,
    )  # fmt: skip


def ctc_argmax(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, vocabulary = sum(lengths), size.hidden, size.vocabulary

    def settle(out: tuple[Tensor, Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Compare a token by its log-probability: among near ties any token is correct."""
        log_probs = F.linear(x, weight, bias).log_softmax(-1)
        return log_probs.gather(-1, out[0].long()[:, None])[:, 0].float(), out[1]

    return OpCase(
        "ctc_argmax", f"{size.name} [{n}, {c}] to {vocabulary}", at.dtype,
        lambda: (at.normal(n, c), at.normal(vocabulary, c, scale=c**-0.5), at.normal(vocabulary)),
        2.0 * n * c * vocabulary, settle=settle,
    )  # fmt: skip


def unit_argmin(size: Size, lengths: list[int], at: Where) -> OpCase:
    n, c, units = sum(lengths), size.hidden, size.units

    def settle(out: Tensor, x: Tensor, centroids: Tensor) -> Tensor:
        """Compare a unit by its distance: among near ties any unit is correct."""
        return (x - centroids[out.long()]).square().sum(-1).float()

    return OpCase(
        "unit_argmin", f"{size.name} [{n}, {c}] to {units}", at.dtype,
        lambda: (at.normal(n, c), at.normal(units, c, dtype=torch.float32)), 2.0 * n * c * units, settle=settle,
    )  # fmt: skip


def normalize_waveforms(size: Size, lengths: list[int], at: Where, pcm: bool = False) -> OpCase:
    """Normalise waveforms in the dtype of `at`, or 16-bit PCM."""
    starts, samples, total = sample_spans(lengths)

    def make() -> tuple:
        x = at.normal(total) if not pcm else at.normal(total, scale=3000, dtype=torch.float32).to(torch.int16)
        return x, starts, samples

    return OpCase(
        "normalize_waveforms", f"{size.name} [{total}] of {len(lengths)}{', int16' if pcm else ''}", at.dtype, make, 6.0 * total
    )


def window_statistics(size: Size, lengths: list[int], at: Where) -> OpCase:
    starts, samples, total = sample_spans(lengths)
    return OpCase(
        "window_statistics", f"{size.name} [{total}] of {len(lengths)}", at.dtype,
        lambda: (at.normal(total), starts, samples, 10, 5), 110.0 * total / 5,
    )  # fmt: skip


BUILDERS = (
    linear_gelu, linear_add, attention, conv_gelu, conv_positional, add_layer_norm, conv_first, layer_norm, ctc_argmax,
    unit_argmin, normalize_waveforms, window_statistics, attention_padded,
)  # fmt: skip
