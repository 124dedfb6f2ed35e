"""Turn the rows of a list into utterances.

The path in a row may be a file, a file followed by more on its line, a folder or archive, a command, or a comment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from ..audio.pipes import Command
from .paths import PathResolver, ResolvedPath
from .remote import is_archive
from .rows import Entry
from .shards import kinds
from .tables import split_line
from .utterances import Utterance

COMMENT = re.compile(r"\s*(?:#|;|//)")


def utterances_of(
    entries: Iterator[Entry], source: str, folder: str, allow_pipes: bool, warn: Callable[[str], None]
) -> Iterator[Utterance | str]:
    """Yield the utterance of each row, or the path of the folder, archive or shard that it names.

    Args:
        entries: The rows.
        source: The path or URL of the list.
        folder: The folder that relative paths begin at.
        allow_pipes: Run shell commands. Otherwise they are errors.
        warn: Function called with each warning.
    """
    resolver, n_comments = None, 0
    for entry in entries:
        if entry.error is not None:
            yield Utterance(f"{source}:{entry.line}", source, error=f"{source}, {entry.error}")
            continue
        if entry.note is not None:
            warn(entry.note)
        if entry.is_command:
            yield _command_of(entry, source, allow_pipes)
            continue
        if resolver is None or resolver.root != entry.root:
            resolver = PathResolver(folder, entry.root)
        entry, path = _resolve_row(entry, resolver)
        if _is_comment(entry, path):
            n_comments += 1
            continue
        if not path.exists and (error := _sample_range_error(entry.audio, resolver)) is not None:
            yield Utterance(f"{source}:{entry.line}", source, error=f"{source}, line {entry.line}: {error}")
            continue
        yield _target_of(entry, path, source)
    if n_comments:
        lines = "1 comment line, which begins" if n_comments == 1 else f"{n_comments} comment lines, which begin"
        warn(f"skipped {lines} with #, ; or //")


def _target_of(entry: Entry, path: ResolvedPath, source: str) -> Utterance | str:
    is_folder = _is_bare(entry) and os.path.isdir(path.audio)
    if is_folder and os.path.realpath(path.audio) == os.sep:
        error = f"{source}, line {entry.line} is the root of the file system: use a folder below it"
        return Utterance(f"{source}:{entry.line}", source, error=error)
    if is_folder or (_is_bare(entry) and (is_archive(path.audio) or kinds.is_shard(path.audio))):
        return path.audio
    return utterance_of(entry, path)


def _resolve_row(entry: Entry, resolver: PathResolver) -> tuple[Entry, ResolvedPath]:
    """Resolve the path of a row.

    A line that does not name a file as a whole, but begins or ends with one, is split into a path and an id or reference.
    """
    path = resolver.resolve(entry.audio)
    if _is_bare(entry) and not path.exists:
        for name, id, reference in split_line(entry.audio):
            candidate = resolver.resolve(name)
            if os.path.isfile(candidate.audio) and not is_archive(candidate.audio):
                return entry._replace(audio=name, id=id, reference=reference), candidate
    return entry, path


def _sample_range_error(path: str, resolver: PathResolver) -> str | None:
    """Return the error for a path such as `a.wav:0:4000`, which is how fairseq S2T selects parts; `None` for other paths."""
    name, *part = path.rsplit(":", 2)
    if len(part) == 2 and all(number.isdecimal() for number in part) and resolver.resolve(name).exists:
        return f"{path[:200]!r} gives its part in samples or bytes: use offset and duration in seconds"
    return None


def _is_bare(entry: Entry) -> bool:
    """Return whether a row names a file, folder or archive and nothing else."""
    return entry.id is None and entry.reference is None and entry.offset_seconds is None


def _is_comment(entry: Entry, path: ResolvedPath) -> bool:
    """Return whether a line is a comment: it begins like one, and no file has that name."""
    return entry.is_line and not path.exists and COMMENT.match(entry.audio) is not None


def utterance_of(entry: Entry, path: ResolvedPath) -> Utterance:
    """Return the utterance that a row with a path describes."""
    part = _part(entry.offset_seconds, entry.duration_seconds)
    id = entry.id or f"{path.name}{part}"
    name = os.path.splitext(path.name)[0] + part.replace("#", ".") if entry.id is None else id
    return _utterance(entry, id, path.audio, name)


def _command_of(entry: Entry, source: str, allow_pipes: bool) -> Utterance:
    """Return the utterance that a row with a shell command in the list `source` describes."""
    id = entry.id or f"{source}:{entry.line}"
    if not allow_pipes:
        reason = "is a command, and commands in lists run only with --allow-pipes"
        return Utterance(id, source, error=f"{source}, row {entry.line}: {entry.audio[:200]!r} {reason}")
    return _utterance(entry, id, Command(entry.audio), id)


def _utterance(entry: Entry, id: str, audio: str, name: str) -> Utterance:
    offset, duration = entry.offset_seconds or 0.0, entry.duration_seconds
    return Utterance(id, audio, offset, duration, entry.reference, name, channel=entry.channel)


def _part(offset_seconds: float | None, duration_seconds: float | None) -> str:
    if offset_seconds is None:
        return ""
    return f"#{offset_seconds:.10g}-" + ("" if duration_seconds is None else f"{offset_seconds + duration_seconds:.10g}")
