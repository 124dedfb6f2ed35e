"""Checkpoints in Hugging Face's formats: where their files are, how their keys map to ours, reading and writing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import CONFIG_NAME, HubertConfig

logger = logging.getLogger(__name__)

SAFE_WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
# In the order in which they are looked for; an index lists the shards that the weights are spread over.
WEIGHT_FILES = (SAFE_WEIGHTS, SAFE_WEIGHTS + ".index.json", PICKLED_WEIGHTS, PICKLED_WEIGHTS + ".index.json")
# Weight norm as PyTorch spelled it before 2.0 -> as it does now.
WEIGHT_NORM_KEYS = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


class CheckpointError(OSError):
    """A checkpoint is missing, unreadable or not what it should be; the message says which file and why."""


class FileAbsentError(CheckpointError):
    """The checkpoint is there and does not have this file; for an optional one, that is an answer."""


def resolve_file(name_or_path: str | Path, filename: str, **hub_options: Any) -> Path:
    """Return the local path of one file of a checkpoint, downloading it when ``name_or_path`` is not a folder.

    hub_options: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` of ``huggingface_hub.hf_hub_download``.
    Raises :class:`CheckpointError` when there is no such file, repository or network.
    """
    path = Path(name_or_path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"{path} cannot be looked into: {error.strerror}") from None
    if is_folder:
        if not (path / filename).is_file():
            raise FileAbsentError(f"{path} has no {filename}")
        return path / filename
    if exists:
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder with {CONFIG_NAME} and weights")
    return _fetch(str(name_or_path), filename, hub_options)


def _fetch(name: str, filename: str, hub_options: dict[str, Any]) -> Path:
    """Download one file of the hub's repository ``name``, or find it in huggingface_hub's cache."""
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(name, filename, **hub_options))
    except errors.HFValidationError:
        raise CheckpointError(f"{name} is neither a folder nor a name on the Hugging Face hub") from None
    except errors.LocalEntryNotFoundError:
        offline = constants.HF_HUB_OFFLINE or hub_options.get("local_files_only")
        options = {key: hub_options.get(key) for key in ("cache_dir", "revision")}
        # where nobody may ask the hub, the cache is all there is; where it does not answer, only what it once said counts
        known = isinstance(try_to_load_from_cache(name, CONFIG_NAME, **options), str)
        known_absent = try_to_load_from_cache(name, filename, **options) is not None
        if known and (offline or known_absent):
            raise FileAbsentError(f"{name} in the Hugging Face cache has no {filename}") from None
        raise CheckpointError(
            f"{name} is not a folder here, {filename} of it is not in the Hugging Face cache, and the hub is out of reach"
        ) from None
    except errors.EntryNotFoundError:
        raise FileAbsentError(f"{name} on the Hugging Face hub has no {filename}") from None
    except errors.GatedRepoError:
        raise CheckpointError(f"{name} on the Hugging Face hub is gated: ask for access there, then log in") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name} is not a folder here, and not on the Hugging Face hub (or private)") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} on the Hugging Face hub has no revision {hub_options.get('revision')}") from None
    except Exception as error:  # other HTTP errors, and those of the transport and the disk, which have no common class
        raise CheckpointError(f"{filename} of {name} could not be fetched: {first_line(error)}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object. Raises :class:`CheckpointError` when the file is unreadable or holds something else."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, but holds a {type(values).__name__}")
    return values


def first_line(error: Exception) -> str:
    """Return what an error says first, or its kind when it says nothing: native libraries append their stacks."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read_state_dict(name_or_path: str | Path, **hub_options: Any) -> dict[str, Tensor]:
    """Read all weights of a checkpoint, with today's weight-norm spelling. Pickles are read with ``weights_only=True``.

    Raises :class:`CheckpointError` when there are none or they cannot be read.
    """
    first = _first_weight_file(name_or_path, hub_options)
    if first.name.endswith(".index.json"):
        weight_map = read_json(first).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{first} must have a weight_map from weights to files")
        shards = sorted(set(weight_map.values()))
        files = [resolve_file(name_or_path, shard, **hub_options) for shard in shards]
    else:
        files = [first]
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(_read_weight_file(file))
    return {_current_spelling(key): tensor for key, tensor in state.items()}


def _first_weight_file(name_or_path: str | Path, hub_options: dict[str, Any]) -> Path:
    for name in WEIGHT_FILES:
        try:
            return resolve_file(name_or_path, name, **hub_options)
        except FileAbsentError:
            continue
    raise CheckpointError(f"{name_or_path} has no weights: none of {', '.join(WEIGHT_FILES)}")


def _read_weight_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.name.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own, all meaning that the file is not usable
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, and holds something else")
    return state


def _current_spelling(key: str) -> str:
    for old, new in WEIGHT_NORM_KEYS.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


@dataclass
class LoadingInfo:
    """How a checkpoint fitted a model, in transformers' terms."""

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def fit_prefix(state: dict[str, Tensor], expected: Iterable[str], prefix: str) -> dict[str, Tensor]:
    """Add or remove ``prefix`` so that a bare encoder's weights fit a model with a head, and the other way round."""
    model_has = any(key.startswith(prefix) for key in expected)
    state_has = any(key.startswith(prefix) for key in state)
    if model_has and not state_has:
        return {prefix + key: tensor for key, tensor in state.items()}
    if state_has and not model_has:
        return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


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
    """Do what ``from_pretrained`` does, on the CPU and without its warnings: the caller judges the :class:`LoadingInfo`."""
    state = read_state_dict(name_or_path, **hub_options)
    with torch.device("meta"):
        model = cls(config)
    state, info = _match(state, model)
    if info.mismatched_keys and not ignore_mismatched_sizes:
        key, found, expected = info.mismatched_keys[0]
        raise ValueError(
            f"{name_or_path}: {key} has shape {list(found)}, but the configuration makes it {list(expected)} "
            f"({len(info.mismatched_keys)} such in all); ignore_mismatched_sizes=True initialises them instead"
        )
    if info.missing_keys or info.mismatched_keys:
        model = cls(config)  # a second time, with initial weights
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
        config: HubertConfig | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **config_overrides: Any,
    ):
        """Load a model, in evaluation mode, from a folder or a Hugging Face hub repository.

        config: used instead of the checkpoint's ``config.json``; other keywords override single fields of it.
        dtype: of the parameters: float32 unless given; ``"auto"`` keeps the checkpoint's. ``torch_dtype`` is its older name.
        output_loading_info: return ``(model, info)`` with the missing, unexpected and mismatched keys.
        revision, cache_dir, token, local_files_only: as in ``huggingface_hub``.

        Weights that the checkpoint lacks are initialised, and a warning names them. Raises :class:`CheckpointError` when
        a file is missing or unreadable, ``ValueError`` when shapes differ and ``ignore_mismatched_sizes`` is not set.
        """
        hub_options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        if config is None:
            config = HubertConfig.from_pretrained(name_or_path, **hub_options)
        config = _with_overrides(config, config_overrides)
        model, info = load(
            cls, name_or_path, config, torch_dtype if dtype is None else dtype, ignore_mismatched_sizes, hub_options
        )
        _warn(name_or_path, cls.__name__, info)
        model = model.to(device=device)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, folder: str | Path, *, max_shard_size: str | int = "5GB") -> None:
        """Write ``config.json`` and safetensors that transformers reads, in shards when above ``max_shard_size``."""
        from huggingface_hub import save_torch_state_dict

        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained needs a folder, but {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        values = self.config.to_dict() | {
            "architectures": [type(self).__name__],
            "torch_dtype": str(next(self.parameters()).dtype).removeprefix("torch."),
        }
        values.pop("dtype", None)  # transformers 5's name for torch_dtype, which would win over it
        HubertConfig.from_dict(values).save_pretrained(folder)
        save_torch_state_dict(self.state_dict(), folder, max_shard_size=max_shard_size)
        readable_as_others = (folder / CONFIG_NAME).stat().st_mode
        for file in folder.glob("*.safetensors"):
            file.chmod(readable_as_others)  # safetensors makes files that only their owner reads


def _with_overrides(config: HubertConfig, overrides: dict[str, Any]) -> HubertConfig:
    known = {entry.name for entry in fields(HubertConfig)} | {"num_labels", "id2label", "label2id"}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TypeError(f"from_pretrained got {', '.join(unknown)}, which is neither an option nor a field of HubertConfig")
    return HubertConfig.from_dict(config.to_dict(), **overrides)


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
    fresh = info.missing_keys + [key for key, *_ in info.mismatched_keys]
    if fresh:
        logger.warning(
            "%s lacks weights of %s, which are initialised and need training: %s", name_or_path, model, ", ".join(fresh)
        )
    if info.unexpected_keys:
        logger.warning("%s has weights that %s does not use: %s", name_or_path, model, ", ".join(info.unexpected_keys))
