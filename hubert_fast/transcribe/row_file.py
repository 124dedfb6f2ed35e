"""A file that rows are appended to, cut back to what the journal knows, and rid of rows that are out of date."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from .formats import RowFormat
from .journal import Journal, JournalError, Row

COPY_BYTES = 1 << 20


def encoded(text: str) -> bytes:
    """Return the text as UTF-8; half a character, as names may have, becomes an escape that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def sync_path(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RowFile:
    """Rows appended to a file, whose size the journal knows by its ``role``.

    is_optional: it may be missing, and is not left there empty. Raises ``JournalError`` when the file has become shorter than
    the journal says, ``OSError`` when it cannot be written.
    """

    def __init__(self, path: Path, role: str, journal: Journal, format: RowFormat, is_optional: bool = False):
        self.path, self._role, self._journal, self._format, self._is_optional = path, role, journal, format, is_optional
        self._head = encoded(format.head)
        self._finish_swap()
        known = journal.size_of(role)
        there = path.stat().st_size if path.exists() else 0
        if is_optional and known and not path.exists():
            known = 0
            journal.forget_rows(role)
            journal.commit({role: 0})
        if there < known:
            raise JournalError(
                f"{path} has {there} bytes, but {known} were written according to {journal.path}: "
                f"bring it back, or begin anew with --overwrite"
            )
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115
        self._file.truncate(known)  # rows that were on their way when the run was killed, and the end of the file
        self._size = known
        self._is_closed = False
        if not known:
            sync_path(path.parent)
            self._write(self._head)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)

    def append(self, text: str) -> Row:
        """Write the rows of one utterance; return where they are."""
        data = encoded(text)
        if data and self._size > len(self._head):
            self._write(encoded(self._format.between))
        start = self._size
        self._write(data)
        return Row(self._role, start, len(data), zlib.crc32(data))

    def sync(self) -> dict[str, int]:
        """Put all on disk; return the size under the file's role."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {self._role: os.fstat(self._file.fileno()).st_size}

    def finish(self) -> None:
        """Take out the rows that are out of date, write what ends the file, and close it. All must have been committed.

        Raises ``JournalError`` when such a row was altered by another program, ``OSError`` when the file cannot be written.
        """
        self._file.close()
        stale = self._journal.stale_rows(self._role)
        if stale:
            self._take_out(stale)
        self._end()
        self._is_closed = True

    def close(self) -> None:
        """Close it without what the journal does not know, which may be half a row and would be done again."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._file.close()
        except OSError:  # a full disk; the failure was told when it was written
            pass
        finally:
            with contextlib.suppress(sqlite3.Error):  # the journal cannot be read either: the next run cuts
                self._end()

    def _end(self) -> None:
        """Cut the file to what the journal knows; write what makes it whole, which the next run cuts off again."""
        known = self._journal.size_of(self._role)
        os.truncate(self.path, known)
        if self._is_optional and not known:
            os.unlink(self.path)
            return
        end = (b"" if known else self._head) + encoded(self._format.end(is_empty=known <= len(self._head)))
        if end and self._format.tail:
            with open(self.path, "ab") as file:
                file.write(end)
                file.flush()
                os.fsync(file.fileno())

    @property
    def _real_path(self) -> Path:
        return self.path.resolve()  # a link is kept, and what it names is replaced

    @property
    def _compacted(self) -> Path:
        return self._real_path.with_name(self._real_path.name + ".compacted")

    def _take_out(self, stale: Sequence[Row]) -> None:
        """Replace the file by one without these rows, in steps each of which may be the last before a kill or a power cut.

        The new file is put on disk; the journal notes its size and that it is to take the old one's place, in one
        transaction; it takes the place; the journal notes that it has. A run that begins in between does the rest.
        """
        known = self._journal.size_of(self._role)
        cuts = self._cuts(stale, known)
        try:
            size = self._write_compacted(stale, cuts, known)
        except BaseException:  # a full disk: what is there of the copy is as long as the output may be
            self._compacted.unlink(missing_ok=True)
            raise
        self._journal.begin_swap(self._role, size, cuts)
        self._finish_swap()

    def _write_compacted(self, stale: Sequence[Row], cuts: Sequence[tuple[int, int]], known: int) -> int:
        """Put a copy without some bytes on disk; return its size."""
        with open(self._real_path, "rb") as old, open(self._compacted, "wb") as new:
            for row in stale:
                old.seek(row.start)
                if zlib.crc32(old.read(row.bytes)) != row.checksum:
                    raise JournalError(
                        f"{self.path} was altered since {self._journal.path} was written: the outdated rows in it cannot be "
                        f"taken out, so begin anew with --overwrite"
                    )
            at = 0
            for begin, end in [*cuts, (known, known)]:
                old.seek(at)
                _copy(old, new, begin - at)
                at = end
            size = new.tell()
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(self._real_path, self._compacted)
        sync_path(self._compacted.parent)
        return size

    def _cuts(self, stale: Sequence[Row], known: int) -> list[tuple[int, int]]:
        """Return from where to where the rows go, with what parts them from those before, or from those after at the front."""
        cuts, front, between = [], len(self._head), len(encoded(self._format.between))
        for row in stale:
            if row.start == front:
                begin, end = row.start, min(row.start + row.bytes + between, known)
                front = end
            else:
                begin, end = row.start - between, row.start + row.bytes
            cuts.append((begin, end))
        return cuts

    def _finish_swap(self) -> None:
        if not self._journal.is_swapping(self._role):
            self._compacted.unlink(missing_ok=True)  # of a run that died before it was whole
            return
        if self._compacted.exists():
            os.replace(self._compacted, self._real_path)
            sync_path(self._real_path.parent)
        self._journal.end_swap(self._role)


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count > 0:
        data = old.read(min(count, COPY_BYTES))
        if not data:
            raise OSError(f"{old.name} became shorter while it was copied")
        new.write(data)
        count -= len(data)
