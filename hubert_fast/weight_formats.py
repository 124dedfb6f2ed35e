"""Say which format of weights a file has by its bytes, whatever its name ends with, or in one line what else it is."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from .first_bytes import HEAD_BYTES, identify
from .hub import CheckpointError

SAFETENSORS, ZIPPED, PICKLED = "safetensors", "zipped", "pickled"
MOST_HEADER_BYTES = 100_000_000  # of safetensors; the library refuses longer ones too
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save's magic number before 1.6, pickled
# What to do about a kind of file where weights were expected, when it is not what :func:`first_bytes.identify` says.
ADVICE = {
    "zip": "unpack it",
    "tar": "unpack it",
    "hdf5": "it may be TensorFlow's or Keras's, so load it with transformers 4 (from_tf=True) and save_pretrained",
    "numpy": "write a dictionary of tensors with safetensors or torch.save",
    "onnx": "use the checkpoint that it was exported from",
    "gguf": "use the checkpoint that it was quantised from",
    "pickle": "write a dictionary of tensors with torch.save(model.state_dict(), FILE)",
    "json": "fetch the file of weights itself",
    "text": "fetch the file of weights itself",
}


def format_of(path: Path) -> str:
    """Return ``SAFETENSORS``, ``ZIPPED`` (``torch.save`` since 1.6) or ``PICKLED`` (before 1.6), by the file's bytes.

    Raises :class:`CheckpointError` when it is cut off or something else; the message says what, and what to do.
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
    except CheckpointError:  # which is an OSError
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if head.startswith(LEGACY):
        return PICKLED
    raise _not_weights(path, head)


def _not_weights(path: Path, head: bytes) -> CheckpointError:
    identity = identify(head)
    if identity is None:
        size = path.stat().st_size
        return CheckpointError(
            f"{path} cannot be read: expected weights as safetensors or torch.save write them, but its {size:,} bytes begin "
            f"with {head[:8].hex(' ')}: fetch it again"
        )
    identity = identity._replace(advice=ADVICE.get(identity.kind, identity.advice))
    return CheckpointError(f"{path} cannot be read: {identity.instead_of('weights')}")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= MOST_HEADER_BYTES


def _check_safetensors(path: Path, head: bytes) -> None:
    """Raise for a file that is shorter or longer than its header says, or whose header is damaged."""
    size = path.stat().st_size
    (header_bytes,) = struct.unpack("<Q", head[:8])
    if 8 + header_bytes > size:
        raise CheckpointError(
            f"{path} cannot be read: it is cut off: its header should have {header_bytes:,} bytes, but the whole file has "
            f"{size:,}: fetch it again"
        )
    try:
        entries = safetensors_header(path)
        expected = 8 + header_bytes + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} cannot be read: its safetensors header is damaged: fetch it again") from None
    if expected != size:
        what = "cut off" if size < expected else "longer than it should be"
        raise CheckpointError(
            f"{path} cannot be read: it is {what}: its header says {expected:,} bytes, but it has {size:,}: fetch it again"
        )


def safetensors_header(path: Path) -> dict[str, dict]:
    """Return the entries of a safetensors file by the tensors' names; ``data_offsets``, ``shape`` and ``dtype`` in each."""
    with open(path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    return header


def _check_zip(path: Path) -> None:
    """Raise for a zip archive that ``torch.save`` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CheckpointError(
            f"{path} cannot be read: it is cut off or damaged: it begins as torch.save writes, and its end is not there "
            f"after {path.stat().st_size:,} bytes: fetch it again"
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} cannot be read: this is a TorchScript program, not weights: write torch.jit.load(FILE).state_dict() with "
            f"torch.save, or use the checkpoint that it was made from"
        )
    if any(name.endswith("data.pkl") for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        what, advice = "NumPy arrays (.npz)", "write a dictionary of tensors with safetensors or torch.save"
    elif any(name.endswith(("archive_format", "models/model.json", "serialized_exported_program.json")) for name in names):
        what, advice = "a program of torch.export", "use the checkpoint that it was exported from"
    else:
        first = f", such as {names[0][:60]!r}" if names else ""
        what, advice = f"a zip archive of {len(names)} files{first}", "unpack it"
    raise CheckpointError(f"{path} cannot be read: this is {what}, not weights: {advice}")
