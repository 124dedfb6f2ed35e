"""The audio files below a folder, each once, whatever links lead around in it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..audio import AUDIO_SUFFIXES
from .layouts import spoken_in
from .left_out import OTHER_SUFFIXES, Sieve, is_resource, is_resource_folder, suffix_of


class Found(NamedTuple):
    """A file, or why something could not be looked at. reference: what LibriSpeech's transcripts say that is said in it."""

    path: str
    reference: str | None = None
    error: str | None = None


@dataclass
class Walk:
    """Goes through a folder: first what really lies in it, alphabetically, then the folders that links lead to.

    sieve: tells audio from other files. So every file has the name that it has without links, if there is one, and links that
    lead up or to what was searched already end there. Kept: the folders that were entered, and the files that links lead to.
    """

    sieve: Sieve = field(default_factory=Sieve)
    entered: set[tuple[int, int]] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)
    came_back: bool = False  # to a folder that was searched already
    note: Callable[[str], None] = lambda message: None  # is called with what is wrong with transcripts

    def below(self, source: str) -> Iterator[Found]:
        """Give the audio files below ``source``; folders that may not be entered and links that lead nowhere as errors."""
        inside = os.path.realpath(source)
        links = deque([source])
        while links:
            root = links.popleft()
            real = os.path.realpath(root)
            folders = [root]
            while folders:
                folder, below = folders.pop(), list[str]()
                really = os.path.join(real, folder[len(root) :].lstrip("/"))
                yield from self._folder(folder, really, inside, below, links)
                folders += reversed(below)

    def _folder(self, folder: str, real: str, inside: str, folders: list[str], links: deque[str]) -> Iterator[Found]:
        """Give the files in a folder; add the folders in it to ``folders``, and those that links lead to, to ``links``."""
        try:
            if not self._enters(folder):
                return
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(folder, error=f"{folder}: cannot be opened: {error.strerror or error}")
            return
        words: dict[str, str] | None = None
        for entry in entries:
            if _is_dir(entry):
                if not is_resource_folder(entry.name):
                    (links if entry.is_symlink() else folders).append(entry.path)
                continue
            for found in self._looked_at(entry, real, inside):
                if words is None and found.error is None:
                    words = spoken_in(folder, [each.name for each in entries], self.note)
                stem = os.path.splitext(entry.name)[0]
                yield found if found.error is not None else found._replace(reference=(words or {}).get(stem))

    def _enters(self, folder: str) -> bool:
        """Note a folder; return whether it is a new one."""
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in self.entered:
            self.came_back = True
            return False
        self.entered.add(identity)
        return True

    def _looked_at(self, entry: os.DirEntry[str], folder: str, inside: str) -> Iterator[Found]:
        """Give a file as :meth:`_file` does; one that went away meanwhile, or that its disk cannot give, as an error."""
        try:
            yield from self._file(entry, folder, inside)
        except OSError as error:
            yield Found(entry.path, error=f"{entry.path}: cannot be opened: {error.strerror or error}")

    def _file(self, entry: os.DirEntry[str], folder: str, inside: str) -> Iterator[Found]:
        """Give a file if it is audio, is new, and can be read. folder: the real one that it lies in."""
        suffix = suffix_of(entry.name)
        if entry.is_symlink():
            try:
                mode = os.stat(entry.path).st_mode
            except OSError as error:
                if suffix not in OTHER_SUFFIXES and not is_resource(entry.name):
                    yield Found(entry.path, error=f"{entry.path}: {reason_of_link(entry.path, error)}")
                return
            target = os.path.realpath(entry.path)
            if self._is_elsewhere(target, inside):
                return
        else:
            mode = 0 if entry.is_file(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_mode
            target = os.path.join(folder, entry.name) if self.linked else ""
            if target in self.linked:
                return
        if mode and not stat.S_ISREG(mode):
            if suffix in AUDIO_SUFFIXES:
                yield Found(entry.path, error=f"{entry.path}: not a regular file but {_kind(mode)}: name it by itself")
            return
        if not self.sieve.takes(entry.path):
            return
        if entry.is_symlink():
            self.linked.add(target)
        yield Found(entry.path)

    def _is_elsewhere(self, target: str, inside: str) -> bool:
        """Return whether the file that a link leads to comes, or came, under its own name."""
        folder = os.path.dirname(target)
        if not self.sieve.is_audio(target):
            return False
        if os.path.commonpath((inside, folder)) == inside:
            return not any(map(is_resource_folder, os.path.relpath(folder, inside).split(os.sep)))
        try:
            status = os.stat(folder)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) in self.entered


def reason_of_link(path: str, error: OSError) -> str:
    """Say why what a link leads to cannot be had."""
    if error.errno == errno.ENOENT:
        return f"this link leads to {os.readlink(path)}, which is not there"
    if error.errno == errno.ELOOP:
        return "this link leads back to itself"
    return f"what this link leads to cannot be opened: {error.strerror or error}"


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
