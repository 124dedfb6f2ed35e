"""Read the lists of toolkits and corpora: Kaldi's `wav.scp`, fairseq's `.tsv`, LibriSpeech's `.trans.txt` and FFmpeg's.

Except for FFmpeg's, they come with other files in their folder. Rows are read as they are needed. Only two things are kept in
memory: Kaldi's recordings, if there are `segments`, and lines of accompanying files that are out of order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from ..audio import is_url
from .list_text import COMPRESSION_SUFFIXES, ManifestError, Text, decode_text, open_bytes, repair_encoding
from .parts import InvalidRow, part_of
from .paths import COMMON_SUFFIXES, join, parent_folder
from .rows import Entry, is_valid_name, path_entry

KALDI_ARCHIVE = re.compile(r"\.ark:\d+(?:\[[\d:,]*\])?$")
LIBRISPEECH_SUFFIXES = (".flac", *COMMON_SUFFIXES)  # the original format first, then those it may have been converted to

Note = Callable[[str], None]


class ValuesById:
    """The values of a file of lines `ID VALUE`, looked up by id. The file is read only as far as needed.

    Args:
        lines: The pairs of id and value.
        keep: Whether an id may be requested more than once.
    """

    def __init__(self, lines: Iterator[tuple[str, str]], keep: bool = False):
        self._lines, self._keep = lines, keep
        self._values: dict[str, str] = {}

    def get(self, id: str) -> str | None:
        """Return the value of an id, or `None`."""
        if id in self._values:
            return self._values[id] if self._keep else self._values.pop(id)
        for line_id, value in self._lines:
            if line_id == id and not self._keep:
                return value
            self._values[line_id] = value
            if line_id == id:
                return value
        return None

    def count_unused(self, used: set[str]) -> int:
        """Return the number of ids that are not in `used`."""
        return len((self._values.keys() | dict(self._lines).keys()) - used)


def lines_beside(source: str, name: str) -> Iterator[tuple[int, str]] | None:
    """Return the numbered lines of a file in the folder of a list, or `None` if there is no such file.

    The file may be compressed if its name says so. A local file is opened when its first line is requested.
    """
    path = join(parent_folder(source), name)
    if is_url(path):
        compression = os.path.splitext(source.partition("::")[0])[1]
        urls = (path, join(parent_folder(source), name + compression)) if compression in COMPRESSION_SUFFIXES else (path,)
        for url in urls:
            try:
                return _decoded_lines(open_bytes(url), url)
            except Exception:  # file systems raise errors of many kinds for a missing file
                continue
        return None
    existing = next(filter(os.path.isfile, (path, *(path + suffix for suffix in COMPRESSION_SUFFIXES))), None)
    return None if existing is None else _lines(existing)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        file = open_bytes(path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror or error}") from None
    yield from _decoded_lines(file, path)


def _decoded_lines(file: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    with file:
        yield from decode_text(file, path)


def _readable(lines: Iterator[tuple[int, str]] | None, note: Note = lambda message: None) -> Iterator[tuple[int, str]]:
    """Yield lines until one cannot be read: a fault in the references must not prevent transcription."""
    try:
        yield from lines or ()
    except (OSError, ManifestError, UnicodeError, EOFError) as error:
        note(f"references are missing: {error}")


def _pair(line: str) -> tuple[str, str]:
    id, *value = line.strip().split(None, 1)
    return id, value[0] if value else ""


def _pairs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, str]]:
    return (_pair(line) for _, line in lines)


def kaldi(text: Text, source: str, note: Note) -> Iterator[Entry]:
    """Yield the utterances of a Kaldi data folder: the lines of `segments`, or else those of `wav.scp`.

    References come from the file `text` of the folder.
    """
    references = ValuesById(_pairs(_readable(lines_beside(source, "text"), note)))
    segments = lines_beside(source, "segments")
    if segments is None:
        for number, line in text:
            id, audio = _pair(line)
            yield _recording(number, id, audio, f"line {number}")._replace(reference=_reference(references.get(id)))
        return
    recordings = ValuesById(_pairs(text), keep=True)
    used: set[str] = set()
    for number, line in segments:
        entry = _segment(number, line, recordings, used)
        yield entry if entry.error is not None else entry._replace(reference=_reference(references.get(entry.id or "")))
    if unused := recordings.count_unused(used):
        note(f"skipped {unused} {'recording that has' if unused == 1 else 'recordings that have'} no line in segments")


def _segment(number: int, line: str, recordings: ValuesById, used: set[str]) -> Entry:
    where = f"line {number} of segments"
    columns = line.split()
    try:
        id, recording = columns[:2]
        start, end = map(float, columns[2:4])
    except ValueError:
        return Entry(number, error=f"{where} must be ID RECORDING START END, but is {line[:200]!r}")
    audio = recordings.get(recording)
    if audio is None:
        return Entry(number, error=f"{where} refers to the recording {recording}, which is not in the list")
    used.add(recording)
    to_end = end < 0  # Kaldi writes -1
    if not (0 <= start < float("inf") and (to_end or start < end < float("inf"))):
        return Entry(number, error=f"{where} must end after it starts, but runs from {columns[2]} to {columns[3]} s")
    entry = _recording(number, id, audio, where)
    return entry._replace(offset_seconds=start, duration_seconds=None if to_end else end - start)


def _recording(number: int, id: str, audio: str, where: str) -> Entry:
    if not audio:
        return Entry(number, error=f"{where} must be ID FILE, but names no file: {id[:200]!r}")
    if KALDI_ARCHIVE.search(audio):
        return Entry(number, error=f"{where}: {audio} is inside a Kaldi archive: extract it with wav-copy")
    if not is_valid_name(audio) or not is_valid_name(id):
        return Entry(number, error=f"{where} is not a valid file name: {audio[:200]!r}")
    if audio.startswith("|"):
        return Entry(number, error=f"{where} pipes audio into a command instead of reading it: {audio[:200]!r}")
    return Entry(number, audio, id=id, is_command=audio.endswith("|"))


def _reference(text: str | None) -> str | None:
    return repair_encoding(text) if text else None


def is_fairseq(text: Text) -> bool:
    """Return whether a table begins as in fairseq: a line with a folder, then one with a path and a number of samples."""
    first, second = (*text.peek(2), "", "")[:2]
    path, samples = (*second.split("\t"), "")[:2]
    is_root = "\t" not in first.rstrip("\t")
    return is_root and (bool(path) and samples.strip().isdecimal() if second else os.path.isdir(first.rstrip("\t")))


def fairseq(text: Text, source: str, note: Note) -> tuple[str, Iterator[Entry]]:
    """Return the root folder of a fairseq table and its utterances, with references from the `.wrd` or `.ltr` beside it."""
    rows = iter(text)
    _, root = next(rows)
    return root.strip(), _fairseq_rows(rows, source, note)


def _fairseq_rows(rows: Iterator[tuple[int, str]], source: str, note: Note) -> Iterator[Entry]:
    stem = os.path.basename(source.partition("::")[0]).split(".tsv")[0]
    words, letters = (lines_beside(source, f"{stem}{suffix}") for suffix in (".wrd", ".ltr"))
    references, is_spelled = _readable(letters if words is None else words, note), words is None
    reference_number, text = 0, ""  # of the last reference that was read
    for number, line in rows:
        path = line.split("\t", 1)[0]
        while reference_number < number - 1:  # the first line of the table is its root
            reference_number, text = next(references, (number, ""))
        reference = text if reference_number == number - 1 else None
        if reference and is_spelled:
            reference = " ".join(reference.replace(" ", "").replace("|", " ").split())
        yield path_entry(number, path)._replace(reference=_reference(reference))


def ffmpeg(text: Text) -> Iterator[Entry]:
    """Yield the files of a list for FFmpeg's concat demuxer; `inpoint` and `outpoint` select parts of them."""
    pending: Entry | None = None
    for number, line in text:
        keyword, value = _pair(line)
        if keyword == "file":
            yield from () if pending is None else (pending,)
            path = value[1:-1].replace("'\\''", "'") if value[:1] == value[-1:] == "'" else value
            pending = path_entry(number, path)
        elif pending is not None and keyword in ("inpoint", "outpoint"):
            pending = _trim(pending, keyword, value)
    yield from () if pending is None else (pending,)


