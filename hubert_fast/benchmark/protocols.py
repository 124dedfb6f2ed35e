"""Define the protocols: time the model alone, the steps of the Open ASR Leaderboard, or everything from files to text."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .arithmetic import synchronize
from .providers import Provider
from .work import Work, batches

Result = TypeVar("Result")

PROTOCOLS = {
    "model": "forward only, on batches that are on the device, normalised, packed or padded; logits stay there",
    "leaderboard": "from waveforms in memory to text, batch by batch: processor, copy to the device, forward, argmax, text",
    "files": "from files on disk to text: the transcriber, or transformers' pipeline with batch_size=8",
}


class Round(NamedTuple):
    """One pass over all utterances.

    Attributes:
        seconds: The time of each batch.
        texts: The text of each utterance; `None` for the protocol *model*.
    """

    seconds: list[float]
    texts: list[str] | None


def prepare(
    protocol: str, provider: Provider, work: Work, batch_seconds: float, batch_utterances: int | None
) -> Callable[[], Round]:
    """Return a function that runs a timed pass. Batches of the protocol *model* are moved to the device here, once."""
    if protocol == "files":
        return lambda: _files(provider, work)
    order = list(range(len(work.waveforms)))
    if provider.is_sorted:
        order.sort(key=lambda index: len(work.waveforms[index]))
    lengths = [len(work.waveforms[index]) for index in order]
    samples = 16000 * batch_seconds if protocol == "model" else math.inf
    limit = 1 if provider.is_single else batch_utterances if protocol == "leaderboard" else None
    planned = [[order[position] for position in batch] for batch in batches(lengths, samples=samples, utterances=limit)]
    if protocol == "model":
        ready = [provider.forward([work.waveforms[index] for index in batch]).run for batch in planned]
        return lambda: Round([_timed(provider, run)[0] for run in ready], None)

    def transcribe() -> Round:
        seconds, texts = [], [""] * len(order)
        for batch in planned:
            waveforms = [work.waveforms[index] for index in batch]
            elapsed, batch_texts = _timed(provider, functools.partial(provider.text, waveforms))
            seconds.append(elapsed)
            for index, text in zip(batch, batch_texts):
                texts[index] = text
        return Round(seconds, texts)

    return transcribe


def _timed(provider: Provider, call: Callable[[], Result]) -> tuple[float, Result]:
    synchronize(provider.subject.device)
    start = time.perf_counter()
    result = call()
    synchronize(provider.subject.device)
    return time.perf_counter() - start, result


def _files(provider: Provider, work: Work) -> Round:
    assert work.paths is not None
    start = time.perf_counter()
    texts = provider.files(work.paths)
    return Round([time.perf_counter() - start], texts)
