"""Manifests, read line by line: JSON lines as NeMo writes them, CSV and TSV with a header, plain lists of paths."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TextIO

from ..audio import is_url

JSON_SUFFIXES, LIST_SUFFIXES = (".jsonl", ".json", ".ndjson"), (".txt", ".lst", ".list")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Names that manifests in the wild have for each field, NeMo's first.
FIELDS = {
    "audio": ("audio_filepath", "audio", "path", "file", "filename", "wav"),
    "offset_seconds": ("offset", "offset_seconds"),
    "duration_seconds": ("duration", "duration_seconds"),
    "reference": ("text", "reference", "transcript", "transcription", "sentence"),
    "id": ("id", "utt_id", "utterance_id"),
}


class ManifestError(Exception):
    """A manifest cannot be read; the message says which and why."""


class Entry(NamedTuple):
    """A line of a manifest, or what is wrong with it."""

    line: int
    audio: str = ""
    offset_seconds: float | None = None
    duration_seconds: float | None = None
    reference: str | None = None
    id: str | None = None
    error: str | None = None


def is_manifest(source: str) -> bool:
    """Whether a path or URL is a manifest, by its suffix."""
    return _suffix(source) in (*JSON_SUFFIXES, *LIST_SUFFIXES, *DELIMITERS)


def _suffix(source: str) -> str:
    return PurePosixPath(source).suffix.lower()


def read(source: str) -> Iterator[Entry]:
    """Give the entries of a local manifest or one at a URL. Raises :class:`ManifestError` when there is none."""
    try:
        if is_url(source):
            import fsspec

            file = fsspec.open(source, "rt", encoding="utf-8-sig", errors="surrogateescape").open()
        else:
            file = open(source, encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115
        with file:
            yield from _entries(file, _suffix(source), source)
    except ManifestError:
        raise
    except OSError as error:
        raise ManifestError(f"{source} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # each file system of fsspec has its own
        raise ManifestError(f"{source} cannot be read: {error}") from None


def standard_input() -> Iterator[Entry]:
    """Give the entries of standard input: a path a line, or a JSON object."""
    # not sys.stdin: a thread that waits for it would keep the interpreter from ending
    with open(0, encoding="utf-8", errors="surrogateescape", closefd=False) as lines:
        yield from _from_lines(lines, as_json=None)


def _entries(file: TextIO, suffix: str, source: str) -> Iterator[Entry]:
    if suffix in DELIMITERS:
        yield from _from_table(file, DELIMITERS[suffix], source)
    else:
        yield from _from_lines(file, as_json=suffix in JSON_SUFFIXES)


def _from_lines(lines: Iterable[str], as_json: bool | None) -> Iterator[Entry]:
    """as_json: whether lines are JSON objects; ``None`` is those that begin like one."""
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        if not (as_json or (as_json is None and line.startswith("{"))):
            yield Entry(number, line)
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Entry(number, error=f"line {number} is no JSON object: {error}")
            continue
        if isinstance(values, dict):
            yield _entry(number, values)
        else:
            yield Entry(number, error=f"line {number} must be a JSON object, but is {type(values).__name__}")


def _from_table(file: TextIO, delimiter: str, source: str) -> Iterator[Entry]:
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE  # tab-separated text has quotes of its own
    rows = csv.reader(file, delimiter=delimiter, quoting=quoting)
    try:
        header = next(rows, None)
    except csv.Error as error:
        raise ManifestError(f"{source}, line {rows.line_num}: {error}") from None
    if header is None or not set(header) & set(FIELDS["audio"]):
        raise ManifestError(
            f"{source} must begin with a header that has a column {', '.join(FIELDS['audio'])}, "
            f"but begins with {header and delimiter.join(header)[:200]!r}"
        )
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Entry(rows.line_num, error=f"line {rows.line_num}: {error}")
            continue
        if row is None:
            return
        if not any(row):
            continue
        if len(row) != len(header):
            yield Entry(rows.line_num, error=f"line {rows.line_num} has {len(row)} columns, but the header {len(header)}")
        else:
            yield _entry(rows.line_num, dict(zip(header, row)))


def _entry(line: int, values: Mapping[str, Any]) -> Entry:
    found = {field: _first(values, names) for field, names in FIELDS.items()}
    if not isinstance(found["audio"], str):
        expected = ", ".join(FIELDS["audio"])
        return Entry(line, error=f"line {line} must name its audio as a text {expected}, but has {', '.join(values)}")
    for field in ("offset_seconds", "duration_seconds"):
        if found[field] is None:
            continue
        try:
            seconds = float(found[field])
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            return Entry(line, error=f"line {line}: {FIELDS[field][0]} must be a number of seconds, but is {found[field]!r}")
        found[field] = seconds
    if not isinstance(found["reference"], (str, type(None))):
        return Entry(line, error=f"line {line}: {FIELDS['reference'][0]} must be text, but is {found['reference']!r}")
    if found["id"] is not None:
        found["id"] = str(found["id"])
    for field in ("audio", "id"):
        if not _is_name(found[field] or ""):
            return Entry(line, error=f"line {line}: {FIELDS[field][0]} is no name that a file can have: {found[field]!r}")
    found["duration_seconds"] = found["duration_seconds"] or None  # NeMo's 0 is: not known
    return Entry(line, **found)


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return False


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)
