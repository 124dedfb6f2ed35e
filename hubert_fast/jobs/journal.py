"""Record on disk what a run has done, so that the run can be killed at any instant and the next one continues from there.

Rows are written to the output and synced first; then one transaction records them in the journal, with the new size of the
output. If a run is killed, whatever lies beyond the recorded size is cut off, and its utterances are done again.

For each utterance the journal records the position of its rows, and the size and modification time that its file had before
it was read. If the file changes, the utterance is done again and its old rows are removed, see `row_file`.
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
# columns added since the first version; NULL in rows written before
LATER_COLUMNS = ("file_bytes", "modified_ns", "row_start", "row_bytes", "row_checksum", "notes", "frames")
ROLES = ("output", "errors")  # the rows of an utterance are in the file ROLES[failed]


class JournalError(Exception):
    """A run cannot use its journal or continue its output. The message says why, and what to do."""


class Errors(NamedTuple):
    """The length of a reference text and its edit distance from the transcript, both in words and in characters."""

    words: int = 0
    word_errors: int = 0
    characters: int = 0
    character_errors: int = 0


class Totals(NamedTuple):
    """Sums over all utterances in a journal; `with_notes` counts those with at least one note, and `frames` their frames."""

    done: int
    failed: int
    audio_seconds: float
    errors: Errors
    with_notes: int = 0
    frames: int = 0


class Stamp(NamedTuple):
    """Size and modification time of a file, which show whether it has changed. `MISSING` stands for a missing file."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, audio: str) -> Stamp | None:
        """Return the stamp of a path, or of the local archive that a URL such as `zip://a.wav::b.zip` refers to.

        Returns `None` for other URLs, folders, pipes, standard input and files that cannot be read.
        """
        path = audio.rpartition("::")[2] if is_url(audio) else audio
        path = path.removeprefix("file://").removeprefix("local://")
        if is_url(path) or path == "-" or path.startswith(RAW_PREFIX):
            return None
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except (OSError, ValueError):
            return None
        return cls(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def is_changed(self, now: Stamp | None) -> bool:
        """Return whether the stamp `now` differs. A file that is now missing, or has no stamp, does not count as changed."""
        return now not in (None, MISSING, self)


MISSING = Stamp(-1, 0)


class Row(NamedTuple):
    """The position of an utterance's rows: the role of their file, their first byte, size in bytes and CRC-32."""

    file: str
    start: int
    bytes: int
    checksum: int


class Journal:
    """An SQLite file that only one run at a time can open; a temporary one if `path` is `None`. Thread-safe.

    Raises:
        JournalError: If another run has it open, or if the file is not a journal.
    """

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            open(path, "ab").close()  # for a clearer error: SQLite does not say that a folder is read-only
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path or "", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # exclusive: stays locked until the process ends, and needs no shared memory, which network file systems lack
            self._execute("PRAGMA locking_mode=EXCLUSIVE")
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            self._execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, SCHEMA.split(";")):
                self._execute(statement)
            existing = {column[1] for column in self._execute("PRAGMA table_info(done)")}
            for column in LATER_COLUMNS:
                if column not in existing:
                    self._execute(f"ALTER TABLE done ADD COLUMN {column} INTEGER")
            self._execute("COMMIT")
            self._execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if "locked" in str(error):
                raise JournalError(f"another run is using this output: it has locked {path}") from None
            if "not a database" in str(error):
                raise JournalError(f"{path} is not a journal: move it away, or choose another output") from None
            raise

    def _execute(self, statement: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the run, `None` for a new journal."""
        rows = self._execute("SELECT value FROM meta WHERE name = 'settings'")
        return json.loads(rows[0][0]) if rows else None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Durably delete all records and record the settings of a new run, so that the output can be truncated afterwards."""
        for table in TABLES:
            self._execute(f"DELETE FROM {table}")
        self._execute("INSERT INTO meta VALUES ('settings', ?)", (json.dumps(settings),))
        self.commit({})

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace the settings by compatible ones. The change is durable after the next `commit`."""
        self._execute("INSERT OR REPLACE INTO meta VALUES ('settings', ?)", (json.dumps(settings),))

    def is_current(self, key: bytes, now: Stamp | None) -> bool | None:
        """Return whether the file of an utterance is unchanged since it was done; `None` if it is not done."""
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
        frames: int = 0,
    ) -> None:
        """Record that an utterance is done. The record is durable after the next `commit`.

        Args:
            key: The key of the utterance.
            failed: Whether it failed.
            audio_seconds: Duration of its audio.
            errors: The errors of its result against the reference.
            stamp: The stamp of its file from before it was read; `None` if unknown.
            row: The position of its rows; `None` if they are in a stream or in a file of their own.
            notes: Number of its notes.
            frames: Number of its frames, if the job counts them.
        """
        position = (None, None, None) if row is None else (row.start, row.bytes, row.checksum)
        values = (key, failed, audio_seconds, *errors, *(stamp or (None, None)), *position, notes, frames)
        columns = ", ".join(("key", "failed", "audio_seconds", *Errors._fields, *LATER_COLUMNS))
        self._execute(f"INSERT INTO done ({columns}) VALUES ({', '.join('?' * len(values))})", values)

    def retire(self, key: bytes) -> bool:
        """Delete an utterance that is to be done again and mark its rows as stale. Return whether it was done."""
        rows = self._execute("SELECT failed, row_start, row_bytes, row_checksum FROM done WHERE key = ?", (key,))
        for failed, start, count, checksum in rows:
            self._execute("DELETE FROM done WHERE key = ?", (key,))
            if count:
                self._execute("INSERT INTO stale VALUES (?, ?, ?, ?)", (ROLES[failed], start, count, checksum))
        return bool(rows)

    def stale_rows(self, file: str) -> list[Row]:
        """Return the rows to remove from a file, in the order of their positions."""
        return [Row(*row) for row in self._execute("SELECT * FROM stale WHERE file = ? ORDER BY start", (file,))]

    def forget_stale(self, file: str) -> None:
        """Record durably that a file no longer has outdated rows."""
        self._execute("DELETE FROM stale WHERE file = ?", (file,))
        self.commit({})

    def begin_swap(self, file: str, size: int, cuts: Sequence[tuple[int, int]]) -> None:
        """Record durably that a copy of `size` bytes, without the byte ranges `cuts`, is about to replace a file."""
        ends = [end for _, end in cuts]
        removed = [0, *accumulate(end - begin for begin, end in cuts)]

        def moved(start: int) -> int:
            return start - removed[bisect_right(ends, start)]

        self._connection.create_function("moved", 1, moved)
        self._execute(
            "UPDATE done SET row_start = moved(row_start) WHERE failed = ? AND row_start >= ?", (ROLES.index(file), cuts[0][0])
        )
        self._execute("DELETE FROM stale WHERE file = ?", (file,))
        self._execute("INSERT INTO meta VALUES (?, '')", (f"swap of {file}",))
        self.commit({file: size})

    def is_swapping(self, file: str) -> bool:
        """Return whether a swap was begun by `begin_swap` and is not known to be complete."""
        return bool(self._execute("SELECT 1 FROM meta WHERE name = ?", (f"swap of {file}",)))

    def end_swap(self, file: str) -> None:
        """Record durably that the swap is complete."""
        self._execute("DELETE FROM meta WHERE name = ?", (f"swap of {file}",))
        self.commit({})

    def forget_rows(self, file: str) -> None:
        """Delete the positions of rows in a file that no longer exists."""
        self._execute("UPDATE done SET row_start = NULL, row_bytes = NULL WHERE failed = ?", (ROLES.index(file),))
        self._execute("DELETE FROM stale WHERE file = ?", (file,))

    def owner(self, name: str) -> bytes | None:
        """Return the key of the utterance that owns a file name, `None` if none does. Case is ignored."""
        rows = self._execute("SELECT key FROM names WHERE name = ?", (_encoded(name),))
        return rows[0][0] if rows else None

    def claim(self, name: str, key: bytes) -> None:
        """Record that an utterance owns a file name."""
        self._execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (_encoded(name), key))

    def size_of(self, file: str) -> int:
        """Return the committed size in bytes of `"output"` or `"errors"`, 0 if nothing was committed."""
        rows = self._execute("SELECT bytes FROM sizes WHERE file = ?", (file,))
        return rows[0][0] if rows else 0

    def sizes(self) -> dict[str, int]:
        """Return all committed sizes, by role."""
        return dict(self._execute("SELECT file, bytes FROM sizes"))

    def commit(self, sizes: Mapping[str, int]) -> None:
        """Make all records durable, together with the sizes of the output files in bytes, by role."""
        if not self._connection.in_transaction:  # SQLite rolled it back, so the additions are lost
            raise sqlite3.OperationalError("an earlier write failed")
        for file, size in sizes.items():
            self._execute("INSERT OR REPLACE INTO sizes VALUES (?, ?)", (file, size))
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")

    def forget_uncommitted(self) -> None:
        """Roll back to the last commit."""
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        self._execute("BEGIN IMMEDIATE")

    def forget_failures(self) -> None:
        """Delete the failed utterances, so that they are retried. The caller truncates the file of failures."""
        self._execute("DELETE FROM done WHERE failed")
        self._execute("DELETE FROM stale WHERE file = 'errors'")

    def totals(self) -> Totals:
        """Return the sums over all finished utterances."""
        columns = ("failed", "audio_seconds", *Errors._fields)
        sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in columns)
        query = f"SELECT COUNT(*), {sums}, COALESCE(SUM(notes > 0), 0), COALESCE(SUM(frames), 0) FROM done"
        ((count, failed, seconds, *errors, with_notes, frames),) = self._execute(query)
        return Totals(count - failed, failed, seconds, Errors(*errors), with_notes, frames)

    def close(self) -> None:
        """Close the journal; uncommitted rows are dropped."""
        with self._lock:
            self._connection.close()


def _encoded(name: str) -> bytes:
    return name.casefold().encode("utf-8", "surrogateescape")
