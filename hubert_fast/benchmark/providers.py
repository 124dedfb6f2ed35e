"""Implementations that are measured beside each other. Each does the three protocols' work in its own best way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .. import accelerate
from ..ctc import greedy_decode
from ..cuda_graphs import GraphCache
from ..packed_audio import PackedAudio
from .subject import Subject, Unavailable

SORTED, SINGLE = "-sorted", "-single"  # behind a name: how utterances are put into batches
PIPELINE_BATCH = 8
GRAPHS = 64  # that ours-graphs keeps


class Forward(NamedTuple):
    """A batch on the device, ready: ``run`` is what is timed, ``frames`` makes ``[N, V]`` of its result, without padding."""

    run: Callable[[], Tensor]
    frames: Callable[[Tensor], Tensor]


class Provider:
    """An implementation, with the model in place.

    is_sorted: whether utterances are sorted by length before they are put into batches.
    is_single: whether each utterance is a batch of its own, so that nothing is padded.
    pads: whether utterances of a batch see each other's padding, as a group norm does.
    """

    is_sorted = is_single = False
    pads = True

    def __init__(self, subject: Subject):
        self.subject = subject

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        """Lay a batch out on the device, normalised: protocol *model*."""
        raise NotImplementedError

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Go from waveforms in the host's memory to text: protocol *leaderboard*."""
        raise NotImplementedError

    def files(self, paths: Sequence[str]) -> list[str]:
        """Go from files on disk to text: protocol *files*."""
        raise NotImplementedError


class Ours(Provider):
    """Packed: no padding, the best token picked on the device, CTC decoded in C++."""

    pads = False

    def _packed(self, waveforms: Sequence[np.ndarray]) -> PackedAudio:
        """Pack a batch and begin its copy to the device; on CUDA neither the copy nor what is queued is waited for."""
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
        found = greedy_decode(out.ids, out.cu_seqlens, tokenizer, blank_id=tokenizer.pad_token_id)
        return [transcript.text for transcript in found]

    def files(self, paths: Sequence[str]) -> list[str]:
        from ..transcribe import Transcriber

        transcriber = Transcriber(self.subject.ours, self.subject.processor)
        texts = {
            found.utterance.id: found.transcripts[0].text if found.error is None else ""
            for found in transcriber.transcribe_many(paths)
        }
        return [texts[path] for path in paths]


class OursGraphs(Ours):
    """Ours with CUDA graphs captured before anything is timed, or without any.

    It has a cache of its own, so that other providers of the subject keep theirs. limit: of that cache.
    """

    def __init__(self, subject: Subject, limit: int = GRAPHS):
        _check_graphs(subject)
        super().__init__(subject)
        self._cache = GraphCache(limit)

    @contextmanager
    def _graphs(self) -> Iterator[None]:
        path = self.subject.ours.hubert.fast_path
        path.cuda_graphs, kept = self._cache, path.cuda_graphs
        try:
            yield
        finally:
            path.cuda_graphs = kept

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        """Lay a batch out and have its graph captured, if it is short, so that ``run`` copies it in, replays and copies out."""
        ready = super().forward(waveforms)

        def run() -> Tensor:
            with self._graphs():
                return ready.run()

        for _ in range(2):  # the second call captures
            run()
        return ready._replace(run=run)

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        with self._graphs():
            return super().text(waveforms)

    def files(self, paths: Sequence[str]) -> list[str]:
        with self._graphs():
            return super().files(paths)


def _check_graphs(subject: Subject) -> None:
    """Raise ``Unavailable`` where there are no CUDA graphs."""
    if subject.device.type != "cuda":
        raise Unavailable(f"CUDA graphs need a CUDA device, but the device is {subject.device}")


class Padded(Provider):
    """A model of transformers' interface on padded rows."""

    def __init__(self, subject: Subject, model: Any):
        super().__init__(subject)
        self.model = model

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        device, dtype = self.subject.device, self.subject.dtype
        rows = [torch.from_numpy(waveform).to(device) for waveform in waveforms]
        if self.subject.normalizes:
            rows = [(row - row.mean()) / (row.var(correction=0) + 1e-7).sqrt() for row in rows]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        values = pad_sequence(rows, batch_first=True).to(dtype)
        # as a processor gives it: where no row is padded none is needed
        mask = (
            None if lengths.min() == lengths.max() else (torch.arange(values.shape[1], device=device) < lengths[:, None]).long()
        )
        counts = self.subject.ours.frame_counts(lengths)

        def frames(logits: Tensor) -> Tensor:
            return logits[torch.arange(logits.shape[1], device=device) < counts[:, None]]

        return Forward(lambda: self.model(values, attention_mask=mask).logits, frames)

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        # the region that huggingface/open_asr_leaderboard times for CTC models, transformers/run_eval.py
        processor = self.subject.their_processor
        inputs = processor(
            list(waveforms),
            sampling_rate=16000,
            truncation=False,
            padding="longest",
            return_tensors="pt",
            return_attention_mask=True,
        ).to(self.subject.device)
        logits = self.model(inputs["input_values"].to(self.subject.dtype), attention_mask=inputs["attention_mask"]).logits
        return processor.batch_decode(logits.argmax(-1), skip_special_tokens=True)

    @cached_property
    def _pipeline(self) -> Any:
        if self.model is self.subject.ours:
            raise Unavailable("transformers' pipeline takes models of its own: accelerate is the one to compare")
        return their_pipeline(self.model, self.subject.their_processor)

    def files(self, paths: Sequence[str]) -> list[str]:
        order = list(range(len(paths)))
        if self.is_sorted:
            order.sort(key=lambda index: Path(paths[index]).stat().st_size)
        texts = [""] * len(paths)
        batch = 1 if self.is_single else PIPELINE_BATCH
        for index, text in zip(order, self._pipeline([paths[index] for index in order], batch)):
            texts[index] = text
        return texts


