"""Define the columns of transcripts in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..jobs.parquet_columns import Columns, common_fields, one_row, readable
from .formats import rows_of

if TYPE_CHECKING:
    import pyarrow

    from .results import Result

ABSENT = {"offset_seconds": 0.0, "notes": []}  # of fields that JSON leaves out; others are null


def transcript_columns() -> Columns:
    """Return the common columns, then text, confidence, words, reference and notes, whose values are those of `jsonl`."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    word = {"word": text, "start_seconds": number, "end_seconds": number, "confidence": number}
    kinds = {
        "text": text,
        "confidence": number,
        "words": pyarrow.list_(pyarrow.struct([*word.items()])),
        "reference": text,
        "notes": pyarrow.list_(text),
    }
    schema = pyarrow.schema([*common_fields(), *kinds.items()])

    def rows(result: Result) -> Iterator[list[pyarrow.Array]]:
        for row in rows_of(result):
            values = ABSENT | row
            yield one_row(schema, [_valid(values.get(name)) for name in schema.names])

    return Columns(schema, rows)


def _valid(value: Any) -> Any:
    """Return a value of JSON whose texts, also those within lists and objects, are valid Unicode."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [_valid(item) for item in value]
    return {name: _valid(item) for name, item in value.items()} if isinstance(value, dict) else value
