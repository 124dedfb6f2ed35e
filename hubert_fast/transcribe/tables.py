"""Lists as tables: comma-, tab-, semicolon- or bar-separated, with a header that names its columns or without one."""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..audio import AUDIO_SUFFIXES
from .list_text import ManifestError, Text
from .rows import FIELDS, Entry, entry_of, lowered

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = ",\t;|"
MOST_QUOTED_LINES, MOST_QUOTED_CHARACTERS = 50, 1 << 16  # of one field; a quote that ends no sooner is a stray one
NO_HEADER = "its rows have several texts and no header, so no references are read: give it a header with path and text"
PART_COLUMNS = frozenset((*FIELDS["offset_seconds"], *FIELDS["duration_seconds"]))


def entries(text: Text, suffix: str, source: str) -> Iterator[Entry]:
    """Give the rows of a table. Raises :class:`ManifestError` when neither a header nor a path says where its audio is."""
    preferred = DELIMITERS.get(suffix, ",")
    first = (*text.peek(1), "")[0]
    lines = iter(text)
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's first line
        preferred = first[4]
        next(lines)
        second = next(lines, None)
        lines = iter(text) if second is None else _again(second, lines)
        first = "" if second is None else second[1]
    delimiter = _delimiter(first, preferred)
    if delimiter is not None:
        yield from _with_header(lines, delimiter)
        return
    for delimiter in dict.fromkeys(preferred + OTHER_DELIMITERS):
        columns = _split(first, delimiter)
        if any(_is_audio(column) for column in columns) or (delimiter == "|" and len(columns) > 1):
            yield from _without_header(lines, delimiter)
            return
    raise ManifestError(
        f"{source} must begin with a header that has a column {', '.join(FIELDS['audio'][:8])} or the like, "
        f"but begins with {first[:200]!r}"
    )


def begins_with_header(first: str) -> bool:
    """Return whether a list, whose name does not say that it is a table, begins with a header of one."""
    delimiter = _delimiter(first, ",")
    return delimiter is not None and not os.path.exists(first) and (delimiter in first or not os.path.splitext(first)[1])


def _again(line: tuple[int, str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield line
    yield from lines


def _delimiter(header: str, preferred: str) -> str | None:
    """Return the delimiter by which a line is a header with a column of audio; ``None`` when by none."""
    for delimiter in dict.fromkeys(preferred + OTHER_DELIMITERS):
        columns = lowered(dict.fromkeys(_split(header, delimiter)))
        if columns.keys() & set(FIELDS["audio"]):
            return delimiter
    return None


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _is_audio(text: str) -> bool:
    return os.path.splitext(text.strip().strip("\"'"))[1].lower() in AUDIO_SUFFIXES


def _with_header(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Entry]:
    _, first = next(lines)
    header = _split(first, delimiter)
    ends_in_text = bool(lowered({header[-1]: ""}).keys() & set(FIELDS["reference"]))
    for number, row in _records(lines, delimiter, len(header)):
        if isinstance(row, str):
            yield Entry(number, error=f"line {number}: {row}")
        elif any(cell.strip() for cell in row):
            if len(row) > len(header) and ends_in_text:  # a delimiter in the text, which nobody quoted
                row[len(header) - 1 :] = [delimiter.join(row[len(header) - 1 :])]
            missing = {name.lower() for name in header[len(row) :]}
            has_more = any(cell.strip() for cell in row[len(header) :])
            if has_more or missing & PART_COLUMNS:
                yield Entry(number, error=f"line {number} has {len(row)} columns, but the header {len(header)}")
            else:
                yield entry_of(number, dict(zip(header, row)))


def _without_header(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Entry]:
    """Give rows of a table that has only values: paths alone, a path and its text, or the bars of LJSpeech and its kind."""
    for number, row in _records(lines, delimiter, None):
        if isinstance(row, str):
            yield Entry(number, error=f"line {number}: {row}")
            continue
        path, id, reference = understood(row, delimiter)
        entry = entry_of(number, {"audio": path, "id": id, "text": reference})
        has_more = len([cell for cell in row if cell.strip() and not _is_number(cell)]) > (1 if id is None else 2)
        yield entry._replace(unread=NO_HEADER) if has_more and reference is None else entry


def understood(row: list[str], delimiter: str) -> tuple[str, str | None, str | None]:
    """Return the path, the id and the text of a row without a header."""
    at = next((index for index, cell in enumerate(row) if _is_audio(cell)), 0)
    id = row[0].strip() if at == 1 else None
    if delimiter == "\t" and at == 1 and len(row) in (6, 7) and _is_number(row[5]):  # FLEURS: raw, normalized, spelled, length
        return row[at].strip(), id or None, row[2].strip() or None
    texts = [cell.strip() for cell in row[at + 1 :] if cell.strip() and not _is_number(cell)]  # and no number of a speaker
    if delimiter != "|" and len(row) > at + 2:
        texts = []
    spoken = [text for text in texts if " " in text] or texts  # of several words rather than a speaker's name
    return row[at].strip(), id or None, spoken[-1] if spoken else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_line(line: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Give what a line of a list may say if it is no path as a whole: path, id and text, apart by a tab, bar or space."""
    for delimiter in "\t|":
        if delimiter in line:
            yield understood(line.split(delimiter), delimiter)
    first, *rest = line.split(None, 1)
    if rest:
        path, id, reference = understood([first, rest[0]], " ")
        yield path, None if id == "file" else id, reference  # as lists of FFmpeg begin each line


def _records(lines: Iterator[tuple[int, str]], delimiter: str, n_columns: int | None) -> Iterator[tuple[int, Any]]:
    """Give the cells of each row with the number of its first line, or what is wrong with it as a string.

    A quote that is never closed stays a character of its line, so that it cannot swallow the rows that follow.
    """
    waiting: deque[tuple[int, str]] = deque()
    while (taken := waiting.popleft() if waiting else next(lines, None)) is not None:
        number, line = taken
        if delimiter == "\t" or '"' not in line:  # tab-separated text has quotes of its own
            yield number, _cells(line, delimiter, csv.QUOTE_NONE)
            continue
        held, row = [line], None
        ahead: list[tuple[int, str]] = []
        while row is None:
            row = _quoted(held, delimiter)
            if row is not None or len(held) > MOST_QUOTED_LINES or sum(map(len, held)) > MOST_QUOTED_CHARACTERS:
                break
            more = waiting.popleft() if waiting else next(lines, None)
            if more is None:
                break
            ahead.append(more)
            held.append(more[1])
        if row is None or (ahead and n_columns not in (None, len(row))):
            waiting.extendleft(reversed(ahead))
            row = _cells(line, delimiter, csv.QUOTE_NONE)
        yield number, row


def _quoted(held: list[str], delimiter: str) -> list[str] | str | None:
    """Read a row with quotes; ``None`` when one of them is still open."""
    text = [f"{line}\n" for line in held]
    try:
        return next(csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    return _cells(held[0], delimiter, csv.QUOTE_MINIMAL) if len(held) == 1 else None


def _cells(line: str, delimiter: str, quoting: int) -> list[str] | str:
    try:
        return next(csv.reader([line], delimiter=delimiter, quoting=quoting), [])
    except csv.Error as error:
        return str(error)
