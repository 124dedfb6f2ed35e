"""Check that a checkpoint holds a whole encoder, and read its head of pre-training."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..checkpoints import LoadingInfo
from ..hub import CheckpointError, listed
from ..modeling import HubertModel
from .codebook import Projection


def check_complete(name_or_path: str | Path, model: HubertModel, info: LoadingInfo) -> None:
    """Raise `CheckpointError` if weights of the encoder are missing from a checkpoint."""
    # inference does not use SpecAugment's embedding
    missing = [key for key in info.missing_keys if not key.endswith("masked_spec_embed")]
    if missing:
        raise CheckpointError(
            f"{name_or_path} is not a complete HuBERT checkpoint: {len(missing)} of {len(model.state_dict())} weights are "
            f"missing: {listed(missing, 2)}"
        )


def final_projection(name_or_path: str | Path, state: dict[str, torch.Tensor]) -> Projection:
    """Return the head of pre-training that maps states to the space of label embeddings, as in ContentVec."""
    matches = ((re.search(r"(?:^|\.)final_proj\.(weight|bias)$", key), tensor) for key, tensor in state.items())
    found = {match[1]: tensor.float().numpy() for match, tensor in matches if match}
    if "weight" not in found:
        raise CheckpointError(
            f"{name_or_path} has no final_proj, which the projection needs: `hubert-fast convert --keep-final-proj` keeps that "
            "of a fairseq checkpoint"
        )
    return Projection(found["weight"], found.get("bias"))
