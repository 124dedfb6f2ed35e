"""Recognise shards by their names, and yield the utterances in one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from ...audio import is_url
from ...audio.names import TAR_SUFFIXES
from ...first_bytes import head_of, identify
from ..patterns import is_pattern
from ..utterances import Utterance
from . import tar_members

TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")
SHAR_CUTS = re.compile(r"cuts\.(\d+)\.jsonl(?:\.gz)?")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")

Note = Callable[[str], None]


def name_of(source: str) -> str:
    """Return the file name of a path or URL, without the query of the latter."""
    return PurePosixPath(urlsplit(source).path if source.startswith(("http://", "https://")) else source).name


def is_tar(source: str) -> bool:
    """Return whether a path or URL has the suffix of a tar archive, and is not a local zip archive that is named so."""
    if ("::" in source and is_url(source)) or not name_of(source).lower().endswith(TAR_SUFFIXES):
        return False
    if not is_url(source) and os.path.isfile(source):
        identity = identify(head_of(source))
        return identity is None or identity.kind != "zip"
    return True


def is_table(source: str) -> bool:
    """Return whether a path or URL has the suffix of a Parquet or Arrow file."""
    return name_of(source).lower().endswith(TABLE_SUFFIXES)


def is_shar(source: str) -> bool:
    """Return whether a path or URL is named as the cuts of a shard of Lhotse Shar: `cuts.000000.jsonl.gz`."""
    return SHAR_CUTS.fullmatch(name_of(source)) is not None


def is_shard(source: str) -> bool:
    """Return whether a path or URL is named as a file that holds many utterances and is read as a stream."""
    return is_tar(source) or is_table(source)


def is_pattern_of_urls(source: str) -> bool:
    """Return whether a URL has wildcards: in `https://`, and in archives, a question mark is something else."""
    return is_url(source) and "::" not in source and not source.startswith(("http://", "https://")) and is_pattern(source)


def utterances(source: str, column: str | None, note: Note) -> Iterator[Utterance]:
    """Yield the utterances in a shard.

    Args:
        source: Its path or URL.
        column: The column with the audio, for tables; `None` to find it.
        note: Function called with each warning about the shard.

    Raises:
        StorageError: If the file cannot be opened or read.
    """
    if is_shar(source):
        from . import lhotse_shar

        return lhotse_shar.utterances(source, note)
    if is_table(source):
        from . import table_rows

        return table_rows.utterances(source, column, note)
    return tar_members.utterances(source, note)


def expanded(source: str) -> list[str]:
    """Return the names that braces stand for: `a-{08..11}.tar` is four names, and `{dev,test}.tar` two.

    Numbers are padded with zeros to the length of the first one, as in a shell. A local path that exists is one name.
    """
    return [*dict.fromkeys(_expanded(source))]  # of nested braces the inner ones come first, so names may come twice


def _expanded(source: str) -> Iterator[str]:
    braces = RANGE.search(source) or CHOICE.search(source)
    if braces is None or (not is_url(source) and os.path.exists(source)):
        yield source
        return
    if braces.re is RANGE:
        first, last = braces.groups()
        step = 1 if int(first) <= int(last) else -1
        values: Iterable[str] = (str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step))
    else:
        values = braces[1].split(",")
    for value in values:
        yield from _expanded(f"{source[: braces.start()]}{value}{source[braces.end() :]}")
