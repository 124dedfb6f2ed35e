"""Expand patterns such as `talks/**/*.wav`. Each file is returned once, and cycles of links do no harm."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import deque
from collections.abc import Iterator

from .audio_filter import is_system_folder, is_system_path

MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Return whether a name contains wildcards."""
    return MAGIC.search(text) is not None


def names_suffix(pattern: str) -> bool:
    """Return whether a pattern ends with a literal suffix, like `*.wav` and unlike `*` or `a*`."""
    stem, suffix = os.path.splitext(os.path.basename(pattern))
    return len(suffix) > 1 and not is_pattern(suffix) and bool(stem)


def matches(pattern: str) -> list[str]:
    """Return the sorted paths that match a pattern.

    `*` matches within a name and `**` any number of folders; hidden names match only if the pattern has the dot.
    A file that several linked folders lead to is returned once, by its path without links if that path matches. A link to a
    file counts as a file of its own, like a hard link, unless the file itself matches too.
    """
    root, parts = ("/", pattern.lstrip("/")) if pattern.startswith("/") else ("", pattern)
    paths = _matches_below(root, [part for part in parts.split("/") if part], set())
    if pattern.endswith("/"):
        paths = (path for path in paths if os.path.isdir(path))
    return _deduplicate(sorted(set(paths)))


def _matches_below(folder: str, parts: list[str], searched: set[tuple[str, int]]) -> Iterator[str]:
    """Yield the matches of the rest of a pattern in a folder.

    `searched` holds the real folders searched so far, each with the number of parts that remained after a `**`.
    """
    if not parts:
        yield folder
        return
    first, *rest = parts
    if first == "**":
        while rest and rest[0] == "**":
            rest = rest[1:]
        for subfolder in _folders(folder, len(rest), searched):
            yield from _matches_below(subfolder, rest or ["*"], searched)
    elif is_pattern(first):
        names = fnmatch.filter(_names(folder), first)
        for name in names if first.startswith(".") else (name for name in names if not name.startswith(".")):
            path = os.path.join(folder, name)
            if not is_system_folder(name) and (not rest or os.path.isdir(path)):
                yield from _matches_below(path, rest, searched)
    elif os.path.lexists(path := os.path.join(folder, first)):
        yield from _matches_below(path, rest, searched)


def _folders(folder: str, n_parts: int, searched: set[tuple[str, int]]) -> Iterator[str]:
    """Yield a folder and all folders below it, each once: first those reached without links, then the targets of links."""
    links = deque([folder])
    while links:
        folder = links.popleft()
        folders = [(folder, os.path.realpath(folder or "."))]
        while folders:
            folder, real = folders.pop()
            if (real, n_parts) in searched:
                continue  # a link led back here
            searched.add((real, n_parts))
            yield folder
            try:
                with os.scandir(folder or ".") as scanned:
                    entries = [entry for entry in scanned if not entry.name.startswith(".") and is_folder(entry)]
            except OSError:
                continue
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if is_system_folder(entry.name):
                    continue
                if entry.is_symlink():
                    links.append(path)
                else:
                    folders.append((path, os.path.join(real, entry.name)))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one that can be followed."""
    try:
        return entry.is_dir()
    except OSError:  # a cycle of links
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:  # not a folder, or one without permission
        return []


def _deduplicate(paths: list[str]) -> list[str]:
    """Drop paths that reach a file through linked folders if another path does too, and links to files in `paths`."""
    by_location: dict[str, str] = {}
    real_folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(folder or ".")
        location = os.path.join(real_folders[folder], name)
        known = by_location.get(location)
        if known is None or (os.path.abspath(path) == location != os.path.abspath(known)):
            by_location[location] = path
    return sorted(
        path
        for location, path in by_location.items()
        if not (os.path.islink(location) and os.path.realpath(location) in by_location)
    )


def resolve_folder(path: str) -> str:
    """Return a path with the links in its folder resolved; the file itself may be a link."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder or "."), name)


def matches_within(pattern: str, names: list[str]) -> list[str]:
    """Return the names within an archive that match a pattern, as in `matches`, except that wildcards match hidden names."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return [
        name
        for name in names
        if not is_system_path(name) and _fits(parts, [part for part in name.split("/") if part not in ("", ".")])
    ]


def _fits(parts: list[str], names: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] != "**":
        return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(parts[1:], names[1:])
    return bool(names) and (len(parts) == 1 or any(_fits(parts[1:], names[index:]) for index in range(len(names))))
