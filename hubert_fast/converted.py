"""What a conversion gives: a model with what its input and output need, ready to be written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .checkpoints import write_checkpoint
from .hub import CheckpointError
from .modeling import HubertForCTC, HubertModel
from .processing import FeatureExtractor
from .tokenizer import CTCTokenizer

# The head of pre-training. HubertModel has no place for it, transformers' neither; a subclass that has a ``final_proj`` takes
# it from the file.
PRETRAINING_HEAD = r"final_proj\.|label_embs_concat$|target_glu\."


@dataclass
class Converted:
    """A model with what its input and output need.

    left_out: names of the weights that have no place in the model. kept: weights that have none either, and are written beside
        the model's own.
    """

    model: HubertModel | HubertForCTC
    feature_extractor: FeatureExtractor
    tokenizer: CTCTokenizer | None
    left_out: list[str]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that ``from_pretrained`` of this package and of transformers read."""
        if self.kept:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_checkpoint(self.model, self.model.state_dict() | self.kept, Path(folder))
        else:
            self.model.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def keep_final_proj(self, weights: dict[str, Tensor]) -> None:
        """Move the pre-training's head, of ``weights``, from what is left out to what is kept.

        Its width becomes ``classifier_proj_size`` of the configuration, as a subclass of transformers' ``HubertModel`` with
        ``nn.Linear(hidden_size, classifier_proj_size)`` expects. Raises :class:`CheckpointError` when there is no such head.
        """
        kept = {key: tensor for key, tensor in weights.items() if re.match(PRETRAINING_HEAD, key)}
        if "final_proj.weight" not in kept:
            raise CheckpointError("there is no final_proj to keep: only a pre-trained HuBERT has one, so convert without it")
        if kept["final_proj.weight"].dim() != 2:
            shape = list(kept["final_proj.weight"].shape)
            raise CheckpointError(f"the weight final_proj.weight must have 2 dimensions, but has shape {shape}")
        self.kept = {key: tensor.float().contiguous() for key, tensor in kept.items()}
        self.left_out = [name for name in self.left_out if not re.match(PRETRAINING_HEAD, name.removeprefix("hubert."))]
        self.model.config.classifier_proj_size = len(kept["final_proj.weight"])
