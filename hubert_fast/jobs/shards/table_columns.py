"""Choose the columns of a table that hold audio, ids, references and times, by their types and names."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ...hub import listed
from ..parts import DURATIONS, ENDS, OFFSETS, STARTS
from ..rows import CHANNEL_FIELDS, FIELDS, normalize_names

TIME_FIELDS = (*OFFSETS, *DURATIONS, *STARTS, *ENDS)
OTHER_MEDIA = ("Image", "Video", "Pdf")  # features of Hugging Face whose columns look like those of audio
ADVICE = "choose one with --audio-column NAME"


class ColumnError(Exception):
    """A table has no column with audio, or several. The message names the columns."""


class Columns(NamedTuple):
    """The columns of a table to read.

    Attributes:
        audio: The column with the audio.
        kind: What its values are: `"struct"` of bytes or a path, `"bytes"` of audio files, or `"text"` with paths or URLs.
        texts: The columns with ids and references.
        times: The columns that select a part of a file, which count only for paths.
    """

    audio: str
    kind: str
    texts: list[str]
    times: list[str]


def choose(schema: Any, column: str | None) -> Columns:
    """Return the columns to read of a table with an Arrow schema.

    Args:
        schema: The schema.
        column: The name of the column with the audio; `None` to find it.

    Raises:
        ColumnError: If no column can hold audio, or it is not clear which one does.
    """
    kinds = {field.name: _kind(field.type) for field in schema}
    audio = _find(schema, kinds) if column is None else _named(schema, kinds, column)
    others = [field.name for field in schema if field.name != audio and _is_scalar(field.type)]
    fields = {name: next(iter(normalize_names({name: None}))) for name in others}
    texts = [name for name in others if fields[name] in FIELDS["id"] + FIELDS["reference"]]
    times = [name for name in others if fields[name] in TIME_FIELDS + CHANNEL_FIELDS]
    kind = str(kinds[audio])
    return Columns(audio, kind, texts, [] if kind == "bytes" else times)


def _named(schema: Any, kinds: dict[str, str | None], column: str) -> str:
    if column not in kinds:
        raise ColumnError(f"there is no column {column!r}, only {_listed(list(kinds))}")
    if kinds[column] is None:
        expected = "bytes, paths, or a struct with one of them"
        raise ColumnError(
            f"the column {column!r} cannot hold audio: expected {expected}, but it has {schema.field(column).type}"
        )
    return column


def _find(schema: Any, kinds: dict[str, str | None]) -> str:
    """Return the only column with Hugging Face's Audio feature, with a struct, or with a name in common use for audio."""
    features = _features(schema)
    marked = [name for name, kind in kinds.items() if features.get(name) == "Audio" and kind is not None]
    possible = {name: kind for name, kind in kinds.items() if features.get(name) not in OTHER_MEDIA}
    structs = [name for name, kind in possible.items() if kind == "struct"]
    usual = [name for name in possible if next(iter(normalize_names({name: None}))) in FIELDS["audio"]]
    by_kind = ([name for name in usual if kinds[name] == kind] for kind in ("bytes", "text"))
    for candidates in (marked, structs, *by_kind):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ColumnError(f"several columns may hold the audio ({_listed(candidates)}): {ADVICE}")
    raise ColumnError(f"no column is known to hold audio among {_listed(list(kinds))}: {ADVICE}")


def _features(schema: Any) -> dict[str, str]:
    """Return the types of Hugging Face's features by the name of their column, as far as the metadata give them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: str(feature["_type"]) for name, feature in features.items() if "_type" in feature}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _kind(type: Any) -> str | None:
    from pyarrow import types

    if types.is_struct(type):
        kinds = {type.field(index).name: _kind(type.field(index).type) for index in range(type.num_fields)}
        return "struct" if kinds.get("bytes") == "bytes" or kinds.get("path") == "text" else None
    if types.is_binary(type) or types.is_large_binary(type) or types.is_fixed_size_binary(type) or _is_view(type, "binary"):
        return "bytes"
    return "text" if _is_text(type) else None


def _is_text(type: Any) -> bool:
    from pyarrow import types

    type = type.value_type if types.is_dictionary(type) else type
    return types.is_string(type) or types.is_large_string(type) or _is_view(type, "string")


def _is_view(type: Any, name: str) -> bool:
    from pyarrow import types

    check = getattr(types, f"is_{name}_view", None)  # since pyarrow 16
    return check is not None and bool(check(type))


def _is_scalar(type: Any) -> bool:
    from pyarrow import types

    checks = (_is_text, types.is_integer, types.is_floating, types.is_decimal, types.is_temporal)
    return any(check(type) for check in checks)


def _listed(names: list[str]) -> str:
    return listed(names, 12) if names else "none"
