"""Read frames from files in bounded memory: folders of `hubert-fast features`, fairseq's dumps, and other `.npy` files.

Axes: N frames, C channels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..hub import CheckpointError, listed, read_json
from .codebook import CentroidsError
from .frame_source import FrameSource
from .frames import Frames
from .npy_files import NpyFile

FORMAT, VERSION = "hubert_fast features", 1
DESCRIPTION, INDEX = "features.json", "index.jsonl"
ADVICE = "expected a folder of hubert-fast features, a folder of .npy files or a .npy file with frames [N, C]"


class FrameReader(Frames):
    """Reads the frames of one layer, in float32, from files that need not fit in memory.

    Only plain reads are used: pages of a mapped file would count as memory of the process.

    Args:
        path: A folder that `hubert-fast features` wrote; a `.npy` file with frames `[N, C]`; or a folder of such files, which
            may be fairseq's (`train_0_1.npy` next to `train_0_1.len`) or have one utterance each, in subfolders too.
        layer: The layer, where a folder of `hubert-fast features` has several.

    Attributes:
        count, channels, source: See `Frames`.

    Raises:
        CentroidsError: The files are missing, malformed, cut off, or contradict each other, or the layer is not chosen.
    """

    def __init__(self, path: str | Path, layer: int | None = None):
        path = Path(path)
        self.source: FrameSource | None = None
        if (path / DESCRIPTION).is_file():
            self._files, spans, self.source = _of_features(path, layer)
        else:
            if layer is not None:
                raise CentroidsError(f"{path} has no {DESCRIPTION}, which would name layers: leave out layer {layer}")
            self._files, spans = _of_arrays(path)
        widths = {file.shape[1]: file.path for file in self._files}
        if len(widths) > 1:
            (first, first_path), (second, second_path), *_ = widths.items()
            raise CentroidsError(
                f"all frames must have equally many channels, but {first_path} has {first} and {second_path} has {second}"
            )
        self._spans = spans[spans[:, 2] > 0]  # int64 [spans, 3]: file, first row, rows
        self._ends = np.cumsum(self._spans[:, 2])  # in the sequence of all frames
        self.count = int(self._ends[-1]) if len(self._ends) else 0
        if not self.count:
            raise CentroidsError(f"{path} has no frames: {ADVICE}")
        self.channels = self._files[0].shape[1]

    def read(self, start: int, end: int) -> np.ndarray:
        """Return the frames from `start` to `end` in the sequence of all frames, float32."""
        frames = np.empty((end - start, self.channels), np.float32)
        span, done = int(np.searchsorted(self._ends, start, side="right")), 0
        while done < len(frames):
            file, first, rows = (int(value) for value in self._spans[span])
            skipped = start + done - (int(self._ends[span]) - rows)
            count = min(rows - skipped, len(frames) - done)
            frames[done : done + count] = self._files[file].read(first + skipped, count)
            if not np.isfinite(frames[done : done + count]).all():
                raise CentroidsError(
                    f"{self._files[file].path} has infinities or NaN in the {count} rows from {first + skipped}: write the "
                    f"features again, in float32 if they overflow float16"
                )
            done, span = done + count, span + 1
        return frames


def _of_features(folder: Path, layer: int | None) -> tuple[list[NpyFile], np.ndarray, FrameSource | None]:
    """Return the shards of a layer, the spans of them that the index mentions, and the source."""
    try:
        description = read_json(folder / DESCRIPTION)
    except CheckpointError as error:
        raise CentroidsError(str(error)) from None
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        raise CentroidsError(
            f"{folder / DESCRIPTION} must have format {FORMAT!r} and version {VERSION}, but has "
            f"{description.get('format')!r} and {description.get('version')!r}: update hubert_fast, or write the features again"
        )
    if description.get("pool") == "mean":
        raise CentroidsError(f"{folder} has means over files, not frames: write the features with --pool frames")
    layers = description.get("layers")
    if not isinstance(layers, list) or not layers:
        raise CentroidsError(f"{folder / DESCRIPTION} must list layers, but has {layers!r}: write the features again")
    if layer is None and len(layers) > 1:
        raise CentroidsError(f"{folder} has the layers {listed(list(map(str, layers)), 20)}: choose one")
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise CentroidsError(f"{folder} has no layer {layer}: choose one of {listed(list(map(str, layers)), 20)}")
    shards, spans = _read_index(folder / INDEX)
    files = [NpyFile.open(folder / f"layer{layer}-{shard:05}.npy") for shard in shards]
    if len(spans):
        too_long = np.flatnonzero(spans[:, 1] + spans[:, 2] > np.array([file.shape[0] for file in files])[spans[:, 0]])
        if len(too_long):
            file, start, rows = spans[too_long[0]]
            raise CentroidsError(
                f"{folder / INDEX} mentions frames {start} to {start + rows} of {files[file].path.name}, which has only "
                f"{files[file].shape[0]}: run hubert-fast features again to complete it"
            )
    return files, spans, _source(folder, description.get("source"), layer)


def _source(folder: Path, sources: Any, layer: int) -> FrameSource | None:
    """Return the source of a layer; `features.json` has one per layer, by its number as text."""
    described = sources.get(str(layer)) if isinstance(sources, dict) else None
    if described is None:
        return None
    try:
        return FrameSource.from_metadata(described)
    except (ValueError, AttributeError) as error:
        raise CentroidsError(f"{folder / DESCRIPTION} is damaged: {error}: write the features again") from None


def _read_index(path: Path) -> tuple[list[int], np.ndarray]:
    """Return the numbers of the shards in use and the spans `[spans, 3]` of the index, in the order of the shards."""
    rows: list[int] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows += _span(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise CentroidsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    spans = np.array(rows, np.int64).reshape(-1, 3)
    spans = spans[spans[:, 2] > 0]
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    shards, spans[:, 0] = np.unique(spans[:, 0], return_inverse=True)
    ends, same_file = spans[:-1, 1] + spans[:-1, 2], spans[1:, 0] == spans[:-1, 0]
    if (same_file & (spans[1:, 1] < ends)).any():
        raise CentroidsError(f"{path} mentions some frames twice: write the features again")
    if not len(spans):
        return [], spans
    first = np.append(True, ~(same_file & (spans[1:, 1] == ends)))  # adjacent utterances become one span
    merged = spans[first].copy()
    merged[:, 2] = np.add.reduceat(spans[:, 2], np.flatnonzero(first))
    return [int(shard) for shard in shards], merged


def _span(path: Path, number: int, line: str) -> tuple[int, int, int]:
    try:
        row = json.loads(line)
        values = row["shard"], row["start"], row["frames"]
        is_valid = all(type(value) is int and value >= 0 for value in values)
    except (ValueError, KeyError, TypeError):
        is_valid = False
    if not is_valid:
        raise CentroidsError(
            f"line {number} of {path} must be a JSON object with the numbers shard, start and frames, but is {line[:80]!r}"
        )
    return values


def _of_arrays(path: Path) -> tuple[list[NpyFile], np.ndarray]:
    """Return the `.npy` files that a path names, and a span for each."""
    paths = sorted(path.rglob("*.npy")) if path.is_dir() else [path]
    if not paths:
        raise CentroidsError(f"{path} has no .npy files: {ADVICE}")
    files = [NpyFile.open(file) for file in paths]
    for file in files:
        _check_lengths(file)
    return files, np.array([(index, 0, file.shape[0]) for index, file in enumerate(files)], np.int64)


def _check_lengths(file: NpyFile) -> None:
    """Raise `CentroidsError` if fairseq's list of lengths next to a file does not add up to its frames."""
    path = file.path.with_suffix(".len")
    if not path.is_file():
        return
    try:
        total = sum(map(int, path.read_text(encoding="utf-8").split()))
    except (OSError, ValueError) as error:
        raise CentroidsError(f"{path} must have the frames of an utterance on each line: {error}") from None
    if total != file.shape[0]:
        raise CentroidsError(
            f"the lengths in {path} add up to {total:,} frames, but {file.path.name} has {file.shape[0]:,}: write both again"
        )
