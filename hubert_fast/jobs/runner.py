"""Run any number of audio files through a model in packed batches: what `Transcriber` and `Encoder` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import audio, cpus
from ..feature_extractor import HubertFeatureExtractor
from ..packed import PackedAudio
from .cutting import Cutter
from .inputs import Inputs
from .lanes import Lane, batch_seconds_for, lanes_for
from .options import Options
from .pipeline import Pipeline, Ticket
from .utterances import Utterance

NOT_FINITE = "the model's outputs are not finite: try a dtype with a larger range, such as float32"
MOST_WORKERS = 16


class Runner:
    """A model that is ready to process audio. Utterances run in packed batches: none is padded, and none affects another.

    Subclasses define `compute`, which runs a batch, and `results_of`, which makes results of what it returned.

    Args:
        model: The model, on the first of the devices. It has `config`, `device` and `frame_counts`, as `HubertForCTC` does.
        feature_extractor: Says how waveforms are prepared for the model.
        devices: The devices to run on, either the CPU or several GPUs; by default the model's own.
    """

    FOR_MANY = "run"  # the method that processes many files, for messages

    def __init__(self, model: Any, feature_extractor: HubertFeatureExtractor, devices: Sequence[torch.device] | None = None):
        self.model = model.eval()
        self.feature_extractor = feature_extractor
        self.devices = list(devices or [model.device])
        self._lanes: list[Lane] = []

    @staticmethod
    def compute(model: Any, audio: PackedAudio) -> tuple[torch.Tensor, ...]:
        """Run a model on a packed batch; return tensors with a row for each frame, of dtypes that NumPy knows."""
        raise NotImplementedError

    def results_of(self, tickets: Sequence[Ticket]) -> list[Any]:
        """Return a result for each completed ticket."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return the settings by which a later run recognises that it computes the same: the model, and what is made of it."""
        raise NotImplementedError

    @property
    def sample_rate_hz(self) -> int:
        """The sampling rate that the model expects."""
        return self.feature_extractor.sampling_rate

    def run(self, inputs: Iterable[Utterance | str | Path], options: Options) -> Run:
        """Return a run over the inputs, whose `results` yields a result for each. It can be stopped, and has a batch size."""
        return Run(self, _utterances(inputs), options)

    def result_of_file(self, path: str | Path, options: Mapping[str, Any]) -> Any:
        """Return the result for one audio file or URL, with options that are fields of `Options`.

        Raises:
            AudioError: If the file cannot be decoded or processed.
            ValueError: If options are invalid; `channels` must be `"mix"`, since there is one result.
        """
        if options.get("channels", "mix") != "mix":
            raise ValueError(f"channels must be 'mix' for one result, but is {options['channels']!r}: use {self.FOR_MANY}")
        path = os.fspath(path)
        result = next(self.run([Utterance(path, path)], Options(**options)).results())
        if result.error is not None:
            raise audio.AudioError(result.error)
        return result

    def run_waveform(self, waveform: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run one waveform `[S]` as a single piece; return the arrays that `compute` returns for it.

        Raises:
            ValueError: If the waveform is not 1-D, is too short for one frame (400 samples), or has NaN or infinite samples.
        """
        needed = self.model.config.receptive_field
        if np.ndim(waveform) == 1 and len(waveform) < needed:
            raise ValueError(f"too short: {len(waveform)} samples at {self.sample_rate_hz} Hz, but one frame needs {needed}")
        row = self.feature_extractor.checked(waveform)
        return self.lanes[0].launch([row], alone=True).land()[0]

    def cutter(self, options: Options) -> Cutter:
        """Return the cutter that divides long audio into chunks.

        Raises:
            ValueError: If chunks are too short for the model.
        """
        config = self.model.config
        hop, field = config.inputs_to_logits_ratio, config.receptive_field
        return Cutter.of_seconds(options.chunk_seconds, options.overlap_seconds, self.sample_rate_hz, hop, field)

    @property
    def lanes(self) -> list[Lane]:
        if not self._lanes:
            self._lanes = lanes_for(self.model, self.compute, self.feature_extractor.do_normalize, self.devices)
        return self._lanes


class Run:
    """A pass over inputs by a `Runner`. Call `results` once."""

    def __init__(self, runner: Runner, utterances: Iterable[Utterance], options: Options):
        rate_hz = runner.sample_rate_hz
        batch_seconds = options.batch_seconds or batch_seconds_for(runner.devices[0])
        workers = options.workers or min(cpus.available(), MOST_WORKERS)
        lanes = runner.lanes
        # room for running batches, waiting batches, and the results that an ordered run holds back
        window = max(1024, 4 * len(lanes) * round(batch_seconds))
        self._runner, self._utterances, self._ordered = runner, utterances, options.ordered

        def decode(utterance: Utterance, note: Callable[[str], None]) -> Iterator[np.ndarray]:
            blocks = audio.read_blocks(
                utterance.audio,
                rate_hz,
                offset_seconds=utterance.offset_seconds,
                duration_seconds=utterance.duration_seconds,
                each_channel=options.channels == "each" or utterance.channel is not None,
                keep_truncated=options.keep_truncated,
                note=note,
            )
            return blocks if utterance.channel is None else _channel(blocks, utterance.channel, utterance.audio)

        batch_samples = max(round(batch_seconds * rate_hz), 1)
        cutter = runner.cutter(options)
        self._pipeline = Pipeline(lanes, decode, cutter, workers=workers, batch_samples=batch_samples, window=window)

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio in a batch: as requested, or less after the device ran out of memory."""
        return self._pipeline.batch_samples / self._runner.sample_rate_hz

    def results(self) -> Generator[Any, None, None]:
        """Yield a result for each utterance."""
        threads = torch.get_num_threads()
        held: dict[int, tuple[Ticket, Any]] = {}
        next_number = 0
        try:
            for tickets in self._pipeline.run(self._utterances):
                results = self._runner.results_of(tickets)
                for ticket, result in zip(tickets, results):
                    ticket.channels.clear()  # the result has what is needed of them
                    held[ticket.number] = ticket, result
                del results
                if not self._ordered:
                    for ticket in tickets:
                        yield from self._passed_on(held, ticket.number)
                    continue
                while next_number in held:
                    yield from self._passed_on(held, next_number)
                    next_number += 1
        finally:
            torch.set_num_threads(threads)  # lanes on the CPU change PyTorch's setting

    def _passed_on(self, held: dict[int, tuple[Ticket, Any]], number: int) -> Iterator[Any]:
        """Yield the result of a ticket, without keeping it, and then admit another utterance."""
        ticket, result = held.pop(number)
        yield result
        del result
        self._pipeline.release(ticket)

    def stop(self) -> None:
        """Start no more batches; `results` ends with the running ones. Safe in any thread and in signal handlers."""
        self._pipeline.stop()


def _channel(blocks: Iterator[np.ndarray], channel: int, name: str) -> Iterator[np.ndarray]:
    """Yield one channel, counted from 0, of blocks `[C, S]`. Raises `AudioError` if there is no such channel."""
    for block in blocks:
        if channel >= len(block):
            raise audio.AudioError(f"{name}: the list names channel {channel}, counted from 0, but the file has {len(block)}")
        yield block[channel : channel + 1]


def _utterances(inputs: Iterable[Utterance | str | Path]) -> Iterable[Utterance]:
    if isinstance(inputs, Inputs):
        return inputs
    return Inputs([inputs]) if isinstance(inputs, (str, Path)) else _mixed(inputs)


def _mixed(inputs: Iterable[Utterance | str | Path]) -> Iterator[Utterance]:
    for item in inputs:
        yield from [item] if isinstance(item, Utterance) else Inputs([item])
