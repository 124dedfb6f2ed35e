"""What of a run is done, on disk: so that it can be killed at any instant and goes on where it was.

Rows of output are written and synced before the journal says so in one transaction, together with the size that the output
then has. What an output holds beyond that size was on its way when the run was killed: it is cut off, and done again.

Of each utterance it is known what its file looked like when it was handed out, and where its rows are: when the file changes
it is done again, and its rows go from the output, see :mod:`.row_file`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from ..audio import is_url
from ..audio.raw_format import RAW_PREFIX

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sizes (file TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS names (name BLOB PRIMARY KEY, key BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (
    key BLOB PRIMARY KEY, failed INTEGER, audio_seconds REAL,
    words INTEGER, word_errors INTEGER, characters INTEGER, character_errors INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stale (file TEXT, start INTEGER, bytes INTEGER, checksum INTEGER);
"""
TABLES = ("meta", "sizes", "names", "done", "stale")
# columns that journals of earlier versions lack; there they are NULL
LATER_COLUMNS = ("file_bytes", "modified_ns", "row_start", "row_bytes", "row_checksum", "notes")
ROLES = ("output", "errors")  # of files, by whether an utterance failed


class JournalError(Exception):
    """A run cannot go on from a journal; the message says why and what to do."""


class Errors(NamedTuple):
    """Of a transcript against its reference: how long that is, and how many edits lie between."""

    words: int = 0
    word_errors: int = 0
    characters: int = 0
    character_errors: int = 0


class Totals(NamedTuple):
    """Sums over all utterances in a journal. with_notes: utterances with one note or more."""

    transcribed: int
    failed: int
    audio_seconds: float
    errors: Errors
    with_notes: int = 0


