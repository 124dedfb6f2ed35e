"""Rows of JSON objects that hold many: tables as pandas writes them, and texts or files by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .rows import FIELDS, names_file

RowsByName = Iterator[tuple[str | None, Any]]


def rows_in(value: Mapping[str, Any]) -> RowsByName | None:
    """Give the rows of an object with their names, ``None`` for a row without one; ``None`` for an object that is no table.

    Knows ``{"path": {"0": "a.wav"}, "text": {"0": "one"}}`` and ``{"path": ["a.wav"], "text": ["one"]}`` by columns,
    ``{"columns": ["path"], "data": [["a.wav"]]}``, ``{"a.wav": "one"}``, ``{"a.wav": {"text": "one"}}`` and
    ``{"u1": "a.wav"}``.
    """
    columns = {name: list(each.values()) if isinstance(each, dict) else each for name, each in value.items()}
    audio = next((columns[name] for name in columns if name.lower() in FIELDS["audio"]), None)
    if isinstance(audio, list) and len(audio) and all(isinstance(each, str) for each in audio) and _are_columns(value):
        return ((None, dict(zip(columns, cells))) for cells in zip(*columns.values()))
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(each, list) for each in data):
        return ((None, dict(zip(map(str, names), cells))) for cells in data)
    if value and all(map(names_file, value)):
        return ((None, {**(held if isinstance(held, dict) else {"text": held}), "audio": name}) for name, held in value.items())
    known = {name for names in FIELDS.values() for name in names}
    if value and all(map(names_file, value.values())) and not known & {name.lower() for name in value}:
        return ((name, {"audio": held}) for name, held in value.items())
    return None


def _are_columns(value: Mapping[str, Any]) -> bool:
    """Return whether all fields are columns: lists, or objects with the same names, as pandas has an index."""
    if all(isinstance(each, list) for each in value.values()):
        return len(value) > 1 and len({len(each) for each in value.values()}) == 1
    names = [list(each) if isinstance(each, dict) else None for each in value.values()]
    return (
        None not in names and all(each == names[0] for each in names) and not {"path", "bytes", "array"} & set(names[0] or ())
    )
