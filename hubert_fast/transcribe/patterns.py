"""What a pattern such as ``talks/**/*.wav`` matches, each file once, in time even where links lead around in circles."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import deque
from collections.abc import Iterator

from .left_out import is_resource_folder, is_within_resources

BRACES = re.compile(r"\{[^{}]*,[^{}]*\}")
MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Return whether a name has characters of a pattern in it."""
    return MAGIC.search(text) is not None


def names_suffix(pattern: str) -> bool:
    """Return whether a pattern says itself which suffix it means, such as ``*.wav``, and not ``*`` or ``a*``."""
    stem, suffix = os.path.splitext(os.path.basename(pattern))
    return len(suffix) > 1 and not is_pattern(suffix) and bool(stem)


def matches(pattern: str) -> list[str]:
    """Return what a pattern matches, sorted: ``*`` within a name, ``**`` any folders, a hidden name only by a dot of its own.

    A file to which several linked folders lead comes once, by the way without links if there is one. A link to a file is a file
    of its own, as hard links are, unless the file itself is matched.
    """
    root, parts = ("/", pattern.lstrip("/")) if pattern.startswith("/") else ("", pattern)
    found = _below(root, [part for part in parts.split("/") if part], set())
    if pattern.endswith("/"):
        found = (path for path in found if os.path.isdir(path))
    return _each_once(sorted(set(found)))


def _below(folder: str, parts: list[str], searched: set[tuple[str, int]]) -> Iterator[str]:
    """Give what the rest of a pattern matches in a folder. searched: real folders with how many parts were left there."""
    if not parts:
        yield folder
        return
    first, *rest = parts
    if first == "**":
        while rest and rest[0] == "**":
            rest = rest[1:]
        for each in _folders(folder, len(rest), searched):
            yield from _below(each, rest or ["*"], searched)
    elif is_pattern(first):
        names = fnmatch.filter(_names(folder), first)
        for name in names if first.startswith(".") else (name for name in names if not name.startswith(".")):
            path = os.path.join(folder, name)
            if not is_resource_folder(name) and (not rest or os.path.isdir(path)):
                yield from _below(path, rest, searched)
    elif os.path.lexists(path := os.path.join(folder, first)):
        yield from _below(path, rest, searched)


def _folders(folder: str, left: int, searched: set[tuple[str, int]]) -> Iterator[str]:
    """Give a folder and those below it, each once: first those that really lie in it, then those that links lead to."""
    links = deque([folder])
    while links:
        folder = links.popleft()
        folders = [(folder, os.path.realpath(folder or "."))]
        while folders:
            folder, real = folders.pop()
            if (real, left) in searched:
                continue  # a link leads back to here
            searched.add((real, left))
            yield folder
            try:
                with os.scandir(folder or ".") as scanned:
                    entries = [entry for entry in scanned if not entry.name.startswith(".") and _is_dir(entry)]
            except OSError:
                continue
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if is_resource_folder(entry.name):
                    continue
                if entry.is_symlink():
                    links.append(path)
                else:
                    folders.append((path, os.path.join(real, entry.name)))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:  # not a folder, or one that may not be entered
        return []


def _each_once(paths: list[str]) -> list[str]:
    """Leave out paths that lead through linked folders to what is there already, and links to files that are there."""
    by_place: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ".")
        place = os.path.join(folders[folder], name)
        before = by_place.get(place)
        if before is None or (os.path.abspath(path) == place != os.path.abspath(before)):
            by_place[place] = path
    return sorted(
        path for place, path in by_place.items() if not (os.path.islink(place) and os.path.realpath(place) in by_place)
    )


def real_place(path: str) -> str:
    """Return the path of a file without links on the way to it; the file itself may be one."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder or "."), name)


def matches_within(pattern: str, names: list[str]) -> list[str]:
    """Return which names of an archive a pattern matches, in the sense of :func:`matches`; hidden ones need no dot."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return [
        name
        for name in names
        if not is_within_resources(name) and _fits(parts, [part for part in name.split("/") if part not in ("", ".")])
    ]


def _fits(parts: list[str], names: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] != "**":
        return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(parts[1:], names[1:])
    return bool(names) and (len(parts) == 1 or any(_fits(parts[1:], names[index:]) for index in range(len(names))))
