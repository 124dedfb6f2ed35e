"""Load and save checkpoints in Hugging Face's formats, and match their weights to those of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .config import HubertConfig, as_hubert_config
from .hub import CONFIG_NAME, CheckpointError, FileAbsentError, listed, read_json, resolve_file
from .initialization import draw_order, initialize_missing, loading
from .other_formats import SAFE_WEIGHTS, WEIGHT_FILES, folder_hint
from .weight_files import read_weight_names, read_weights
from .weight_names import current_spelling, fit_prefix, without_wrappers

if TYPE_CHECKING:
    from .pretrained import HubertPreTrainedModel

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="HubertPreTrainedModel")
Array = TypeVar("Array", Tensor, np.ndarray)


def read_state_dict(
    name_or_path: str | Path, file_names: Sequence[str] = WEIGHT_FILES, **hub_options: Any
) -> dict[str, Tensor]:
    """Read all weights of a checkpoint, with the parameters of weight norm named as in current PyTorch.

    The first of `file_names` that exists counts. No class or function that a pickle names is imported or called. Raises
    `CheckpointError` if there are no weights or they cannot be read.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(name_or_path, hub_options, file_names):
        state.update(read_weights(file))
    return {current_spelling(key): tensor for key, tensor in state.items()}


def has_ctc_head(name_or_path: str | Path, **hub_options: Any) -> bool:
    """Return whether a checkpoint has an output layer for CTC. Only the headers of safetensors files are read."""
    files = weight_files(name_or_path, hub_options)
    return any(re.search(r"(?:^|\.)lm_head\.weight$", name) for file in files for name in read_weight_names(file))


def weight_files(name_or_path: str | Path, hub_options: dict[str, Any], file_names: Sequence[str] = WEIGHT_FILES) -> list[Path]:
    """Return the files that hold the weights: one, or several that an index lists."""
    first = _first_weight_file(name_or_path, hub_options, file_names)
    if first.suffix != ".json":
        return [first]
    weight_map = read_json(first).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_file_name, weight_map.values())):
        raise CheckpointError(f"{first} must have a weight_map that maps the names of weights to files")
    shards: list[str] = sorted(set(weight_map.values()))
    files, absent = [], []
    for shard in shards:
        try:
            files.append(resolve_file(name_or_path, shard, **hub_options))
        except FileAbsentError:
            absent.append(shard)
    if absent:
        raise CheckpointError(
            f"{name_or_path} lacks {len(absent)} of the {len(shards)} weight files that {first.name} lists: "
            f"{listed(absent, 3)}: download them too"
        )
    return files


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _first_weight_file(name_or_path: str | Path, hub_options: dict[str, Any], file_names: Sequence[str]) -> Path:
    for name in file_names:
        try:
            return resolve_file(name_or_path, name, **hub_options)
        except FileAbsentError:
            continue
    raise CheckpointError(f"{name_or_path} has no weights: none of {', '.join(file_names)}{folder_hint(name_or_path)}")


@dataclass
class LoadingInfo:
    """The differences between the weights of a checkpoint and of a model, with transformers' names.

    Attributes:
        missing_keys: Weights that the checkpoint lacks.
        unexpected_keys: Weights that the model lacks.
        mismatched_keys: Weights of different shapes: name, shape in the checkpoint, shape in the model.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def _as_dtype(dtype: str | torch.dtype | None, state: dict[str, Tensor]) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch.dtype, its name or 'auto', but is {dtype!r}")
    return dtype


class Source(NamedTuple):
    """The place from which a model's weights come.

    Attributes:
        name: The folder or repository, for messages; `"state_dict"` without one.
        read: A function that returns the weights, on the CPU.
    """

    name: str | Path
    read: Callable[[], dict[str, Tensor]]

    @classmethod
    def of(
        cls,
        name_or_path: str | Path | None,
        state_dict: dict[str, Tensor] | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        hub_options: dict[str, Any] | None = None,
    ) -> Source:
        """Return the source that these arguments of `from_pretrained` describe."""
        if state_dict is not None:
            copies = {current_spelling(key): tensor.detach().cpu().clone() for key, tensor in state_dict.items()}
            return cls("state_dict" if name_or_path is None else name_or_path, lambda: copies)
        if name_or_path is None:
            raise ValueError(
                "from_pretrained needs pretrained_model_name_or_path, a folder or a repository, or both config= and state_dict="
            )
        names = chosen_files(WEIGHT_FILES, use_safetensors, variant)
        return cls(name_or_path, lambda: read_state_dict(name_or_path, names, **(hub_options or {})))


def chosen_files(file_names: Iterable[str], use_safetensors: bool | None, variant: str | None) -> list[str]:
    """Return the names of weight files that these options of `from_pretrained` leave, those of the variant."""
    kept = (name for name in file_names if use_safetensors is None or ("safetensors" in name) == use_safetensors)
    return [with_variant(name, variant) for name in kept]


def with_variant(file_name: str, variant: str | None) -> str:
    """Return the name of a variant's file: `model.safetensors` becomes `model.VARIANT.safetensors`."""
    stem, _, suffix = file_name.rpartition(".")
    return file_name if variant is None else f"{stem}.{variant}.{suffix}"


def load(
    construct: Callable[[], Model], source: Source, dtype: str | torch.dtype | None, ignore_mismatched_sizes: bool = False
) -> tuple[Model, LoadingInfo]:
    """Load a model on the CPU for `from_pretrained`, and return it with a `LoadingInfo`."""
    state = source.read()
    order = draw_order()
    with loading(order):
        model = construct()
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    state, info = match(source.name, state, expected, model.base_model_prefix + ".", ignore_mismatched_sizes)
    model.load_state_dict(state, strict=False, assign=True)
    initialize_missing(model, set(state), order)
    return model.to(_as_dtype(dtype, state)).eval(), info