def their_pipeline(model: Any, processor: Any) -> Callable[[Sequence[str], int], list[str]]:
    """Make transformers' ASR pipeline of a model and a processor of theirs: from paths and a batch size to texts.

    Files are decoded as ours are, in its worker.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        dtype=model.dtype,
        device=model.device,
    )
    return lambda paths, batch: [row["text"] for row in pipeline(_Files(paths), batch_size=batch, num_workers=1)]


class _Files(torch.utils.data.Dataset):
    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from .. import audio

        return {"raw": audio.load(self.paths[index]), "sampling_rate": 16000}


def _ours_padded(subject: Subject) -> Provider:
    return Padded(subject, subject.ours)


def _accelerated(subject: Subject) -> Provider:
    return Padded(subject, accelerate(subject.theirs("sdpa")))


def _compiled(subject: Subject) -> Provider:
    torch.compiler.reset()  # what it compiled of models before counts against its limit for this one
    return Padded(subject, torch.compile(subject.theirs("sdpa"), dynamic=True))


def _compiled_graphs(subject: Subject) -> Provider:
    _check_graphs(subject)
    torch.compiler.reset()
    return Padded(subject, torch.compile(subject.theirs("sdpa"), mode="reduce-overhead"))


PROVIDERS: dict[str, tuple[Callable[[Subject], Provider], str]] = {
    "ours": (Ours, "forward_packed; the transcriber for files; short batches under CUDA graphs, as anybody gets them"),
    "ours-graphs": (OursGraphs, f"ours, graphs of short batches captured before they are timed, {GRAPHS} of them kept"),
    "ours-no-graphs": (lambda subject: OursGraphs(subject, 0), "ours without CUDA graphs"),
    "ours-padded": (_ours_padded, "one changed import: forward on padded rows"),
    "accelerate": (_accelerated, "hubert_fast.accelerate(transformers' model), on padded rows"),
    "hf-sdpa": (lambda subject: Padded(subject, subject.theirs("sdpa")), "transformers, scaled_dot_product_attention"),
    "hf-eager": (lambda subject: Padded(subject, subject.theirs("eager")), "transformers, eager attention"),
    "hf-flash": (lambda subject: Padded(subject, subject.theirs("flash_attention_2")), "transformers, flash_attention_2"),
    "hf-compile": (_compiled, "transformers, sdpa, under torch.compile"),
    "hf-compile-graphs": (_compiled_graphs, "transformers, sdpa, under torch.compile with CUDA graphs (reduce-overhead)"),
}
DEFAULT_PROVIDERS = "ours,hf-sdpa,hf-sdpa-sorted"


def provider(name: str, subject: Subject) -> Provider:
    """Make a provider: a name of ``PROVIDERS``, with ``-sorted`` behind it to sort utterances by length before batching, or
    ``-single`` for one at a time.

    Raises ``Unavailable`` when it cannot run here.
    """
    make, _ = PROVIDERS[_bare(name)]
    made = make(subject)
    made.is_sorted, made.is_single = name.endswith(SORTED), name.endswith(SINGLE)
    return made


def _bare(name: str) -> str:
    return name.removesuffix(SINGLE if name.endswith(SINGLE) else SORTED)


def checked_names(names: str) -> list[str]:
    """Split ``"ours,hf-sdpa"``. Raises ``ValueError`` naming the one that there is not."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in found if _bare(name) not in PROVIDERS]
    if unknown or not found or len(set(found)) < len(found):
        what = f"{unknown[0]!r} is none of them" if unknown else f"got {names!r}"
        raise ValueError(
            f"providers are {', '.join(PROVIDERS)}, each once, {SORTED} behind one sorts by length, {SINGLE} takes one at a "
            f"time; {what}"
        )
    return found


__all__ = [
    "DEFAULT_PROVIDERS",
    "PROVIDERS",
    "Forward",
    "Provider",
    "Unavailable",
    "checked_names",
    "provider",
    "their_pipeline",
]
