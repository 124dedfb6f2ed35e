"""Distinguish lists, pipes and special files from audio by their names and first bytes."""

from __future__ import annotations

import os
import stat

from ..audio import is_url
from ..audio.standard_input import named_pipe
from ..first_bytes import identify
from . import manifests
from .audio_filter import is_audio, is_audio_file
from .patterns import is_pattern

TEXT_KINDS = ("text", "json", "utf-16", "utf-32")


def is_list(source: str) -> bool:
    """Return whether a path or URL is a list by its name, and not audio that merely has such a name."""
    if not manifests.is_manifest(source) or os.path.isdir(source):
        return False
    if is_pattern(source) and not source.startswith(("http://", "https://")) and not os.path.lexists(source):
        return False
    return is_url(source) or not (os.path.isfile(source) and is_audio_file(source))


def is_special(source: str) -> bool:
    """Return whether a path exists and is a pipe, a socket or a device, which can be read only once."""
    return os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source)


def is_list_in_pipe(source: str) -> bool:
    """Return whether a path is a named pipe that holds a list.

    Wait for the first bytes of the pipe. Data that are neither text nor audio are left to the decoder, which reports them.
    """
    try:
        if not stat.S_ISFIFO(os.stat(source).st_mode):
            return False
        head = named_pipe(source).peek()
    except (OSError, ValueError):
        return False
    identity = identify(head)
    return identity is not None and identity.kind in TEXT_KINDS and not is_audio(head)
