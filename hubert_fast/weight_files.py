"""Read the weights in one file: safetensors or what ``torch.save`` wrote, by its bytes; bare or in a trainer's dictionary."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .hub import CheckpointError, first_line, listed
from .inert_pickle import Inert, load_inert
from .weight_formats import SAFETENSORS, format_of, safetensors_header

logger = logging.getLogger(__name__)

FAIRSEQ_KEY = "feature_extractor.conv_layers.0.0.weight"  # ends the name of this weight in fairseq and s3prl


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU.

    A file of ``torch.save`` may hold them inside a dictionary, as trainers write it; a warning says which entry was taken.
    Objects that are no tensors are never rebuilt: no class or function that the file names is imported or called.

    Raises :class:`CheckpointError` saying what the file is when it holds no weights, or several sets of them.
    """
    if format_of(path) == SAFETENSORS:
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # safetensors has errors of its own, all meaning that the file is not usable
            raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None
    weights = _weights_in(path, _content(path))
    if any(key.endswith(FAIRSEQ_KEY) for key in weights):
        raise CheckpointError(f"{path} has fairseq's names of weights: `hubert-fast convert {path} OUT_DIR` reads it")
    return weights


def weight_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file; only a safetensors file's header is read."""
    return list(safetensors_header(path) if format_of(path) == SAFETENSORS else read_weights(path))


def _content(path: Path) -> Any:
    try:
        with open(path, "rb") as file:  # of a path, torch.load lets the name say what the file is
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # it holds objects, or is damaged
        return load_inert(path)
    except Exception as error:  # torch.load has no common class for what a damaged file can lead to
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None


def _weights_in(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, Inert):
        raise CheckpointError(
            f"{path} cannot be read: it holds an object ({content.kind[:80]}), such as a whole module, and its class is not "
            f"imported: write torch.save(model.state_dict(), FILE), or model.save_pretrained(FOLDER)"
        )
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, but holds a {type(content).__name__}")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    others = [key for key in content if key not in tensors]
    nested = [key for key in others if _is_weights(content[key])]
    if len(nested) == 1:
        left_out = listed([str(key) for key in content if key != nested[0]])
        also = f"; the other entries are left out: {left_out}" if left_out else ""
        logger.warning("%s: the weights are those under %r%s", path, nested[0], also)
        return dict(content[nested[0]])
    if nested:
        raise CheckpointError(
            f"{path} holds several sets of weights ({listed(list(map(str, nested)))}): write the one that is meant to a file "
            f"of its own with torch.save"
        )
    objects = [f"{key} ({value.kind})" for key, value in content.items() if isinstance(value, Inert)]
    if objects:
        raise CheckpointError(
            f"{path} cannot be read: expected tensors by name, but it holds objects, which are not made: {listed(objects, 3)}"
        )
    if not tensors:
        found = listed(list(map(str, content))) or "nothing"
        raise CheckpointError(f"{path} must hold a dictionary of tensors, but holds {found}")
    if others:
        logger.warning("%s: entries that are no tensors are left out: %s", path, listed(list(map(str, others))))
    return tensors


def _is_weights(value: Any) -> bool:
    """Whether a value is a dictionary of tensors by name. An optimizer's state is none: its keys are numbers."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items())
    )