class Stamp(NamedTuple):
    """What tells that a file has changed: its size and the time of its last change. A missing file has ``MISSING``."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, audio: str) -> Stamp | None:
        """Return that of a path, or of the local archive that a URL such as ``zip://a.wav::b.zip`` leads into.

        ``None`` for other URLs, folders, pipes, standard input and what cannot be read.
        """
        path = audio.rpartition("::")[2] if is_url(audio) else audio
        path = path.removeprefix("file://").removeprefix("local://")
        if is_url(path) or path == "-" or path.startswith(RAW_PREFIX):
            return None
        try:
            there = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except (OSError, ValueError):
            return None
        return cls(there.st_size, there.st_mtime_ns) if stat.S_ISREG(there.st_mode) else None

    def is_changed(self, now: Stamp | None) -> bool:
        """Return whether there is now another file than then; one that has gone is none."""
        return now not in (None, MISSING, self)


MISSING = Stamp(-1, 0)


class Row(NamedTuple):
    """Where the rows of an utterance are: in the file with this role, from the byte ``start``, with their CRC-32."""

    file: str
    start: int
    bytes: int
    checksum: int


class Journal:
    """A file that one run at a time may hold; a temporary one for ``None``. Safe to ask from other threads.

    Raises :class:`JournalError` when another run holds it, or it is no journal.
    """

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            open(path, "ab").close()  # SQLite's errors do not say that a folder is read-only
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path or "", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # held until the process ends, however it ends; and no shared memory, which network file systems lack
            self._execute("PRAGMA locking_mode=EXCLUSIVE")
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            self._execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, SCHEMA.split(";")):
                self._execute(statement)
            there = {column[1] for column in self._execute("PRAGMA table_info(done)")}
            for column in LATER_COLUMNS:
                if column not in there:
                    self._execute(f"ALTER TABLE done ADD COLUMN {column} INTEGER")
            self._execute("COMMIT")
            self._execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if "locked" in str(error):
                raise JournalError(f"another run is at work on this output: it holds {path}") from None
            if "not a database" in str(error):
                raise JournalError(f"{path} is no journal of a run: move it away, or choose another output") from None
            raise

    def _execute(self, statement: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def settings(self) -> dict[str, Any] | None:
        """Return what the run was begun with; ``None`` of a new one."""
        rows = self._execute("SELECT value FROM meta WHERE name = 'settings'")
        return json.loads(rows[0][0]) if rows else None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of a new run, forgetting what there was, durably: before its output is cut to nothing."""
        for table in TABLES:
            self._execute(f"DELETE FROM {table}")
        self._execute("INSERT INTO meta VALUES ('settings', ?)", (json.dumps(settings),))
        self.commit({})

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Note settings that differ in what does not matter; durable after the next :meth:`commit`."""
        self._execute("INSERT OR REPLACE INTO meta VALUES ('settings', ?)", (json.dumps(settings),))

    def __contains__(self, key: bytes) -> bool:
        return bool(self._execute("SELECT 1 FROM done WHERE key = ?", (key,)))

    def is_current(self, key: bytes, now: Stamp | None) -> bool | None:
        """Return whether an utterance is done and its file is as it was then; ``None`` when it is not done."""
        rows = self._execute("SELECT file_bytes, modified_ns FROM done WHERE key = ?", (key,))
        if not rows:
            return None
        return rows[0][0] is None or not Stamp(*rows[0]).is_changed(now)

    def add(
        self,
        key: bytes,
        failed: bool,
        audio_seconds: float,
        errors: Errors,
        *,
        stamp: Stamp | None = None,
        row: Row | None = None,
        notes: int = 0,
    ) -> None:
        """Note that an utterance is done; durable after the next :meth:`commit`.

        stamp: of its file, ``None`` where that cannot be known. row: where its rows are, ``None`` in files of their own.
        """
        where = (None, None, None) if row is None else (row.start, row.bytes, row.checksum)
        values = (key, failed, audio_seconds, *errors, *(stamp or (None, None)), *where, notes)
        columns = ", ".join(("key", "failed", "audio_seconds", *Errors._fields, *LATER_COLUMNS))
        self._execute(f"INSERT INTO done ({columns}) VALUES ({', '.join('?' * len(values))})", values)

    def retire(self, key: bytes) -> bool:
        """Forget an utterance that is to be done again; its rows become stale. Return whether it was done."""
        rows = self._execute("SELECT failed, row_start, row_bytes, row_checksum FROM done WHERE key = ?", (key,))
        for failed, start, count, checksum in rows:
            self._execute("DELETE FROM done WHERE key = ?", (key,))
            if count:
                self._execute("INSERT INTO stale VALUES (?, ?, ?, ?)", (ROLES[failed], start, count, checksum))
        return bool(rows)

    def stale_rows(self, file: str) -> list[Row]:
        """Return the rows that are to be taken out of a file, in their order."""
        return [Row(*row) for row in self._execute("SELECT * FROM stale WHERE file = ? ORDER BY start", (file,))]

    def begin_swap(self, file: str, size: int, cuts: Sequence[tuple[int, int]]) -> None:
        """Note, durably, that a file of ``size`` bytes takes the place of one that has the bytes of ``cuts`` as well."""
        ends = [end for _, end in cuts]
        gone = [0, *accumulate(end - begin for begin, end in cuts)]

        def moved(start: int) -> int:
            return start - gone[bisect_right(ends, start)]

        self._connection.create_function("moved", 1, moved)
        self._execute(
            "UPDATE done SET row_start = moved(row_start) WHERE failed = ? AND row_start >= ?", (ROLES.index(file), cuts[0][0])
        )
        self._execute("DELETE FROM stale WHERE file = ?", (file,))
        self._execute("INSERT INTO meta VALUES (?, '')", (f"swap of {file}",))
        self.commit({file: size})

    def is_swapping(self, file: str) -> bool:
        """Return whether a file that was noted by :meth:`begin_swap` may not have taken its place yet."""
        return bool(self._execute("SELECT 1 FROM meta WHERE name = ?", (f"swap of {file}",)))

    def end_swap(self, file: str) -> None:
        """Note, durably, that the file has taken its place."""
        self._execute("DELETE FROM meta WHERE name = ?", (f"swap of {file}",))
        self.commit({})

    def forget_rows(self, file: str) -> None:
        """Forget where rows are in a file that has gone."""
        self._execute("UPDATE done SET row_start = NULL, row_bytes = NULL WHERE failed = ?", (ROLES.index(file),))
        self._execute("DELETE FROM stale WHERE file = ?", (file,))

    def owner(self, name: str) -> bytes | None:
        """Return the key of the utterance that a file name belongs to, whatever the case of its letters."""
        rows = self._execute("SELECT key FROM names WHERE name = ?", (_encoded(name),))
        return rows[0][0] if rows else None

    def claim(self, name: str, key: bytes) -> None:
        """Note that a file name belongs to an utterance."""
        self._execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (_encoded(name), key))

    def size_of(self, file: str) -> int:
        """Return the bytes that count of ``"output"`` or ``"errors"``: 0 of what was never committed."""
        rows = self._execute("SELECT bytes FROM sizes WHERE file = ?", (file,))
        return rows[0][0] if rows else 0

    def commit(self, sizes: Mapping[str, int]) -> None:
        """Make all that was added durable, together with the sizes of the output files."""
        if not self._connection.in_transaction:  # SQLite rolled it back: what was added is gone
            raise sqlite3.OperationalError("an earlier write failed")
        for file, size in sizes.items():
            self._execute("INSERT OR REPLACE INTO sizes VALUES (?, ?)", (file, size))
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")

    def forget_uncommitted(self) -> None:
        """Go back to the last commit."""
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        self._execute("BEGIN IMMEDIATE")

    def forget_failures(self) -> None:
        """Forget the utterances that failed, so that they are tried again; their rows are to be cut off as a whole."""
        self._execute("DELETE FROM done WHERE failed")
        self._execute("DELETE FROM stale WHERE file = 'errors'")

    def totals(self) -> Totals:
        """Return the sums over what is done."""
        columns = ("failed", "audio_seconds", *Errors._fields)
        sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in columns)
        query = f"SELECT COUNT(*), {sums}, COALESCE(SUM(notes > 0), 0) FROM done"
        ((count, failed, seconds, *errors, with_notes),) = self._execute(query)
        return Totals(count - failed, failed, seconds, Errors(*errors), with_notes)

    def close(self) -> None:
        """Close the journal; uncommitted rows are dropped."""
        with self._lock:
            self._connection.close()


def _encoded(name: str) -> bytes:
    return name.casefold().encode("utf-8", "surrogateescape")
