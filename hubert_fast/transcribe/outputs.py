"""Where results go: one file of rows, a folder with a file each, or a stream such as standard output."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from . import formats
from .journal import Journal, JournalError
from .transcriber import Result

MOST_NAME_BYTES = 200  # of a file; file systems take 255


class Output:
    """Takes results; what :meth:`sync` returned can be relied on after a power cut. One that keeps nothing back only writes."""

    def prepare(self, result: Result) -> bool:
        """Return whether the journal must be committed before this result is written."""
        return False

    def write(self, result: Result) -> None:
        raise NotImplementedError

    def sync(self) -> dict[str, int]:
        """Put all on disk; return the sizes to be remembered."""
        return {}

    def close(self) -> None:
        """Let go of it."""


def encoded(text: str) -> bytes:
    """UTF-8; what names have that is none becomes an escape, one that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


class RowFile:
    """Rows appended to a file, whose size the journal knows by its ``role``.

    is_optional: it may be missing, and is not left there empty. Raises ``JournalError`` when the file has become shorter than
    the journal says, ``OSError`` when it cannot be written.
    """

    def __init__(self, path: Path, role: str, journal: Journal, is_optional: bool = False):
        self.path, self._role, self._journal, self._is_optional = path, role, journal, is_optional
        known = journal.size_of(role)
        there = path.stat().st_size if path.exists() else 0
        if is_optional and not path.exists():
            known = 0
        if there < known:
            raise JournalError(
                f"{path} has {there} bytes, but {known} were written according to {journal.path}: "
                f"bring it back, or begin anew with --overwrite"
            )
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115
        self._file.truncate(known)  # rows that were on their way when the run was killed
        self.is_empty = not known
        if self.is_empty:
            sync_path(path.parent)

    def append(self, text: str) -> None:
        self._file.write(encoded(text))

    def sync(self) -> dict[str, int]:
        self._file.flush()
        os.fsync(self._file.fileno())
        return {self._role: os.fstat(self._file.fileno()).st_size}

    def close(self) -> None:
        """Close it without what the journal does not know, which may be half a row and would be done again."""
        try:
            self._file.close()
        except OSError:  # a full disk; the failure was told when it was written
            pass
        finally:
            with contextlib.suppress(sqlite3.Error):  # the journal cannot be read either: the next run cuts
                known = self._journal.size_of(self._role)
                os.truncate(self.path, known)
                if self._is_optional and not known:
                    os.unlink(self.path)


class Rows(Output):
    """All utterances in one file."""

    def __init__(self, path: Path, format: str, journal: Journal):
        self._file, self._format = RowFile(path, "output", journal), formats.ROWS[format]
        if format == "tsv" and self._file.is_empty:
            self._file.append("\t".join(formats.TSV_HEADER) + "\n")

    def write(self, result: Result) -> None:
        self._file.append(self._format(result))

    def sync(self) -> dict[str, int]:
        return self._file.sync()

    def close(self) -> None:
        self._file.close()


class Files(Output):
    """A file for each utterance, below a folder as the inputs were below theirs: ``talks/a.wav`` is ``talks/a.srt``.

    Where another utterance has that name it is ``talks/a.wav.srt``, or has a number. Which one has which is in the journal
    before the second is written, so that a run that goes on gives the same names.
    Raises ``JournalError`` when files that the journal knows are gone with their folder.
    """

    def __init__(self, folder: Path, format: str, journal: Journal):
        self._folder, self._suffix, self._format, self._journal = folder, f".{format}", formats.FILES[format], journal
        self._written: set[Path] = set()
        if journal.totals().transcribed and not (folder.is_dir() and any(folder.iterdir())):
            raise JournalError(
                f"{folder} is empty or gone, but {journal.path} knows of files in it: bring them back, "
                f"or begin anew with --overwrite"
            )
        folder.mkdir(exist_ok=True)

    def _names(self, result: Result) -> Iterator[list[str]]:
        """Names for the files of a result, the best first."""
        utterance = result.utterance
        name, full = _safe(utterance.name), _safe(utterance.name + os.path.splitext(utterance.audio)[1])
        for stem in (name, full, f"{full}.{utterance.key.hex()}"):
            if len(result.transcripts) == 1:
                yield [stem + self._suffix]
            else:
                yield [f"{stem}.{channel}{self._suffix}" for channel in range(1, len(result.transcripts) + 1)]

    def _own_names(self, result: Result) -> list[str]:
        """Return the best names that no other utterance has."""
        owners = (result.utterance.key, None)
        return next(names for names in self._names(result) if all(self._journal.owner(name) in owners for name in names))

    def prepare(self, result: Result) -> bool:
        names, best = self._own_names(result), next(self._names(result))
        is_new = any(self._journal.owner(name) is None for name in names)
        for name in names if is_new else ():
            self._journal.claim(name, result.utterance.key)
        return is_new and names != best

    def write(self, result: Result) -> None:
        for name, transcript in zip(self._own_names(result), result.transcripts):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, self._format(transcript))
            self._written |= {path, *path.parents[: len(Path(name).parts)]}

    def sync(self) -> dict[str, int]:
        for path in self._written:
            sync_path(path)
        self._written.clear()
        return {}


class OneFile(Output):
    """The file of the one utterance there is."""

    def __init__(self, path: Path, format: str):
        self._path, self._format = path, formats.FILES[format]

    def write(self, result: Result) -> None:
        replace(self._path, self._format(result.transcripts[0]))

    def sync(self) -> dict[str, int]:
        if self._path.exists():
            sync_path(self._path)
        return {}


class Stream(Output):
    """Rows to standard output, a pipe or a device, each as it comes. bare: the text alone, when there is but one."""

    def __init__(self, file: BinaryIO, format: str, bare: bool):
        self._file, self._format, self._bare = file, formats.ROWS[format], bare
        if format == "tsv":
            self._file.write(encoded("\t".join(formats.TSV_HEADER) + "\n"))

    def write(self, result: Result) -> None:
        text = "".join(f"{each.text}\n" for each in result.transcripts) if self._bare else self._format(result)
        # names are given back as they came, where they are no UTF-8 too; JSON has escapes for that
        errors = "backslashreplace" if self._format is formats.jsonl else "surrogateescape"
        self._file.write(text.encode("utf-8", errors))
        self._file.flush()


def replace(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, unless the power goes before it is synced."""
    unfinished = path.with_name(f".{path.name}.unfinished")  # of one name, so that a killed run leaves no more than one
    try:
        unfinished.write_bytes(encoded(text))
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync_path(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe(name: str) -> str:
    """A relative path that stays below its folder, of parts that file systems take."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(_short(part) for part in parts) or "unnamed"


def _short(part: str) -> str:
    raw = os.fsencode(part)
    if len(raw) <= MOST_NAME_BYTES:
        return part
    return os.fsdecode(raw[: MOST_NAME_BYTES - 17]) + "-" + hashlib.blake2b(raw, digest_size=8).hexdigest()
