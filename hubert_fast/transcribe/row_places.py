"""What the rows of a list lead to: a file, a file with more on its line, a comment."""

from __future__ import annotations

import os
import re

from .places import Place, Places
from .remote import is_archive
from .rows import Entry
from .tables import split_line

COMMENT = re.compile(r"\s*(?:#|;|//)")


def placed(entry: Entry, places: Places) -> tuple[Entry, Place]:
    """Find the file of a row; of a line that is none as a whole, but begins with a file, the rest is its id or text."""
    place = places.find(entry.audio)
    if is_bare(entry) and not place.is_there:
        for path, id, reference in split_line(entry.audio):
            other = places.find(path)
            if os.path.isfile(other.audio) and not is_archive(other.audio):
                return entry._replace(audio=path, id=id, reference=reference), other
    return entry, place


def in_samples(path: str, places: Places) -> str | None:
    """Return what is wrong with a path such as ``a.wav:0:4000``, as fairseq's S2T writes parts; ``None`` for other paths."""
    name, *part = path.rsplit(":", 2)
    if len(part) == 2 and all(each.isdecimal() for each in part) and places.find(name).is_there:
        return f"{path[:200]!r} has its part in samples or bytes: give offset and duration in seconds instead"
    return None


def is_bare(entry: Entry) -> bool:
    """Return whether a row names a file, folder or archive and says nothing about it."""
    return entry.id is None and entry.reference is None and entry.offset_seconds is None


def is_comment(entry: Entry, place: Place) -> bool:
    """Return whether a line is a comment: it begins as one, and there is no file of that name."""
    return entry.is_line and not place.is_there and COMMENT.match(entry.audio) is not None
