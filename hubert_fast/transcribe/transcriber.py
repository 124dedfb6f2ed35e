"""One model and its processor, from waveform to text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import audio
from ..checkpoints import load
from ..config import HubertConfig
from ..devices import resolve_device, resolve_dtype
from ..hub import CheckpointError, first_line
from ..modeling import HubertForCTC
from ..processing import HubertProcessor


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. ``duration_seconds`` is that of the audio."""

    text: str
    duration_seconds: float


class Transcriber:
    """A HuBERT-CTC model with its processor, ready to transcribe.

    Utterances run one by one, so none is padded and none can change another's text.
    """

    def __init__(self, model: HubertForCTC, processor: HubertProcessor):
        size, tokens = model.config.vocab_size, processor.tokenizer.tokens
        nameless = [id for id in range(size) if id not in tokens]
        if nameless:
            raise ValueError(f"the model has {size} outputs, but the vocabulary no token for {nameless[:5]}")
        if model.config.pad_token_id != processor.tokenizer.pad_token_id:
            raise ValueError(
                f"the blank is {model.config.pad_token_id} (pad_token_id) in the model's configuration, "
                f"but {processor.tokenizer.pad_token_id} ({processor.tokenizer.pad_token}) in the tokenizer's"
            )
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str = "auto", dtype: str = "auto", **hub_options: Any
    ) -> Transcriber:
        """Load a checkpoint folder or Hugging Face hub repository that holds a fine-tuned HuBERT-CTC.

        device: ``"auto"`` (CUDA when there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        dtype: ``"auto"`` (what the device is fast at: :func:`hubert_fast.devices.resolve_dtype`), ``"float32"``,
            ``"bfloat16"``, ``"float16"``.

        Raises ``CheckpointError`` when the checkpoint cannot be had or lacks weights, ``ValueError`` for a device or dtype
        that is not there.
        """
        target = resolve_device(device)
        number_format = resolve_dtype(dtype, target)
        # small files first: what is wrong with them shows before the weights are fetched
        config = HubertConfig.from_pretrained(name_or_path, **hub_options)
        processor = HubertProcessor.from_pretrained(name_or_path, **hub_options)
        model, info = load(HubertForCTC, name_or_path, config, number_format, False, hub_options)
        # SpecAugment's embedding plays no part in inference; anything else that is missing would be noise in the text
        missing = [key for key in info.missing_keys if not key.endswith("masked_spec_embed")]
        if missing:
            raise CheckpointError(
                f"{name_or_path} is not a complete HuBERT-CTC checkpoint: {len(missing)} weights are missing, "
                f"among them {', '.join(missing[:3])}"
            )
        return cls(model.to(target), processor)

    @property
    def sample_rate_hz(self) -> int:
        return self.processor.feature_extractor.sampling_rate

    @torch.inference_mode()
    def transcribe(self, waveform: np.ndarray) -> str:
        """Return the text of one mono waveform, ``[S]`` at :attr:`sample_rate_hz`.

        Raises ``ValueError`` when it is not 1-D, has NaN samples, or is too short for one frame (400 samples).
        """
        needed = self.model.config.receptive_field
        if np.ndim(waveform) == 1 and len(waveform) < needed:
            raise ValueError(f"too short: {len(waveform)} samples at {self.sample_rate_hz} Hz, but one frame needs {needed}")
        batch = self.processor([waveform], sampling_rate=self.sample_rate_hz)
        # one row without padding needs no mask
        logits = self.model(batch["input_values"].to(self.model.device, self.model.dtype)).logits
        return self.processor.decode(logits[0].argmax(dim=-1).cpu(), skip_special_tokens=True)

    def transcribe_file(self, path: str | Path) -> Transcript:
        """Decode, downmix, resample and transcribe one audio file. Raises ``AudioError`` saying what is wrong with it."""
        waveform = audio.load(path, self.sample_rate_hz)
        try:
            text = self.transcribe(waveform)
        except (ValueError, MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's out of memory, on any device
            raise audio.AudioError(f"{path}: {first_line(error)}") from None
        return Transcript(text=text, duration_seconds=len(waveform) / self.sample_rate_hz)
