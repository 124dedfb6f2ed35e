"""Transcribe audio with a model and its processor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import audio, cpus, ctc
from ..checkpoints import Source, load
from ..config import HubertConfig
from ..ctc import Word
from ..devices import resolve_device, resolve_dtype
from ..jobs.inputs import Inputs, Utterance
from ..modeling import HubertForCTC
from ..processing import HubertProcessor
from . import heads
from .chunks import Cutter, stitch
from .lanes import Lane, batch_seconds_for, lanes_for
from .options import Options
from .pipeline import Pipeline, Ticket
from .results import Result, Transcript

NOT_FINITE = "the model's outputs are not finite: try a dtype with a larger range, such as float32"
MOST_WORKERS = 16


class Transcriber:
    """A HuBERT-CTC model with its processor, ready to transcribe.

    Utterances run in packed batches: none is padded, and none affects the text of another.

    Args:
        model: The model, on the first of the devices.
        processor: The processor of the same checkpoint.
        devices: The devices to run on, either the CPU or several GPUs; by default the model's own.

    Raises:
        ValueError: If the model has an output for which the tokenizer has neither a token nor an `unk_token`.
    """

    def __init__(self, model: HubertForCTC, processor: HubertProcessor, devices: Sequence[torch.device] | None = None):
        heads.check_tokens(model.config, processor.tokenizer)
        self.model = model.eval()
        self.processor = processor
        self.devices = list(devices or [model.device])
        self._lanes: list[Lane] = []

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str = "auto", dtype: str = "auto", **hub_options: Any
    ) -> Transcriber:
        """Load a fine-tuned HuBERT-CTC from a checkpoint folder or a Hugging Face hub repository.

        Warns if the model's outputs and the tokenizer's tokens do not correspond; decoding then follows the tokenizer, as in
        transformers.

        Args:
            name_or_path: Folder, or name on the hub.
            device: `"auto"` (CUDA if available), `"cpu"`, `"cuda"`, `"cuda:1"`, or several GPUs as `"cuda:0,1"`.
            dtype: `"auto"` (see `hubert_fast.devices.resolve_dtype`), `"float32"`, `"bfloat16"` or `"float16"`.
            hub_options: Passed on to the hub: `revision`, `token`, `cache_dir` and others.

        Raises:
            CheckpointError: If the checkpoint cannot be read, lacks weights or has no CTC head.
            ValueError: If the device or dtype is unavailable, or the model is of another kind.
        """
        first, *more = device.split(",")
        devices = [resolve_device(first), *(resolve_device(f"cuda:{index.removeprefix('cuda:')}") for index in more)]
        if more and (devices[0].index is None or len(set(devices)) < len(devices)):
            raise ValueError(f"several devices must be different GPUs, such as cuda:0,1, but are {device!r}")
        number_format = resolve_dtype(dtype, devices[0])
        # small files first, so that errors in them show before the weights are downloaded
        config = HubertConfig.from_pretrained(name_or_path, **hub_options)
        processor = heads.read_processor(name_or_path, config, hub_options)
        source = Source.of(name_or_path, hub_options=hub_options)
        model, info = load(lambda: HubertForCTC(config), source, number_format)
        assert isinstance(model, HubertForCTC)
        heads.check_complete(name_or_path, model, info)
        return cls(model.to(devices[0]), processor, devices)

    @property
    def sample_rate_hz(self) -> int:
        """The sampling rate that the model expects."""
        return self.processor.feature_extractor.sampling_rate

    def transcribe(self, waveform: np.ndarray) -> str:
        """Return the text of one waveform, which runs as a single chunk.

        Args:
            waveform: Mono samples `[S]` at `sample_rate_hz`.

        Raises:
            ValueError: If the waveform is not 1-D, is too short for one frame (400 samples), or has NaN or infinite samples.
            RuntimeError: If the model's outputs are not finite.
        """
        needed = self.model.config.receptive_field
        if np.ndim(waveform) == 1 and len(waveform) < needed:
            raise ValueError(f"too short: {len(waveform)} samples at {self.sample_rate_hz} Hz, but one frame needs {needed}")
        row = self.processor.feature_extractor.checked(waveform)
        ids, log_probs = self.lanes[0].launch([row], alone=True).land()[0]
        if not np.isfinite(log_probs).all():
            raise RuntimeError(NOT_FINITE)
        return self._decode([ids], [log_probs])[0].text

    def transcribe_file(self, path: str | Path, **options: Any) -> Transcript:
        """Decode, mix down, resample and transcribe one audio file.

        Args:
            path: A file, or a URL that fsspec can open.
            options: Fields of `Options`; `channels` must be `"mix"`, since one transcript is returned.

        Raises:
            AudioError: If the file cannot be decoded or transcribed.
            ValueError: If options are invalid.
        """
        if options.get("channels", "mix") != "mix":
            raise ValueError(f"channels must be 'mix' for one transcript, but is {options['channels']!r}: use transcribe_many")
        path = os.fspath(path)
        result = next(self.transcribe_many([Utterance(path, path)], **options))
        if result.error is not None:
            raise audio.AudioError(result.error)
        return result.transcripts[0]

    def transcribe_many(self, inputs: Iterable[Utterance | str | Path], **options: Any) -> Iterator[Result]:
        """Transcribe any number of files; yield a `Result` for each as it is finished.

        A file that cannot be transcribed yields a result with an `error`.

        Args:
            inputs: `Utterance` objects, or anything that `Inputs` accepts: files, folders, patterns, lists. They are read
                as results are consumed, so memory does not grow with their number.
            options: Fields of `Options`.

        Raises:
            ValueError: If options are invalid.
            ManifestError: If a list cannot be read at all.
            RuntimeError: If the device fails.
        """
        return self.run(inputs, Options(**options)).results()

    def run(self, inputs: Iterable[Utterance | str | Path], options: Options) -> Run:
        """Return a run over the inputs, which yields the results of `transcribe_many`, can be stopped and has a batch size."""
        return Run(self, _utterances(inputs), options)

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
            self._lanes = lanes_for(self.model, self.processor.feature_extractor.do_normalize, self.devices)
        return self._lanes

    def _decode(self, ids: Sequence[np.ndarray], log_probs: Sequence[np.ndarray]) -> list[ctc.Transcript]:
        return ctc.greedy_decode(
            np.concatenate(ids),
            np.cumsum([0, *map(len, ids)]),
            self.processor.tokenizer,
            blank_id=self.processor.tokenizer.pad_token_id,
            frame_seconds=self.model.config.inputs_to_logits_ratio / self.sample_rate_hz,
            timestamps="word",
            log_probs=np.concatenate(log_probs),
        )

    def results_of(self, tickets: Sequence[Ticket]) -> list[Result]:
        """Stitch the pieces of completed tickets, decode all of them in one call, and return a result for each ticket."""
        channels = [(ticket, channel) for ticket in tickets if ticket.error is None for channel in ticket.channels]
        blank = self.processor.tokenizer.pad_token_id
        frames = [stitch(sorted(pieces, key=lambda piece: piece.start), blank) for _, pieces in channels]
        decoded = self._decode(*zip(*frames)) if frames else []
        transcripts: dict[int, list[Transcript]] = {ticket.number: [] for ticket in tickets}
        for (ticket, _), transcript, (_, log_probs) in zip(channels, decoded, frames):
            transcripts[ticket.number].append(self._transcript(ticket, transcript))
            if not np.isfinite(log_probs).all():
                ticket.error = f"{ticket.utterance.audio}: {NOT_FINITE}"
        good = {ticket.number: tuple(transcripts[ticket.number]) for ticket in tickets if ticket.error is None}
        return [
            Result(ticket.utterance, good.get(ticket.number, ()), ticket.error, tuple(dict.fromkeys(ticket.notes)))
            for ticket in tickets
        ]

    def _transcript(self, ticket: Ticket, decoded: ctc.Transcript) -> Transcript:
        words, offset = tuple(decoded.words or ()), ticket.utterance.offset_seconds
        if offset:
            words = tuple(Word(word, start + offset, end + offset, confidence) for word, start, end, confidence in words)
        confidence = None if math.isnan(decoded.confidence) else decoded.confidence
        return Transcript(decoded.text, ticket.samples / self.sample_rate_hz, confidence, words)


class Run:
    """A transcription of inputs by a `Transcriber`. Call `results` once."""

    def __init__(self, transcriber: Transcriber, utterances: Iterable[Utterance], options: Options):
        rate_hz = transcriber.sample_rate_hz
        batch_seconds = options.batch_seconds or batch_seconds_for(transcriber.devices[0])
        workers = options.workers or min(cpus.available(), MOST_WORKERS)
        lanes = transcriber.lanes
        # room for running batches, waiting batches, and the results that an ordered run holds back
        window = max(1024, 4 * len(lanes) * round(batch_seconds))
        self._transcriber, self._utterances, self._ordered = transcriber, utterances, options.ordered

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
        cutter = transcriber.cutter(options)
        self._pipeline = Pipeline(lanes, decode, cutter, workers=workers, batch_samples=batch_samples, window=window)

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio in a batch: as requested, or less after the device ran out of memory."""
        return self._pipeline.batch_samples / self._transcriber.sample_rate_hz

    def results(self) -> Generator[Result, None, None]:
        """Yield a result for each utterance."""
        threads = torch.get_num_threads()
        held: dict[int, Result] = {}
        next_number = 0
        try:
            for tickets in self._pipeline.run(self._utterances):
                results = self._transcriber.results_of(tickets)
                if not self._ordered:
                    yield from results
                    self._pipeline.release(len(results))
                    continue
                held.update((ticket.number, result) for ticket, result in zip(tickets, results))
                while next_number in held:
                    yield held.pop(next_number)
                    next_number += 1
                    self._pipeline.release(1)
        finally:
            torch.set_num_threads(threads)  # lanes on the CPU change PyTorch's setting

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
