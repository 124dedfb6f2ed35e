"""Transcribe audio with a model and its processor."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import ctc
from ..checkpoints import Source, load
from ..config import HubertConfig
from ..ctc import Word
from ..devices import resolve_devices, resolve_dtype
from ..jobs.inputs import Utterance
from ..jobs.lanes import Arrays
from ..jobs.options import Options
from ..jobs.pipeline import Ticket
from ..jobs.runner import NOT_FINITE, Runner
from ..modeling import HubertForCTC
from ..packed import PackedAudio
from ..processing import HubertProcessor
from . import heads
from .chunks import Frames, stitch
from .results import Result, Transcript


class Transcriber(Runner):
    """A HuBERT-CTC model with its processor, ready to transcribe.

    Utterances run in packed batches: none is padded, and none affects the text of another.

    Args:
        model: The model, on the first of the devices.
        processor: The processor of the same checkpoint.
        devices: The devices to run on, either the CPU or several GPUs; by default the model's own.

    Raises:
        ValueError: If the model has an output for which the tokenizer has neither a token nor an `unk_token`.
    """

    FOR_MANY = "transcribe_many"

    def __init__(self, model: HubertForCTC, processor: HubertProcessor, devices: Sequence[torch.device] | None = None):
        heads.check_tokens(model.config, processor.tokenizer)
        super().__init__(model, processor.feature_extractor, devices)
        self.processor = processor

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
        devices = resolve_devices(device)
        number_format = resolve_dtype(dtype, devices[0])
        # small files first, so that errors in them show before the weights are downloaded
        config = HubertConfig.from_pretrained(name_or_path, **hub_options)
        processor = heads.read_processor(name_or_path, config, hub_options)
        source = Source.of(name_or_path, hub_options=hub_options)
        model, info = load(lambda: HubertForCTC(config), source, number_format)
        assert isinstance(model, HubertForCTC)
        heads.check_complete(name_or_path, model, info)
        return cls(model.to(devices[0]), processor, devices)

    @staticmethod
    def compute(model: HubertForCTC, audio: PackedAudio) -> tuple[torch.Tensor, ...]:
        """Return the best token of each frame and its log-probability, `[N]` each."""
        output = model.argmax_packed(audio)
        return output.ids, output.log_probs

    def identity(self) -> dict[str, Any]:
        """Return the fingerprint of the model and its processor."""
        return {"model": fingerprint(self.model, self.processor)}

    def transcribe(self, waveform: np.ndarray) -> str:
        """Return the text of one waveform, which runs as a single chunk.

        Args:
            waveform: Mono samples `[S]` at `sample_rate_hz`.

        Raises:
            ValueError: If the waveform is not 1-D, is too short for one frame (400 samples), or has NaN or infinite samples.
            RuntimeError: If the model's outputs are not finite.
        """
        ids, log_probs = self.run_waveform(waveform)
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
        transcript: Transcript = self.result_of_file(path, options).transcripts[0]
        return transcript

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
        frames = [stitch(sorted(_frames(pieces), key=lambda piece: piece.start), blank) for _, pieces in channels]
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


def _frames(pieces: Sequence[tuple[int, Arrays]]) -> list[Frames]:
    return [Frames(start, ids, log_probs) for start, (ids, log_probs) in pieces]


def fingerprint(model: HubertForCTC, processor: HubertProcessor) -> str:
    """Return a hash that identifies a model by its configuration, vocabulary, feature extractor and a sample of each weight."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(repr(sorted(processor.tokenizer.tokens.items())).encode("utf-8", "surrogatepass"))
    digest.update(repr(processor.feature_extractor).encode())
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(len(flat) // 64, 1)][:64].to("cpu", torch.float64)
        digest.update(f"{name}{list(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()
