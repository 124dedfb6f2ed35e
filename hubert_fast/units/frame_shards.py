"""Write frames to `.npy` files of bounded size beside an index, or to fairseq's pair of files, so that a killed run can go on.

A `.npy` file grows at its end. Its header has a fixed size and is written again at each commit, so that the file can be read
at any time. What lies beyond the size in the journal is cut off when a run continues.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..jobs.formats import Context, RowFormat, notes_entry
from ..jobs.journal import Journal, JournalError, Row
from ..jobs.outcomes import by_channel
from ..jobs.row_file import RowFile, check_size, sync_path
from ..jobs.sinks import Output, replace
from .encoder import Encoder
from .encodings import Encoding, EncodingResult
from .frame_files import DESCRIPTION, FORMAT, INDEX, VERSION

NAME = re.compile(r"layer\d+-\d{5,}\.npy")
HEADER_BYTES = 128
SHARD = "shard"  # role in the journal: the number of the current shard


def files_of_shards(folder: Path, journal: Journal) -> list[Path]:
    """Return the files of an output in shards."""
    return [folder / name for name in (DESCRIPTION, INDEX, *filter(NAME.fullmatch, journal.sizes()))]


def files_of_fairseq(folder: Path, journal: Journal) -> list[Path]:
    """Return the files of an output in fairseq's format."""
    paths = [folder / name for name in journal.sizes() if name.endswith(".npy")]
    return [*paths, *(path.with_suffix(".len") for path in paths)]


