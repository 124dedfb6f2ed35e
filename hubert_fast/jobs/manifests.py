"""Read lists of audio: JSON, tables, paths on lines, playlists, and the lists of corpora, row by row as they are needed.

Memory is bounded by the longest row. The format of a list follows from its name; on standard input and in `.txt` files, from
its first lines.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from ..audio import is_url
from . import json_rows, layouts, tables
from .list_text import COMPRESSION_SUFFIXES, STANDARD_INPUT, Text, decode_text, open_bytes
from .list_text import ManifestError as ManifestError
from .remote import reason_of
from .rows import Entry as Entry
from .rows import is_row, parse_row, path_entry

JSON_SUFFIXES, LIST_SUFFIXES = (".jsonl", ".json", ".ndjson"), (".txt", ".lst", ".list")
PLAYLIST_SUFFIXES, KALDI_SUFFIX, LIBRISPEECH_SUFFIX = (".m3u", ".m3u8"), ".scp", ".trans.txt"
ARRAY = re.compile(r"\s*\[\s*(?:$|[\[{\"\]])")  # but not a path such as "[1] take.wav"
CONCATENATION = re.compile(r"ffconcat version|file\s+'")
OBJECT = re.compile(r"\s*\{\s*(?:$|[\"}])")  # but not a path such as "{data_root}/a.wav"


def is_manifest(source: str) -> bool:
    """Return whether a path or URL has the suffix of a list, possibly followed by that of a compression format."""
    return _suffix(source) in (*JSON_SUFFIXES, *LIST_SUFFIXES, *tables.DELIMITERS, *PLAYLIST_SUFFIXES, KALDI_SUFFIX)


def _suffix(source: str) -> str:
    """Return the suffix in lower case, ignoring that of a compression format and the query of a URL."""
    return PurePosixPath(_uncompressed_name(source)).suffix


def _uncompressed_name(source: str) -> str:
    source = source.partition("::")[0] if is_url(source) else source
    name = (urlsplit(source).path if source.startswith(("http://", "https://")) else source).lower()
    stem, suffix = os.path.splitext(name)
    return stem if suffix in COMPRESSION_SUFFIXES else name


def read(source: str, note: Callable[[str], None] = lambda message: None, file: io.RawIOBase | None = None) -> Iterator[Entry]:
    """Yield the entries of a list. If the list breaks off, the last entry has an error.

    Args:
        source: A path or URL, or `-` for standard input.
        note: Function called with each warning about the list.
        file: A stream to read the list from instead, such as standard input.

    Raises:
        ManifestError: If the source cannot be opened or is not a list.
    """
    name = STANDARD_INPUT if source == "-" else source
    count = 0
    try:
        with open_bytes(source) if file is None else io.BufferedReader(file) as opened:
            for entry in _entries(decode_text(opened, name), source, note):
                yield entry
                count += 1
    except ManifestError:
        raise
    except Exception as error:  # file systems and compression formats raise errors of many kinds
        if count:
            yield Entry(count + 1, error=f"the list cannot be read after row {count}: {reason_of(error)}")
            return
        raise ManifestError(f"{name} cannot be read: {reason_of(error)}") from None


def _entries(text: Text, source: str, note: Callable[[str], None]) -> Iterator[Entry]:
    suffix = _suffix(source)
    # peek at one line only, unless a format needs a second: a list may be read while it is being written
    (first,) = text.peek(1) or [""]
    is_list = suffix not in (*JSON_SUFFIXES, *tables.DELIMITERS)
    if text.separated_by_nul:
        yield from (path_entry(number, line) for number, line in text)
    elif _uncompressed_name(source).endswith(LIBRISPEECH_SUFFIX):
        yield from layouts.librispeech(text, source)
    elif suffix == KALDI_SUFFIX:
        yield from layouts.kaldi(text, source, note)
    elif suffix in PLAYLIST_SUFFIXES:
        yield from _playlist_entries(text, source)
    elif suffix in JSON_SUFFIXES or (is_list and _is_json(first, text)):
        yield from _json_entries(text)
    elif (not is_list or os.path.isdir(first.rstrip("\t"))) and layouts.is_fairseq(text):
        root, entries = layouts.fairseq(text, source, note)
        yield from (entry._replace(root=root) for entry in entries)
    elif not is_list or tables.begins_with_header(first):
        yield from tables.entries(text, suffix, source)
    elif CONCATENATION.match(first):
        yield from layouts.ffmpeg(text)
    else:
        yield from _line_entries(text)


def _is_json(first: str, text: Text) -> bool:
    """Return whether a list is JSON as a whole, rather than lines that are paths or JSON objects."""
    return bool(ARRAY.match(first)) or (OBJECT.match(first) is not None and json_rows.is_document(text))


def _json_entries(text: Text) -> Iterator[Entry]:
    for row in json_rows.rows_of(text, is_row):
        if row.error is not None:
            yield Entry(row.number, error=row.error)
        else:
            yield parse_row(row.number, row.value, row.unit, row.name)


def _line_entries(text: Text) -> Iterator[Entry]:
    """Yield one entry per line, which is a path or a JSON object."""
    for number, line in text:
        if OBJECT.match(line):
            (row,) = json_rows.rows_of(Text(iter([line])), is_row)
            yield Entry(number, error=row.error) if row.error is not None else parse_row(number, row.value)
        else:
            yield path_entry(number, line)._replace(is_line=True)


def _playlist_entries(text: Text, source: str) -> Iterator[Entry]:
    if any(line.startswith("#EXT-X-") for line in text.peek(8)):
        raise ManifestError(
            f"{source}: this is the playlist of an HLS stream, not a list of files: download the stream with ffmpeg first"
        )
    for number, line in text:
        if not line.startswith("#"):
            yield path_entry(number, line)._replace(is_line=True)
