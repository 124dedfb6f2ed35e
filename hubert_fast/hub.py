"""The files of a checkpoint: in a folder, in the Hugging Face cache or on the hub, with one clear error where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG_NAME = "config.json"
HUB_OPTIONS = {"revision", "cache_dir", "token", "local_files_only"}


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
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub import utils as errors  # where every version since 0.16 has them

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


def read_optional_json(name_or_path: str | Path, filename: str, hub_options: dict[str, Any]) -> dict[str, Any]:
    """Read a JSON object that a checkpoint need not have; empty where it has none."""
    try:
        return read_json(resolve_file(name_or_path, filename, **hub_options))
    except FileAbsentError:
        return {}


def json_text(values: dict[str, Any]) -> str:
    """Return what :func:`write_json` writes."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object as the files of a checkpoint hold it."""
    path.write_text(json_text(values), encoding="utf-8")


def first_line(error: Exception) -> str:
    """Return what an error says first, or its kind when it says nothing: native libraries append their stacks."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
