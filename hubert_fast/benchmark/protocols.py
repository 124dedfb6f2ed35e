"""What is timed of a provider: the model alone, what the Open ASR Leaderboard times, or all from files to text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from .arithmetic import synchronize
from .providers import Provider
from .work import Work, batches

PROTOCOLS = {
    "model": "forward only: batches lie on the device, packed or padded, normalised; logits stay there",
    "leaderboard": "waveforms in memory to text: processor, copy to the device, forward, arg-max, text, batch by batch",
    "files": "files on disk to text: the transcriber, or transformers' pipeline with batch_size=8",
}


class Round(NamedTuple):
    """One time through all the work. seconds: of each batch. texts: in the order of the work; none of the protocol *model*."""

    seconds: list[float]
    texts: list[str] | None


def prepare(
    protocol: str, provider: Provider, work: Work, batch_seconds: float, batch_utterances: int | None
) -> Callable[[], Round]:
    """Return what does a provider's work once, timed. Batches of the protocol *model* are laid out here, once."""
    if protocol == "files":
        return lambda: _files(provider, work)
    order = list(range(len(work.waveforms)))
    if provider.is_sorted:
        order.sort(key=lambda index: len(work.waveforms[index]))
    lengths = [len(work.waveforms[index]) for index in order]
    samples = 16000 * batch_seconds if protocol == "model" else math.inf
    limit = 1 if provider.is_single else batch_utterances if protocol == "leaderboard" else None
    planned = [[order[place] for place in batch] for batch in batches(lengths, samples=samples, utterances=limit)]
    if protocol == "model":
        ready = [provider.forward([work.waveforms[index] for index in batch]).run for batch in planned]
        return lambda: Round([_timed(provider, run)[0] for run in ready], None)

    def round_() -> Round:
        seconds, texts = [], [""] * len(order)
        for batch in planned:
            waveforms = [work.waveforms[index] for index in batch]
            took, found = _timed(provider, lambda waveforms=waveforms: provider.text(waveforms))
            seconds.append(took)
            for index, text in zip(batch, found):
                texts[index] = text
        return Round(seconds, texts)

    return round_


def _timed(provider: Provider, call: Callable) -> tuple[float, object]:
    synchronize(provider.subject.device)
    start = time.perf_counter()
    result = call()
    synchronize(provider.subject.device)
    return time.perf_counter() - start, result


def _files(provider: Provider, work: Work) -> Round:
    start = time.perf_counter()
    texts = provider.files(work.paths)
    return Round([time.perf_counter() - start], texts)
