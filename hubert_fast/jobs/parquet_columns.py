"""Describe the columns of results in Parquet files, without writing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .row_file import encoded

if TYPE_CHECKING:
    import pyarrow

    from .utterances import Utterance


@dataclass(frozen=True)
class Columns:
    """The columns of results.

    Attributes:
        schema: Names and types.
        rows: Function that yields the rows of a result, one for each channel: arrays with one value, in the order of the
            schema.
    """

    schema: pyarrow.Schema
    rows: Callable[[Any], Iterator[list[pyarrow.Array]]]


def common_fields() -> list[pyarrow.Field]:
    """Return the columns that all commands write: id, audio, channel, offset_seconds and duration_seconds."""
    import pyarrow

    text, number, seconds = pyarrow.string(), pyarrow.int32(), pyarrow.float64()
    names = {"id": text, "audio": text, "channel": number, "offset_seconds": seconds, "duration_seconds": seconds}
    return [pyarrow.field(name, kind) for name, kind in names.items()]


def common_values(utterance: Utterance, id: str, channel: int | None, duration_seconds: float) -> list[pyarrow.Array]:
    """Return the values of `common_fields` for a row: arrays with one value."""
    values = (readable(id), readable(utterance.audio), channel, utterance.offset_seconds, duration_seconds)
    return one_row(common_fields(), values)


def one_row(fields: Iterable[pyarrow.Field], values: Iterable[Any]) -> list[pyarrow.Array]:
    """Return arrays with one value each."""
    import pyarrow

    return [pyarrow.array([value], field.type) for field, value in zip(fields, values, strict=True)]


def readable(text: str | None) -> str | None:
    """Return a text that is valid Unicode: lone surrogates, as in file names that are not UTF-8, become escapes."""
    return None if text is None else encoded(text).decode()
