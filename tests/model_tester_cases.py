"""Build the models that the model testers compare: each import, each architecture, each head.

transformers itself is one of the imports. It is the control: what it does not pass is no test of ours.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import POST_LN, PRE_LN, masked_batch, perturb

IMPORTS = ("transformers", "hubert_fast", "hubert_fast.transformers")  # the modules from which a program may import the classes
CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
HEADS = CLASSES[1:]
SMALL = {"group norm": POST_LN, "layer norm": PRE_LN}
SAMPLES = 4000
FRAMES = 12  # of SAMPLES
NUM_LABELS = 5
TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
# the imports to test where transformers 4.34.1 lacks an option or errs
RECENT = IMPORTS if TRANSFORMERS_5 else ("hubert_fast",)


@dataclass(frozen=True)
class Case:
    """One class of one import with one architecture."""

    library: str
    class_name: str
    architecture: str

    @property
    def is_ours(self) -> bool:
        """Whether the class is our own, not transformers' or a subclass of it."""
        return self.library == "hubert_fast"

    @property
    def cls(self) -> type:
        return getattr(import_module(self.library), self.class_name)

    def config(self, **overrides: Any):
        """Return the configuration of a small model. Only transformers' eager attention can return attentions."""
        module = import_module("hubert_fast" if self.is_ours else "transformers")
        values = {**SMALL[self.architecture], "num_labels": NUM_LABELS, **overrides}
        return module.HubertConfig(**values, **({} if self.is_ours else {"attn_implementation": "eager"}))

    def model(self, **overrides: Any):
        """Return a model in evaluation mode with random weights, which depend on PyTorch's seed."""
        return perturb(self.cls(self.config(**overrides))).eval()

    def still_model(self, **overrides: Any):
        """Return a model in training mode without anything random: no dropout, no LayerDrop, no SpecAugment."""
        names = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop")
        still = {**dict.fromkeys(names, 0.0), "apply_spec_augment": False}
        return self.model(**{**still, **overrides}).train()

    def with_class(self, class_name: str) -> "Case":
        return Case(self.library, class_name, self.architecture)

    def with_library(self, library: str) -> "Case":
        return Case(library, self.class_name, self.architecture)

    def labels(self, rows: int = 2) -> torch.Tensor | None:
        """Return labels for a batch, or `None` for the model without a head."""
        if self.class_name == "HubertForCTC":
            return torch.tensor([[3, 5, 5, -100], [7, 1, 2, 4]])[:rows]
        return torch.tensor([1, 3])[:rows] if self.class_name == "HubertForSequenceClassification" else None


def parametrize_cases(class_names: tuple[str, ...] = CLASSES, libraries: tuple[str, ...] = IMPORTS):
    """Run a test with every import, architecture and named class, as `case`."""
    cases = [Case(library, name, architecture) for library in libraries for name in class_names for architecture in SMALL]
    return pytest.mark.parametrize(
        "case",
        cases,
        ids=[f"{case.library}-{case.class_name}-{case.architecture}" for case in cases],
    )


def waveforms_of(rows: int = 2, samples: int = SAMPLES) -> torch.Tensor:
    return torch.randn(rows, samples)


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch whose second row has half of the samples, and its mask."""
    return masked_batch((SAMPLES, SAMPLES // 2))


def save(model, folder: Path, **options: Any) -> None:
    """Save a model as safetensors, which is not the default of transformers 4.34.1."""
    model.save_pretrained(folder, **{"safe_serialization": True, **options})


def result(model, *arguments, **options) -> torch.Tensor:
    """Return the first output of a call without gradients."""
    with torch.no_grad():
        return model(*arguments, **options)[0]


def tensors_of(output) -> list[torch.Tensor]:
    """Return all tensors of an output, in their order."""
    parts = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [tensor for part in parts for tensor in (part if isinstance(part, tuple) else (part,))]


def assert_same_weights(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(actual[key], weight), key