def _trim(entry: Entry, keyword: str, value: str) -> Entry:
    try:
        start = entry.offset_seconds
        offset, duration = part_of(
            {"offset": value if keyword == "inpoint" else start, "end": value if keyword == "outpoint" else None}
        )
    except InvalidRow as error:
        return entry._replace(error=f"line {entry.line}: {keyword}: {error}")
    return entry._replace(offset_seconds=offset, duration_seconds=duration)


def librispeech(text: Text, source: str) -> Iterator[Entry]:
    """Yield the utterances of a LibriSpeech `*.trans.txt`, whose lines hold the stem of a file beside it and a reference."""
    folder = parent_folder(source)
    for number, line in text:
        id, reference = _pair(line)
        if not is_valid_name(id):
            yield Entry(number, error=f"line {number} is not a valid file name: {id[:200]!r}")
            continue
        suffix = ".flac"
        if not is_url(folder):
            existing = (suffix for suffix in LIBRISPEECH_SUFFIXES if os.path.exists(join(folder, id + suffix)))
            suffix = next(existing, suffix)
        yield Entry(number, id + suffix, reference=_reference(reference), id=id)


def librispeech_references(folder: str, files: list[str], note: Note) -> dict[str, str]:
    """Return the references in the `*.trans.txt` of a LibriSpeech folder, by the stem of the audio file."""
    references: dict[str, str] = {}
    for name in files:
        if name.endswith((".trans.txt", *(f".trans.txt{suffix}" for suffix in COMPRESSION_SUFFIXES))):
            lines = _readable(_lines(os.path.join(folder, name)), note)
            references.update((id, repair_encoding(value)) for id, value in _pairs(lines) if value)
    return references
