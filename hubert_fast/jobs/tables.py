"""Read lists that are tables, separated by commas, tabs, semicolons or bars, with or without a header."""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Iterator
from typing import Literal

from ..audio.names import has_audio_suffix
from .list_text import ManifestError, Text
from .rows import FIELDS, Entry, normalize_names, parse_row

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = ",\t;|"
# Limits of a quoted field; one that would be longer begins at a stray quote.
MAX_QUOTED_LINES, MAX_QUOTED_CHARACTERS = 50, 1 << 16
NO_HEADER = "its rows have several texts and no header, so references are ignored: add a header with path and text"
PART_COLUMNS = frozenset((*FIELDS["offset_seconds"], *FIELDS["duration_seconds"]))


def entries(text: Text, suffix: str, source: str) -> Iterator[Entry]:
    """Yield the rows of a table.

    Raises:
        ManifestError: If neither a header nor a path in the first line shows which column holds the audio.
    """
    preferred = DELIMITERS.get(suffix, ",")
    first = (*text.peek(1), "")[0]
    lines = iter(text)
    if first.lower().startswith("sep=") and len(first) == 5:  # written by Excel
        preferred = first[4]
        next(lines)
        second = next(lines, None)
        lines = iter(text) if second is None else _prepend(second, lines)
        first = "" if second is None else second[1]
    delimiter = _header_delimiter(first, preferred)
    if delimiter is not None:
        yield from _with_header(lines, delimiter)
        return
    for delimiter in dict.fromkeys(preferred + OTHER_DELIMITERS):
        columns = _split(first, delimiter)
        if any(_is_audio(column) for column in columns) or (delimiter == "|" and len(columns) > 1):
            yield from _without_header(lines, delimiter)
            return
    raise ManifestError(
        f"{source} must begin with a header that has a column such as {', '.join(FIELDS['audio'][:8])}, "
        f"but begins with {first[:200]!r}"
    )


def begins_with_header(first: str) -> bool:
    """Return whether a list that is not named as a table begins with the header of one."""
    delimiter = _header_delimiter(first, ",")
    return delimiter is not None and not os.path.exists(first) and (delimiter in first or not os.path.splitext(first)[1])


def _prepend(line: tuple[int, str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield line
    yield from lines


def _header_delimiter(header: str, preferred: str) -> str | None:
    """Return the delimiter that splits a line into a header with a column of audio, or `None` if none does."""
    for delimiter in dict.fromkeys(preferred + OTHER_DELIMITERS):
        columns = normalize_names(dict.fromkeys(_split(header, delimiter)))
        if columns.keys() & set(FIELDS["audio"]):
            return delimiter
    return None


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _is_audio(text: str) -> bool:
    return has_audio_suffix(text.strip().strip("\"'"))


def _with_header(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Entry]:
    _, first = next(lines)
    header = _split(first, delimiter)
    ends_in_text = bool(normalize_names({header[-1]: ""}).keys() & set(FIELDS["reference"]))
    for number, row in _records(lines, delimiter, len(header)):
        if isinstance(row, str):
            yield Entry(number, error=f"line {number}: {row}")
        elif any(cell.strip() for cell in row):
            if len(row) > len(header) and ends_in_text:  # the text has unquoted delimiters
                row[len(header) - 1 :] = [delimiter.join(row[len(header) - 1 :])]
            missing = {name.lower() for name in header[len(row) :]}
            has_more = any(cell.strip() for cell in row[len(header) :])
            if has_more or missing & PART_COLUMNS:
                yield Entry(number, error=f"line {number} has {len(row)} columns, but the header has {len(header)}")
            else:
                yield parse_row(number, dict(zip(header, row)))


def _without_header(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Entry]:
    """Yield the rows of a table without a header: paths alone, paths and texts, or a layout like LJSpeech's with bars."""
    for number, row in _records(lines, delimiter, None):
        if isinstance(row, str):
            yield Entry(number, error=f"line {number}: {row}")
            continue
        path, id, reference = parse_cells(row, delimiter)
        entry = parse_row(number, {"audio": path, "id": id, "text": reference})
        has_more = len([cell for cell in row if cell.strip() and not _is_number(cell)]) > (1 if id is None else 2)
        yield entry._replace(note=NO_HEADER) if has_more and reference is None else entry


def parse_cells(row: list[str], delimiter: str) -> tuple[str, str | None, str | None]:
    """Return the path, the id and the reference in a row without a header."""
    path_index = next((index for index, cell in enumerate(row) if _is_audio(cell)), 0)
    path = row[path_index].strip()
    id = row[0].strip() if path_index == 1 else None
    if delimiter == "\t" and path_index == 1 and len(row) in (6, 7) and _is_number(row[5]):
        return path, id or None, row[2].strip() or None  # FLEURS: id, path, raw text, normalized text, letters, length
    texts = [cell.strip() for cell in row[path_index + 1 :] if cell.strip() and not _is_number(cell)]  # drops speaker numbers
    if delimiter != "|" and len(row) > path_index + 2:
        texts = []
    texts = [text for text in texts if " " in text] or texts  # several words are more likely text than a speaker's name
    return path, id or None, texts[-1] if texts else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_line(line: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield candidates for the path, id and reference in a line of a list, split at tabs, bars or its first space."""
    for delimiter in "\t|":
        if delimiter in line:
            yield parse_cells(line.split(delimiter), delimiter)
    first, *rest = line.split(None, 1)
    if rest:
        path, id, reference = parse_cells([first, rest[0]], " ")
        yield path, None if id == "file" else id, reference  # lines of FFmpeg lists begin with "file"


def _records(lines: Iterator[tuple[int, str]], delimiter: str, n_columns: int | None) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of the first line of each row with the cells of the row, or with an error as a string.

    A quote that is never closed counts as a character of its line, so it cannot swallow the rows that follow.
    """
    pending: deque[tuple[int, str]] = deque()
    while (numbered := pending.popleft() if pending else next(lines, None)) is not None:
        number, line = numbered
        if delimiter == "\t" or '"' not in line:  # quotes in tab-separated text are ordinary characters
            yield number, _cells(line, delimiter, csv.QUOTE_NONE)
            continue
        record = [line]
        row: list[str] | str | None = None
        lookahead: list[tuple[int, str]] = []
        while row is None:
            row = _quoted(record, delimiter)
            if row is not None or len(record) > MAX_QUOTED_LINES or sum(map(len, record)) > MAX_QUOTED_CHARACTERS:
                break
            following = pending.popleft() if pending else next(lines, None)
            if following is None:
                break
            lookahead.append(following)
            record.append(following[1])
        if row is None or (lookahead and n_columns not in (None, len(row))):
            pending.extendleft(reversed(lookahead))
            row = _cells(line, delimiter, csv.QUOTE_NONE)
        yield number, row


def _quoted(record: list[str], delimiter: str) -> list[str] | str | None:
    """Parse a row with quotes; return `None` if a quote is still open at the end of `record`."""
    text = [f"{line}\n" for line in record]
    try:
        return next(csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    return _cells(record[0], delimiter, csv.QUOTE_MINIMAL) if len(record) == 1 else None


def _cells(line: str, delimiter: str, quoting: Literal[0, 3]) -> list[str] | str:
    try:
        return next(csv.reader([line], delimiter=delimiter, quoting=quoting), [])
    except csv.Error as error:
        return str(error)
