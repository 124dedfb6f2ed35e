"""Lists that need the files beside them: Kaldi's ``wav.scp``, fairseq's ``.tsv`` and LibriSpeech's ``.trans.txt``; FFmpeg's.

Rows come as they are read. Kept in memory are Kaldi's recordings, if there are ``segments``, and those lines of a file beside a
list that are out of the list's order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from ..audio import is_url
from .list_text import COMPRESSION_SUFFIXES, ManifestError, Text, open_bytes, repaired, text_of
from .parts import WrongRow, part_of
from .places import COMMON_SUFFIXES, folder_of, joined
from .rows import Entry, is_name

ARCHIVED = re.compile(r"\.ark:\d+(?:\[[\d:,]*\])?$")
SPOKEN_SUFFIXES = (".flac", *COMMON_SUFFIXES)  # of LibriSpeech and what it was converted to

Note = Callable[[str], None]


class Beside:
    """Values by id in a file of lines ``ID VALUE`` beside a list, read as far as they are asked for.

    keeps: whether an id may be asked for again.
    """

    def __init__(self, lines: Iterator[tuple[str, str]], keeps: bool = False):
        self._lines, self._keeps = lines, keeps
        self._read: dict[str, str] = {}

    def get(self, id: str) -> str | None:
        """Return an id's value, or ``None``."""
        if id in self._read:
            return self._read[id] if self._keeps else self._read.pop(id)
        for other, value in self._lines:
            if other == id and not self._keeps:
                return value
            self._read[other] = value
            if other == id:
                return value
        return None

    def unused(self, used: set[str]) -> int:
        """Return how many ids there are besides ``used``."""
        return len((self._read.keys() | dict(self._lines).keys()) - used)


def lines_beside(source: str, name: str) -> Iterator[tuple[int, str]] | None:
    """Give the lines and their numbers from 1 of a file in the folder of a list; ``None`` if there is none.

    The file may be compressed, with the suffix for it. A local one is opened when its first line is asked for.
    """
    path = joined(folder_of(source), name)
    if is_url(path):
        compressed = os.path.splitext(source.partition("::")[0])[1]
        for there in (path, joined(folder_of(source), name + compressed)) if compressed in COMPRESSION_SUFFIXES else (path,):
            try:
                return _lines_of(open_bytes(there), there)
            except Exception:  # each file system has its own for a file that is not there
                continue
        return None
    there = next(filter(os.path.isfile, (path, *(path + suffix for suffix in COMPRESSION_SUFFIXES))), None)
    return None if there is None else _lines(there)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        file = open_bytes(path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror or error}") from None
    yield from _lines_of(file, path)


