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
from hubert_fast.check.cases import OpCase, Size

Call = Callable[[], Any]
TINY = Size("tiny", hidden=32, heads=2, inner=48, groups=2, kernel=4, conv=16, vocabulary=11)


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
class Case(OpCase):
    """An op at a shape, and the providers that are timed beside our kernel.

    launcher: ours without the look-ups that the packed graph does once a batch. finish: brings our result into the layout that
    the libraries' are compared in.
    """

    libraries: dict[str, Provider] = field(default_factory=dict)
    launcher: Provider | None = None
    finish: Callable[[Any], Any] = lambda out: out

    @classmethod
    def of(cls, case: OpCase, libraries: dict[str, Provider] | None = None, **more: Any) -> Case:
        """Add providers to an op's case."""
        return cls(**vars(case), libraries=libraries or {}, **more)

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


def counts_and_starts(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames and first frame of each utterance, on the host."""
    cu_seqlens = cu_seqlens.cpu().long()
    return cu_seqlens.diff(), cu_seqlens[:-1]
