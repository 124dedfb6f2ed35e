"""Define the columns of frames and units in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..jobs.outcomes import by_channel
from ..jobs.parquet_columns import Columns, common_fields, common_values, readable
from .encoder import Encoder
from .encodings import EncodingResult

if TYPE_CHECKING:
    import pyarrow


def frame_columns(encoder: Encoder) -> Columns:
    """Return the columns id, audio, channel, offset_seconds, duration_seconds, and one for each layer: `layer9`."""
    import pyarrow

    layers = [*dict.fromkeys(encoder.layers)]
    frame = pyarrow.list_(pyarrow.float16() if encoder.frame_dtype == "float16" else pyarrow.float32(), encoder.channels)
    fields = [pyarrow.field(f"layer{layer}", pyarrow.list_(frame)) for layer in layers]

    def column(frames: np.ndarray) -> pyarrow.Array:
        rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(frames.reshape(-1)), encoder.channels)
        return pyarrow.ListArray.from_arrays(pyarrow.array([0, len(frames)], pyarrow.int32()), rows)

    def rows(result: EncodingResult) -> Iterator[list[pyarrow.Array]]:
        for id, channel, encoding in by_channel(result.utterance, result.encodings):
            columns = [column(np.ascontiguousarray(encoding.frames[layer])) for layer in layers]
            yield [*common_values(result.utterance, id, channel, encoding.duration_seconds), *columns]

    return Columns(pyarrow.schema([*common_fields(), *fields]), rows)


def unit_columns(encoder: Encoder) -> Columns:
    """Return the columns id, audio, channel, offset_seconds, duration_seconds, units, durations if merged, and reference."""
    import pyarrow

    numbers, text = pyarrow.list_(pyarrow.int32()), pyarrow.string()
    fields = [pyarrow.field("units", numbers)]
    fields += [pyarrow.field("durations", numbers)] if encoder.merge else []
    fields += [pyarrow.field("reference", text)]

    def rows(result: EncodingResult) -> Iterator[list[pyarrow.Array]]:
        reference = readable(result.utterance.reference)
        for id, channel, encoding in by_channel(result.utterance, result.encodings):
            columns = [pyarrow.array([encoding.units], numbers)]
            columns += [pyarrow.array([encoding.durations], numbers)] if encoder.merge else []
            columns += [pyarrow.array([reference], text)]
            yield [*common_values(result.utterance, id, channel, encoding.duration_seconds), *columns]

    return Columns(pyarrow.schema([*common_fields(), *fields]), rows)
