"""Load and save checkpoints in Hugging Face's formats, and match their weights to those of a model."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import HubertConfig, as_hubert_config, field_names, refuse_unknown
from .devices import resolve_device_map
from .hub import CONFIG_NAME, CheckpointError, FileAbsentError, listed, read_json, resolve_file
from .other_formats import SAFE_WEIGHTS, WEIGHT_FILES, folder_hint
from .weight_files import read_weight_names, read_weights
from .weight_names import current_spelling, fit_prefix, without_wrappers

logger = logging.getLogger(__name__)

# Options of transformers that change how a model is loaded or computed, but not its output.
WITHOUT_EFFECT = {"attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors"}


def read_state_dict(name_or_path: str | Path, **hub_options: Any) -> dict[str, Tensor]:
    """Read all weights of a checkpoint, with the parameters of weight norm named as in current PyTorch.

    No class or function that a pickle names is imported or called. Raises `CheckpointError` when there are no weights or they
    cannot be read.
    """
    state: dict[str, Tensor] = {}
    for file in _weight_files(name_or_path, hub_options):
        state.update(read_weights(file))
    return {current_spelling(key): tensor for key, tensor in state.items()}


def has_ctc_head(name_or_path: str | Path, **hub_options: Any) -> bool:
    """Return whether a checkpoint has an output layer for CTC. Of safetensors files only the headers are read."""
    files = _weight_files(name_or_path, hub_options)
    return any(re.search(r"(?:^|\.)lm_head\.weight$", name) for file in files for name in read_weight_names(file))


def _weight_files(name_or_path: str | Path, hub_options: dict[str, Any]) -> list[Path]:
    """Return the files that hold the weights: one, or several that an index lists."""
    first = _first_weight_file(name_or_path, hub_options)
    if not first.name.endswith(".index.json"):
        return [first]
    weight_map = read_json(first).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_file_name, weight_map.values())):
        raise CheckpointError(f"{first} must have a weight_map from the names of weights to files")
    shards: list[str] = sorted(set(weight_map.values()))
    files, absent = [], []
    for shard in shards:
        try:
            files.append(resolve_file(name_or_path, shard, **hub_options))
        except FileAbsentError:
            absent.append(shard)
    if absent:
        raise CheckpointError(
            f"{name_or_path} lacks {len(absent)} of the {len(shards)} files of weights that {first.name} lists: "
            f"{listed(absent, 3)}: download them too"
        )
    return files


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _first_weight_file(name_or_path: str | Path, hub_options: dict[str, Any]) -> Path:
    for name in WEIGHT_FILES:
        try:
            return resolve_file(name_or_path, name, **hub_options)
        except FileAbsentError:
            continue
    raise CheckpointError(f"{name_or_path} has no weights: none of {', '.join(WEIGHT_FILES)}{folder_hint(name_or_path)}")


@dataclass
class LoadingInfo:
    """How the weights of a checkpoint matched those of a model, in the terms of transformers."""

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


def load(
    cls: type[nn.Module],
    name_or_path: str | Path,
    config: HubertConfig,
    dtype: str | torch.dtype | None,
    ignore_mismatched_sizes: bool,
    hub_options: dict[str, Any],
) -> tuple[nn.Module, LoadingInfo]:
    """Load a model for `from_pretrained`, on the CPU, and return it with a `LoadingInfo` for the caller to judge.

    Log a warning if a wrapper had added a prefix to the names of the weights.
    """
    state = read_state_dict(name_or_path, **hub_options)
    state, prefix = without_wrappers(state, cls.base_model_prefix + ".")
    if prefix is not None:
        logger.warning("%s: removed %r, which a wrapper added to the names of the weights", name_or_path, prefix)
    with torch.device("meta"):
        model = cls(config)
    state, info = _match(state, model)
    if info.mismatched_keys and not ignore_mismatched_sizes:
        key, shape, expected = info.mismatched_keys[0]
        raise ValueError(
            f"{name_or_path}: {key} has shape {list(shape)}, but the configuration makes it {list(expected)} "
            f"(shapes that differ: {len(info.mismatched_keys)}): config.json belongs to another model or has wrong sizes; "
            f"from_pretrained(..., ignore_mismatched_sizes=True) initialises these weights instead"
        )
    if info.missing_keys or info.mismatched_keys:
        model = cls(config)  # again, now with initial weights
        model.load_state_dict(state, strict=False)
    else:
        model.load_state_dict(state, assign=True)
    return model.to(_as_dtype(dtype, state)).eval(), info


class PreTrainedMixin:
    """``from_pretrained`` and ``save_pretrained`` for a module with ``config_class`` and ``base_model_prefix``."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: HubertConfig | str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | int | torch.device | None = None,
        device_map: str | int | torch.device | dict | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **config_overrides: Any,
    ):
        """Load a model, in evaluation mode, from a folder or a Hugging Face hub repository.

        config: used instead of the checkpoint's ``config.json``, or where to read it; other keywords override its fields.
        dtype: of the parameters: float32 unless given; ``"auto"`` keeps the checkpoint's. ``torch_dtype`` is its older name.
        device: where the model goes, the CPU unless given; ``"auto"`` is CUDA when there is one. ``device_map`` is
            transformers' word for it.
        output_loading_info: return ``(model, info)``, a dictionary with ``missing_keys``, ``unexpected_keys``,
            ``mismatched_keys`` (key, shape in the file, shape in the model) and ``error_msgs`` (always empty: errors raise).
        revision, cache_dir, token, local_files_only: as in ``huggingface_hub``.
        config_overrides: fields of :class:`HubertConfig`. ``attn_implementation``, ``low_cpu_mem_usage``,
            ``trust_remote_code`` and ``use_safetensors`` of transformers are accepted and have no effect here.

        Weights that the checkpoint lacks are initialised, and a warning names them. Raises :class:`CheckpointError` when
        a file is missing or unreadable, ``ValueError`` when shapes differ and ``ignore_mismatched_sizes`` is not set, or for a
        device that is not there, ``TypeError`` for a keyword that is neither an option nor a field.
        """
        hub_options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        if device is not None and device_map is not None:
            raise ValueError(f"from_pretrained takes device or device_map, but got both: {device!r} and {device_map!r}")
        target = resolve_device_map(device if device_map is None else device_map)
        if config is None or isinstance(config, (str, Path)):
            config = HubertConfig.from_pretrained(name_or_path if config is None else config, **hub_options)
        config = _with_overrides(as_hubert_config(config), config_overrides)
        model, info = load(
            cls, name_or_path, config, torch_dtype if dtype is None else dtype, ignore_mismatched_sizes, hub_options
        )
        _warn(name_or_path, cls.__name__, info)
        model = model.to(device=target)
        return (model, asdict(info) | {"error_msgs": []}) if output_loading_info else model

    def save_pretrained(
        self, folder: str | Path, *, max_shard_size: str | int = "5GB", safe_serialization: bool = True
    ) -> None:
        """Write ``config.json`` and safetensors that transformers reads, in shards when above ``max_shard_size``.

        Raises ``ValueError`` for ``safe_serialization=False``: pickles are read, but not written.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: weights are written as safetensors, not as pickles")
        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained needs a folder, but {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self, self.state_dict(), folder, max_shard_size)


def write_checkpoint(model: nn.Module, state: dict[str, Tensor], folder: Path, max_shard_size: str | int = "5GB") -> None:
    """Write the configuration of a model as `config.json`, and `state`: its weights, and further ones that belong with it."""
    values = model.config.to_dict() | {
        "architectures": [type(model).__name__],
        "torch_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
    values.pop("dtype", None)  # transformers 5's name for torch_dtype, over which it would take precedence
    HubertConfig.from_dict(values).save_pretrained(folder)
    _write_weights(state, folder, max_shard_size)
    permissions = (folder / CONFIG_NAME).stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(permissions)  # safetensors creates files that only their owner can read


def _write_weights(state: dict[str, Tensor], folder: Path, max_shard_size: str | int) -> None:
    import huggingface_hub

    if hasattr(huggingface_hub, "save_torch_state_dict"):
        huggingface_hub.save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
        return
    # huggingface_hub is that old with transformers 4.34.1, whose tokenizers require version 0.17
    if max_shard_size != "5GB" or sum(tensor.nbytes for tensor in state.values()) > 5e9:
        installed = huggingface_hub.__version__
        raise RuntimeError(f"writing shards needs huggingface_hub 0.24 or newer, but {installed} is installed")
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / SAFE_WEIGHTS, metadata={"format": "pt"})


def _with_overrides(config: HubertConfig, overrides: dict[str, Any]) -> HubertConfig:
    refuse_unknown(set(overrides) - field_names() - WITHOUT_EFFECT)
    return config.with_overrides({name: value for name, value in overrides.items() if name not in WITHOUT_EFFECT})


def _match(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], LoadingInfo]:
    expected = model.state_dict()
    state = fit_prefix(state, expected, model.base_model_prefix + ".")
    info = LoadingInfo(missing_keys=sorted(set(expected) - set(state)), unexpected_keys=sorted(set(state) - set(expected)))
    fitting = {}
    for key in expected:
        if key not in state:
            continue
        if state[key].shape == expected[key].shape:
            fitting[key] = state[key]
        else:
            info.mismatched_keys.append((key, tuple(state[key].shape), tuple(expected[key].shape)))
    info.mismatched_keys.sort()
    return fitting, info


def _warn(name_or_path: str | Path, model: str, info: LoadingInfo) -> None:
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