def match(
    name_or_path: str | Path,
    state: dict[str, Array],
    expected: Mapping[str, tuple[int, ...]],
    base_prefix: str,
    ignore_mismatched_sizes: bool,
) -> tuple[dict[str, Array], LoadingInfo]:
    """Return the weights of a checkpoint that fit a model, by the model's names, and the differences between the two.

    Log a warning if a prefix that a wrapper added to the names of the weights was removed.

    Args:
        name_or_path: The checkpoint, for messages.
        state: Its weights.
        expected: The shapes of the model's weights.
        base_prefix: The prefix of the encoder in a model with a head, such as `"hubert."`.
        ignore_mismatched_sizes: Whether to leave out weights of other shapes.

    Raises:
        ValueError: Shapes differ, and `ignore_mismatched_sizes` is not set.
    """
    state, removed = without_wrappers(state, base_prefix)
    if removed is not None:
        logger.warning("%s: removed %r, which a wrapper added to the names of the weights", name_or_path, removed)
    state = fit_prefix(state, expected, base_prefix)
    info = LoadingInfo(missing_keys=sorted(set(expected) - set(state)), unexpected_keys=sorted(set(state) - set(expected)))
    fitting = {}
    for key, shape in expected.items():
        if key not in state:
            continue
        if state[key].shape == shape:
            fitting[key] = state[key]
        else:
            info.mismatched_keys.append((key, tuple(state[key].shape), tuple(shape)))
    info.mismatched_keys.sort()
    if info.mismatched_keys and not ignore_mismatched_sizes:
        key, found, wanted = info.mismatched_keys[0]
        raise ValueError(
            f"{name_or_path}: {key} has shape {list(found)}, but the configuration expects {list(wanted)} "
            f"(shapes that differ: {len(info.mismatched_keys)}): config.json belongs to another model or has wrong sizes; "
            f"from_pretrained(..., ignore_mismatched_sizes=True) initialises these weights instead"
        )
    return fitting, info


def write_checkpoint(
    model: HubertPreTrainedModel,
    state: dict[str, Tensor],
    folder: Path,
    max_shard_size: str | int = "5GB",
    variant: str | None = None,
) -> None:
    """Write `config.json` and the weights `state`, which are those of the model and possibly further ones."""
    write_config(model.config, type(model).__name__, str(next(model.parameters()).dtype).removeprefix("torch."), folder)
    write_weights(state, folder, max_shard_size, variant)


def write_config(config: Any, architecture: str, dtype: str, folder: Path) -> None:
    """Write `config.json` for a model of the class `architecture` with weights of `dtype`."""
    values = as_hubert_config(config).to_dict() | {"architectures": [architecture], "torch_dtype": dtype}
    values.pop("dtype", None)  # transformers 5's name for torch_dtype, which it would override
    HubertConfig.from_dict(values).save_pretrained(folder)


def write_weights(
    state: dict[str, Tensor], folder: Path, max_shard_size: str | int = "5GB", variant: str | None = None
) -> None:
    """Write weights as safetensors into a folder that has a `config.json`, whose permissions they get."""
    _write_safetensors(state, folder, max_shard_size, variant)
    permissions = (folder / CONFIG_NAME).stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(permissions)  # safetensors creates files that only their owner can read


def _write_safetensors(state: dict[str, Tensor], folder: Path, max_shard_size: str | int, variant: str | None) -> None:
    import huggingface_hub

    name = with_variant(SAFE_WEIGHTS, variant)
    if hasattr(huggingface_hub, "save_torch_state_dict"):
        pattern = name.replace(".safetensors", "{suffix}.safetensors")
        huggingface_hub.save_torch_state_dict(state, folder, filename_pattern=pattern, max_shard_size=max_shard_size)
        index = folder / f"{name}.index.json"
        if variant is not None and index.exists():
            index.replace(folder / with_variant(SAFE_WEIGHTS + ".index.json", variant))  # transformers' name for it
        return
    # transformers 4.34.1 has such an old huggingface_hub, since its tokenizers require version 0.17
    if sum(tensor.nbytes for tensor in state.values()) > _size_bytes(max_shard_size):
        installed = huggingface_hub.__version__
        raise RuntimeError(f"writing shards needs huggingface_hub 0.24 or newer, but {installed} is installed")
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name, metadata={"format": "pt"})


def _size_bytes(size: str | int) -> int:
    """Return a size such as `"5GB"` in bytes."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"(\d+)([KMGT])B", size.upper())
    if match is None:
        raise ValueError(f"max_shard_size must be a number of bytes or text such as '5GB', but is {size!r}")
    return int(match[1]) * 1000 ** ("KMGT".index(match[2]) + 1)


def warn_of_differences(name_or_path: str | Path, model: str, info: LoadingInfo) -> None:
    """Log a warning for each kind of difference between a checkpoint and a model of the class named `model`."""
    if info.missing_keys:
        logger.warning(
            "%s lacks these weights of %s, which are newly initialised and need training: %s",
            name_or_path,
            model,
            listed(info.missing_keys),
        )
    if info.mismatched_keys:
        shapes = [f"{key} ({list(shape)} instead of {list(expected)})" for key, shape, expected in info.mismatched_keys]
        logger.warning(
            "%s has weights whose shapes differ from those of %s; they are newly initialised and need training: %s",
            name_or_path,
            model,
            listed(shapes),
        )
    if info.unexpected_keys:
        logger.warning("%s has weights that %s does not use: %s", name_or_path, model, listed(info.unexpected_keys))
