"""Find the audio files below a folder, each once even if several links lead to it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..audio import AUDIO_SUFFIXES
from .audio_filter import OTHER_SUFFIXES, AudioFilter, is_system_file, is_system_folder, kind_of
from .layouts import librispeech_references
from .patterns import is_folder


class FolderFile(NamedTuple):
    """An audio file in a folder, or an entry of the folder that cannot be read.

    Attributes:
        path: The path of the file or entry.
        reference: The reference text from LibriSpeech's `*.trans.txt` in the same folder.
        error: Why the entry cannot be read.
    """

    path: str
    reference: str | None = None
    error: str | None = None


@dataclass
class FolderWalk:
    """A walk through a folder: first everything below it, in alphabetical order, then the targets of links to folders.

    Every file therefore gets its path without links, if it has one below the folder, and links to folders that were visited
    before, such as a parent, are not followed.

    Attributes:
        filter: The filter that separates audio from other files.
        visited: Device and inode of the folders visited so far.
        link_targets: The real paths of the files that were yielded by the path of a link.
        met_visited: Whether a link led to a folder that was visited before.
        note: Function called with each warning about references.
    """

    filter: AudioFilter = field(default_factory=AudioFilter)
    visited: set[tuple[int, int]] = field(default_factory=set)
    link_targets: set[str] = field(default_factory=set)
    met_visited: bool = False
    note: Callable[[str], None] = lambda message: None

    def files(self, source: str) -> Iterator[FolderFile]:
        """Yield the audio files below `source`. Folders that cannot be read and broken links are yielded as errors."""
        inside = os.path.realpath(source)
        links = deque([source])
        while links:
            root = links.popleft()
            real_root = os.path.realpath(root)
            folders = [root]
            while folders:
                folder, subfolders = folders.pop(), list[str]()
                real = os.path.join(real_root, folder[len(root) :].lstrip("/"))
                yield from self._files_in(folder, real, inside, subfolders, links)
                folders += reversed(subfolders)

    def _files_in(self, folder: str, real: str, inside: str, subfolders: list[str], links: deque[str]) -> Iterator[FolderFile]:
        """Yield the files in a folder; append the folders in it to `subfolders`, or to `links` if they are links."""
        try:
            if not self._visit(folder):
                return
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield FolderFile(folder, error=f"{folder}: cannot be opened: {error.strerror or error}")
            return
        references: dict[str, str] | None = None
        for entry in entries:
            if is_folder(entry):
                if not is_system_folder(entry.name):
                    (links if entry.is_symlink() else subfolders).append(entry.path)
                continue
            for file in self._check(entry, real, inside):
                if file.error is None:
                    if references is None:
                        references = librispeech_references(folder, [each.name for each in entries], self.note)
                    file = file._replace(reference=references.get(os.path.splitext(entry.name)[0]))
                yield file

    def _visit(self, folder: str) -> bool:
        """Mark a folder as visited; return whether it was not before."""
        identity = _identity(folder)
        if identity in self.visited:
            self.met_visited = True
            return False
        self.visited.add(identity)
        return True

    def _check(self, entry: os.DirEntry[str], folder: str, inside: str) -> Iterator[FolderFile]:
        """Yield from `_file`, and yield an `OSError` as an error of the entry: files may vanish, and disks may fail."""
        try:
            yield from self._file(entry, folder, inside)
        except OSError as error:
            yield FolderFile(entry.path, error=f"{entry.path}: cannot be opened: {error.strerror or error}")

    def _file(self, entry: os.DirEntry[str], folder: str, inside: str) -> Iterator[FolderFile]:
        """Yield a file if it is audio and was not yielded before. `folder` is its folder with links resolved."""
        suffix = kind_of(entry.name)
        if entry.is_symlink():
            try:
                mode = os.stat(entry.path).st_mode
            except OSError as error:
                if suffix not in OTHER_SUFFIXES and not is_system_file(entry.name):
                    yield FolderFile(entry.path, error=f"{entry.path}: {link_error(entry.path, error)}")
                return
            target = os.path.realpath(entry.path)
            if self._is_reached_by_own_path(target, inside):
                return
        else:
            mode = 0 if entry.is_file(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_mode
            target = os.path.join(folder, entry.name) if self.link_targets else ""
            if target in self.link_targets:
                return
        if mode and not stat.S_ISREG(mode):
            if suffix in AUDIO_SUFFIXES:
                reason = f"this is {_kind(mode)}, not a regular file: to read it, pass it as a separate input"
                yield FolderFile(entry.path, error=f"{entry.path}: {reason}")
            return
        if not self.filter.accepts(entry.path):
            return
        if entry.is_symlink():
            self.link_targets.add(target)
        yield FolderFile(entry.path)

    def _is_reached_by_own_path(self, target: str, inside: str) -> bool:
        """Return whether the walk also reaches the target of a link by its own path."""
        folder = os.path.dirname(target)
        if not self.filter.is_audio(target):
            return False
        if os.path.commonpath((inside, folder)) == inside:
            return not any(map(is_system_folder, os.path.relpath(folder, inside).split(os.sep)))
        try:
            return _identity(folder) in self.visited
        except OSError:
            return False


def link_error(path: str, error: OSError) -> str:
    """Describe why the target of a link cannot be read."""
    if error.errno == errno.ENOENT:
        return f"this is a link to {os.readlink(path)}, which does not exist"
    if error.errno == errno.ELOOP:
        return "this link leads back to itself"
    return f"the target of this link cannot be opened: {error.strerror or error}"


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
