"""Find the files of a checkpoint in a folder, in the Hugging Face cache or on the hub, and read and write its JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .first_bytes import HEAD_BYTES, identify
from .http_status import describe_status, http_status
from .other_formats import file_hint, folder_hint

CONFIG_NAME = "config.json"
JSON_KINDS = {"json", "text", "utf-16", "utf-32"}  # kinds of `first_bytes.Identity` that may be JSON with a syntax error
MAX_CHARACTERS = 300  # quoted from a message of another library
HUB_OPTIONS = {"revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder"}


class CheckpointError(OSError):
    """A checkpoint is missing, unreadable or malformed. The message names the file and the reason."""


class FileAbsentError(CheckpointError):
    """The checkpoint exists, but does not have this file, which may be optional."""


def resolve_file(name_or_path: str | Path, filename: str, **hub_options: Any) -> Path:
    """Return the local path of one file of a checkpoint, downloading it when `name_or_path` is not a folder.

    Args:
        name_or_path: A folder, or a repository of the Hugging Face hub.
        filename: The file in it.
        hub_options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` and `subfolder` of
            `huggingface_hub.hf_hub_download`. In a folder, only `subfolder` has an effect.

    Raises:
        FileAbsentError: The folder or repository has no such file.
        CheckpointError: There is no such folder or repository, or the hub cannot be reached.
    """
    path = Path(name_or_path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # the name is too long, or permission is denied
        raise CheckpointError(f"{path} cannot be accessed: {error.strerror or error}") from None
    if is_folder:
        path = path / (hub_options.get("subfolder") or "")
        if not (path / filename).is_file():
            hint = folder_hint(path) if filename == CONFIG_NAME else ""
            raise FileAbsentError(f"{path} has no {filename}{hint}")
        return path / filename
    if exists:
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder with {CONFIG_NAME} and weights{file_hint(path)}")
    return _fetch(str(name_or_path), filename, hub_options)


def _fetch(name: str, filename: str, hub_options: dict[str, Any]) -> Path:
    """Return the path of a file of the hub's repository `name`, from huggingface_hub's cache or downloaded."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub import utils as errors  # all versions since 0.16 have them there

    hub_options = {option: value for option, value in hub_options.items() if value not in (None, "")}
    try:
        return Path(hf_hub_download(name, filename, **hub_options))
    except errors.HFValidationError:
        raise CheckpointError(f"{name} is neither a folder nor a name on the Hugging Face hub") from None
    except errors.LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE or hub_options.get("local_files_only")
        options = {key: hub_options.get(key) for key in ("cache_dir", "revision")}
        folder = f"{hub_options['subfolder']}/" if "subfolder" in hub_options else ""
        # offline by request, a file that is not cached counts as absent; otherwise only if the hub once said that it is
        is_cached = isinstance(try_to_load_from_cache(name, folder + CONFIG_NAME, **options), str)
        is_known_absent = try_to_load_from_cache(name, folder + filename, **options) is not None
        if is_cached and (offline or is_known_absent):
            raise FileAbsentError(f"{name} in the Hugging Face cache has no {filename}") from None
        reason = "the hub is out of reach" if offline else _unreachable_reason(error)
        raise CheckpointError(
            f"{name} is not a folder, its {filename} is not in the Hugging Face cache, and {reason}"
        ) from None
    except errors.EntryNotFoundError:
        raise FileAbsentError(f"{name} on the Hugging Face hub has no {filename}") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} on the Hugging Face hub is gated: request access there, then log in (`hf auth login`) or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name} is neither a folder nor on the Hugging Face hub (or it is private)") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} on the Hugging Face hub has no revision {hub_options.get('revision')}") from None
    except Exception as error:  # errors of HTTP, the network and the disk have no common class
        status = http_status(error)
        reason = first_line(error) if status is None else f"the hub answered {_status_with_advice(status)}"
        raise CheckpointError(f"{filename} of {name} could not be downloaded: {reason}") from None


def _unreachable_reason(error: BaseException) -> str:
    """Return why a request to the hub failed: an HTTP status, a timeout, or an answer from something other than the hub."""
    cause = error.__cause__
    status = http_status(cause)
    if status is not None:
        return f"the hub answered {_status_with_advice(status)}"
    if type(cause).__name__ == "FileMetadataError":
        return "the answer did not come from the hub: a proxy or a log-in page may be in between, or HF_ENDPOINT may be wrong"
    if "Timeout" in type(cause).__name__:
        return "the hub is out of reach: it did not answer in time"
    return "the hub is out of reach"


def _status_with_advice(status: int) -> str:
    """Return an HTTP status with its name, and what to do about it."""
    reason = describe_status(status)
    if status in (401, 403):
        return f"{reason}: log in (`hf auth login`) or set HF_TOKEN to a token with read access"
    if status == 429 or status >= 500:
        return f"{reason}: try again later"
    return reason


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that holds a JSON object, in UTF-8, UTF-16 or UTF-32. Raises `CheckpointError` for anything else."""
    try:
        data = Path(path).read_bytes()
        values = json.loads(data)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not Unicode, not JSON, or nested too deeply
        identity = identify(data[:HEAD_BYTES])
        if identity is not None and identity.kind not in JSON_KINDS:
            raise CheckpointError(f"{path} cannot be read: {identity.instead_of('JSON')}") from None
        raise CheckpointError(f"{path} is not valid JSON: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, but holds a {type(values).__name__}")
    return values


def read_optional_json(name_or_path: str | Path, filename: str, hub_options: dict[str, Any]) -> dict[str, Any]:
    """Read a JSON file that a checkpoint may lack. Return an empty dictionary if it does."""
    try:
        return read_json(resolve_file(name_or_path, filename, **hub_options))
    except FileAbsentError:
        return {}


def json_text(values: dict[str, Any]) -> str:
    """Return the text of a JSON object in the layout of the files of a checkpoint."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object with `json_text`."""
    path.write_text(json_text(values), encoding="utf-8")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, since native libraries append stack traces; its class if it has none.

    Long lines are cut to `MAX_CHARACTERS`. Advice to load a pickle unsafely is replaced.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if re.search(r"weights[_ ]only|safe_globals|allowlist", text, re.IGNORECASE):
        return "it holds objects other than tensors"
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 4].rstrip() + " ..."


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Join names for a message: the first `limit`, each cut to 80 characters, and the number of the others."""
    first = ", ".join(name if len(name) <= 80 else name[:76] + " ..." for name in names[:limit])
    return first + (f" and {len(names) - limit} more" if len(names) > limit else "")
