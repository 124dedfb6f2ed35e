"""Where results go: one file of rows, a folder with a file each, or a stream such as standard output."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from . import formats
from .journal import Journal, JournalError
from .transcriber import Result

MOST_NAME_BYTES = 200  # of a file; file systems take 255


class Output(Protocol):
    """Takes results; what :meth:`sync` returned can be relied on after a power cut."""

    def write(self, result: Result) -> None: ...

    def sync(self) -> dict[str, int]:
        """Put all on disk; return the sizes to be remembered."""
        ...

    def close(self) -> None: ...


def encoded(text: str) -> bytes:
    """UTF-8; what names have that is none becomes an escape, one that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


class RowFile:
    """Rows appended to a file, whose size the journal knows.

    only_if_needed: leave no empty file. Raises ``JournalError`` when the file has become shorter than the journal says,
    ``OSError`` when it cannot be written.
    """

    def __init__(self, path: Path, journal: Journal, only_if_needed: bool = False):
        self.path, self._only_if_needed = path, only_if_needed
        known = journal.size_of(path.name)
        there = path.stat().st_size if path.exists() else 0
        if there < known:
            raise JournalError(
                f"{path} has {there} bytes, but {known} were written according to {journal.path}: "
                f"bring it back, or begin anew with --overwrite"
            )
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115
        self._file.truncate(known)  # rows that were on their way when the run was killed
        self._size = known
        if not known:
            _sync_folder(path.parent)

    def append(self, text: str) -> None:
        self._file.write(encoded(text))

    def sync(self) -> dict[str, int]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._size = os.fstat(self._file.fileno()).st_size
        return {self.path.name: self._size}

    def close(self) -> None:
        """Close it without what was not synced, which may be half a row."""
        try:
            self._file.close()
        except OSError:  # a full disk; the failure was told when it was written
            pass
        finally:
            os.truncate(self.path, self._size)
            if self._only_if_needed and not self._size:
                os.unlink(self.path)


class Rows:
    """All utterances in one file."""

    def __init__(self, path: Path, format: str, journal: Journal):
        self._file, self._format = RowFile(path, journal), formats.ROWS[format]
        if format == "tsv" and not journal.size_of(path.name):
            self._file.append("\t".join(formats.TSV_HEADER) + "\n")

    def write(self, result: Result) -> None:
        self._file.append(self._format(result))

    def sync(self) -> dict[str, int]:
        return self._file.sync()

    def close(self) -> None:
        self._file.close()


class Files:
    """A file for each utterance, below a folder as the inputs were below theirs."""

    def __init__(self, folder: Path, format: str, journal: Journal):
        self._folder, self._suffix, self._format, self._journal = folder, f".{format}", formats.FILES[format], journal
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        name = self._name(result)
        for channel, transcript in enumerate(result.transcripts, 1):
            channel_name = name if len(result.transcripts) == 1 else f"{name}.{channel}"
            path = self._folder / f"{channel_name}{self._suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, self._format(transcript))

    def _name(self, result: Result) -> str:
        """``talks/a.wav`` is ``talks/a``, or ``talks/a.wav`` when another utterance has that."""
        utterance = result.utterance
        name = _safe(utterance.name)
        if self._journal.claim(name, utterance.key):
            return name
        full = _safe(utterance.name + os.path.splitext(utterance.audio)[1])
        return full if self._journal.claim(full, utterance.key) else f"{full}.{utterance.key.hex()}"

    def sync(self) -> dict[str, int]:
        return {}  # each was put on disk when it was written

    def close(self) -> None:
        pass


class OneFile:
    """The file of the one utterance there is."""

    def __init__(self, path: Path, format: str):
        self._path, self._format = path, formats.FILES[format]

    def write(self, result: Result) -> None:
        replace(self._path, self._format(result.transcripts[0]))

    def sync(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class Stream:
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

    def sync(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def replace(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unfinished-", delete=False) as file:
        try:
            file.write(encoded(text))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _sync_folder(folder: Path) -> None:
    """Put the names in it on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _safe(name: str) -> str:
    """A relative path that stays below its folder, of parts that file systems take."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(_short(part) for part in parts) or "unnamed"


def _short(part: str) -> str:
    raw = os.fsencode(part)
    if len(raw) <= MOST_NAME_BYTES:
        return part
    return os.fsdecode(raw[: MOST_NAME_BYTES - 17]) + "-" + hashlib.blake2b(raw, digest_size=8).hexdigest()
