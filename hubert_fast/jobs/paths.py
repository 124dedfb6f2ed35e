"""Resolve the paths in a list, in the working folder or the list's folder, as written or as they were probably meant."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..audio import is_url
from ..audio.names import has_audio_suffix
from ..audio.raw_format import RAW_PREFIX
from .list_text import repair_encoding

# Subfolders in which Common Voice, LJSpeech and other corpora keep the audio of a list.
SUBFOLDERS = ("clips", "wavs", "wav", "audio", "audios", "data", "flac")
COMMON_SUFFIXES = (".mp3", ".wav", ".flac", ".opus", ".ogg", ".m4a", ".sph")  # tried for paths without a suffix
MAX_FOLDERS, MAX_LISTINGS = 10_000, 4  # folders whose existence and whose contents are cached
PLACEHOLDER = re.compile(r"^(?:\{\w+\}|\$\{?\w+\}?)[/\\]+")  # {data_root}/, as SpeechBrain writes it


class ResolvedPath(NamedTuple):
    """A path in a list, resolved to a file or URL.

    Attributes:
        name: The path to show to the user.
        audio: The path or URL to open.
        exists: Whether there is such a file; URLs are not checked and count as existing.
    """

    name: str
    audio: str
    exists: bool = True


class PathResolver:
    """A resolver for the paths in a list.

    Args:
        folder: The path or URL of the list's folder; `""` to use only the working folder.
        root: The folder that the list declares its paths relative to.
    """

    def __init__(self, folder: str, root: str | None = None):
        self.folder, self.root = folder, root
        self.roots = [""] if root is None else [root] if os.path.isabs(root) or is_url(root) else [root, join(folder, root)]
        self._hint: tuple[str, str] | None = None  # subfolder and suffix of the previous file
        self._folder_exists: dict[str, bool] = {}
        self._listings: dict[str, dict[str, list[str]]] = {}  # by folder: its names, by their case-folded form

    def resolve(self, path: str) -> ResolvedPath:
        """Resolve a path. If it does not exist in any spelling, it is taken to be relative to the list's folder."""
        if is_url(path) and (not path.startswith("file:") or _exists(path.removeprefix("file://"))):
            return ResolvedPath(path, path)
        if is_url(self.folder):
            return ResolvedPath(path, path if os.path.isabs(path) else join(self.folder, path))
        for candidate in self._candidates(path):
            if _exists(candidate):
                return ResolvedPath(path, as_file(candidate))
        for spelling in _spellings(path):
            for candidate in self._candidates(spelling):
                if self._has_folder(candidate) and _exists(candidate):
                    return ResolvedPath(spelling, as_file(candidate))
        for spelling in _spellings(path):
            if not os.path.isabs(spelling) and (audio := self._in_subfolder(spelling)) is not None:
                return ResolvedPath(spelling, as_file(audio))
        for spelling in _spellings(path):
            for candidate in self._candidates(spelling):
                if (name := self._in_other_case(candidate)) is not None:
                    return ResolvedPath(_with_name(spelling, name), as_file(_with_name(candidate, name)))
        return ResolvedPath(path, as_file(self._default(path)), exists=False)

    def _has_folder(self, path: str) -> bool:
        """Return whether the folder of a path exists. This is cached, since many files of a list share a folder."""
        folder = os.path.dirname(path) or "."
        if folder not in self._folder_exists:
            if len(self._folder_exists) >= MAX_FOLDERS:
                self._folder_exists.clear()
            self._folder_exists[folder] = _exists(folder)
        return self._folder_exists[folder]

    def _in_other_case(self, path: str) -> str | None:
        """Return the only name in the folder of `path` that differs from it just in the case of letters, or `None`."""
        folder, name = os.path.split(path)
        if not (name and self._has_folder(path)):
            return None
        if folder not in self._listings:
            if len(self._listings) >= MAX_LISTINGS:
                self._listings.clear()
            listing = self._listings[folder] = {}
            with contextlib.suppress(OSError, ValueError):
                for each in os.listdir(folder or "."):
                    listing.setdefault(each.casefold(), []).append(each)
        matches = self._listings[folder].get(name.casefold(), [])
        return matches[0] if len(matches) == 1 and matches[0] != name else None

    def _default(self, path: str) -> str:
        if os.path.isabs(path):
            return path
        return join(self.roots[0] or self.folder, path)

    def _candidates(self, path: str) -> Iterator[str]:
        if os.path.isabs(path):
            yield path
            return
        for root in self.roots:
            yield join(root, path)
        if self.folder:
            yield join(self.folder, path)

    def _in_subfolder(self, path: str) -> str | None:
        """Search the `SUBFOLDERS` beside a list, adding the `COMMON_SUFFIXES` to a name without one."""
        base = self.roots[0] or self.folder
        suffixes = ("",) if has_audio_suffix(path) else ("", *COMMON_SUFFIXES)
        guesses = [(subfolder, suffix) for subfolder in ("", *SUBFOLDERS) for suffix in suffixes]
        if self._hint in guesses:
            guesses.insert(0, self._hint)
        for subfolder, suffix in guesses:
            candidate = join(base, join(subfolder, path + suffix))
            if (subfolder or suffix) and self._has_folder(candidate) and _exists(candidate):
                self._hint = (subfolder, suffix)
                return candidate
        return None


def parent_folder(source: str) -> str:
    """Return the folder of a path or URL, without a query.

    That of `zip://folder/list.txt::a.zip`, a file in an archive, is `zip://folder::a.zip`.
    """
    if not is_url(source):
        return os.path.dirname(source)
    url, chained, archive = source.partition("::")
    if url.startswith(("http://", "https://")):
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    protocol, _, path = url.partition("://")
    return f"{protocol}://{os.path.dirname(path)}{chained}{archive}"


def join(folder: str, path: str) -> str:
    """Join a path to a folder as `parent_folder` returns it; without a folder, return the path."""
    if not folder:
        return path
    if not is_url(folder):
        return os.path.join(folder, path)
    url, chained, archive = folder.partition("::")
    return f"{url}{'' if url.endswith('/') else '/'}{path}{chained}{archive}"


def as_file(path: str) -> str:
    """Return a spelling of a path that can only mean a file: `-` alone is standard input, `raw:` introduces a format."""
    return f"./{path}" if path == "-" or path.startswith(RAW_PREFIX) else path


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # the path holds a NUL
        return False


def _with_name(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _spellings(path: str) -> Iterator[str]:
    """Yield a path as it is written, then as it may have been meant."""
    seen = {path, ""}
    yield path
    for change in SPELLINGS:
        for spelling in (change(path), change(path.strip())):
            if spelling not in seen:
                seen.add(spelling)
                yield spelling


def _unquote_shell(path: str) -> str:
    path = path.strip()
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'`" else path


def _from_file_url(path: str) -> str:
    if not path.lower().startswith("file:"):
        return path
    parts = urlsplit(path, allow_fragments=False)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else path


def _expand_user(path: str) -> str:
    return os.path.expanduser(path)


def _drop_placeholder(path: str) -> str:
    return PLACEHOLDER.sub("", path)


def _replace_backslashes(path: str) -> str:
    return path.replace("\\", "/")


def _nfc(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _nfd(path: str) -> str:
    return unicodedata.normalize("NFD", path)


SPELLINGS = (
    str.strip,
    _unquote_shell,
    _from_file_url,
    _expand_user,
    _drop_placeholder,
    _replace_backslashes,
    _nfc,
    _nfd,
    unquote,
    repair_encoding,
)
