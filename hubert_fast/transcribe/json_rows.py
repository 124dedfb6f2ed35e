"""Rows of JSON text: one object a line, an array of them, or an object that holds them by name.

Arrays and objects are read a row at a time, so that memory is bounded by the longest row, however long the list is.
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
LONGEST_TOKEN = 16  # characters of -Infinity, an escape or a digit's beginning
MOST_DIGITS = 4000  # Python reads no longer numbers
PYTHON = re.compile(r"[\s\[{]*'")
SPACE = " \t\n\r\ufeff"


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < MOST_DIGITS else float(digits)


DECODER = json.JSONDecoder(parse_int=_whole)


class Row(NamedTuple):
    """A value of the list with its number from 1, of the line it is on or among its rows, or what is wrong there.

    unit: ``"line"`` or ``"row"``, what the number counts. name: its key in the object that holds it.
    """

    number: int
    unit: str
    value: Any = None
    name: str | None = None
    error: str | None = None


IsRow = Callable[[Mapping[str, Any]], bool]


def rows_of(text: Text, is_row: IsRow) -> Iterator[Row]:
    """Give the rows of JSON text. is_row: whether an object names audio itself, and does not hold rows by their names."""
    if is_document(text):
        yield from _Document(text, is_row).rows()
        return
    for number, line in text:
        try:
            value = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield Row(number, "line", error=f"line {number} is no JSON object: {_of_python(line) or error}")
            continue
        if isinstance(value, dict) and (held := list(_table(value, is_row))):
            yield from (Row(index, "row", each, name) for index, (name, each) in enumerate(held, 1))
        else:
            yield Row(number, "line", value)


def is_document(text: Text) -> bool:
    """Return whether JSON text is, by its first two lines, one array or object rather than an object a line."""
    first = (*text.peek(1), "")[0].lstrip(SPACE).rstrip()
    if first.startswith("["):
        return True
    if not first.startswith("{") or _loaded(first) is not None:
        return False
    if first.endswith(("[", "{", ",", ":")) or len(first) > PIECE_CHARACTERS // 2:  # a line of which this is a piece
        return True
    second = (*text.peek(2), "", "")[1]
    return second != "" and not isinstance(_loaded(second), dict) and _is_cut(first)


def _loaded(text: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _is_cut(text: str) -> bool:
    try:
        DECODER.decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) - 1
    except (ValueError, RecursionError):
        return False
    return False


def _of_python(text: str) -> str | None:
    """Return what is wrong with text that Python's ``repr`` wrote, ``None`` for other text."""
    return "its quotes are single ones, as Python prints a dict: write it with json.dumps" if PYTHON.match(text) else None


def _table(value: Mapping[str, Any], is_row: IsRow) -> Iterator[tuple[str | None, Any]]:
    """Give the rows that an object holds, if it is no row itself."""
    rows = rows_in(value)
    if rows is not None:
        yield from rows
    elif not is_row(value):
        yield from _held(value, is_row)


def _held(value: Mapping[str, Any], is_row: IsRow) -> Iterator[tuple[str | None, Any]]:
    """Give the rows that an object holds: by their names, or in a list under a name that is known for it."""
    for name, held in value.items():
        if isinstance(held, dict) and is_row(held):
            yield name, held
        elif name.lower() in WRAPPERS and isinstance(held, list):
            yield from ((None, each) for each in held)
        elif name.lower() in WRAPPERS and isinstance(held, dict):
            yield from _held(held, is_row)


class _Broken(Exception):
    """What is read is not JSON; the message says where and why."""


class _Document:
    """Reads values one after the other from text that may be cut anywhere."""

    def __init__(self, text: Text, is_row: IsRow):
        self._text, self._is_row, self._buffer, self._at = text, is_row, "", 0
        self._number = 0
        self._decode = DECODER.raw_decode

    def rows(self) -> Iterator[Row]:
        """Give all rows, and what is wrong as the last."""
        try:
            while (start := self._next()) != "":
                if start == "[":
                    yield from self._array()
                elif start == "{":
                    yield from self._object()
                elif start == "," and self._number:  # between objects, as of an array without its brackets
                    self._at += 1
                else:
                    raise _Broken(f"expected an array or an object, but there is {start!r}")
        except (_Broken, RecursionError) as error:
            number = self._number + 1
            yield Row(number, "row", error=f"row {number} is not JSON: {error}; what follows it in this list is not read")

    def _row(self, value: Any, name: str | None = None) -> Row:
        self._number += 1
        return Row(self._number, "row", value, name)

    def _array(self) -> Iterator[Row]:
        self._at += 1
        while self._next() != "]":
            yield self._row(self._value())
            self._separator("]")
        self._at += 1

    def _object(self) -> Iterator[Row]:
        """Give the rows that an object holds, or the object itself when it is one."""
        self._at += 1
        fields: dict[str, Any] = {}
        gave = False
        while self._next() != "}":
            name = self._value()
            if not isinstance(name, str) or self._next() != ":":
                raise _Broken("expected a name and a colon in an object")
            self._at += 1
            start = self._next()
            if start == "[" and name.lower() in WRAPPERS and not self._is_row(fields) and self._holds_objects():
                yield from self._array()
                gave = True
            else:
                value = self._value()
                if isinstance(value, dict) and not self._is_row(fields) and self._is_row(value) and not _is_field(name):
                    yield self._row(value, name)
                    gave = True
                elif isinstance(value, dict) and name.lower() in WRAPPERS and (held := list(_held(value, self._is_row))):
                    for each, row in held:
                        yield self._row(row, each)
                    gave = True
                else:
                    fields[name] = value
            self._separator("}")
        self._at += 1
        if not gave and (table := rows_in(fields)) is not None:
            yield from (self._row(value, name) for name, value in table)
        elif self._is_row(fields) or not gave:
            yield self._row(fields)

    def _holds_objects(self) -> bool:
        """Return whether the array that begins here holds objects."""
        self._fill(2)
        while (rest := self._buffer[self._at + 1 :].lstrip(SPACE)) == "" and self._more():
            pass
        return rest.startswith(("{", "]"))

    def _separator(self, end: str) -> None:
        found = self._next()
        if found == ",":
            self._at += 1
        elif found != end:
            raise _Broken(f"expected , or {end}, but {f'there is {found!r}' if found else 'the list ends: it is cut off'}")

    def _next(self) -> str:
        """Return the next character that is not space, without reading it; ``""`` at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in SPACE:
                    return self._buffer[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _value(self) -> Any:
        """Read a value, with as much more text as it takes."""
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # what is cut is wrong at its end, or where a string began
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer.rstrip()) - LONGEST_TOKEN
                if not is_cut:
                    raise _Broken(_of_python(self._buffer[self._at :]) or error.msg) from None
                if not self._more(len(self._buffer) - self._at):
                    raise _Broken(f"{error.msg}, where the list ends: it is cut off") from None
                continue
            if end == len(self._buffer) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def _fill(self, count: int) -> None:
        while len(self._buffer) - self._at < count and self._more():
            pass

    def _more(self, count: int = 0) -> bool:
        """Take up more text, at least ``count`` characters where there are so many; drop what is read."""
        parts = [self._buffer[self._at :]]
        added = 0
        while (part := self._text.read()) != "":
            parts.append(part)
            added += len(part)
            if added >= count:
                break
        self._buffer, self._at = "".join(parts), 0
        return added > 0


def _is_field(name: str) -> bool:
    return name.lower() in ("audio", "data", "wav", "recording", "file", "sound")
