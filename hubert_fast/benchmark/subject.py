"""Define the model under test: one set of weights, in our classes and in those of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .. import demo
from ..config import HubertConfig
from ..modeling import HubertForCTC
from ..processing import HubertProcessor

LARGE = dict(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, do_stable_layer_norm=True,
    feat_extract_norm="layer", conv_bias=True,
)  # fmt: skip
TINY = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, conv_dim=(32,) * 7,
    num_conv_pos_embedding_groups=2,
)  # fmt: skip
CONFIGS = {  # sizes of the published models, and tiny ones for tests
    "base": {},
    "large": LARGE,
    "xlarge": LARGE | dict(hidden_size=1280, num_hidden_layers=48, intermediate_size=5120),
    "tiny": TINY,
    "tiny-large": LARGE | TINY,
}


# Why transformers lacks an attention implementation. If it is requested again, transformers 5.20 raises no error until it
# runs.
_missing: dict[str, str] = {}


class Unavailable(Exception):
    """A provider cannot run here; the message says why."""


class Subject:
    """A CTC model on a device, in a dtype. All forms of it share the memory of the weights.

    Args:
        name: The name for rows.
        ours: The model.
        processor: Its processor.
        folder: The name or folder of its checkpoint; `None` if its weights are random.
        dtype: The dtype to which the model is converted.
    """

    def __init__(self, name: str, ours: HubertForCTC, processor: HubertProcessor, folder: str | None, dtype: torch.dtype):
        self.name, self.processor, self.folder = name, processor, folder
        self.ours = ours.eval().to(dtype)
        for parameter in self.ours.parameters():
            parameter.requires_grad_(False)

    @classmethod
    def random(cls, name: str, device: torch.device, dtype: torch.dtype, **changes: Any) -> Subject:
        """Create a model of a published size with random weights (seed 0) and the vocabulary of the demo.

        Args:
            name: A key of `CONFIGS`.
            device: The device.
            dtype: The dtype.
            changes: Fields of the configuration.
        """
        torch.manual_seed(0)
        with torch.device(device):
            ours = HubertForCTC(HubertConfig(**CONFIGS[name] | changes))
        return cls(name, ours, HubertProcessor.from_pretrained(demo.MODEL), None, dtype)

    @classmethod
    def pretrained(cls, name: str, device: torch.device, dtype: torch.dtype) -> Subject:
        """Load a checkpoint from a folder or from the hub. Raises `CheckpointError` if that fails."""
        processor = HubertProcessor.from_pretrained(name)
        ours = HubertForCTC.from_pretrained(name)
        return cls(Path(name).name if Path(name).is_dir() else name, ours.to(device), processor, name, dtype)

    @property
    def config(self) -> HubertConfig:
        return self.ours.config

    @property
    def device(self) -> torch.device:
        return self.ours.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ours.dtype

    @property
    def normalizes(self) -> bool:
        return self.processor.feature_extractor.do_normalize

    def theirs(self, attention: str, dtype: torch.dtype | None = None) -> Any:
        """Return transformers' model with these weights.

        Args:
            attention: transformers' name of the implementation of attention.
            dtype: The dtype of a copy of the weights; without it, the model shares the weights of the subject.

        Raises:
            Unavailable: transformers is not installed, or cannot provide this attention here.
        """
        return self._theirs(self._converted(dtype or self.dtype), attention)

    def _converted(self, dtype: torch.dtype) -> HubertForCTC:
        """Return the model in a dtype. It is a copy if the dtype is not that of the subject."""
        if self.dtype == dtype:
            return self.ours
        ours = HubertForCTC(self.config).to(self.device, dtype).eval()
        ours.load_state_dict(self.ours.state_dict())
        return ours

    def _theirs(self, ours: HubertForCTC, attention: str) -> Any:
        if find_spec("transformers") is None:
            raise Unavailable("transformers is not installed: pip install 'hubert_fast[transformers]'")
        import transformers

        if attention in _missing:
            raise Unavailable(_missing[attention])
        values = self.config.to_dict()
        config = transformers.HubertConfig(**{key: value for key, value in values.items() if key != "model_type"})
        config._attn_implementation = attention
        try:
            with torch.device("meta"):
                model = transformers.HubertForCTC(config)
        except (ImportError, ValueError) as error:  # flash_attn or a GPU for it is missing
            _missing[attention] = str(error).strip().splitlines()[0].rpartition("error: ")[2]
            raise Unavailable(_missing[attention]) from None
        model.load_state_dict(ours.state_dict(), assign=True)
        if attention == "flash_attention_2" and self.dtype == torch.float32:
            raise Unavailable("flash attention needs float16 or bfloat16, but the dtype is float32")
        return model.eval()

    @cached_property
    def their_processor(self) -> Any:
        """transformers' processor for the checkpoint, or else for the demo."""
        import transformers

        return transformers.Wav2Vec2Processor.from_pretrained(self.folder or demo.MODEL)

    @cached_property
    def exact(self) -> Any:
        """The model in float32, as the reference: transformers' if it is installed, else our definition."""
        ours = self._converted(torch.float32)
        try:
            return self._theirs(ours, "eager")
        except Unavailable:
            return ours


def their_pipeline(model: Any, processor: Any) -> Callable[[Sequence[str], int], list[str]]:
    """Return a function from paths and a batch size to texts: transformers' ASR pipeline on a model and processor of theirs.

    The pipeline's worker decodes files with our reader.
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
    transcribe: Callable[..., Iterable[dict[str, Any]]] = pipeline  # its annotations do not mention data sets
    return lambda paths, batch: [row["text"] for row in transcribe(_Files(paths), batch_size=batch, num_workers=1)]


class _Files(torch.utils.data.Dataset):
    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from .. import audio

        return {"raw": audio.load(self.paths[index]), "sampling_rate": 16000}
