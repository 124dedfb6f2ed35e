"""Find audio at URLs that fsspec can open, and in archives, whose files get URLs such as `zip://a.wav::talks.zip`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..audio import AudioError, is_url
from ..audio.archives import PROTOCOLS as ARCHIVE_PROTOCOLS
from ..audio.names import COMPRESSION, SHORT_TAR_SUFFIXES, TAR_SUFFIXES, archive_options, check_url, has_audio_suffix
from ..first_bytes import head_of, identify
from ..http_status import describe_status, http_status
from ..hub import first_line
from .audio_filter import AudioFilter, is_system_path
from .patterns import is_pattern, matches_within, names_suffix
from .rows import MOST_TEXT_BYTES, TEXT_SUFFIXES, reference_in_file

KIND_OF_COMPRESSION = {"gzip": "gzip", "bz2": "bzip2", "xz": "xz"}  # fsspec's name -> ours, in `first_bytes`


class RemoteFile(NamedTuple):
    """An audio file at a URL or in an archive.

    Attributes:
        url: Its URL.
        name: Its path below the folder or archive, with its suffix.
        reference: The reference text beside it in a WebDataset shard.
    """

    url: str
    name: str
    reference: str | None = None


class CannotListError(Exception):
    """A URL or archive cannot be listed, or holds no audio. The message says why, but does not name it."""


class NoAudioError(CannotListError):
    """A URL or archive was listed, and holds no audio."""


def is_archive(source: str) -> bool:
    """Return whether a path or URL has the suffix of a zip or tar archive."""
    if "::" in source and is_url(source):
        return False
    name = urlsplit(source).path if source.startswith(("http://", "https://")) else source
    return name.lower().endswith((".zip", *TAR_SUFFIXES))


def url_of_archive(source: str) -> str:
    """Return the URL of everything in an archive. The first bytes of a local file decide whether it is a zip or a tar."""
    name = urlsplit(source).path if is_url(source) else source
    protocol = "zip" if name.lower().endswith(".zip") else "tar"
    if not is_url(source):
        with contextlib.suppress(OSError):
            identity = identify(head_of(source))
            protocol = identity.kind if identity is not None and identity.kind in ARCHIVE_PROTOCOLS else protocol
    return f"{protocol}://::{source}"


def reason_of(error: Exception) -> str:
    """Return a short reason why a file cannot be read: a server's HTTP status, or the operating system's message."""
    status = http_status(error)
    if status is not None:
        return f"the server answered {describe_status(status)}"
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return getattr(error, "strerror", None) or first_line(error)


def list_files(source: str, filter: AudioFilter) -> Iterator[RemoteFile]:
    """Yield the audio files at a URL: the file itself, those in a folder or archive, or those that match a pattern.

    Raises:
        CannotListError: If the URL cannot be listed or holds no audio.
    """
    try:
        check_url(source)
    except AudioError as error:
        raise CannotListError(str(error)) from None
    if source.startswith(("http://", "https://")):  # no folders, and "?" begins a query
        yield RemoteFile(source, PurePosixPath(urlsplit(source).path).name)
        return
    import fsspec

    try:
        # `system` is kept while files are yielded: an archive is closed when its file system is garbage-collected
        system, path = fsspec.core.url_to_fs(source, **archive_options(source))
        paths = _list(system, path, source)
    except CannotListError:
        raise
    except Exception as error:  # file systems raise errors of many kinds
        raise CannotListError(_listing_error(source, error)) from None
    if paths is None:
        yield RemoteFile(source, PurePosixPath(path).name)
        return
    takes_all = is_pattern(path) and names_suffix(path)
    archive = source[source.index("::") :] if "::" in source else ""  # zip://a/*.wav::archive.zip
    is_shard = source.startswith("tar://")
    members = set(paths) if is_shard else set()
    folder = path.rstrip("/") + "/" if path.strip("/") else ""
    count = 0
    for file in paths:
        if not is_system_path(file) and (takes_all or filter.accepts(file)):
            name = file.removeprefix("./")
            name = name.removeprefix(folder) if name.startswith(folder) else PurePosixPath(name).name
            reference = _shard_reference(system, file, members) if is_shard else None
            yield RemoteFile(system.unstrip_protocol(file) + archive, name, reference)
            count += 1
    if not count:
        rejected = filter.describe_rejected()
        raise NoAudioError(f"no audio files here{f', only {rejected}' if rejected else ''}")


def _list(system: Any, path: str, source: str) -> list[str] | None:
    """Return the files that a URL leads to, or `None` if it names a single file."""
    if source.startswith(tuple(f"{protocol}://" for protocol in ARCHIVE_PROTOCOLS)):
        return _list_archive(system, path)
    if is_pattern(path) and not system.exists(path):
        return sorted(match for match in system.glob(path) if not system.isdir(match))
    if system.isdir(path) and not has_audio_suffix(path):
        return system.find(path)
    return None


def _list_archive(system: Any, path: str) -> list[str] | None:
    names = system.find("")
    if path in names:
        return None
    if f"./{path}" in names:  # as `tar cf a.tar .` writes them
        return [f"./{path}"]
    if is_pattern(path):
        return matches_within(path, names)
    folder = path.strip("/") + "/"
    files = names if folder == "/" else [name for name in names if name.removeprefix("./").startswith(folder)]
    if not files and folder != "/":
        raise CannotListError("no such file in this archive")
    return files


def _listing_error(source: str, error: Exception) -> str:
    archive = source.partition("::")[2]
    if archive and not is_url(archive):
        with contextlib.suppress(OSError):
            identity = identify(head_of(archive))
            if identity is not None and identity.kind not in (*ARCHIVE_PROTOCOLS, _compression_kind(archive)):
                return identity.instead_of("an archive that can be read by its name")
    if "range requests" in str(error):
        return "this server does not support range requests, which reading an archive needs: download the archive first"
    return f"cannot be opened: {reason_of(error)}"


def _compression_kind(name: str) -> str | None:
    """Return how `first_bytes` identifies a file that is compressed as its name says."""
    return KIND_OF_COMPRESSION.get((COMPRESSION | SHORT_TAR_SUFFIXES).get(os.path.splitext(name)[1].lower(), ""))


def _shard_reference(system: Any, name: str, members: set[str]) -> str | None:
    """Return the text of a sample in a WebDataset shard: its `.txt`, or a field of its `.json`."""
    stem = os.path.splitext(name)[0]
    for text_file in (stem + suffix for suffix in TEXT_SUFFIXES):
        if text_file not in members:
            continue
        # a faulty text must not prevent transcription
        with contextlib.suppress(Exception):
            if system.size(text_file) <= MOST_TEXT_BYTES:
                return reference_in_file(text_file, system.cat_file(text_file))
    return None
