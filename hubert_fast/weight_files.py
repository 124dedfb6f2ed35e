"""Read the weights in one file, whether safetensors or `torch.save` wrote it, with clear errors for any other file.

The format is decided by the file's contents, never by its name.
"""

from __future__ import annotations

import json
import logging
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .first_bytes import HEAD_BYTES, identify
from .hub import CheckpointError, first_line, listed
from .inert_pickle import Inert, load_inert
from .other_formats import advise

logger = logging.getLogger(__name__)

SAFETENSORS, ZIPPED, PICKLED = "safetensors", "zipped", "pickled"
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, as in the safetensors library
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the beginning of a pickle by torch.save before torch 1.6
FAIRSEQ_KEY = "feature_extractor.conv_layers.0.0.weight"  # end of a weight's name in every fairseq and s3prl checkpoint


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU.

    The tensors may lie in an entry of a larger dictionary, where some trainers put them: a warning then names the entry.
    Objects other than tensors are never rebuilt: no class or function that the file names is imported or called.

    Raises:
        CheckpointError: The file holds no weights, or several sets of them. The message says what it holds instead.
    """
    if weights_format(path) == SAFETENSORS:
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # any exception of safetensors means that the file is unusable
            raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None
    weights = _find_weights(path, _load_tensors(path))
    if any(key.endswith(FAIRSEQ_KEY) for key in weights):
        raise CheckpointError(f"{path} names its weights as fairseq does: convert it with `hubert-fast convert {path} OUT_DIR`")
    return weights


def read_weight_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file. Only the header of a safetensors file is read."""
    return list(safetensors_header(path) if weights_format(path) == SAFETENSORS else read_weights(path))


def read_pickle(path: str | Path) -> Any:
    """Read a file that `torch.save` wrote, on the CPU; objects other than tensors and containers become `Inert`.

    Raises:
        CheckpointError: The file is missing, damaged, or in another format.
    """
    path = Path(path)
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "missing"
        raise CheckpointError(f"{path} is {problem}; expected a file written by torch.save")
    layout = weights_format(path)
    if layout == SAFETENSORS:
        raise CheckpointError(
            f"{path} is a safetensors file; expected a file written by torch.save: a folder in Hugging Face's format needs no "
            f"conversion"
        )
    # given a path, torch.load would take a name that ends in .safetensors for that format
    return load_inert(path, mmap=layout == ZIPPED and path.suffix != ".safetensors")


def _load_tensors(path: Path) -> Any:
    try:
        with open(path, "rb") as file:  # given a path, torch.load would take a name that ends in .safetensors for that format
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # the pickle holds other objects, or is damaged
        return read_pickle(path)
    except Exception as error:  # torch.load raises many unrelated exceptions for damaged files
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None


def _find_weights(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, Inert):
        raise CheckpointError(
            f"{path} cannot be read: it holds an object ({content.kind[:80]}), such as a whole module, whose class is not "
            f"imported: write torch.save(model.state_dict(), FILE), or model.save_pretrained(FOLDER)"
        )
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, but holds a {type(content).__name__}")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    others = [key for key in content if key not in tensors]
    nested = [key for key in others if _is_weights(content[key])]
    if len(nested) == 1:
        ignored = listed([str(key) for key in content if key != nested[0]])
        suffix = f"; the other entries are ignored: {ignored}" if ignored else ""
        logger.warning("%s: using the weights in its entry %r%s", path, nested[0], suffix)
        return dict(content[nested[0]])
    if nested:
        raise CheckpointError(
            f"{path} holds several sets of weights ({listed(list(map(str, nested)))}): write the intended one to a file of its "
            f"own with torch.save"
        )
    objects = [f"{key} ({value.kind})" for key, value in content.items() if isinstance(value, Inert)]
    if objects:
        raise CheckpointError(
            f"{path} cannot be read: expected tensors by name, but it holds objects, which are not rebuilt: "
            f"{listed(objects, 3)}"
        )
    if not tensors:
        names = listed(list(map(str, content))) or "nothing"
        raise CheckpointError(f"{path} must hold a dictionary of tensors, but holds {names}")
    if others:
        logger.warning("%s: ignoring entries that are not tensors: %s", path, listed(list(map(str, others))))
    return tensors


def _is_weights(value: Any) -> bool:
    """Return whether a value is a dictionary of named tensors. The state of an optimizer is not: its keys are numbers."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items())
    )


def weights_format(path: Path) -> str:
    """Return `SAFETENSORS`, `ZIPPED` (`torch.save` since torch 1.6) or `PICKLED` (before), going by the file's contents.

    Raises:
        CheckpointError: The file is truncated or something else. The message says what it is and what to do.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if _is_safetensors(head):
            _check_safetensors(path, head)
            return SAFETENSORS
        if head.startswith(b"PK\x03\x04"):
            _check_zip(path)
            return ZIPPED
    except CheckpointError:  # a subclass of OSError
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if head.startswith(LEGACY_MAGIC):
        return PICKLED
    raise _not_weights(path, head)


def _not_weights(path: Path, head: bytes) -> CheckpointError:
    identity = identify(head)
    if identity is None:
        size = path.stat().st_size
        return CheckpointError(
            f"{path} cannot be read: expected weights written by safetensors or torch.save, but its {size:,} bytes begin with "
            f"{head[:8].hex(' ')}: download it again"
        )
    return CheckpointError(f"{path} cannot be read: {advise(identity).instead_of('weights')}")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= MAX_HEADER_BYTES


def _check_safetensors(path: Path, head: bytes) -> None:
    """Raise `CheckpointError` if the header is damaged, or if the file has another size than the header says."""
    size = path.stat().st_size
    (header_bytes,) = struct.unpack("<Q", head[:8])
    if 8 + header_bytes > size:
        raise CheckpointError(
            f"{path} cannot be read: it is cut off: its header should have {header_bytes:,} bytes, but the whole file has only "
            f"{size:,}: download it again"
        )
    try:
        entries = safetensors_header(path)
        expected = 8 + header_bytes + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} cannot be read: its safetensors header is damaged: download it again") from None
    if expected != size:
        problem = "cut off" if size < expected else "longer than it should be"
        raise CheckpointError(
            f"{path} cannot be read: it is {problem}: its header says {expected:,} bytes, but it has {size:,}: "
            f"download it again"
        )


def safetensors_header(path: Path) -> dict[str, dict]:
    """Return the header of a safetensors file: `data_offsets`, `shape` and `dtype` of each tensor, by its name."""
    with open(path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    return header


def _check_zip(path: Path) -> None:
    """Raise `CheckpointError` unless `torch.save` wrote the zip archive and it is complete."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CheckpointError(
            f"{path} cannot be read: it is cut off or damaged: it begins like a file of torch.save, but its end is missing "
            f"after {path.stat().st_size:,} bytes: download it again"
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} cannot be read: this is a TorchScript program, not weights: write torch.jit.load(FILE).state_dict() with "
            f"torch.save, or use the checkpoint from which it was exported"
        )
    if any(name.endswith("data.pkl") for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        description, advice = "NumPy arrays (.npz)", "write a dictionary of tensors with safetensors or torch.save"
    elif any(name.endswith(("archive_format", "models/model.json", "serialized_exported_program.json")) for name in names):
        description, advice = "a program of torch.export", "use the checkpoint from which it was exported"
    else:
        example = f", such as {names[0][:60]!r}" if names else ""
        description, advice = f"a zip archive of {len(names)} files{example}", "unpack it"
    raise CheckpointError(f"{path} cannot be read: this is {description}, not weights: {advice}")
