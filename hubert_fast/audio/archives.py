"""Archives that stay open between the files that are read from them, since opening one means reading its whole index."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any, BinaryIO

from .names import archive_options

PROTOCOLS = ("zip", "tar")
MOST_OPEN = 2  # of each thread, for the files of one archive come one after the other

_of_this_thread = threading.local()  # an archive is one file with one place in it: threads cannot share it


def is_archived(url: str) -> bool:
    """Return whether a URL names a file in an archive: ``zip://a.wav::https://host/b.zip``."""
    return url.partition("://")[0] in PROTOCOLS and "::" in url


def open_archived(url: str) -> BinaryIO:
    """Open a file in an archive for reading. Raises what fsspec and the archive's module raise."""
    import fsspec

    archive = url.partition("::")[2]
    key = (url.partition("://")[0], archive, _stamp(archive))
    cached: OrderedDict[tuple, tuple[Any, Any]] = _of_this_thread.__dict__.setdefault("archives", OrderedDict())
    if key not in cached:
        # without fsspec's own cache, which would give threads one and the same archive
        cached[key] = fsspec.core.url_to_fs(url, **_uncached(url))
        while len(cached) > MOST_OPEN:
            cached.popitem(last=False)
    cached.move_to_end(key)
    system, _ = cached[key]
    return system.open(url.partition("://")[2].partition("::")[0], "rb")


def _uncached(url: str) -> dict[str, dict[str, object]]:
    options = {url.partition("://")[0]: {"skip_instance_cache": True}}
    for protocol, more in archive_options(url).items():
        options.setdefault(protocol, {}).update(more)
    return options


def _stamp(archive: str) -> tuple[int, int] | None:
    """Return size and modification time of a local archive, which may be written anew while it is known here."""
    try:
        found = os.stat(archive.removeprefix("file://"))
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
