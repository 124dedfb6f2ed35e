"""Define the implementations to compare. Each runs the three protocols in its fastest way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .. import accelerate
from .exported import Exported, OnnxRuntime, OpenVino, OpenVinoStatic
from .ours import GRAPHS, Forward, Ours, OursGraphs, OursUnpacked, Provider, check_graphs
from .subject import Subject, Unavailable, their_pipeline

SORTED, SINGLE = "-sorted", "-single"  # suffixes of a name, which change how utterances are batched
OURS = ("ours", "accelerate")  # prefixes of the names of this package's providers
PIPELINE_BATCH = 8


class Padded(Provider):
    """A model with the interface of transformers, on padded rows."""

    def __init__(self, subject: Subject, model: Any):
        super().__init__(subject)
        self.model = model

    def forward(self, waveforms: Sequence[np.ndarray]) -> Forward:
        device, dtype = self.subject.device, self.model.dtype
        rows = [torch.from_numpy(waveform).to(device) for waveform in waveforms]
        if self.subject.normalizes:
            rows = [(row - row.mean()) / (row.var(correction=0) + 1e-7).sqrt() for row in rows]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        values = pad_sequence(rows, batch_first=True).to(dtype)
        # without padding no mask is needed
        mask = (
            None if lengths.min() == lengths.max() else (torch.arange(values.shape[1], device=device) < lengths[:, None]).long()
        )
        counts = self.subject.ours.frame_counts(lengths)

        def frames(logits: Tensor) -> Tensor:
            return logits[torch.arange(logits.shape[1], device=device) < counts[:, None]]

        return Forward(lambda: self.model(values, attention_mask=mask).logits, frames)

    def text(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        # the steps that huggingface/open_asr_leaderboard times for CTC models in transformers/run_eval.py
        processor = self.subject.their_processor
        inputs = processor(
            list(waveforms),
            sampling_rate=16000,
            truncation=False,
            padding="longest",
            return_tensors="pt",
            return_attention_mask=True,
        ).to(self.subject.device)
        logits = self.model(inputs["input_values"].to(self.model.dtype), attention_mask=inputs["attention_mask"]).logits
        return processor.batch_decode(logits.argmax(-1), skip_special_tokens=True)

    @cached_property
    def _pipeline(self) -> Any:
        if self.model is self.subject.ours or isinstance(self.model, Exported):
            instead = "the protocol leaderboard" if isinstance(self.model, Exported) else "accelerate"
            raise Unavailable(f"transformers' pipeline supports only its own models: compare {instead} instead")
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


def _ours_padded(subject: Subject) -> Provider:
    return Padded(subject, subject.ours)


def _accelerated(subject: Subject) -> Provider:
    return Padded(subject, accelerate(subject.theirs("sdpa")))


def _compiled(subject: Subject) -> Provider:
    torch.compiler.reset()  # graphs of earlier models count against the limit of recompilations
    return Padded(subject, torch.compile(subject.theirs("sdpa"), dynamic=True))


def _compiled_layers(subject: Subject) -> Provider:
    torch.compiler.reset()
    model = subject.theirs("sdpa")
    for layer in model.hubert.encoder.layers:  # one compilation serves all of them
        layer.compile(dynamic=True)
    return Padded(subject, model)


def _compiled_graphs(subject: Subject) -> Provider:
    check_graphs(subject)
    torch.compiler.reset()
    return Padded(subject, torch.compile(subject.theirs("sdpa"), mode="reduce-overhead"))


PROVIDERS: dict[str, tuple[Callable[[Subject], Provider], str]] = {
    "ours": (Ours, "forward_packed, and the transcriber for files; CUDA graphs of short batches as by default"),
    "ours-graphs": (OursGraphs, f"ours, with graphs of short batches captured before the timing; {GRAPHS} are kept"),
    "ours-no-graphs": (lambda subject: OursGraphs(subject, 0), "ours without CUDA graphs"),
    "ours-unpacked": (OursUnpacked, "ours on a CPU without a second copy of linear layers in oneDNN's layout"),
    "ours-padded": (_ours_padded, "our forward on padded rows, as after changing one import"),
    "accelerate": (_accelerated, "hubert_fast.accelerate on transformers' model, on padded rows"),
    "hf-sdpa": (lambda subject: Padded(subject, subject.theirs("sdpa")), "transformers, scaled_dot_product_attention"),
    "hf-eager": (lambda subject: Padded(subject, subject.theirs("eager")), "transformers, eager attention"),
    "hf-flash": (lambda subject: Padded(subject, subject.theirs("flash_attention_2")), "transformers, flash_attention_2"),
    "hf-compile": (_compiled, "transformers, sdpa, under torch.compile"),
    "hf-compile-layers": (_compiled_layers, "transformers, sdpa, each layer of the encoder under torch.compile"),
    "hf-compile-graphs": (_compiled_graphs, "transformers, sdpa, under torch.compile with CUDA graphs (reduce-overhead)"),
    "openvino": (lambda subject: Padded(subject, OpenVino(subject)), "transformers' model in OpenVINO, for any shape"),
    "openvino-static": (lambda subject: Padded(subject, OpenVinoStatic(subject)), "OpenVINO, a graph for each shape"),
    "onnxruntime": (lambda subject: Padded(subject, OnnxRuntime(subject)), "transformers' model in ONNX Runtime"),
}
DEFAULT_PROVIDERS = "ours,hf-sdpa,hf-sdpa-sorted"


def provider(name: str, subject: Subject) -> Provider:
    """Create a provider.

    Args:
        name: A name of `PROVIDERS`. With the suffix `-sorted` utterances are sorted by length before batching, with `-single`
            each is a batch of its own.
        subject: The model.

    Raises:
        Unavailable: The provider cannot run here.
    """
    create, _ = PROVIDERS[_without_suffix(name)]
    created = create(subject)
    created.is_sorted, created.is_single = name.endswith(SORTED), name.endswith(SINGLE)
    return created


def is_peer(name: str) -> bool:
    """Return whether a provider is not of this package."""
    return not name.startswith(OURS)


def _without_suffix(name: str) -> str:
    return name.removesuffix(SINGLE if name.endswith(SINGLE) else SORTED)


def checked_names(names: str) -> list[str]:
    """Split a list such as `"ours,hf-sdpa"`. Raises `ValueError` if a name is unknown or occurs twice, or if there is none."""
    split = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in split if _without_suffix(name) not in PROVIDERS]
    if unknown or not split or len(set(split)) < len(split):
        problem = f"{unknown[0]!r} is unknown" if unknown else f"got {names!r}"
        raise ValueError(
            f"providers are {', '.join(PROVIDERS)}, each once, optionally with the suffix {SORTED} (sorted by length) or "
            f"{SINGLE} (one utterance at a time); {problem}"
        )
    return split