def _lines_of(file: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    with file:
        yield from text_of(file, path)


def _safely(lines: Iterator[tuple[int, str]] | None, note: Note = lambda message: None) -> Iterator[tuple[int, str]]:
    """Give lines up to where they cannot be read: what is wrong with references costs no transcription."""
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
    """Give the utterances of a Kaldi ``wav.scp``: its lines, or those of ``segments`` beside it, with the words of ``text``."""
    references = Beside(_pairs(_safely(lines_beside(source, "text"), note)))
    segments = lines_beside(source, "segments")
    if segments is None:
        for number, line in text:
            id, audio = _pair(line)
            yield _recording(number, id, audio, f"line {number}")._replace(reference=_spoken(references.get(id)))
        return
    recordings = Beside(_pairs(text), keeps=True)
    used: set[str] = set()
    for number, line in segments:
        entry = _segment(number, line, recordings, used)
        yield entry if entry.error is not None else entry._replace(reference=_spoken(references.get(entry.id or "")))
    if left := recordings.unused(used):
        note(f"left out {left} {'recording that has' if left == 1 else 'recordings that have'} no line in segments")


def _segment(number: int, line: str, recordings: Beside, used: set[str]) -> Entry:
    where = f"line {number} of segments"
    columns = line.split()
    try:
        id, recording = columns[:2]
        start, end = map(float, columns[2:4])
    except ValueError:
        return Entry(number, error=f"{where} must be ID RECORDING START END, but is {line[:200]!r}")
    audio = recordings.get(recording)
    if audio is None:
        return Entry(number, error=f"{where} is of the recording {recording}, which the list does not have")
    used.add(recording)
    whole = end < 0  # Kaldi's -1: up to the end
    if not (0 <= start < float("inf") and (whole or start < end < float("inf"))):
        return Entry(number, error=f"{where} must end after it starts, but is from {columns[2]} to {columns[3]} s")
    entry = _recording(number, id, audio, where)
    return entry._replace(offset_seconds=start, duration_seconds=None if whole else end - start)


def _recording(number: int, id: str, audio: str, where: str) -> Entry:
    if not audio:
        return Entry(number, error=f"{where} must be ID FILE, but names no file: {id[:200]!r}")
    if ARCHIVED.search(audio):
        return Entry(number, error=f"{where}: {audio} is within a Kaldi archive: copy it out with wav-copy")
    if not is_name(audio) or not is_name(id):
        return Entry(number, error=f"{where} is not a valid file name: {audio[:200]!r}")
    if audio.startswith("|"):
        return Entry(number, error=f"{where} writes to a command instead of reading: {audio[:200]!r}")
    return Entry(number, audio, id=id, is_command=audio.endswith("|"))


def _spoken(text: str | None) -> str | None:
    return repaired(text) if text else None


def is_fairseq(text: Text) -> bool:
    """Return whether a table begins as fairseq's: with a folder on a line, then with a path and a number of samples."""
    first, second = (*text.peek(2), "", "")[:2]
    path, samples = (*second.split("\t"), "")[:2]
    is_root = "\t" not in first.rstrip("\t")
    return is_root and (bool(path) and samples.strip().isdecimal() if second else os.path.isdir(first.rstrip("\t")))


def fairseq(text: Text, source: str, note: Note) -> tuple[str, Iterator[Entry]]:
    """Return the root of a fairseq table and its utterances, with the words of the ``.wrd`` or ``.ltr`` file beside it."""
    rows = iter(text)
    _, root = next(rows)
    return root.strip(), _fairseq_rows(rows, source, note)


def _fairseq_rows(rows: Iterator[tuple[int, str]], source: str, note: Note) -> Iterator[Entry]:
    stem = os.path.basename(source.partition("::")[0]).split(".tsv")[0]
    words_there, letters_there = (lines_beside(source, f"{stem}{suffix}") for suffix in (".wrd", ".ltr"))
    said, is_spelled = _safely(letters_there if words_there is None else words_there, note), words_there is None
    at, words = 0, ""  # the last line that was read of them
    for number, line in rows:
        path = line.split("\t", 1)[0]
        while at < number - 1:  # the table's first line is its root
            at, words = next(said, (number, ""))
        reference = words if at == number - 1 else None
        if reference and is_spelled:
            reference = " ".join(reference.replace(" ", "").replace("|", " ").split())
        if not is_name(path):
            yield Entry(number, error=f"line {number} is not a valid file name: {path[:200]!r}")
            continue
        yield Entry(number, path, reference=_spoken(reference))


def ffmpeg(text: Text) -> Iterator[Entry]:
    """Give the files of a list for FFmpeg's concat demuxer, with ``inpoint`` and ``outpoint`` as their parts."""
    waiting: Entry | None = None
    for number, line in text:
        keyword, value = _pair(line)
        if keyword == "file":
            yield from () if waiting is None else (waiting,)
            path = value[1:-1].replace("'\\''", "'") if value[:1] == value[-1:] == "'" else value
            error = None if is_name(path) else f"line {number} is not a valid file name: {path[:200]!r}"
            waiting = Entry(number, path, error=error)
        elif waiting is not None and keyword in ("inpoint", "outpoint"):
            waiting = _cut(waiting, keyword, value)
    yield from () if waiting is None else (waiting,)


def _cut(entry: Entry, keyword: str, value: str) -> Entry:
    try:
        start = entry.offset_seconds
        offset, duration = part_of(
            {"offset": value if keyword == "inpoint" else start, "end": value if keyword == "outpoint" else None}
        )
    except WrongRow as wrong:
        return entry._replace(error=f"line {entry.line}: {keyword}: {wrong}")
    return entry._replace(offset_seconds=offset, duration_seconds=duration)


def librispeech(text: Text, source: str) -> Iterator[Entry]:
    """Give the utterances of LibriSpeech's ``*.trans.txt``: the files beside it that its lines begin with, and their words."""
    folder = folder_of(source)
    for number, line in text:
        id, words = _pair(line)
        if not is_name(id):
            yield Entry(number, error=f"line {number} is not a valid file name: {id[:200]!r}")
            continue
        suffix = ".flac"
        if not is_url(folder):
            there = (suffix for suffix in SPOKEN_SUFFIXES if os.path.exists(joined(folder, id + suffix)))
            suffix = next(there, suffix)
        yield Entry(number, id + suffix, reference=_spoken(words), id=id)


def spoken_in(folder: str, files: list[str], note: Note) -> dict[str, str]:
    """Return the words of each file of a LibriSpeech folder by its name without suffix; nothing in other folders."""
    words: dict[str, str] = {}
    for name in files:
        if name.endswith((".trans.txt", *(f".trans.txt{suffix}" for suffix in COMPRESSION_SUFFIXES))):
            lines = _safely(_lines(os.path.join(folder, name)), note)
            words.update((id, repaired(value)) for id, value in _pairs(lines) if value)
    return words
