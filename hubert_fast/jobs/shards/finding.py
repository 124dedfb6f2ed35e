"""Find the shards that a path, URL, folder or glob pattern stands for, and name each by its path below the folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ...audio import AudioError
from ...audio.names import TAR_SUFFIXES, check_url
from ..audio_filter import AudioFilter, is_system_folder, is_system_path
from ..list_text import COMPRESSION_SUFFIXES
from ..patterns import is_pattern, matches, names_suffix
from . import kinds, streams
from .retries import StorageError, repeated

FIELD = re.compile(r"[^.]+\.(\d+)\.(?:tar(?:\.gz)?|jsonl(?:\.gz)?)")  # of Lhotse Shar: recording.000000.tar


class Found(NamedTuple):
    """A shard: its path or URL, and a name for its output, which is a path without suffixes."""

    url: str
    name: str


def find(source: str) -> Iterator[Found]:
    """Yield the shards that a source stands for, sorted.

    A folder is searched recursively; names are then relative to it, and to the part of a pattern before its first folder with
    a wildcard. A file, a folder without shards, what does not exist and local folders that cannot be read are yielded as they
    are.

    Raises:
        StorageError: If a remote folder or pattern cannot be listed.
    """
    shards = _sorted(_place(source))
    yield from shards or [Found(source, without_suffixes(kinds.name_of(source.rstrip("/"))))]


def in_folder(source: str, filter: AudioFilter) -> list[Found]:
    """Return the shards below a folder, sorted by their paths; none if the source is not a folder.

    Args:
        source: The path or URL of the folder.
        filter: A filter that counts the files that are neither shards nor fields of Lhotse Shar.

    Raises:
        StorageError: If a remote folder cannot be listed.
    """
    place = _place(source)
    return [shard for shard in _sorted(place, filter) if shard.url not in place.unreadable] if place.is_folder() else []


def without_suffixes(name: str) -> str:
    """Return a path without the suffix of a shard or a list: `train/000.tar.gz` becomes `train/000`."""
    for suffix in sorted(TAR_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or name
    stem, suffix = os.path.splitext(name)
    return os.path.splitext(stem)[0] if suffix.lower() in COMPRESSION_SUFFIXES else stem


class _Local:
    """The files on this machine.

    Attributes:
        path: The path of the file or folder, or the pattern.
        unreadable: The folders among the files that could not be read.
    """

    def __init__(self, source: str):
        self.path = streams.local_path(source) or source
        self.unreadable = set[str]()

    def is_folder(self) -> bool:
        return os.path.isdir(self.path)

    def is_pattern(self) -> bool:
        return is_pattern(self.path) and not os.path.lexists(self.path)

    def files(self) -> list[str]:
        """Return the files in the folder, with broken links, and the folders that cannot be read."""
        return self._below(self.path)

    def _below(self, path: str) -> list[str]:
        paths, visited = dict[str, str](), set[str]()

        def fail(error: OSError) -> None:
            self.unreadable.add(error.filename)

        for folder, folders, names in os.walk(path, onerror=fail, followlinks=True):
            visited.add(os.path.realpath(folder))
            inner = (name for name in sorted(folders) if not is_system_folder(name))
            folders[:] = [name for name in inner if os.path.realpath(os.path.join(folder, name)) not in visited]
            for file in (os.path.join(folder, name) for name in names):
                is_broken = os.path.islink(file) and not os.path.exists(file)
                if is_broken or (os.path.isfile(file) and (os.path.realpath(file) not in paths or not os.path.islink(file))):
                    paths[os.path.realpath(file)] = file  # once, by its own path rather than that of a link
        return [*paths.values(), *self.unreadable]

    def matches(self) -> list[str]:
        paths = matches(self.path)
        below = [file for path in paths if os.path.isdir(path) and "**" not in self.path for file in self._below(path)]
        return [path for path in paths if not os.path.isdir(path)] + below

    def url(self, path: str) -> str:
        return path


class _Remote:
    """The files of a file system of fsspec. Raises `StorageError` if it cannot be reached."""

    unreadable: frozenset[str] = frozenset()

    def __init__(self, source: str):
        self._source, self.path = source, ""
        if "::" in source or source.startswith(("http://", "https://")):  # no folders there
            return
        import fsspec

        try:
            check_url(source)
            self._system, self.path = fsspec.core.url_to_fs(source)
        except (AudioError, ImportError, ValueError) as error:
            raise StorageError(f"{source}: {error}") from None

    def is_folder(self) -> bool:
        return bool(self.path) and self._info().get("type") == "directory"

    def is_pattern(self) -> bool:
        return is_pattern(self.path) and not self._info()

    def _info(self) -> dict[str, Any]:
        """Return what the file system knows about the path; nothing if it does not exist."""

        def request() -> dict[str, Any]:
            try:
                return self._system.info(self.path)
            except FileNotFoundError:
                return {}

        return repeated(f"{self._source} cannot be opened", request)

    def files(self) -> list[str]:
        def request() -> list[str]:
            paths = list(self._system.find(self.path))
            if not paths:
                self._system.ls(self.path)  # some file systems find nothing where they cannot list
            return paths

        return repeated(f"{self._source} cannot be listed", request)

    def matches(self) -> list[str]:
        found = repeated(f"{self._source} cannot be listed", lambda: self._system.glob(self.path, detail=True))
        below = [
            file
            for path, info in found.items()
            if info["type"] == "directory" and "**" not in self.path
            for file in _Remote(self.url(path)).files()
        ]
        return [path for path, info in found.items() if info["type"] != "directory"] + below

    def url(self, path: str) -> str:
        return self._system.unstrip_protocol(path)


def _place(source: str) -> _Local | _Remote:
    return _Remote(source) if streams.local_path(source) is None else _Local(source)


def _sorted(place: _Local | _Remote, filter: AudioFilter | None = None) -> list[Found]:
    """Return the shards in a folder or among the matches of a pattern; none for other sources."""
    if place.is_folder():
        base, takes_all, paths = place.path, False, place.files()
    elif place.is_pattern():
        base, takes_all, paths = _base(place.path), names_suffix(place.path), place.matches()
    else:
        return []
    paths = sorted(set(_without_fields([path for path in paths if not is_system_path(_below(path, base))])))
    shards = [path for path in paths if takes_all or kinds.is_shard(path) or kinds.is_shar(path) or path in place.unreadable]
    if filter is not None:
        for path in sorted(set(paths) - set(shards)):
            filter.accepts(path)
    counts = Counter(without_suffixes(_below(path, base)) for path in shards)
    names = ((path, _below(path, base)) for path in shards)  # a.tar and a.parquet keep their suffixes
    return [
        Found(place.url(path), without_suffixes(name) if counts[without_suffixes(name)] == 1 else name) for path, name in names
    ]


def _base(pattern: str) -> str:
    """Return the part of a pattern before its first folder with a wildcard, or its folder."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:first])


def _below(path: str, base: str) -> str:
    folder = base.rstrip("/") + "/" if base else ""
    return path[len(folder) :].lstrip("/") if path.startswith(folder) else PurePosixPath(path).name


def _without_fields(paths: list[str]) -> list[str]:
    """Leave out the fields of Lhotse Shar, files whose number cuts in their folder have: they are read with the cuts."""
    cuts = {(os.path.dirname(path), match[1]) for path in paths if (match := kinds.SHAR_CUTS.fullmatch(os.path.basename(path)))}
    return [
        path
        for path in paths
        if kinds.is_shar(path)
        or (field := FIELD.fullmatch(os.path.basename(path))) is None
        or (os.path.dirname(path), field[1]) not in cuts
    ]
