"""Resolve the path in a row of a list: to a file, to a file followed by more on its line, or to a comment.

Rows with a path or a command become utterances here.
"""

from __future__ import annotations

import os
import re

from ..audio.pipes import Command
from .paths import PathResolver, ResolvedPath
from .remote import is_archive
from .rows import Entry
from .tables import split_line
from .utterances import Utterance

COMMENT = re.compile(r"\s*(?:#|;|//)")


def resolve_row(entry: Entry, resolver: PathResolver) -> tuple[Entry, ResolvedPath]:
    """Resolve the path of a row.

    A line that does not name a file as a whole, but begins or ends with one, is split into a path and an id or reference.
    """
    path = resolver.resolve(entry.audio)
    if is_bare(entry) and not path.exists:
        for name, id, reference in split_line(entry.audio):
            candidate = resolver.resolve(name)
            if os.path.isfile(candidate.audio) and not is_archive(candidate.audio):
                return entry._replace(audio=name, id=id, reference=reference), candidate
    return entry, path


def sample_range_error(path: str, resolver: PathResolver) -> str | None:
    """Return the error for a path such as `a.wav:0:4000`, which is how fairseq S2T selects parts; `None` for other paths."""
    name, *part = path.rsplit(":", 2)
    if len(part) == 2 and all(number.isdecimal() for number in part) and resolver.resolve(name).exists:
        return f"{path[:200]!r} gives its part in samples or bytes: use offset and duration in seconds"
    return None


def is_bare(entry: Entry) -> bool:
    """Return whether a row names a file, folder or archive and nothing else."""
    return entry.id is None and entry.reference is None and entry.offset_seconds is None


def is_comment(entry: Entry, path: ResolvedPath) -> bool:
    """Return whether a line is a comment: it begins like one, and no file has that name."""
    return entry.is_line and not path.exists and COMMENT.match(entry.audio) is not None


def utterance_of(entry: Entry, path: ResolvedPath) -> Utterance:
    """Return the utterance that a row with a path describes."""
    part = _part(entry.offset_seconds, entry.duration_seconds)
    id = entry.id or f"{path.name}{part}"
    name = os.path.splitext(path.name)[0] + part.replace("#", ".") if entry.id is None else id
    return _utterance(entry, id, path.audio, name)


def command_of(entry: Entry, source: str) -> Utterance:
    """Return the utterance that a row with a shell command in the list `source` describes."""
    id = entry.id or f"{source}:{entry.line}"
    return _utterance(entry, id, Command(entry.audio), id)


def _utterance(entry: Entry, id: str, audio: str, name: str) -> Utterance:
    offset, duration = entry.offset_seconds or 0.0, entry.duration_seconds
    return Utterance(id, audio, offset, duration, entry.reference, name, channel=entry.channel)


def _part(offset_seconds: float | None, duration_seconds: float | None) -> str:
    if offset_seconds is None:
        return ""
    return f"#{offset_seconds:.10g}-" + ("" if duration_seconds is None else f"{offset_seconds + duration_seconds:.10g}")
