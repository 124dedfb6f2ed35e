"""Cases of a benchmark: an op at a shape, its inputs, our kernel, and what a sceptic would call instead.

What a provider lays out once per model or batch (padded rows, tables of work, weights in another order) is not timed.
Axes: B utterances, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hubert_fast import ops

Call = Callable[[], Any]
STREAM = torch.float32  # dtype of the residual stream


class Size(NamedTuple):
    """Widths of a model."""

    name: str
    hidden: int = 1024
    heads: int = 16
    inner: int = 4096
    groups: int = 16
    kernel: int = 128
    conv: int = 512
    vocabulary: int = 32
    pre_norm: bool = True


SIZES = {
    "large": Size("large"),
    "base": Size("base", hidden=768, heads=12, inner=3072, pre_norm=False),
    "xlarge": Size("xlarge", hidden=1280, inner=5120),
}
TINY = Size("tiny", hidden=32, heads=2, inner=48, groups=2, kernel=4, conv=16, vocabulary=11)


class Where(NamedTuple):
    """Dtype and device of inputs."""

    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Draw normal numbers."""
        return torch.randn(shape, device=self.device).mul_(scale).to(dtype or self.dtype)

    def indices(self, values: list[int]) -> Tensor:
        """Put whole numbers there, int32."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)


class Provider(NamedTuple):
    """An implementation. ``prepare`` takes the op's arguments and returns the call that is timed; ``finish`` brings what that
    gave into the layout of ours."""

    prepare: Callable[..., Call]
    finish: Callable[[Any], Any] = lambda out: out


def plain(function: Callable) -> Provider:
    """Return a provider that takes the op's arguments as they are."""
    return Provider(lambda *arguments: lambda: function(*arguments))


@contextmanager
def rule(module: str, name: str, answer: Any) -> Iterator[None]:
    """Have a function of a module of ``kernels/`` answer so."""
    where = import_module(f"hubert_fast.kernels.{module}")
    kept = getattr(where, name)
    setattr(where, name, lambda *arguments: answer)
    try:
        yield
    finally:
        setattr(where, name, kept)


def ruled(function: Callable, module: str, name: str, answer: Any) -> Callable:
    """Return a function that runs under :func:`rule`."""

    def run(*arguments: Any) -> Any:
        with rule(module, name, answer):
            return function(*arguments)

    return run


@dataclass
class Case:
    """One op at one shape. ``settle`` makes of results, and of arguments in float64, what is held against the definition."""

    op: str
    shape: str
    dtype: torch.dtype
    make: Callable[[], tuple]
    flop: float
    libraries: dict[str, Provider] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    launcher: Provider | None = None
    settle: Callable[..., Any] = lambda out, *arguments: out
    finish: Callable[[Any], Any] = lambda out: out

    def public(self, *arguments: Any) -> Any:
        """Run the public function on kernels."""
        return getattr(ops, self.op)(*arguments, **self.options, backend="triton")

    def definition(self, *arguments: Any, **options: Any) -> Any:
        """Run the eager definition."""
        return getattr(ops, f"{self.op}_eager")(*arguments, **(self.options | options))

    def providers(self) -> dict[str, Provider]:
        """Return ours, which answers are compared with, then the libraries'."""
        if not hasattr(ops, self.op):  # a decision, where all providers are ours
            return self.libraries
        return {"ours": self.launcher or Provider(plain(self.public).prepare, self.finish), **self.libraries}

    def compiled(self) -> Provider:
        """Return the eager definition under ``torch.compile``."""
        return Provider(plain(torch.compile(self.definition)).prepare, self.finish)


def padded(x: Tensor, lengths: list[int]) -> Tensor:
    """``[N, ...] -> [B, T, ...]``, with zeros after each utterance."""
    return torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)


def packed(rows: Tensor, lengths: list[int]) -> Tensor:
    """``[B, T, ...] -> [N, ...]``."""
    return torch.cat([row[:length] for row, length in zip(rows, lengths)])


def frame_mask(lengths: list[int], device: torch.device) -> Tensor:
    """Return which frames of padded rows are true, ``[B, T]``."""
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def bounds(lengths: list[int], at: Where) -> Tensor:
    """Return ``cu_seqlens``, ``[B + 1]``."""
    return at.indices([sum(lengths[:index]) for index in range(len(lengths) + 1)])


def counts_and_starts(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames and first frame of each utterance, on the host."""
    cu_seqlens = cu_seqlens.cpu().long()
    return cu_seqlens.diff(), cu_seqlens[:-1]


def sample_spans(lengths: list[int]) -> tuple[list[int], list[int], int]:
    """Return where utterances of so many frames start and how many samples they have, packed; and all samples."""
    samples = [320 * length + 80 if length else 7 for length in lengths]
    starts = [0]
    for count in samples:
        starts.append(starts[-1] + -(-count // 320) * 320)
    return starts[:-1], samples, starts[-1]
