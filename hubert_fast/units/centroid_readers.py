"""Read centroids in the formats in which people publish them. The format is decided by a file's content, never by its name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..first_bytes import HEAD_BYTES, head_of, identify
from ..hub import CheckpointError, first_line, listed
from ..inert_pickle import Inert, entries
from ..weight_files import LEGACY_MAGIC, SAFETENSORS, read_pickle, weights_format
from .codebook import CentroidsError, Codebook, Projection
from .faiss_centroids import is_faiss, read_faiss
from .inert_arrays import array_of
from .inert_joblib import MAX_BYTES, decompress, is_compressed, load_inert_joblib
from .npy_files import MAGIC, NpyFile

# What centroids are called: by scikit-learn, in this package and elsewhere, and in fairseq's ApplyKmeans.
NAMES = ("cluster_centers_", "centroids", "cluster_centers", "centers", "codebook", "C")
EXPECTED = (
    "expected centroids, in a file of hubert_fast kmeans, joblib, pickle, torch.save, NumPy (.npy, .npz), safetensors or faiss"
)
PICKLE = re.compile(rb"\x80[\x02-\x05]|c[\w.]+\n\w+\n|\([dl]p\d")  # protocols 2 to 5, 0 and 1


def read_codebook(path: Path, speaker: str | None = None) -> Codebook:
    """Read a file of centroids.

    Args:
        path: The file.
        speaker: The speaker, for a file with centroids of several speakers.

    Raises:
        CentroidsError: See `Centroids.load`.
    """
    try:
        if path.is_dir():
            raise CentroidsError("it is a folder: expected a file")
        codebook = _reader(head_of(path))(path, speaker)
    except CheckpointError as error:  # a subclass of OSError, whose message names the file
        raise CentroidsError(str(error).removeprefix(f"{path} cannot be read: ")) from None
    except OSError as error:
        raise CentroidsError(f"it cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise CentroidsError("it holds an array that does not fit in memory: expected centroids alone") from None
    return codebook


def _reader(head: bytes) -> Callable[[Path, str | None], Codebook]:
    if head.startswith(MAGIC):
        return _read_npy
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if head.startswith(LEGACY_MAGIC):
        return _read_torch
    if is_faiss(head):
        return lambda path, speaker: _of_one_speaker(read_faiss(path), speaker)
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors
    if is_compressed(head) or PICKLE.match(head):
        return _read_pickle
    identity = identify(head)
    if identity is not None:
        raise CentroidsError(identity.instead_of("centroids"))
    raise CentroidsError(f"{EXPECTED}, but it begins with the bytes {head[:8].hex(' ')}")


def _read_npy(path: Path, speaker: str | None) -> Codebook:
    NpyFile.open(path, by_rows=False)  # for its errors
    if path.stat().st_size > MAX_BYTES:
        raise CentroidsError(f"it has more than {MAX_BYTES >> 30} GiB: expected centroids alone")
    return _of_one_speaker(Codebook(np.load(path, allow_pickle=False)), speaker)


def _read_zip(path: Path, speaker: str | None) -> Codebook:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CentroidsError("it is cut off or damaged: it begins like a zip file, but its end is missing") from None
    if not members or not all(member.filename.endswith(".npy") for member in members):
        return _read_torch(path, speaker)
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise CentroidsError(f"its arrays have more than {MAX_BYTES >> 30} GiB: expected centroids alone")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, zipfile.BadZipFile, RuntimeError) as error:  # arrays of objects, or damage
        raise CentroidsError(f"its arrays cannot be read ({first_line(error)}): write arrays of numbers") from None
    return Codebook(_find(content, speaker))


def _read_torch(path: Path, speaker: str | None) -> Codebook:
    return Codebook(_find(read_pickle(path), speaker))


def _read_pickle(path: Path, speaker: str | None) -> Codebook:
    if path.stat().st_size > MAX_BYTES:
        raise CentroidsError(f"it has {path.stat().st_size:,} bytes, more than {MAX_BYTES >> 30} GiB: expected centroids alone")
    data = path.read_bytes()
    if is_compressed(data[:HEAD_BYTES]):
        data = decompress(data)
    return Codebook(_find(load_inert_joblib(data), speaker))


def _read_safetensors(path: Path, speaker: str | None) -> Codebook:
    from safetensors import SafetensorError, safe_open

    if weights_format(path) != SAFETENSORS:  # checks the sizes too
        raise CentroidsError(EXPECTED)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise CentroidsError(f"it is damaged ({first_line(error)}): download it again") from None
    projection = None
    if "projection.weight" in content:
        bias = array_of(content.pop("projection.bias", None))
        weight = array_of(content.pop("projection.weight"))
        assert weight is not None  # it is a tensor
        projection = Projection(weight, bias)
    return Codebook(_find(content, speaker), projection, metadata)


def _of_one_speaker(codebook: Codebook, speaker: str | None) -> Codebook:
    _find({NAMES[0]: codebook.values}, speaker)
    return codebook


def _find(content: Any, speaker: str | None) -> np.ndarray:
    """Return the centroids in the content of a file.

    They may be the content itself, an attribute of an object (`KMeans` of scikit-learn), an entry of a dictionary under one of
    `NAMES`, its only 2-D array, or an entry of a dictionary in a dictionary of speakers (so-vits-svc).
    """
    found = _one_set(content)
    if found is not None:
        if speaker is not None:
            raise CentroidsError(f"it holds one set of centroids, without a speaker: leave out the speaker {speaker!r}")
        return found
    values = entries(content)
    sets = {str(key): value for key, value in values.items() if entries(value) and _one_set(value) is not None}
    if speaker is None and len(sets) == 1:
        speaker = next(iter(sets))
    if sets and speaker is None:
        raise CentroidsError(f"it holds the centroids of {len(sets)} speakers: choose one of {listed(list(sets), 20)}")
    if sets:
        if speaker not in sets:
            raise CentroidsError(f"it has no speaker {speaker!r}: choose one of {listed(list(sets), 20)}")
        found = _one_set(sets[speaker])
        assert found is not None  # by the choice of `sets`
        return found
    raise CentroidsError(f"{EXPECTED}, but it holds {_describe(content)}")


def _one_set(content: Any) -> np.ndarray | None:
    """Return the only centroids in a value, or `None` if it has none or several."""
    array = array_of(content)
    if array is not None:
        return array
    values = entries(content)
    named = [name for name in NAMES if name in values]
    if named:
        array = array_of(values[named[0]])
        if array is None:
            raise CentroidsError(f"its {named[0]} must be an array of numbers, but is {_describe(values[named[0]])}")
        return array.T if named[0] == "C" and _is_transposed(array, values) else array
    if isinstance(content, Inert):
        return None  # an attribute of an object counts only under a known name
    arrays = [array for value in values.values() if (array := _array_or_none(value)) is not None]
    matrices = [array for array in arrays if array.ndim == 2 and array.dtype.kind == "f"]
    return matrices[0] if len(matrices) == 1 else None


def _array_or_none(value: Any) -> np.ndarray | None:
    try:
        return array_of(value)
    except CentroidsError:  # an array of objects beside the centroids
        return None


def _is_transposed(array: np.ndarray, values: Mapping[str, Any]) -> bool:
    """Return whether `array` is `[C, K]`: the buffer C of fairseq's `ApplyKmeans`, next to the squared norms of its columns."""
    norms = _array_or_none(values.get("Cnorm"))
    return norms is not None and array.ndim == 2 and norms.size == array.shape[1] and norms.shape[0] in (1, norms.size)


def _describe(value: Any) -> str:
    """Describe a value that was read from a file, for an error message."""
    if isinstance(value, Inert):
        attributes = f" with {listed(list(map(str, entries(value))))}" if entries(value) else ""
        return f"an object of the class {value.kind[:80]}{attributes}"
    if isinstance(value, dict):
        return f"a dictionary with {listed(list(map(str, value)))}" if value else "an empty dictionary"
    return f"a {type(value).__name__}"
