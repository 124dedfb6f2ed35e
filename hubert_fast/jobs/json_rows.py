"""Read the rows of JSON text: one object per line, an array of objects, or an object that holds rows by name.

Arrays and objects are parsed a row at a time, so memory is bounded by the longest row, however long the list is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .json_tables import rows_in
from .list_text import PIECE_CHARACTERS, Text

WRAPPERS = frozenset(
    "audio audios cuts data dataset entries examples files items list manifest recordings records results rows samples "
    "test train utterances utts validation".split()
)
LONGEST_TOKEN = 16  # characters of "-Infinity", of an escape, or of a number up to where its parsing fails
MAX_INT_DIGITS = 4000  # Python refuses to parse integers of more than 4,300 digits
PYTHON_LITERAL = re.compile(r"[\s\[{]*'")
SPACE = " \t\n\r\ufeff"


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_INT_DIGITS else float(digits)


DECODER = json.JSONDecoder(parse_int=_parse_int)


class Row(NamedTuple):
    """A row of the list, or the error in it.

    Attributes:
        number: Its line or row, counted from 1.
        unit: What `number` counts, `"line"` or `"row"`.
        name: Its key in the object that holds it.
    """

    number: int
    unit: str
    value: Any = None
    name: str | None = None
    error: str | None = None


IsRow = Callable[[Mapping[str, Any]], bool]


def rows_of(text: Text, is_row: IsRow) -> Iterator[Row]:
    """Yield the rows of JSON text.

    Args:
        text: The list.
        is_row: Function that returns whether an object is a row itself, rather than a container of rows by name.
    """
    if is_document(text):
        yield from _Document(text, is_row).rows()
        return
    for number, line in text:
        try:
            value = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield Row(number, "line", error=f"line {number} is not a JSON object: {_python_error(line) or error}")
            continue
        if isinstance(value, dict) and (nested := list(_rows_within(value, is_row))):
            yield from (Row(index, "row", row, name) for index, (name, row) in enumerate(nested, 1))
        else:
            yield Row(number, "line", value)


def is_document(text: Text) -> bool:
    """Return whether JSON text is a single array or object rather than one object per line, judging by its first two lines."""
    first = (*text.peek(1), "")[0].lstrip(SPACE).rstrip()
    if first.startswith("["):
        return True
    if not first.startswith("{") or _decode(first) is not None:
        return False
    if first.endswith(("[", "{", ",", ":")) or len(first) > PIECE_CHARACTERS // 2:  # the start of a long line
        return True
    second = (*text.peek(2), "", "")[1]
    return second != "" and not isinstance(_decode(second), dict) and _is_truncated(first)


def _decode(text: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _is_truncated(text: str) -> bool:
    try:
        DECODER.decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) - 1
    except (ValueError, RecursionError):
        return False
    return False


def _python_error(text: str) -> str | None:
    """Return the error in text written by Python's `repr`, or `None` for any other text."""
    if PYTHON_LITERAL.match(text):
        return "it has single quotes, like a Python dict that was printed: write it with json.dumps"
    return None


def _rows_within(value: Mapping[str, Any], is_row: IsRow) -> Iterator[tuple[str | None, Any]]:
    """Yield the rows that an object holds, unless it is a row itself."""
    rows = rows_in(value)
    if rows is not None:
        yield from rows
    elif not is_row(value):
        yield from _nested_rows(value, is_row)


def _nested_rows(value: Mapping[str, Any], is_row: IsRow) -> Iterator[tuple[str | None, Any]]:
    """Yield the rows that an object holds: by name, or in a list under one of the `WRAPPERS`."""
    for name, nested in value.items():
        if isinstance(nested, dict) and is_row(nested):
            yield name, nested
        elif name.lower() in WRAPPERS and isinstance(nested, list):
            yield from ((None, row) for row in nested)
        elif name.lower() in WRAPPERS and isinstance(nested, dict):
            yield from _nested_rows(nested, is_row)


class _InvalidJSON(Exception):
    """The text is not JSON; the message says where and why."""


