"""Where a path of a list leads: to the working folder or the list's, spelled as it is or as it was meant."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..audio import AUDIO_SUFFIXES, is_url
from ..audio.raw_format import RAW_PREFIX
from .list_text import repaired

# Folders that hold the audio of a list beside it: Common Voice's, LJSpeech's and those of other corpora.
SUBFOLDERS = ("clips", "wavs", "wav", "audio", "audios", "data", "flac")
COMMON_SUFFIXES = (".mp3", ".wav", ".flac", ".opus", ".ogg", ".m4a", ".sph")  # of paths that lack one
MOST_FOLDERS, MOST_LISTED = 10_000, 4  # that are remembered, and whose names are
PLACEHOLDER = re.compile(r"^(?:\{\w+\}|\$\{?\w+\}?)[/\\]+")  # {data_root}/, as SpeechBrain writes it


class Place(NamedTuple):
    """A path of a list. shown: what it is called; audio: what is opened; is_there: not known of URLs, which count as there."""

    shown: str
    audio: str
    is_there: bool = True


class Places:
    """Finds the files that a list names.

    folder: the list's own, a path or URL; ``""`` for the working folder alone. root: of the paths, if the list says one.
    """

    def __init__(self, folder: str, root: str | None = None):
        self.folder, self.root = folder, root
        self.roots = [""] if root is None else [root] if os.path.isabs(root) or is_url(root) else [root, joined(folder, root)]
        self._hint: tuple[str, str] | None = None  # the subfolder and suffix where the last file was
        self._folders: dict[str, bool] = {}  # of guesses, and whether they are there
        self._names: dict[str, dict[str, list[str]]] = {}  # of folders, by what they are without their case

    def find(self, path: str) -> Place:
        """Return where a path leads. If there is no such file by any spelling, it is of the list's folder."""
        if is_url(path) and (not path.startswith("file:") or _exists(path.removeprefix("file://"))):
            return Place(path, path)
        if is_url(self.folder):
            return Place(path, path if os.path.isabs(path) else joined(self.folder, path))
        for place in self._as_it_is(path):
            if _exists(place):
                return Place(path, as_file(place))
        for shown in _spellings(path):
            for place in self._as_it_is(shown):
                if self._may_exist(place) and _exists(place):
                    return Place(shown, as_file(place))
        for shown in _spellings(path):
            if not os.path.isabs(shown) and (place := self._in_layout(shown)) is not None:
                return Place(shown, as_file(place))
        for shown in _spellings(path):
            for place in self._as_it_is(shown):
                if (name := self._in_other_case(place)) is not None:
                    return Place(
                        os.path.join(os.path.dirname(shown), name), as_file(os.path.join(os.path.dirname(place), name))
                    )
        return Place(path, as_file(self._missing(path)), is_there=False)

    def _may_exist(self, place: str) -> bool:
        """Return whether the folder of a guess is there; that is looked up once, since lists have many files of a folder."""
        folder = os.path.dirname(place) or "."
        if folder not in self._folders:
            if len(self._folders) >= MOST_FOLDERS:
                self._folders.clear()
            self._folders[folder] = _exists(folder)
        return self._folders[folder]

    def _in_other_case(self, place: str) -> str | None:
        """Return the one name in the folder of a file that differs from the file's in the case of letters alone."""
        folder, name = os.path.split(place)
        if not (name and self._may_exist(place)):
            return None
        if folder not in self._names:
            if len(self._names) >= MOST_LISTED:
                self._names.clear()
            names = self._names[folder] = {}
            with contextlib.suppress(OSError, ValueError):
                for each in os.listdir(folder or "."):
                    names.setdefault(each.casefold(), []).append(each)
        found = self._names[folder].get(name.casefold(), [])
        return found[0] if len(found) == 1 and found[0] != name else None

    def _missing(self, path: str) -> str:
        if os.path.isabs(path):
            return path
        return joined(self.roots[0] or self.folder, path)

    def _as_it_is(self, path: str) -> Iterator[str]:
        if os.path.isabs(path):
            yield path
            return
        for root in self.roots:
            yield joined(root, path)
        if self.folder:
            yield joined(self.folder, path)

    def _in_layout(self, path: str) -> str | None:
        """Look in the folders beside a list that corpora have, and for the suffix of a name without one."""
        base = self.roots[0] or self.folder
        suffixes = ("",) if os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES else ("", *COMMON_SUFFIXES)
        tried = [(subfolder, suffix) for subfolder in ("", *SUBFOLDERS) for suffix in suffixes]
        for subfolder, suffix in ([self._hint] if self._hint in tried else []) + tried:
            place = joined(base, joined(subfolder, path + suffix))
            if (subfolder or suffix) and self._may_exist(place) and _exists(place):
                self._hint = (subfolder, suffix)
                return place
        return None


def folder_of(source: str) -> str:
    """Return the folder of a list: of a path, of a URL without its query, or within an archive as ``zip://folder::a.zip``."""
    if not is_url(source):
        return os.path.dirname(source)
    url, chained, within = source.partition("::")
    if url.startswith(("http://", "https://")):
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    protocol, _, path = url.partition("://")
    return f"{protocol}://{os.path.dirname(path)}{chained}{within}"


def joined(folder: str, path: str) -> str:
    """Return a path of a folder, as :func:`folder_of` gives it; without a folder the path itself."""
    if not folder:
        return path
    if not is_url(folder):
        return os.path.join(folder, path)
    url, chained, within = folder.partition("::")
    return f"{url}{'' if url.endswith('/') else '/'}{path}{chained}{within}"


def as_file(path: str) -> str:
    """Return a path so that it means a file and nothing else: ``-`` is standard input, and ``raw:`` begins a format."""
    return f"./{path}" if path == "-" or path.startswith(RAW_PREFIX) else path


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL
        return False


def _spellings(path: str) -> Iterator[str]:
    """Give a path as it is and, if there is no such file, as it may have been meant."""
    seen = {path, ""}
    yield path
    for change in SPELLINGS:
        for meant in [change(path), change(path.strip())]:
            if meant not in seen:
                seen.add(meant)
                yield meant


def _unquoted(path: str) -> str:
    path = path.strip()
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'`" else path


def _of_file_url(path: str) -> str:
    if not path.lower().startswith("file:"):
        return path
    parts = urlsplit(path, allow_fragments=False)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else path


def _of_home(path: str) -> str:
    return os.path.expanduser(path)


def _without_placeholder(path: str) -> str:
    return PLACEHOLDER.sub("", path)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _nfc(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _nfd(path: str) -> str:
    return unicodedata.normalize("NFD", path)


SPELLINGS = (
    str.strip,
    _unquoted,
    _of_file_url,
    _of_home,
    _without_placeholder,
    _with_slashes,
    _nfc,
    _nfd,
    unquote,
    repaired,
)
