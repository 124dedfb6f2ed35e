"""Run a job with an output for each shard: skip what is finished, and record what gets finished."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import Protocol

from ..sinks import safe_name
from ..summary import ShardCounts, Summary
from ..utterances import Shard
from .engine import ShardResult, ShardWork
from .finding import Found, find
from .manifest import Entry, Manifest, place_of, totals
from .progress import ShardProgress
from .retries import StorageError

COPY_SECONDS = 60.0  # between copies of the manifest, or more if they take long
MOST_FAILED_IN_A_ROW = 8  # shards that cannot be read although they may exist: the storage is down


class Engine(Protocol):
    """Processes shards, as `local_engine.LocalShards` does, or `ray_engine.RayShards` on a cluster."""

    @property
    def says(self) -> str: ...

    @property
    def batch_seconds(self) -> float: ...

    def results(self, shards: Iterable[Found]) -> Generator[ShardResult, None, None]: ...

    def stop(self) -> None: ...


def find_all(sources: Iterable[str]) -> list[Found]:
    """Return the shards in all sources, which are shards, folders and patterns, each once.

    Raises:
        StorageError: If a source cannot be listed.
    """
    found: dict[str, Found] = {}
    for source in sources:
        for each in find(source):
            found.setdefault(place_of(each.url), each)
    return [*found.values()]


def part_of(found: Iterable[Found], shard: Shard | None) -> list[Found]:
    """Return the shards in one part of them, which their places alone decide."""
    return [each for each in found if shard is None or shard.holds(_digest(place_of(each.url)))]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def named(found: Iterable[Found], entries: Iterable[Entry]) -> Iterator[Found]:
    """Yield shards with names that are theirs alone, whatever part of the shards a run processes.

    A shard that was finished in an earlier run keeps its name. Shards of the same name get hashes of their places.

    Args:
        found: All shards, also those that other runs process.
        entries: What is finished.
    """
    found = [shard._replace(name=_visible(safe_name(shard.name))) for shard in found]
    names = {entry.source: entry.name for entry in entries}
    owners = {name.casefold(): source for source, name in names.items()}
    counts = Counter(shard.name.casefold() for shard in found)
    for shard in found:
        place, name = place_of(shard.url), shard.name
        if counts[name.casefold()] > 1 or owners.get(name.casefold(), place) != place:
            name = f"{name}-{_digest(place).hex()[:8]}"
        yield shard._replace(name=names.get(place, name))


def _visible(name: str) -> str:
    """Return a name without parts that begin with `_` or `.`: they belong to the manifest, or readers leave them out."""
    return "/".join(f"shard{part}" if part.startswith(("_", ".")) else part for part in name.split("/"))


class ShardJob:
    """Processes the shards that are not finished yet. Call `run` once.

    Args:
        shards: All shards, with names of their own.
        work: What is done with each shard.
        manifest: What is finished.
        summary: Receives the counts.
        progress: Receives the outcome of each shard.
        retry_failed: Whether shards of which utterances failed are processed again.
    """

    def __init__(
        self,
        shards: list[Found],
        work: ShardWork,
        manifest: Manifest,
        summary: Summary,
        progress: ShardProgress,
        retry_failed: bool = False,
    ):
        self.work, self.manifest, self.summary, self.progress = work, manifest, summary, progress
        self.failed: list[ShardResult] = []
        self.pending: list[Found] = []
        counts = ShardCounts(total=len(shards))
        for shard in shards:
            entry = manifest.entries.get(shard.name)
            is_changed = entry is not None and entry.is_changed()
            summary.changed_this_run += is_changed
            if entry is None or is_changed or (retry_failed and entry.failed):
                self.pending.append(shard)
            else:
                summary.already_done += entry.done + entry.failed
                counts.already_done += 1
        self._counts = summary.shards = counts

    def run(self, engine: Engine) -> Summary:
        """Process the shards. What is finished stays so, whatever happens to the others.

        Raises:
            OutputError: If an output cannot be written. Exceptions of the engine are raised unchanged.
            StorageError: If so many shards in a row cannot be read that their storage must be down.
        """
        start = time.monotonic()
        copied, pause = start, COPY_SECONDS
        failed_in_a_row = 0
        results = engine.results(self.pending)
        try:
            for result in results:
                self._add(result)
                failed_in_a_row = failed_in_a_row + 1 if result.entry is None and not result.is_final else 0
                if failed_in_a_row == MOST_FAILED_IN_A_ROW:
                    raise StorageError(f"{failed_in_a_row} shards in a row could not be read; the last one: {result.error}")
                if time.monotonic() - copied > pause:
                    before = time.monotonic()
                    self.manifest.copy()
                    copied = time.monotonic()
                    pause = max(COPY_SECONDS, 20 * (copied - before))
            self.manifest.copy()
        finally:
            results.close()
            self.summary.batch_seconds = round(engine.batch_seconds, 3)
            self.summary.count(totals(self.manifest.entries.values()), time.monotonic() - start)
        return self.summary

    def _add(self, result: ShardResult) -> None:
        self.progress.done(result)
        entry = result.entry
        if entry is None:
            self._counts.failed += 1
            self._counts.errors.append(result.error or "")
            self.failed.append(result)
            return
        self.manifest.add(entry)
        self._counts.done_this_run += 1
        self.summary.done_this_run += entry.done
        self.summary.failed_this_run += entry.failed
        self.summary.with_notes_this_run += entry.with_notes
        self.summary.audio_seconds_this_run += entry.audio_seconds
