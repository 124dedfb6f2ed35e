"""The audio at URLs that fsspec knows, and within archives, as URLs such as ``zip://a.wav::talks.zip``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..audio import AUDIO_SUFFIXES, AudioError, is_url
from ..audio.archives import PROTOCOLS as ARCHIVE_PROTOCOLS
from ..audio.names import archive_options, check_url
from ..first_bytes import head_of, identify
from .left_out import Sieve, is_within_resources
from .patterns import is_pattern, matches_within, names_suffix
from .rows import lowered, reference_of

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
COMPRESSED = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".tbz": "bzip2", ".tbz2": "bzip2", ".xz": "xz", ".txz": "xz"}
MOST_TEXT_BYTES = 1 << 16  # of a text beside audio in a WebDataset shard


class Item(NamedTuple):
    """What a URL leads to. name: its path below the folder, with its suffix. reference: the text beside it in a shard."""

    url: str
    name: str
    reference: str | None = None


class CannotList(Exception):
    """A URL or an archive cannot be looked at, or nothing in it is audio; the message says why, without its name."""


def is_archive(source: str) -> bool:
    """Return whether a path or URL is a zip or tar archive, by its suffix."""
    if "::" in source and is_url(source):
        return False
    name = urlsplit(source).path if source.startswith(("http://", "https://")) else source
    return name.lower().endswith((".zip", *TAR_SUFFIXES))


def url_of_archive(source: str) -> str:
    """Return the URL of all that is in an archive. Of a local file its bytes decide between zip and tar."""
    name = urlsplit(source).path if is_url(source) else source
    protocol = "zip" if name.lower().endswith(".zip") else "tar"
    if not is_url(source):
        with contextlib.suppress(OSError):
            identity = identify(head_of(source))
            protocol = identity.kind if identity is not None and identity.kind in ARCHIVE_PROTOCOLS else protocol
    return f"{protocol}://::{source}"


def reason_of(error: Exception) -> str:
    """Return in a few words why something could not be read: the system's reason, or an HTTP server's answer."""
    from ..audio.remote_errors import http_status

    status = http_status(error)
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0][:300]


def items(source: str, sieve: Sieve) -> Iterator[Item]:
    """Give the audio files that a URL leads to: itself, those of a folder or archive, or those that a pattern matches.

    Raises :class:`CannotList`.
    """
    try:
        check_url(source)
    except AudioError as error:
        raise CannotList(str(error)) from None
    if source.startswith(("http://", "https://")):  # which know no folders, and have ? in names
        yield Item(source, PurePosixPath(urlsplit(source).path).name)
        return
    import fsspec

    try:
        # kept here while its files are listed: an archive closes with it
        system, path = fsspec.core.url_to_fs(source, **archive_options(source))
        found = _found(system, path, source)
    except CannotList:
        raise
    except Exception as error:  # each file system has its own
        raise CannotList(_why_not(source, error)) from None
    if found is None:
        yield Item(source, PurePosixPath(path).name)
        return
    by_suffix = is_pattern(path) and names_suffix(path)
    within = source[source.index("::") :] if "::" in source else ""  # zip://a/*.wav::archive.zip
    is_shard = source.startswith("tar://")
    there = set(found) if is_shard else set()
    folder = path.rstrip("/") + "/" if path.strip("/") else ""
    count = 0
    for match in found:
        if not is_within_resources(match) and (by_suffix or sieve.takes(match)):
            name = match.removeprefix("./")
            name = name.removeprefix(folder) if name.startswith(folder) else PurePosixPath(name).name
            yield Item(system.unstrip_protocol(match) + within, name, _spoken(system, match, there) if is_shard else None)
            count += 1
    if not count:
        others = sieve.others()
        raise CannotList(f"no audio files here{f'; there are {others}' if others else ''}")


def _found(system: Any, path: str, source: str) -> list[str] | None:
    """Return the files that a URL leads to, or ``None`` when it is one itself."""
    if source.startswith(tuple(f"{protocol}://" for protocol in ARCHIVE_PROTOCOLS)):
        return _found_within(system, path)
    if is_pattern(path) and not system.exists(path):
        return sorted(match for match in system.glob(path) if not system.isdir(match))
    if system.isdir(path) and PurePosixPath(path).suffix.lower() not in AUDIO_SUFFIXES:
        return system.find(path)
    return None


def _found_within(system: Any, path: str) -> list[str] | None:
    names = system.find("")
    if path in names:
        return None
    if f"./{path}" in names:  # as `tar cf a.tar .` writes them
        return [f"./{path}"]
    if is_pattern(path):
        return matches_within(path, names)
    folder = path.strip("/") + "/"
    below = names if folder == "/" else [name for name in names if name.removeprefix("./").startswith(folder)]
    if not below and folder != "/":
        raise CannotList("no such file in this archive")
    return below


def _why_not(source: str, error: Exception) -> str:
    archive = source.partition("::")[2]
    if archive and not is_url(archive):
        with contextlib.suppress(OSError):
            identity = identify(head_of(archive))
            if identity is not None and identity.kind not in (*ARCHIVE_PROTOCOLS, COMPRESSED.get(_last_suffix(archive))):
                return identity.instead_of("an archive that can be read by its name")
    if "range requests" in str(error):
        return "this server sends no parts of files, which archives are read by: download it first"
    return f"cannot be opened: {reason_of(error)}"


def _last_suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _spoken(system: Any, name: str, there: set[str]) -> str | None:
    """Return the text of a sample of a WebDataset shard: of its ``.txt``, or a field of its ``.json``."""
    stem = os.path.splitext(name)[0]
    for beside in (f"{stem}.txt", f"{stem}.json"):
        if beside not in there:
            continue
        # what is wrong with a text costs no transcription
        with contextlib.suppress(Exception):
            if system.size(beside) <= MOST_TEXT_BYTES:
                text = system.cat_file(beside).decode("utf-8-sig")
                values = json.loads(text) if beside.endswith(".json") else {"text": text.strip()}
                return reference_of(lowered(values)) if isinstance(values, dict) else None
    return None
