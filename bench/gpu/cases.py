"""Define the cases of a benchmark: an op at a shape, its inputs, our kernel, and the best library calls for the same result.

Preparation that happens once per model or batch is not timed: padded rows, work lists, weights in another layout.
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
from hubert_fast.check.cases import OpCase, Size

Call = Callable[[], Any]
TINY = Size("tiny", hidden=32, heads=2, inner=48, groups=2, kernel=4, conv=16, vocabulary=11, units=70)


class Provider(NamedTuple):
    """An implementation of an op.

    Attributes:
        prepare: Takes the op's arguments and returns the call to time.
        finish: Converts the result of that call to our layout.
    """

    prepare: Callable[..., Call]
    finish: Callable[[Any], Any] = lambda out: out


def plain(function: Callable) -> Provider:
    """Return a provider that passes the op's arguments to `function` unchanged."""
    return Provider(lambda *arguments: lambda: function(*arguments))


@contextmanager
def rule(module: str, name: str, answer: Any) -> Iterator[None]:
    """Make a function of a module of `kernels/` return `answer`."""
    kernels = import_module(f"hubert_fast.kernels.{module}")
    original = getattr(kernels, name)
    setattr(kernels, name, lambda *arguments: answer)
    try:
        yield
    finally:
        setattr(kernels, name, original)


def ruled(function: Callable, module: str, name: str, answer: Any) -> Callable:
    """Return a function that runs under `rule`."""

    def run(*arguments: Any) -> Any:
        with rule(module, name, answer):
            return function(*arguments)

    return run


@dataclass
class Case(OpCase):
    """An op at a shape, with the providers to time besides our kernel.

    Attributes:
        launcher: Our kernel, without the preparation that the packed graph does once per batch.
        finish: Converts our result to the layout in which it is compared with those of the libraries.
        compare: Maps a finished result and the arguments to values that can be compared: near ties have equal ones.
    """

    libraries: dict[str, Provider] = field(default_factory=dict)
    launcher: Provider | None = None
    finish: Callable[[Any], Any] = lambda out: out
    compare: Callable[..., Any] = lambda out, *arguments: out

    @classmethod
    def of(cls, case: OpCase, libraries: dict[str, Provider] | None = None, **more: Any) -> Case:
        """Add providers to an op's case."""
        return cls(**vars(case), libraries=libraries or {}, **more)

    def providers(self) -> dict[str, Provider]:
        """Return all providers, ours first."""
        if not hasattr(ops, self.op):  # a decision: all providers are ours
            return self.libraries
        return {"ours": self.launcher or Provider(plain(self.public).prepare, self.finish), **self.libraries}

    def compiled(self) -> Provider:
        """Return the eager definition under `torch.compile`."""
        return Provider(plain(torch.compile(self.definition)).prepare, self.finish)


def padded(x: Tensor, lengths: list[int]) -> Tensor:
    """Return packed frames `[N, ...]` as `[B, T, ...]`, with zeros after each utterance."""
    return torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)


def packed(rows: Tensor, lengths: list[int]) -> Tensor:
    """Return padded frames `[B, T, ...]` as `[N, ...]`."""
    return torch.cat([row[:length] for row, length in zip(rows, lengths)])


def counts_and_starts(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of frames and the first frame of each utterance, on the host."""
    cu_seqlens = cu_seqlens.cpu().long()
    return cu_seqlens.diff(), cu_seqlens[:-1]
