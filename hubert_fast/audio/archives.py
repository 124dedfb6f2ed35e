"""Open files inside archives, and keep the archives open between files: opening one means reading its whole index."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any, BinaryIO

from .names import archive_options

PROTOCOLS = ("zip", "tar")
MAX_OPEN = 2  # per thread: the files of one archive usually come one after the other

_thread_local = threading.local()  # an open archive has only one file position, which threads cannot share


def is_archived(url: str) -> bool:
    """Return whether a URL names a file in an archive: `zip://a.wav::https://host/b.zip`."""
    return url.partition("://")[0] in PROTOCOLS and "::" in url


def open_archived(url: str) -> BinaryIO:
    """Open a file in an archive for reading. Exceptions of fsspec and of the archive's module are raised unchanged."""
    import fsspec

    archive = url.partition("::")[2]
    key = (url.partition("://")[0], archive, _stamp(archive))
    cached: OrderedDict[tuple, tuple[Any, Any]] = _thread_local.__dict__.setdefault("archives", OrderedDict())
    if key not in cached:
        # fsspec's own cache is bypassed: it would give the same archive to several threads
        cached[key] = fsspec.core.url_to_fs(url, **_uncached_options(url))
        while len(cached) > MAX_OPEN:
            cached.popitem(last=False)
    cached.move_to_end(key)
    system, _ = cached[key]
    return system.open(url.partition("://")[2].partition("::")[0], "rb")


def _uncached_options(url: str) -> dict[str, dict[str, object]]:
    options: dict[str, dict[str, object]] = {url.partition("://")[0]: {"skip_instance_cache": True}}
    for protocol, more in archive_options(url).items():
        options.setdefault(protocol, {}).update(more)
    return options


def _stamp(archive: str) -> tuple[int, int] | None:
    """Return the size and modification time of a local archive, which may be rewritten while it is cached here."""
    try:
        status = os.stat(archive.removeprefix("file://"))
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
