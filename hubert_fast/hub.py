"""The files of a checkpoint: in a folder, in the Hugging Face cache or on the hub, with one clear error where they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .first_bytes import HEAD_BYTES, identify
from .folders import how_to_use, what_is_there

CONFIG_NAME = "config.json"
JSON_KINDS = {"json", "text", "utf-16", "utf-32"}  # of what may be JSON with a mistake in it
MOST_CHARACTERS = 300  # of a message that another library wrote
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
            hint = what_is_there(path) if filename == CONFIG_NAME else ""
            raise FileAbsentError(f"{path} has no {filename}{hint}")
        return path / filename
    if exists:
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder with {CONFIG_NAME} and weights{how_to_use(path)}")
    return _fetch(str(name_or_path), filename, hub_options)


def _fetch(name: str, filename: str, hub_options: dict[str, Any]) -> Path:
    """Download one file of the hub's repository ``name``, or find it in huggingface_hub's cache."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub import utils as errors  # where every version since 0.16 has them

    try:
        return Path(hf_hub_download(name, filename, **hub_options))
    except errors.HFValidationError:
        raise CheckpointError(f"{name} is neither a folder nor a name on the Hugging Face hub") from None
    except errors.LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE or hub_options.get("local_files_only")
        options = {key: hub_options.get(key) for key in ("cache_dir", "revision")}
        # where nobody may ask the hub, the cache is all there is; where it does not answer, only what it once said counts
        known = isinstance(try_to_load_from_cache(name, CONFIG_NAME, **options), str)
        known_absent = try_to_load_from_cache(name, filename, **options) is not None
        if known and (offline or known_absent):
            raise FileAbsentError(f"{name} in the Hugging Face cache has no {filename}") from None
        why = "the hub is out of reach" if offline else _why_out_of_reach(error)
        raise CheckpointError(
            f"{name} is not a folder here, {filename} of it is not in the Hugging Face cache, and {why}"
        ) from None
    except errors.EntryNotFoundError:
        raise FileAbsentError(f"{name} on the Hugging Face hub has no {filename}") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} on the Hugging Face hub is gated: ask for access there, then log in (`hf auth login`) or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name} is not a folder here, and not on the Hugging Face hub (or private)") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} on the Hugging Face hub has no revision {hub_options.get('revision')}") from None
    except Exception as error:  # other HTTP errors, and those of the transport and the disk, which have no common class
        status = _status_of(error)
        why = first_line(error) if status is None else f"the hub answered {_described(status)}"
        raise CheckpointError(f"{filename} of {name} could not be fetched: {why}") from None


def _why_out_of_reach(error: BaseException) -> str:
    """Return why the hub gave no file: its HTTP status, silence, or an answer that is not the hub's."""
    cause = error.__cause__
    status = _status_of(cause)
    if status is not None:
        return f"the hub answered {_described(status)}"
    if type(cause).__name__ == "FileMetadataError":
        return "what answered is not the hub: a proxy or a log-in page may stand between, or HF_ENDPOINT be wrong"
    if "Timeout" in type(cause).__name__:
        return "the hub is out of reach: it did not answer in time"
    return "the hub is out of reach"


def _status_of(error: BaseException | None) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _described(status: int) -> str:
    """Return an HTTP status with its reason, and what to do about it."""
    try:
        reason = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        reason = f"{status}"
    if status in (401, 403):
        return f"{reason}: log in (`hf auth login`) or set HF_TOKEN to a token that may read it"
    if status == 429 or status >= 500:
        return f"{reason}: try again later"
    return reason


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object in UTF-8, or in what a byte order mark says. Raises :class:`CheckpointError` for anything else."""
    try:
        data = Path(path).read_bytes()
        values = json.loads(data)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not Unicode, not JSON, or lists in lists without end
        identity = identify(data[:HEAD_BYTES])
        if identity is not None and identity.kind not in JSON_KINDS:
            raise CheckpointError(f"{path} cannot be read: {identity.instead_of('JSON')}") from None
        raise CheckpointError(f"{path} is not valid JSON: {first_line(error)}") from None
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


def first_line(error: BaseException) -> str:
    """Return what an error says first, or its kind when it says nothing: native libraries append their stacks.

    At most ``MOST_CHARACTERS`` of it. A library's advice to read a pickle without its safeguards is never repeated.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if re.search(r"weights[_ ]only|safe_globals|allowlist", text, re.IGNORECASE):
        return "it holds objects that are no tensors"
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 4].rstrip() + " ..."


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names as one line that fits a screen: the first ones, each cut where it is long, and how many more there are."""
    first = ", ".join(name if len(name) <= 80 else name[:76] + " ..." for name in names[:most])
    return first + (f" and {len(names) - most} more" if len(names) > most else "")