class NpyWriter:
    """Appends rows to a `.npy` file.

    Args:
        path: The file, created if missing.
        channels: The number of channels C of its array `[N, C]`.
        dtype: The dtype of the array.
        size: The committed size in bytes; what follows is cut off. 0 begins the file anew.
    """

    def __init__(self, path: Path, channels: int, dtype: np.dtype, size: int = 0):
        self.path, self._channels, self._dtype = path, channels, dtype
        self._file: BinaryIO = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        self._file.truncate(size)
        self.size = size
        if not size:
            self._write_header()
            self.size = HEADER_BYTES
            sync_path(path.parent)
        self._file.seek(0, os.SEEK_END)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return (self.size - HEADER_BYTES) // (self._channels * self._dtype.itemsize)

    def append(self, rows: np.ndarray) -> None:
        """Append rows `[N, C]`."""
        data = np.ascontiguousarray(rows, self._dtype)
        self._file.write(data.data.cast("B") if data.size else b"")
        self.size += data.nbytes

    def sync(self) -> None:
        """Flush the rows to disk, with a header that counts them."""
        self._file.flush()
        self._write_header()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        rows = self.rows if self.size else 0
        header = io.BytesIO()
        shape, descr = (rows, self._channels), np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        content = header.getvalue()
        if len(content) > HEADER_BYTES:
            raise OSError(f"{self.path}: the header of {rows} rows takes {len(content)} bytes, but has {HEADER_BYTES}")
        # NumPy pads headers to multiples of 64 bytes, and pads again before the final newline
        padded = content[:-1].ljust(HEADER_BYTES - 1) + b"\n"
        length = (HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(padded[:8] + length + padded[10:])
        self._file.flush()
        self._file.seek(0, os.SEEK_END)


class Place(NamedTuple):
    """Where frames are: the number of the shard, the first row in it, and the number of rows."""

    shard: int
    start: int
    frames: int


@dataclass(frozen=True)
class Layout:
    """How frames are laid out in files.

    Attributes:
        file_name: Function that returns the name of the file with the frames of a layer, given the number of the shard.
        index_name: Name of the file that says where the frames of each utterance are.
        row: Function that returns the row of an encoding, given the result, its id and channel as `by_channel` yields them, the
            encoding, and the place of its frames.
        failure: The row of an input that failed, if there is one for each input.
        shard_bytes: The most bytes in a shard; `None` for a single one.
    """

    file_name: Callable[[int, int], str]
    index_name: str
    row: Callable[[EncodingResult, str, int | None, Encoding, Place], str]
    failure: str = ""
    shard_bytes: int | None = None


class FrameShards(Output):
    """An output that holds the frames of many utterances in `.npy` files, and their places in a file of rows.

    The frames of an utterance whose file has changed stay where they were, but no row refers to them any more.

    Args:
        folder: The folder, created if missing.
        journal: Records sizes, and the number of the current shard.
        layout: Names and rows.
        layers: The layers.
        channels: The number of channels of frames.
        dtype: The dtype of frames.
    """

    def __init__(self, folder: Path, journal: Journal, layout: Layout, layers: tuple[int, ...], channels: int, dtype: str):
        self._folder, self._journal, self._layout, self._layers = folder, journal, layout, tuple(dict.fromkeys(layers))
        self._channels, self._dtype = channels, np.dtype(dtype)
        self.is_aligned = bool(layout.failure)
        if journal.totals().done and not folder.is_dir():
            raise JournalError(f"{folder} is missing, but {journal.path} lists frames in it: restore it, or use --overwrite")
        folder.mkdir(exist_ok=True)
        format = RowFormat("jsonl", "index of frames", text=str, is_json=True)
        self._index = RowFile(folder / layout.index_name, "output", journal, format)
        self._shard = journal.size_of(SHARD)
        for name, size in journal.sizes().items():
            if name.endswith(".npy"):
                check_size(folder / name, size, journal)
        self._full: list[NpyWriter] = []  # shards that are full, but not synced yet
        self._writers = self._open()

    def _open(self) -> dict[int, NpyWriter]:
        """Open the files of the current shard."""
        paths = {layer: self._path(layer, self._shard) for layer in self._layers}
        sizes = {layer: self._journal.size_of(path.name) for layer, path in paths.items()}
        return {layer: NpyWriter(path, self._channels, self._dtype, sizes[layer]) for layer, path in paths.items()}

    def _path(self, layer: int, shard: int) -> Path:
        return self._folder / self._layout.file_name(layer, shard)

    def write(self, result: Any) -> Row:
        rows = (
            self._layout.row(result, id, channel, encoding, self._append(encoding))
            for id, channel, encoding in by_channel(result.utterance, result.encodings)
        )
        return self._index.append("".join(rows))

    def _append(self, encoding: Encoding) -> Place:
        count = len(encoding.frames[self._layers[0]])
        limit = self._layout.shard_bytes
        if limit is not None and (first := self._writers[self._layers[0]]).rows:
            needed = first.size + count * self._channels * self._dtype.itemsize
            if needed > limit:
                self._full += self._writers.values()
                self._shard += 1
                self._writers = self._open()
        start = self._writers[self._layers[0]].rows
        for layer in self._layers:
            self._writers[layer].append(encoding.frames[layer])
        return Place(self._shard, start, count)

    def write_failure(self, result: Any) -> None:
        if self._layout.failure:
            self._index.append(self._layout.failure)

    def sync(self) -> dict[str, int]:
        sizes = {}
        for writer in (*self._full, *self._writers.values()):
            writer.sync()
            sizes[writer.path.name] = writer.size
        for writer in self._full:
            writer.close()
        self._full.clear()
        return {**sizes, SHARD: self._shard, **self._index.sync()}

    def finish(self) -> None:
        self._index.finish()

    def close(self) -> None:
        for writer in (*self._full, *self._writers.values()):
            writer.close()
        self._index.close()


def _index_row(result: EncodingResult, id: str, channel: int | None, encoding: Encoding, place: Place) -> str:
    row: dict[str, Any] = {"id": id, "audio": result.utterance.audio}
    row |= {} if channel is None else {"channel": channel}
    row |= {"offset_seconds": result.utterance.offset_seconds} if result.utterance.offset_seconds else {}
    row |= {"duration_seconds": round(encoding.duration_seconds, 3), **place._asdict()}
    return json.dumps(row | notes_entry(result), ensure_ascii=False) + "\n"


def open_shards(folder: Path, journal: Journal, context: Context) -> FrameShards:
    """Open a folder with `index.jsonl`, `features.json` and files such as `layer9-00000.npy`."""
    encoder: Encoder = context.runner
    for path in folder.glob("layer*.npy"):
        if NAME.fullmatch(path.name) and not journal.size_of(path.name):  # begun when a run was killed
            path.unlink()
    layout = Layout(
        lambda layer, shard: f"layer{layer}-{shard:05d}.npy",
        INDEX,
        _index_row,
        shard_bytes=round(context.options.shard_megabytes * 1e6),
    )
    shards = FrameShards(folder, journal, layout, encoder.layers, encoder.channels, encoder.frame_dtype)
    replace(folder / DESCRIPTION, json.dumps(describe(encoder), indent=1) + "\n")
    return shards


def describe(encoder: Encoder) -> dict[str, Any]:
    """Return what `features.json` says about frames: their layers, dtype and number of channels, and where they come from."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "layers": [*dict.fromkeys(encoder.layers)],
        "dtype": encoder.frame_dtype,
        "channels": encoder.channels,
        "frame_seconds": encoder.frame_seconds if encoder.pool == "frames" else None,
        "pool": encoder.pool,
        "source": {str(source.layer): source.to_metadata() for source in encoder.sources},
    }


def _length_row(result: EncodingResult, id: str, channel: int | None, encoding: Encoding, place: Place) -> str:
    return f"{place.frames}\n"


def open_fairseq(folder: Path, journal: Journal, context: Context) -> FrameShards:
    """Open a folder with fairseq's files: `{split}_{rank}_{nshard}.npy`, and `.len` with the number of frames of each input.

    An input that fails has the length 0, so that lines correspond to those of the list of inputs.
    """
    encoder: Encoder = context.runner
    rank, count = (0, 1) if context.shard is None else (context.shard.index - 1, context.shard.count)
    name = f"{context.name or 'all'}_{rank}_{count}"
    layout = Layout(lambda layer, shard: f"{name}.npy", f"{name}.len", _length_row, failure="0\n")
    return FrameShards(folder, journal, layout, encoder.layers, encoder.channels, encoder.frame_dtype)
