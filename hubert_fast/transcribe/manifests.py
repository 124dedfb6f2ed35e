"""Lists of audio: JSON, tables, paths a line, playlists, and the lists of corpora; read as they are needed.

Memory is bounded by the longest row. What a list is, its name says and, on standard input and in ``.txt``, its first lines.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from ..audio import is_url
from . import json_rows, layouts, tables
from .list_text import COMPRESSION_SUFFIXES, STANDARD_INPUT, Text, open_bytes, text_of
from .list_text import ManifestError as ManifestError
from .remote import reason_of
from .rows import Entry as Entry
from .rows import entry_of, is_name, names_audio

JSON_SUFFIXES, LIST_SUFFIXES = (".jsonl", ".json", ".ndjson"), (".txt", ".lst", ".list")
PLAYLIST_SUFFIXES, KALDI_SUFFIX, LIBRISPEECH_SUFFIX = (".m3u", ".m3u8"), ".scp", ".trans.txt"
ARRAY = re.compile(r"\s*\[\s*(?:$|[\[{\"\]])")  # and no path such as "[1] take.wav"
CONCATENATION = re.compile(r"ffconcat version|file\s+'")
OBJECT = re.compile(r"\s*\{\s*(?:$|[\"}])")  # and no path such as "{data_root}/a.wav"


def is_manifest(source: str) -> bool:
    """Return whether a path or URL is a list, by its suffix; it may be compressed."""
    return suffix_of(source) in (*JSON_SUFFIXES, *LIST_SUFFIXES, *tables.DELIMITERS, *PLAYLIST_SUFFIXES, KALDI_SUFFIX)


def suffix_of(source: str) -> str:
    """Return the suffix in small letters, without that of a compression and without a URL's query."""
    return PurePosixPath(_uncompressed(source)).suffix


def _uncompressed(source: str) -> str:
    source = source.partition("::")[0] if is_url(source) else source
    name = (urlsplit(source).path if source.startswith(("http://", "https://")) else source).lower()
    stem, suffix = os.path.splitext(name)
    return stem if suffix in COMPRESSION_SUFFIXES else name


def read(source: str, note: Callable[[str], None] = lambda message: None, file: BinaryIO | None = None) -> Iterator[Entry]:
    """Give the entries of a local list, one at a URL, or ``file``, such as standard input.

    Raises :class:`ManifestError` when there is none or it is something else. A list that breaks off is an entry with an error.
    """
    name = STANDARD_INPUT if source == "-" else source
    count = 0
    try:
        with open_bytes(source) if file is None else io.BufferedReader(file) as opened:
            for entry in _entries(text_of(opened, name), source, note):
                yield entry
                count += 1
    except ManifestError:
        raise
    except Exception as error:  # each file system of fsspec, and each compression, has its own
        if count:
            yield Entry(count + 1, error=f"after {count} rows the list cannot be read on: {reason_of(error)}")
            return
        raise ManifestError(f"{name} cannot be read: {reason_of(error)}") from None


def _entries(text: Text, source: str, note: Callable[[str], None]) -> Iterator[Entry]:
    suffix = suffix_of(source)
    (first,) = text.peek(1) or [""]  # and no more, unless it takes a second: lists may be written while they are read
    is_list = suffix not in (*JSON_SUFFIXES, *tables.DELIMITERS)
    if text.separated_by_nul:
        yield from (_of_path(number, line)._replace(is_line=False) for number, line in text)
    elif _uncompressed(source).endswith(LIBRISPEECH_SUFFIX):
        yield from layouts.librispeech(text, source)
    elif suffix == KALDI_SUFFIX:
        yield from layouts.kaldi(text, source, note)
    elif suffix in PLAYLIST_SUFFIXES:
        yield from _of_playlist(text, source)
    elif suffix in JSON_SUFFIXES or (is_list and _is_json(first, text)):
        yield from _of_json(text)
    elif (not is_list or os.path.isdir(first.rstrip("\t"))) and layouts.is_fairseq(text):
        root, entries = layouts.fairseq(text, source, note)
        yield from (entry._replace(root=root) for entry in entries)
    elif not is_list or tables.begins_with_header(first):
        yield from tables.entries(text, suffix, source)
    elif CONCATENATION.match(first):
        yield from layouts.ffmpeg(text)
    else:
        yield from _of_lines(text)


def _is_json(first: str, text: Text) -> bool:
    """Return whether a list is JSON as a whole, and not a path or a JSON object a line."""
    return bool(ARRAY.match(first)) or (OBJECT.match(first) is not None and json_rows.is_document(text))


def _of_json(text: Text) -> Iterator[Entry]:
    for row in json_rows.rows_of(text, names_audio):
        if row.error is not None:
            yield Entry(row.number, error=row.error)
        else:
            yield entry_of(row.number, row.value, row.unit, row.name)


def _of_lines(text: Text) -> Iterator[Entry]:
    """Give a path a line; lines that begin as JSON objects do are read as such."""
    for number, line in text:
        if OBJECT.match(line):
            (row,) = json_rows.rows_of(Text(iter([line])), names_audio)
            yield Entry(number, error=row.error) if row.error is not None else entry_of(number, row.value)
        else:
            yield _of_path(number, line)


def _of_path(number: int, path: str) -> Entry:
    if is_name(path):
        return Entry(number, path, is_line=True)
    return Entry(number, error=f"line {number} is not a valid file name: {path[:200]!r}")


def _of_playlist(text: Text, source: str) -> Iterator[Entry]:
    if any(line.startswith("#EXT-X-") for line in text.peek(8)):
        raise ManifestError(f"{source}: this is the playlist of an HLS stream, not of files: fetch it with ffmpeg first")
    for number, line in text:
        if not line.startswith("#"):
            yield _of_path(number, line)
