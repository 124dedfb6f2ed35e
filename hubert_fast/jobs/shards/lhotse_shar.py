"""Read a shard of Lhotse Shar: cuts in `cuts.000000.jsonl.gz`, and beside it their audio in `recording.000000.tar`.

The tar has two members for each cut, in the order of the cuts: the audio as `ID.flac`, already cut to the cut, and then the
recording's manifest as `ID.json`. Empty members `ID.nodata` and `ID.nometa` stand for a cut without audio.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from ...audio.contained import Contained
from ...http_status import chain
from ...hub import first_line
from ..paths import join, parent_folder
from ..rows import parse_row
from ..utterances import Utterance
from . import kinds, streams
from .retries import StorageError
from .tar_members import DAMAGE, members

TAR_ENDINGS = (".tar", ".tar.gz")
METADATA, PLACEHOLDER = (".json", ".nometa"), ".nodata"
MOST_ROWS_WITHOUT_AUDIO = 100  # before the first cut that tells where audio is

Note = Callable[[str], None]


def is_shar(source: str) -> bool:
    """Return whether a list of cuts, by its name and its first cut, has its audio in a tar beside it.

    Raises:
        StorageError: If a URL cannot be read.
    """
    path = streams.local_path(source)
    if not kinds.is_shar(source) or (path is not None and not os.path.isfile(path)):
        return False
    try:
        with streams.opened(source) as file:
            for line in islice(streams.decompressed(file), MOST_ROWS_WITHOUT_AUDIO):
                kind = _kind_of_source(json.loads(line))
                if kind is not None:
                    return kind == "shar"
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):  # reading it as a list reports this
        pass
    return False


def _kind_of_source(cut: Any) -> str | None:
    try:
        return str(cut["recording"]["sources"][0]["type"])
    except (KeyError, IndexError, TypeError):
        return None


def utterances(source: str, note: Note = lambda message: None) -> Iterator[Utterance]:
    """Yield the cuts of a shard, in their order, with the bytes of their audio.

    A cut without audio, audio without a cut, and damage of either file are utterances with an error.

    Args:
        source: The path or URL of the cuts.
        note: Function called with each warning about the shard.

    Raises:
        StorageError: If a file cannot be opened or read.
    """
    tar = _tar_beside(source)
    with streams.opened(source) as cuts_file, streams.opened(tar) as tar_file:
        yield from _Shard(source, tar, note).utterances(cuts_file, tar_file)


def _tar_beside(source: str) -> str:
    """Return the path or URL of the tar that belongs to cuts, by its name."""
    match = kinds.SHAR_CUTS.fullmatch(kinds.name_of(source))
    assert match is not None
    names = [join(parent_folder(source), f"recording.{match[1]}{ending}") for ending in TAR_ENDINGS]
    for name in names:
        if _exists(name):
            return name
    raise StorageError(f"{source}: its audio cannot be opened: there is no {names[0]}")


def _exists(source: str) -> bool:
    path = streams.local_path(source)
    if path is not None:
        return os.path.exists(path)
    try:
        streams.size_of(source)
    except StorageError as error:
        if any(isinstance(cause, FileNotFoundError) for cause in chain(error)):
            return False
        raise
    return True


class _Shard:
    """Joins the cuts of a shard with the members of its tar."""

    def __init__(self, source: str, tar: str, note: Note):
        self._source, self._tar, self._note = source, tar, note
        self._n_cuts, self._problem = 0, ""

    def utterances(self, cuts_file: BinaryIO, tar_file: BinaryIO) -> Iterator[Utterance]:
        audio = self._audio(tar_file)
        for cut in self._cuts(cuts_file):
            if isinstance(cut, str):
                yield self._error(f"{self._source}:{self._n_cuts}", f"line {self._n_cuts} {cut}")
                next(audio, None)  # each cut has its place in the tar
                continue
            id, name_and_content = str(cut.get("id")), next(audio, None)
            if name_and_content is None:
                ends = self._problem or f"{self._tar} ends before it"
                yield self._error(id, f"the cut {id} and any after it have no audio: {ends}")
                return
            name, content = name_and_content
            if _id_of(name) != str(PurePosixPath(id)):
                reason = f"the cut {id} stands where the audio in {self._tar} is {name}, so the rest is lost"
                yield self._error(id, reason)
                return
            yield self._utterance(cut, id, content)
        if self._problem:  # of the cuts
            yield self._error(self._source, self._problem)
            return
        left = sum(1 for _ in audio)
        if self._problem:
            yield self._error(self._tar, self._problem)
        elif left:
            yield self._error(self._source, f"the cuts end before the audio: {left} recordings in {self._tar} have no cut")
        elif not self._n_cuts:
            yield self._error(self._source, "no cuts in this shard")

    def _error(self, id: str, reason: str) -> Utterance:
        return Utterance(id, self._source, error=f"{self._source}: {reason}")

    def _utterance(self, cut: dict[str, Any], id: str, content: Contained | None) -> Utterance:
        if content is None:
            return self._error(id, f"the cut {id} has no audio")
        entry = parse_row(self._n_cuts, _with_source(cut, str(content)))
        if entry.error is not None:
            return Utterance(id, str(content), error=f"{content}: {self._source}, {entry.error}")
        offset, duration = entry.offset_seconds or 0.0, entry.duration_seconds
        return Utterance(id, content, offset, duration, entry.reference, id, channel=entry.channel)

    def _cuts(self, file: BinaryIO) -> Iterator[dict[str, Any] | str]:
        """Yield the cuts, and what is wrong with each line that is not one. Keep what ends them in `_problem`."""
        try:
            for line in streams.decompressed(file):
                if not line.strip():
                    continue
                self._n_cuts += 1
                try:
                    cut = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield f"is not a JSON object: {error}"
                    continue
                yield cut if isinstance(cut, dict) else f"must be a JSON object, but is {type(cut).__name__}"
        except (OSError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            rows = f"{self._n_cuts} cuts before that were read, and the rest is lost"
            self._problem = f"the list of cuts is damaged ({first_line(error)}): {rows}"

    def _audio(self, file: BinaryIO) -> Iterator[tuple[str, Contained | None]]:
        """Yield name and content of each audio member; `None` for a placeholder. Keep damage in `_problem`."""
        name, count = "", 0
        try:
            for name, size, member in members(file):
                if name.endswith(METADATA):
                    continue
                url = f"tar://{name}::{self._tar}"
                yield name, None if name.endswith(PLACEHOLDER) else Contained.read(url, member, size)
                count += 1
        except DAMAGE as error:
            where = f"in or after {name}" if name else "at its beginning"
            self._problem = f"{self._tar} is damaged {where} ({first_line(error)}): {count} recordings before that were read"


def _id_of(name: str) -> str:
    """Return the id of a cut by the name of its member. Lhotse compares them as paths."""
    path = PurePosixPath(name)
    return str(path.parent / path.stem)


def _with_source(cut: dict[str, Any], audio: str) -> dict[str, Any]:
    """Return a cut whose recording is read from `audio`."""
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        return cut
    sources = [{**each, "type": "file", "source": audio} for each in recording.get("sources") or () if isinstance(each, dict)]
    return {**cut, "recording": {**recording, "sources": sources}}
