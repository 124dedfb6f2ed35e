"""What of a run is done, on disk: so that it can be killed at any instant and goes on where it was.

Rows of output are written and synced before the journal says so in one transaction, together with the size that the output
then has. What an output holds beyond that size was on its way when the run was killed: it is cut off, and done again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sizes (file TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS names (name BLOB PRIMARY KEY, key BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (
    key BLOB PRIMARY KEY, failed INTEGER, audio_seconds REAL,
    words INTEGER, word_errors INTEGER, characters INTEGER, character_errors INTEGER
) WITHOUT ROWID;
"""
TABLES = ("meta", "sizes", "names", "done")


class JournalError(Exception):
    """A run cannot go on from a journal; the message says why and what to do."""


class Errors(NamedTuple):
    """Of a transcript against its reference: how long that is, and how many edits lie between."""

    words: int = 0
    word_errors: int = 0
    characters: int = 0
    character_errors: int = 0


class Totals(NamedTuple):
    """Of all utterances in a journal."""

    transcribed: int
    failed: int
    audio_seconds: float
    errors: Errors


class Journal:
    """A file that one run at a time may hold; a temporary one for ``None``. Safe to ask from other threads.

    Raises :class:`JournalError` when another run holds it, or it is no journal.
    """

    def __init__(self, path: Path | None):
        self.path = path
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

    def __contains__(self, key: bytes) -> bool:
        return bool(self._execute("SELECT 1 FROM done WHERE key = ?", (key,)))

    def add(self, key: bytes, failed: bool, audio_seconds: float, errors: Errors) -> None:
        """Note that an utterance is done; durable after the next :meth:`commit`."""
        self._execute("INSERT INTO done VALUES (?, ?, ?, ?, ?, ?, ?)", (key, failed, audio_seconds, *errors))

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
        """Forget the utterances that failed, so that they are tried again."""
        self._execute("DELETE FROM done WHERE failed")

    def totals(self) -> Totals:
        columns = ("failed", "audio_seconds", *Errors._fields)
        sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in columns)
        ((count, failed, seconds, *errors),) = self._execute(f"SELECT COUNT(*), {sums} FROM done")
        return Totals(count - failed, failed, seconds, Errors(*errors))

    def close(self) -> None:
        """Let go of it; what was not committed is forgotten."""
        with self._lock:
            self._connection.close()


def _encoded(name: str) -> bytes:
    return name.casefold().encode("utf-8", "surrogateescape")