class _Document:
    """A parser of JSON values, one after the other, from text that arrives in pieces."""

    def __init__(self, text: Text, is_row: IsRow):
        self._text, self._is_row, self._buffer, self._position = text, is_row, "", 0
        self._number = 0
        self._decode = DECODER.raw_decode

    def rows(self) -> Iterator[Row]:
        """Yield all rows; an error comes as the last one."""
        try:
            while (start := self._next()) != "":
                if start == "[":
                    yield from self._array()
                elif start == "{":
                    yield from self._object()
                elif start == "," and self._number:  # between objects of an array without its brackets
                    self._position += 1
                else:
                    raise _InvalidJSON(f"expected an array or an object, but found {start!r}")
        except (_InvalidJSON, RecursionError) as error:
            number = self._number + 1
            yield Row(number, "row", error=f"row {number} is not JSON: {error}; the rest of the list is not read")

    def _row(self, value: Any, name: str | None = None) -> Row:
        self._number += 1
        return Row(self._number, "row", value, name)

    def _array(self) -> Iterator[Row]:
        self._position += 1
        while self._next() != "]":
            yield self._row(self._value())
            self._separator("]")
        self._position += 1

    def _object(self) -> Iterator[Row]:
        """Yield the rows that an object holds, or the object itself if it is one."""
        self._position += 1
        fields: dict[str, Any] = {}
        has_rows = False
        while self._next() != "}":
            name = self._value()
            if not isinstance(name, str) or self._next() != ":":
                raise _InvalidJSON("expected a name and a colon in an object")
            self._position += 1
            start = self._next()
            if start == "[" and name.lower() in WRAPPERS and not self._is_row(fields) and self._is_array_of_objects():
                yield from self._array()
                has_rows = True
            else:
                value = self._value()
                if isinstance(value, dict) and not self._is_row(fields) and self._is_row(value) and not _is_field(name):
                    yield self._row(value, name)
                    has_rows = True
                elif (
                    isinstance(value, dict) and name.lower() in WRAPPERS and (nested := list(_nested_rows(value, self._is_row)))
                ):
                    for nested_name, row in nested:
                        yield self._row(row, nested_name)
                    has_rows = True
                else:
                    fields[name] = value
            self._separator("}")
        self._position += 1
        if not has_rows and (table := rows_in(fields)) is not None:
            yield from (self._row(value, name) for name, value in table)
        elif self._is_row(fields) or not has_rows:
            yield self._row(fields)

    def _is_array_of_objects(self) -> bool:
        """Return whether the array that begins here holds objects or nothing."""
        self._fill(2)
        while (rest := self._buffer[self._position + 1 :].lstrip(SPACE)) == "" and self._read():
            pass
        return rest.startswith(("{", "]"))

    def _separator(self, end: str) -> None:
        character = self._next()
        if character == ",":
            self._position += 1
        elif character == "":
            raise _InvalidJSON(f"expected , or {end}, but the list ends here: it is truncated")
        elif character != end:
            raise _InvalidJSON(f"expected , or {end}, but found {character!r}")

    def _next(self) -> str:
        """Skip white space and return the next character without consuming it, or `""` at the end."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in SPACE:
                    return self._buffer[self._position]
                self._position += 1
            if not self._read():
                return ""

    def _value(self) -> Any:
        """Parse a value, reading more text until it is complete."""
        while True:
            try:
                value, end = self._decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                # text that is cut off fails at its end, or where its last string begins
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer.rstrip()) - LONGEST_TOKEN
                if not is_cut:
                    raise _InvalidJSON(_python_error(self._buffer[self._position :]) or error.msg) from None
                if not self._read(len(self._buffer) - self._position):
                    raise _InvalidJSON(f"the list is truncated ({error.msg})") from None
                continue
            if end == len(self._buffer) and self._read():  # a number may continue
                continue
            self._position = end
            return value

    def _fill(self, count: int) -> None:
        while len(self._buffer) - self._position < count and self._read():
            pass

    def _read(self, count: int = 0) -> bool:
        """Read at least `count` more characters, or as many as are left, and drop those already parsed.

        Returns:
            Whether any were read.
        """
        pieces = [self._buffer[self._position :]]
        added = 0
        while (piece := self._text.read()) != "":
            pieces.append(piece)
            added += len(piece)
            if added >= count:
                break
        self._buffer, self._position = "".join(pieces), 0
        return added > 0


def _is_field(name: str) -> bool:
    return name.lower() in ("audio", "data", "wav", "recording", "file", "sound")
