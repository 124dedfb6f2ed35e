"""List the output formats of `hubert-fast features` and `hubert-fast units`.

The command line reads these tables for `--help`, so this module must not import torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..jobs.formats import Context, FileFormat, FolderFormat, FormatTable, RowFormat, notes_entry
from ..jobs.outcomes import by_channel
from ..jobs.parquet_format import parquet_format

if TYPE_CHECKING:
    from ..jobs.journal import Journal
    from ..jobs.parquet_columns import Columns
    from ..jobs.sinks import Output
    from .encoder import Encoder
    from .encodings import Encoding, EncodingResult


def _shards(folder: Path, journal: Journal, context: Context) -> Output:
    from .frame_shards import open_shards

    return open_shards(folder, journal, context)


def _files_of_shards(folder: Path, journal: Journal) -> Iterable[Path]:
    from .frame_shards import files_of_shards

    return files_of_shards(folder, journal)


def _files_of_fairseq(folder: Path, journal: Journal) -> Iterable[Path]:
    from .frame_shards import files_of_fairseq

    return files_of_fairseq(folder, journal)


def _files_of_npy(folder: Path, journal: Journal) -> Iterable[Path]:
    """Yield the files that utterances own. The journal has their names in lower case."""
    return (path for path in folder.rglob("*.npy") if journal.owner(path.relative_to(folder).as_posix()) is not None)


def _several_layers(context: Context) -> str | None:
    count = len(set(context.runner.layers))
    return None if count == 1 else f"fairseq's files hold one layer, but there are {count}: use --format shards"


def _fairseq(folder: Path, journal: Journal, context: Context) -> Output:
    from .frame_shards import open_fairseq

    return open_fairseq(folder, journal, context)


def _frame_columns(encoder: Encoder) -> Columns:
    from .parquet_columns import frame_columns

    return frame_columns(encoder)


def _unit_columns(encoder: Encoder) -> Columns:
    from .parquet_columns import unit_columns

    return unit_columns(encoder)


def npy(result: EncodingResult) -> list[bytes]:
    """Return the content of a `.npy` file for each encoding: `[T, C]` for one layer, `[layers, T, C]` for several."""
    import numpy as np

    contents = []
    for encoding in result.encodings:
        layers = [*encoding.frames.values()]
        file = io.BytesIO()
        np.save(file, layers[0] if len(layers) == 1 else np.stack(layers))
        contents.append(file.getvalue())
    return contents


FEATURE_FORMATS: dict[str, FolderFormat | FileFormat] = {
    "shards": FolderFormat(
        "", "a folder of .npy files of bounded size, an index and a description", open=_shards, files=_files_of_shards
    ),
    "npy": FileFormat("npy", "a .npy file for each input", contents=npy, files=_files_of_npy),
    "parquet": parquet_format(_frame_columns, lambda context: round(context.options.shard_megabytes * 1e6)),
    "fairseq": FolderFormat(
        "",
        "a folder with fairseq's .npy and .len",
        is_aligned=True,
        open=_fairseq,
        files=_files_of_fairseq,
        refusal=_several_layers,
    ),
}
FEATURES = FormatTable(FEATURE_FORMATS, default="shards", on_standard_output=None, done="encoded", default_folder="shards")


def jsonl(result: EncodingResult) -> str:
    """Return a JSON object for each encoding, one per line."""
    lines = []
    for id, channel, encoding in by_channel(result.utterance, result.encodings):
        row: dict[str, Any] = {"id": id, "audio": result.utterance.audio}
        row |= {} if channel is None else {"channel": channel}
        row |= {"offset_seconds": result.utterance.offset_seconds} if result.utterance.offset_seconds else {}
        row |= {"duration_seconds": round(encoding.duration_seconds, 3), "units": _units(encoding).tolist()}
        row |= {} if encoding.durations is None else {"durations": encoding.durations.tolist()}
        row |= {} if result.utterance.reference is None else {"reference": result.utterance.reference}
        lines.append(json.dumps(row | notes_entry(result), ensure_ascii=False) + "\n")
    return "".join(lines)


def tsv(result: EncodingResult) -> str:
    """Return a line with id, tab and units for each encoding; if units are merged, also a tab and durations."""
    lines = []
    for id, _, encoding in by_channel(result.utterance, result.encodings):
        durations = "" if encoding.durations is None else f"\t{_spaced(encoding.durations)}"
        lines.append(f"{' '.join(id.split())}\t{_spaced(_units(encoding))}{durations}\n")
    return "".join(lines)


def bare(result: EncodingResult) -> str:
    """Return the lines of `tsv` without ids."""
    return "".join(f"{line.partition(chr(9))[2]}\n" for line in tsv(result).splitlines())


def km(result: EncodingResult) -> str:
    """Return a line with units, as in fairseq's label files."""
    return "".join(f"{_spaced(_units(encoding))}\n" for encoding in result.encodings)


def _units(encoding: Encoding) -> Any:
    assert encoding.units is not None  # the encoder has centroids
    return encoding.units


def _spaced(numbers: Any) -> str:
    return " ".join(map(str, numbers))


UNIT_FORMATS: dict[str, RowFormat | FolderFormat] = {
    "jsonl": RowFormat("jsonl", "a JSON object per line", text=jsonl, is_json=True),
    "tsv": RowFormat("tsv", "name, tab and units per line", text=tsv, bare=bare),
    "parquet": parquet_format(_unit_columns),
    "km": RowFormat("km", "fairseq's labels, a line of units for each input", text=km, failure="\n", is_aligned=True),
}
UNITS = FormatTable(UNIT_FORMATS, default="jsonl", on_standard_output="tsv", done="encoded")
