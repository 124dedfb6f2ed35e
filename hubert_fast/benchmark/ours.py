"""Define what an implementation is, and this package's own: with and without CUDA graphs, with and without packed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..ctc import greedy_decode
from ..packed import PackedAudio
from ..packed.cuda_graphs import GraphCache
from ..packed.weights import WeightCache
from .subject import Subject, Unavailable

GRAPHS = 64  # CUDA graphs that ours-graphs keeps


class Forward(NamedTuple):
    """A batch on the device.

    Attributes:
        run: The function to time. It returns logits.
        frames: Turns the result of `run` into `[N, V]`, without padding.
    """

    run: Callable[[], Tensor]
    frames: Callable[[Tensor], Tensor]


class Provider:
    """An implementation with a model.

    Attributes:
        is_sorted: Whether utterances are sorted by length before they are batched.
        is_single: Whether each utterance is a batch of its own, so that nothing is padded.
        pads: Whether padding affects the output, as with a group norm.
    """

    is_sorted = is_single = False
    pads = True

    def __init__(self, subject: Subject):
        self.subject = subject

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        """Move a batch to the device, normalised: protocol *model*."""
        raise NotImplementedError

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Turn waveforms in host memory into text: protocol *leaderboard*."""
        raise NotImplementedError

    def files(self, paths: Sequence[str]) -> list[str]:
        """Turn files on disk into text: protocol *files*."""
        raise NotImplementedError


class Ours(Provider):
    """Our packed graph: no padding, argmax on the device, CTC decoded in C++."""

    pads = False

    def _packed(self, waveforms: Sequence[np.ndarray]) -> PackedAudio:
        """Pack a batch and copy it to the device, on CUDA asynchronously."""
        device, hop = self.subject.device, self.subject.config.inputs_to_logits_ratio
        pin_memory = device.type == "cuda"
        packed = PackedAudio.from_waveforms(
            waveforms, normalize=self.subject.normalizes, hop_samples=hop, pin_memory=pin_memory
        )
        return packed.to(device, non_blocking=True)

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        packed = self._packed(waveforms)
        ready = PackedAudio(packed.waveform(), packed.lengths, False, packed.hop_samples)
        return Forward(lambda: self.subject.ours.forward_packed(ready).logits, lambda logits: logits)

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        out = self.subject.ours.argmax_packed(self._packed(waveforms))
        tokenizer = self.subject.processor.tokenizer
        transcripts = greedy_decode(out.ids, out.cu_seqlens, tokenizer, blank_id=tokenizer.pad_token_id)
        return [transcript.text for transcript in transcripts]

    def files(self, paths: Sequence[str]) -> list[str]:
        from ..transcribe import Transcriber

        transcriber = Transcriber(self.subject.ours, self.subject.processor)
        texts = {
            result.utterance.id: result.transcripts[0].text if result.error is None else ""
            for result in transcriber.transcribe_many(paths)
        }
        return [texts[path] for path in paths]


class _OursWithCache(Ours):
    """Our packed graph with a cache of its own in place of one of the model's, which other providers use.

    Args:
        subject: The model.
        name: The cache's attribute of `FastPath`.
        cache: The cache.
    """

    def __init__(self, subject: Subject, name: str, cache: GraphCache | WeightCache):
        super().__init__(subject)
        self._name, self._cache = name, cache

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        path = self.subject.ours.hubert.fast_path
        original = getattr(path, self._name)
        setattr(path, self._name, self._cache)
        try:
            yield
        finally:
            setattr(path, self._name, original)

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        ready = super().forward(waveforms)

        def run() -> Tensor:
            with self._swapped():
                return ready.run()

        return ready._replace(run=run)

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        with self._swapped():
            return super().text(waveforms)

    def files(self, paths: Sequence[str]) -> list[str]:
        with self._swapped():
            return super().files(paths)


class OursGraphs(_OursWithCache):
    """Our packed graph with CUDA graphs, which are captured before anything is timed.

    Args:
        subject: The model.
        limit: The largest number of graphs to keep; 0 runs without graphs.
    """

    def __init__(self, subject: Subject, limit: int = GRAPHS):
        check_graphs(subject)
        super().__init__(subject, "cuda_graphs", GraphCache(limit))

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        """Move a batch to the device and capture its graph if it is short, so that `run` only copies and replays."""
        ready = super().forward(waveforms)
        for _ in range(2):  # the second call captures
            ready.run()
        return ready


class OursUnpacked(_OursWithCache):
    """Our packed graph without the second copy of linear layers that oneDNN's layout needs on a CPU."""

    def __init__(self, subject: Subject):
        if subject.device.type != "cpu":
            raise Unavailable(f"weights are packed only on a CPU, but the device is {subject.device}")
        super().__init__(subject, "weights", WeightCache(pack=False))


def check_graphs(subject: Subject) -> None:
    """Raise `Unavailable` if the device does not support CUDA graphs."""
    if subject.device.type != "cuda":
        raise Unavailable(f"CUDA graphs need a CUDA device, but the device is {subject.device}")
