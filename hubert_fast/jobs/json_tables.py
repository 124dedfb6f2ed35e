"""Read the rows of a JSON object that holds a whole table: in pandas' layouts, or as texts or files by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .rows import FIELDS, is_audio_name

NamedRows = Iterator[tuple[str | None, Any]]


def rows_in(value: Mapping[str, Any]) -> NamedRows | None:
    """Return the rows of a table, each with its name or `None`; return `None` if the object is not a table.

    Tables are `{"path": {"0": "a.wav"}, "text": {"0": "one"}}`, `{"path": ["a.wav"], "text": ["one"]}`,
    `{"columns": ["path"], "data": [["a.wav"]]}`, `{"a.wav": "one"}`, `{"a.wav": {"text": "one"}}` and
    `{"u1": "a.wav"}`.
    """
    columns = {name: list(column.values()) if isinstance(column, dict) else column for name, column in value.items()}
    audio = next((columns[name] for name in columns if name.lower() in FIELDS["audio"]), None)
    if isinstance(audio, list) and len(audio) and all(isinstance(cell, str) for cell in audio) and _are_columns(value):
        return ((None, dict(zip(columns, cells))) for cells in zip(*columns.values()))
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return ((None, dict(zip(map(str, names), cells))) for cells in data)
    if value and all(map(is_audio_name, value)):
        return ((None, {**(row if isinstance(row, dict) else {"text": row}), "audio": name}) for name, row in value.items())
    known = {name for names in FIELDS.values() for name in names}
    if value and all(map(is_audio_name, value.values())) and not known & {name.lower() for name in value}:
        return ((name, {"audio": audio}) for name, audio in value.items())
    return None


def _are_columns(value: Mapping[str, Any]) -> bool:
    """Return whether all fields are columns: lists of one length, or objects with the same keys, pandas' index."""
    if all(isinstance(column, list) for column in value.values()):
        return len(value) > 1 and len({len(column) for column in value.values()}) == 1
    keys = [list(column) if isinstance(column, dict) else None for column in value.values()]
    return None not in keys and all(each == keys[0] for each in keys) and not {"path", "bytes", "array"} & set(keys[0] or ())
