"""Append rows to a file, truncate it to the size in the journal, and remove outdated rows from it."""

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
    """Encode as UTF-8. Lone surrogates, as in file names that are not UTF-8, become escapes that JSON can decode."""
    return text.encode("utf-8", "backslashreplace")


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_size(path: Path, size: int, journal: Journal) -> None:
    """Check that a file has all bytes that were committed. More are no fault: a run that was killed may have left them.

    Raises:
        JournalError: If the file is shorter than its committed size.
    """
    present = path.stat().st_size if path.exists() else 0
    if present < size:
        raise JournalError(
            f"{path} has {present} bytes, but according to {journal.path} it had {size}: restore it, or start over with "
            "--overwrite"
        )


class RowFile:
    """A file of rows. The journal records its committed size under its role.

    Args:
        path: The file, created if missing.
        role: `"output"` or `"errors"`.
        journal: Records sizes and outdated rows.
        format: Determines the text at the beginning and end of the file and between rows.
        is_optional: Whether the file may be missing; it is then removed if it ends up empty.

    Raises:
        JournalError: If the file is shorter than the journal says.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path, role: str, journal: Journal, format: RowFormat, is_optional: bool = False):
        self.path, self._role, self._journal, self._format, self._is_optional = path, role, journal, format, is_optional
        self._head = encoded(format.head)
        self._finish_swap()
        known = journal.size_of(role)
        if is_optional and known and not path.exists():
            known = 0
            journal.forget_rows(role)
            journal.commit({role: 0})
        check_size(path, known, journal)
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115
        self._file.truncate(known)  # cuts off rows that were not committed before a kill, and the tail
        self._size = known
        self._is_closed = False
        if not known:
            sync_path(path.parent)
            self._write(self._head)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)

    def append(self, text: str) -> Row:
        """Write the rows of one utterance; return their position."""
        data = encoded(text)
        if data and self._size > len(self._head):
            self._write(encoded(self._format.between))
        start = self._size
        self._write(data)
        return Row(self._role, start, len(data), zlib.crc32(data))

    def sync(self) -> dict[str, int]:
        """Flush everything to disk; return the size, by the file's role."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {self._role: os.fstat(self._file.fileno()).st_size}

    def finish(self) -> None:
        """Remove outdated rows, write the file's tail and close it. All rows must have been committed.

        Raises:
            JournalError: If another program has changed an outdated row.
            OSError: If the file cannot be written.
        """
        self._file.close()
        stale = self._journal.stale_rows(self._role)
        if stale:
            self._remove(stale)
        self._complete()
        self._is_closed = True

    def close(self) -> None:
        """Close the file without its uncommitted rows, which may be incomplete and will be written again."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._file.close()
        except OSError:  # such as a full disk, which was reported when the row was written
            pass
        finally:
            with contextlib.suppress(sqlite3.Error):  # the journal is unreadable too: the next run truncates
                self._complete()

    def _complete(self) -> None:
        """Truncate the file to the size in the journal and append the tail, which the next run cuts off again."""
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
        return self.path.resolve()  # a symbolic link stays, and the file that it points to is replaced

    @property
    def _compacted(self) -> Path:
        return self._real_path.with_name(self._real_path.name + ".compacted")

    def _remove(self, stale: Sequence[Row]) -> None:
        """Replace the file by a copy without the stale rows. A kill or a power cut after any step does no harm.

        The copy is flushed to disk; one transaction records its size and the pending swap in the journal; the copy replaces
        the file; the journal records that the swap is complete. A run that starts after a kill takes the remaining steps.
        """
        known = self._journal.size_of(self._role)
        cuts = self._cuts(stale, known)
        try:
            size = self._write_compacted(stale, cuts, known)
        except BaseException:  # such as a full disk: a partial copy can be as large as the output
            self._compacted.unlink(missing_ok=True)
            raise
        self._journal.begin_swap(self._role, size, cuts)
        self._finish_swap()

    def _write_compacted(self, stale: Sequence[Row], cuts: Sequence[tuple[int, int]], known: int) -> int:
        """Write a copy without the bytes of `cuts` to disk; return its size."""
        with open(self._real_path, "rb") as old, open(self._compacted, "wb") as new:
            for row in stale:
                old.seek(row.start)
                if zlib.crc32(old.read(row.bytes)) != row.checksum:
                    raise JournalError(
                        f"{self.path} was modified after {self._journal.path} was written, so its outdated rows cannot be "
                        "removed: start over with --overwrite"
                    )
            position = 0
            for begin, end in [*cuts, (known, known)]:
                old.seek(position)
                _copy(old, new, begin - position)
                position = end
            size = new.tell()
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(self._real_path, self._compacted)
        sync_path(self._compacted.parent)
        return size

    def _cuts(self, stale: Sequence[Row], known: int) -> list[tuple[int, int]]:
        """Return the byte ranges to remove: the rows with the separator before them, or after them at the front of the file."""
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
            self._compacted.unlink(missing_ok=True)  # an incomplete copy, left by a run that was killed
            return
        if self._compacted.exists():
            os.replace(self._compacted, self._real_path)
            sync_path(self._real_path.parent)
        self._journal.end_swap(self._role)


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count > 0:
        data = old.read(min(count, COPY_BYTES))
        if not data:
            raise OSError(f"{old.name} shrank while it was copied")
        new.write(data)
        count -= len(data)
