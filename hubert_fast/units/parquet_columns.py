"""Define the columns of frames and units in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..jobs.formats import Context
from ..jobs.journal import Journal
from ..jobs.outcomes import by_channel
from ..jobs.row_file import encoded
from .encoder import Encoder
from .encodings import Encoding, EncodingResult
from .parquet_parts import Columns, ParquetParts

if TYPE_CHECKING:
    import pyarrow

UNIT_BYTES = 256 << 20  # of a part with units: about 300 hours


def open_frames(folder: Path, journal: Journal, context: Context) -> ParquetParts:
    """Open an output with id, audio, channel, offset_seconds, duration_seconds, and a column for each layer: `layer9`."""
    import pyarrow

    encoder: Encoder = context.runner
    layers = [*dict.fromkeys(encoder.layers)]
    common = _common()
    frame = pyarrow.list_(pyarrow.float16() if encoder.frame_dtype == "float16" else pyarrow.float32(), encoder.channels)
    schema = pyarrow.schema([*common, *(pyarrow.field(f"layer{layer}", pyarrow.list_(frame)) for layer in layers)])

    def column(frames: np.ndarray) -> pyarrow.Array:
        rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(frames.reshape(-1)), encoder.channels)
        return pyarrow.ListArray.from_arrays(pyarrow.array([0, len(frames)], pyarrow.int32()), rows)

    def rows(result: EncodingResult) -> Iterator[list[pyarrow.Array]]:
        for id, channel, encoding in by_channel(result.utterance, result.encodings):
            columns = [column(np.ascontiguousarray(encoding.frames[layer])) for layer in layers]
            yield [*_common_values(common, result, id, channel, encoding), *columns]

    return ParquetParts(folder, journal, Columns(schema, rows), round(context.options.shard_megabytes * 1e6))


def open_units(folder: Path, journal: Journal, context: Context) -> ParquetParts:
    """Open an output with id, audio, channel, offset_seconds, duration_seconds, units, durations if merged, and reference."""
    import pyarrow

    encoder: Encoder = context.runner
    common, numbers, text = _common(), pyarrow.list_(pyarrow.int32()), pyarrow.string()
    fields = [*common, pyarrow.field("units", numbers)]
    fields += [pyarrow.field("durations", numbers)] if encoder.merge else []
    schema = pyarrow.schema([*fields, pyarrow.field("reference", text)])

    def rows(result: EncodingResult) -> Iterator[list[pyarrow.Array]]:
        for id, channel, encoding in by_channel(result.utterance, result.encodings):
            columns = [pyarrow.array([encoding.units], numbers)]
            columns += [pyarrow.array([encoding.durations], numbers)] if encoder.merge else []
            columns += [pyarrow.array([result.utterance.reference], text)]
            yield [*_common_values(common, result, id, channel, encoding), *columns]

    return ParquetParts(folder, journal, Columns(schema, rows), UNIT_BYTES)


def _common() -> list[pyarrow.Field]:
    import pyarrow

    text, number, seconds = pyarrow.string(), pyarrow.int32(), pyarrow.float64()
    names = {"id": text, "audio": text, "channel": number, "offset_seconds": seconds, "duration_seconds": seconds}
    return [pyarrow.field(name, kind) for name, kind in names.items()]


def _common_values(
    fields: list[pyarrow.Field], result: EncodingResult, id: str, channel: int | None, encoding: Encoding
) -> list[pyarrow.Array]:
    import pyarrow

    audio, offset = encoded(result.utterance.audio).decode(), result.utterance.offset_seconds
    values = (encoded(id).decode(), audio, channel, offset, encoding.duration_seconds)
    return [pyarrow.array([value], field.type) for value, field in zip(values, fields)]
