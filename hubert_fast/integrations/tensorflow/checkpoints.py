"""Load and save checkpoints of the TensorFlow models, in the formats of PyTorch and of TensorFlow."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...checkpoints import LoadingInfo, chosen_files, match, warn_of_differences, weight_files, write_config, write_weights
from ...config import HubertConfig
from ...hub import listed
from ...other_formats import WEIGHT_FILES
from ...weight_files import read_weights
from ...weight_names import current_spelling
from .weights import H5_WEIGHTS, as_pytorch, assign, pytorch_shapes, read_h5, state_dict, write_h5

logger = logging.getLogger(__name__)

BATCH_COUNT = "num_batches_tracked"  # of PyTorch's batch norm, which has no counterpart in TensorFlow
EMBEDDING = "masked_spec_embed"


def load_weights(
    model: Any,
    name_or_path: str | Path,
    hub_options: dict[str, Any],
    from_pt: bool,
    use_safetensors: bool | None,
    variant: str | None,
    ignore_mismatched_sizes: bool,
) -> LoadingInfo:
    """Load the weights of a checkpoint into a model, warn of differences, and return them.

    Raises:
        CheckpointError: A file is missing or unreadable.
        ValueError: Shapes differ, and `ignore_mismatched_sizes` is not set.
    """
    state: dict[str, np.ndarray] = {}
    for file in weight_files(name_or_path, hub_options, chosen_files(_file_names(from_pt), use_safetensors, variant)):
        state |= read_h5(file) if file.suffix == ".h5" else _read_torch(file)
    state = {key: array for key, array in state.items() if not key.endswith(BATCH_COUNT)}
    prefix = model.base_model_prefix + "."
    fitting, info = match(name_or_path, state, pytorch_shapes(model), prefix, ignore_mismatched_sizes)
    info.missing_keys = [key for key in info.missing_keys if not _may_be_absent(key, model.config)]
    assign(model, fitting)
    warn_of_differences(name_or_path, type(model).__name__, info)
    return info


def _file_names(from_pt: bool) -> list[str]:
    """Return the names of weight files in order of preference."""
    safetensors = [name for name in WEIGHT_FILES if "safetensors" in name]
    tensorflow = [] if from_pt else [H5_WEIGHTS, H5_WEIGHTS + ".index.json"]
    return [*safetensors, *tensorflow, *(name for name in WEIGHT_FILES if name not in safetensors)]


def _read_torch(file: Path) -> dict[str, np.ndarray]:
    """Return the weights in a file of PyTorch, or in TensorFlow's safetensors, with PyTorch's names, as float32."""
    weights = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for key, tensor in read_weights(file).items()
    }
    if any("/" in key for key in weights):
        return as_pytorch(weights)
    return {current_spelling(key): array for key, array in weights.items()}


def _may_be_absent(key: str, config: HubertConfig) -> bool:
    """Return whether a weight is one that only TensorFlow models have, and that has no effect with this configuration."""
    return key.endswith(EMBEDDING) and config.mask_time_prob == 0 and config.mask_feature_prob == 0


def write_checkpoint(model: Any, folder: Path, safe_serialization: bool, max_shard_size: int | str) -> None:
    """Write `config.json`, and the weights as safetensors in PyTorch's format or as `tf_model.h5`."""
    write_config(model.config, type(model).__name__.removeprefix("TF"), model.variable_dtype, folder)
    if not safe_serialization:
        write_h5(model, folder / H5_WEIGHTS)
        if others := sorted(path.name for path in folder.glob("model*.safetensors")):
            logger.warning(
                "%s has %s, which from_pretrained reads in place of %s: delete it, or pass use_safetensors=False",
                folder,
                listed(others, 1),
                H5_WEIGHTS,
            )
        return
    state = {key: torch.from_numpy(array) for key, array in state_dict(model).items()}
    state = {key: tensor for key, tensor in state.items() if not _may_be_absent(key, model.config)}
    for key in [key for key in state if key.endswith("batch_norm.running_mean")]:
        state[key.replace("running_mean", BATCH_COUNT)] = torch.tensor(0)
    write_weights(state, folder, max_shard_size)
