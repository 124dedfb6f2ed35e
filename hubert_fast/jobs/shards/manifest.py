"""Record which shards are finished, beside their outputs.

    OUT/NAME.jsonl              the rows of a shard
    OUT/_errors/NAME.jsonl      its failures, if there are any
    OUT/_shards/NAME.json       its entry, which is written last: a shard without one is not finished
    OUT/_shards.jsonl           a copy of all entries in one file, so that a later run needs no request for each
    OUT/_settings.json          the settings that determine the rows
    OUT/_summary.json           the counts

Readers of folders, such as Spark and pyarrow, leave out names that begin with `_`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ..journal import Errors, JournalError, Stamp, Totals
from .storage import Storage
from .streams import local_path

SETTINGS, COPY, SUMMARY = "_settings.json", "_shards.jsonl", "_summary.json"
ENTRIES, FAILURES = "_shards/", "_errors/"
READERS = 16  # requests at a time


@dataclass(frozen=True)
class Entry:
    """A finished shard.

    Attributes:
        name: Its name below the output folder, without suffix.
        source: Its place: an absolute path or a URL.
        output: The name of its output.
        output_bytes: The size of its output.
        done: Utterances that have a result.
        failed: Utterances that have none.
        audio_seconds: Duration of all audio with a result.
        errors: Word and character errors: the fields of `journal.Errors`.
        with_notes: Utterances with a note.
        frames: Frames that were computed, if the job counts them.
        stamp: Size and modification time that a local shard had before it was read.
    """

    name: str
    source: str
    output: str
    output_bytes: int
    done: int
    failed: int
    audio_seconds: float
    errors: tuple[int, int, int, int] = (0, 0, 0, 0)
    with_notes: int = 0
    frames: int = 0
    stamp: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        """The name of the file with this entry."""
        return f"{ENTRIES}{self.name}.json"

    @property
    def failures(self) -> str:
        """The name of the file with the failures."""
        return f"{FAILURES}{self.name}.jsonl"

    def is_changed(self) -> bool:
        """Return whether a local shard has changed since it was read."""
        return self.stamp is not None and Stamp(*self.stamp).is_changed(Stamp.of(self.source))

    def to_json(self) -> str:
        """Return the entry as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=True) + "\n"

    @classmethod
    def parse(cls, line: str | bytes) -> Entry:
        """Parse a line that `to_json` returned. Fields of later versions are ignored."""
        values = {name: value for name, value in json.loads(line).items() if name in cls.__dataclass_fields__}
        stamp = values.get("stamp")
        return cls(**{**values, "errors": tuple(values["errors"]), "stamp": None if stamp is None else tuple(stamp)})


def place_of(source: str) -> str:
    """Return an absolute path or a URL, which names a file independently of the working folder."""
    path = local_path(source)
    return source.rstrip("/") if path is None else os.path.abspath(path)


def totals(entries: Iterable[Entry]) -> Totals:
    """Return the sums over all entries."""
    sums: list[Any] = [0, 0, 0.0, [0, 0, 0, 0], 0, 0]
    for entry in entries:
        values = (entry.done, entry.failed, entry.audio_seconds, entry.errors, entry.with_notes, entry.frames)
        for index, value in enumerate(values):
            sums[index] = [a + b for a, b in zip(sums[index], value)] if isinstance(value, tuple) else sums[index] + value
    done, failed, seconds, errors, with_notes, frames = sums
    return Totals(done, failed, seconds, Errors(*errors), with_notes, frames)


def _parsed(line: bytes) -> Entry | None:
    """Return an entry, or `None` for a damaged one, whose shard is done again."""
    try:
        return Entry.parse(line)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


class Manifest:
    """The finished shards of an output. A listing shows which they are.

    Attributes:
        entries: The entries, by name.
        is_empty: Whether the folder had no files.
    """

    def __init__(self, storage: Storage):
        self._storage = storage
        self._sizes = storage.sizes()
        self.is_empty = not self._sizes
        self.entries = self._read()
        self._has_new = False

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the run that began this output; `None` if there was none."""
        if SETTINGS not in self._sizes:
            return None
        try:
            return dict(json.loads(self._storage.read(SETTINGS)))
        except (ValueError, TypeError) as error:
            raise JournalError(f"{self._storage.url}/{SETTINGS} is damaged ({error}): name another folder") from None

    def _read(self) -> dict[str, Entry]:
        names = {name for name in self._sizes if name.startswith(ENTRIES) and name.endswith(".json")}
        copied = self._storage.read(COPY).splitlines() if COPY in self._sizes else []
        known = {entry.file: entry for entry in map(_parsed, copied) if entry is not None}
        entries = [entry for file, entry in known.items() if file in names and self._is_same(entry) and self._is_there(entry)]
        missing = names - {entry.file for entry in entries}
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda name: _parsed(self._storage.read(name)), sorted(missing))
            entries += [entry for entry in read if entry is not None and self._is_there(entry)]
        return {entry.name: entry for entry in entries}

    def _is_there(self, entry: Entry) -> bool:
        """Return whether the output of an entry is as it was written. One that was removed is made again."""
        return self._sizes.get(entry.output) == entry.output_bytes

    def _is_same(self, entry: Entry) -> bool:
        """Return whether an entry in the copy is as long as its file, which a run that was killed may have written anew."""
        return self._sizes[entry.file] == len(entry.to_json().encode())

    def begin(self, settings: dict[str, Any], suffix: str | None) -> None:
        """Begin an output with these settings, after removing the one that is there.

        Args:
            settings: The settings.
            suffix: The suffix of the outputs that are there; `None` if there are none.
        """
        ours = [name for name in self._sizes if name.startswith((ENTRIES, FAILURES)) or name in (COPY, SUMMARY)]
        outputs = [] if suffix is None else [name for name in self._sizes if name.endswith(f".{suffix}")]
        self._storage.remove(dict.fromkeys(ours + outputs))
        self.entries.clear()
        self._storage.begin()
        self.keep_settings(settings)

    def keep_settings(self, settings: dict[str, Any]) -> None:
        """Write the settings."""
        self._storage.write(SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())

    def add(self, entry: Entry) -> None:
        """Add the entry of a shard that was finished in this run."""
        self.entries[entry.name] = entry
        self._has_new = True

    def copy(self) -> None:
        """Write the copy of all entries, if there are new ones."""
        if self._has_new:
            self._storage.write(COPY, "".join(entry.to_json() for entry in self.entries.values()).encode())
            self._has_new = False
