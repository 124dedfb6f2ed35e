"""Define the columns of frames and units in Parquet files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..jobs.formats import Context
from ..jobs.journal import Journal, JournalError
from ..jobs.row_file import encoded
from .encoder import Encoder
from .encodings import Encoding, EncodingResult
from .parquet_parts import Columns, ParquetParts

if TYPE_CHECKING:
    import pyarrow

UNIT_BYTES = 256 << 20  # of a part with units: about 300 hours


def open_frames(folder: Path, journal: Journal, context: Context) -> ParquetParts:
    """Open an output with id, audio, channel, offset_seconds, duration_seconds, and a column for each layer: `layer9`."""
    _check_installed()
    import pyarrow

    encoder: Encoder = context.runner
    layers = [*dict.fromkeys(encoder.layers)]
    frame = pyarrow.list_(pyarrow.float16() if encoder.frame_dtype == "float16" else pyarrow.float32(), encoder.channels)
    schema = pyarrow.schema([*_common(), *(pyarrow.field(f"layer{layer}", pyarrow.list_(frame)) for layer in layers)])

    def values(result: EncodingResult, channel: int, encoding: Encoding) -> list[pyarrow.Array]:
        arrays = _common_values(result, channel, encoding)
        for layer in layers:
            frames = np.ascontiguousarray(encoding.frames[layer])
            flat = pyarrow.array(frames.reshape(-1))
            rows = pyarrow.FixedSizeListArray.from_arrays(flat, encoder.channels)
            arrays.append(pyarrow.ListArray.from_arrays(pyarrow.array([0, len(frames)], pyarrow.int32()), rows))
        return arrays

    return ParquetParts(folder, journal, Columns(schema, values), round(context.options.shard_megabytes * 1e6))


def open_units(folder: Path, journal: Journal, context: Context) -> ParquetParts:
    """Open an output with id, audio, channel, offset_seconds, duration_seconds, units, durations if merged, and reference."""
    _check_installed()
    import pyarrow

    encoder: Encoder = context.runner
    numbers = pyarrow.list_(pyarrow.int32())
    fields = [*_common(), pyarrow.field("units", numbers)]
    fields += [pyarrow.field("durations", numbers)] if encoder.merge else []
    schema = pyarrow.schema([*fields, pyarrow.field("reference", pyarrow.string())])

    def values(result: EncodingResult, channel: int, encoding: Encoding) -> list[pyarrow.Array]:
        arrays = [*_common_values(result, channel, encoding), pyarrow.array([encoding.units], numbers)]
        arrays += [pyarrow.array([encoding.durations], numbers)] if encoder.merge else []
        return [*arrays, pyarrow.array([result.utterance.reference], pyarrow.string())]

    return ParquetParts(folder, journal, Columns(schema, values), UNIT_BYTES)


def _check_installed() -> None:
    if find_spec("pyarrow") is None:
        raise JournalError("Parquet needs pyarrow: pip install 'hubert_fast[parquet]'")


def _common() -> list[pyarrow.Field]:
    import pyarrow

    text, number, seconds = pyarrow.string(), pyarrow.int32(), pyarrow.float64()
    names = {"id": text, "audio": text, "channel": number, "offset_seconds": seconds, "duration_seconds": seconds}
    return [pyarrow.field(name, kind) for name, kind in names.items()]


def _common_values(result: EncodingResult, channel: int, encoding: Encoding) -> list[pyarrow.Array]:
    import pyarrow

    utterance, several = result.utterance, len(result.encodings) > 1
    values = (
        encoded(f"{utterance.id}#{channel + 1}" if several else utterance.id).decode(),
        encoded(utterance.audio).decode(),
        channel + 1 if several else None,
        utterance.offset_seconds,
        encoding.duration_seconds,
    )
    return [pyarrow.array([value], field.type) for value, field in zip(values, _common())]
