"""Where results go: one file of rows, a folder with a file each, or a stream such as standard output."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from . import formats
from .inputs import Utterance
from .journal import Journal, JournalError, Row
from .row_file import RowFile, encoded, sync_path
from .transcriber import Result

MOST_NAME_BYTES = 200  # of a file; file systems take 255


class Output:
    """Takes results; what :meth:`sync` returned can be relied on after a power cut. One that keeps nothing back only writes."""

    def prepare(self, result: Result) -> bool:
        """Return whether the journal must be committed before this result is written."""
        return False

    def write(self, result: Result) -> Row | None:
        """Write a result; return where its rows are, ``None`` in files of their own and in streams."""
        raise NotImplementedError

    def drop_older(self, result: Result) -> None:
        """Remove files that an earlier result of the utterance left and this one does not write over."""

    def sync(self) -> dict[str, int]:
        """Put all on disk; return the sizes to be remembered."""
        return {}

    def finish(self) -> None:
        """Write what makes the output whole, after all results are committed."""

    def close(self) -> None:
        """Close the output, as whole as it can be made when a run breaks off."""


class Rows(Output):
    """All utterances in one file."""

    def __init__(self, path: Path, format: str, journal: Journal):
        self._format = formats.ROWS[format]
        self._file = RowFile(path, "output", journal, self._format)

    def write(self, result: Result) -> Row:
        return self._file.append(self._format.text(result))

    def sync(self) -> dict[str, int]:
        return self._file.sync()

    def finish(self) -> None:
        self._file.finish()

    def close(self) -> None:
        self._file.close()


class Files(Output):
    """A file for each utterance, below a folder as the inputs were below theirs: ``talks/a.wav`` is ``talks/a.srt``.

    Where another utterance has that name it is ``talks/a.wav.srt``, or has a number. Which one has which is in the journal
    before the second is written, so that a run that goes on gives the same names.
    Raises ``JournalError`` when files that the journal knows are gone with their folder.
    """

    def __init__(self, folder: Path, format: str, journal: Journal):
        self._folder, self._format, self._journal = folder, formats.FILES[format], journal
        self._written: set[Path] = set()
        if journal.totals().transcribed and not (folder.is_dir() and any(folder.iterdir())):
            raise JournalError(
                f"{folder} is empty or gone, but {journal.path} knows of files in it: bring them back, "
                f"or begin anew with --overwrite"
            )
        folder.mkdir(exist_ok=True)

    def _names(self, utterance: Utterance, count: int) -> Iterator[list[str]]:
        """Give names for the files of ``count`` transcripts, the best first."""
        name, full = _safe(utterance.name), _safe(utterance.name + os.path.splitext(utterance.audio)[1])
        for stem in (name, full, f"{full}.{utterance.key.hex()}"):
            channels = [""] if count == 1 else [f".{channel}" for channel in range(1, count + 1)]
            yield [f"{stem}{channel}.{self._format.suffix}" for channel in channels]

    def _own_names(self, result: Result) -> list[str]:
        """Return the best names that no other utterance has."""
        owners = (result.utterance.key, None)
        names = self._names(result.utterance, len(result.transcripts))
        return next(these for these in names if all(self._journal.owner(name) in owners for name in these))

    def prepare(self, result: Result) -> bool:
        names, best = self._own_names(result), next(self._names(result.utterance, len(result.transcripts)))
        is_new = any(self._journal.owner(name) is None for name in names)
        for name in names if is_new else ():
            self._journal.claim(name, result.utterance.key)
        return is_new and names != best

    def write(self, result: Result) -> None:
        offset_seconds = result.utterance.offset_seconds
        for name, transcript in zip(self._own_names(result), result.transcripts):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, self._format.text(transcript, offset_seconds))
            self._written |= {path, *path.parents[: len(Path(name).parts)]}

    def drop_older(self, result: Result) -> None:
        utterance, seen = result.utterance, set(self._own_names(result) if result.transcripts else ())
        for count in itertools.count(1):  # of channels, which the journal does not know
            names = set(itertools.chain(*self._names(utterance, count))) - seen
            own = [name for name in names if self._journal.owner(name) == utterance.key]
            for name in own:
                (self._folder / name).unlink(missing_ok=True)
            if count > max(len(result.transcripts), 1) and not own:
                return
            seen |= names

    def sync(self) -> dict[str, int]:
        for path in self._written:
            with contextlib.suppress(FileNotFoundError):  # a result that came later, or a person, removed it
                sync_path(path)
        self._written.clear()
        return {}


class OneFile(Output):
    """The file of the one utterance there is."""

    def __init__(self, path: Path, format: str):
        self._path, self._format = path, formats.FILES[format]

    def write(self, result: Result) -> None:
        replace(self._path, self._format.text(result.transcripts[0], result.utterance.offset_seconds))

    def sync(self) -> dict[str, int]:
        if self._path.exists():
            sync_path(self._path)
        return {}


class Stream(Output):
    """Rows to standard output, a pipe or a device, each as it comes. bare: the text alone, when there is but one."""

    def __init__(self, file: BinaryIO, format: str, bare: bool):
        self._file, self._format, self._bare = file, formats.ROWS[format], bare
        self._is_empty, self._is_finished = True, False
        self._file.write(encoded(self._format.head))

    def write(self, result: Result) -> None:
        text = "".join(f"{each.text}\n" for each in result.transcripts) if self._bare else self._format.text(result)
        # names are given back as they came, where they are no UTF-8 too; JSON has escapes for that
        errors = "backslashreplace" if self._format.is_json else "surrogateescape"
        between = "" if self._is_empty else self._format.between
        self._is_empty = False
        self._file.write((between + text).encode("utf-8", errors))
        self._file.flush()

    def finish(self) -> None:
        self._is_finished = True  # whatever comes of it
        self._file.write(encoded(self._format.end(self._is_empty)))
        self._file.flush()

    def close(self) -> None:
        if not self._is_finished:
            with contextlib.suppress(OSError):  # what ended the run may be that nobody reads
                self.finish()


def replace(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, unless the power goes before it is synced."""
    unfinished = path.with_name(f".{path.name}.unfinished")  # of one name, so that a killed run leaves no more than one
    try:
        unfinished.write_bytes(encoded(text))
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _safe(name: str) -> str:
    """A relative path that stays below its folder, of parts that file systems take."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(_short(part) for part in parts) or "unnamed"


def _short(part: str) -> str:
    raw = os.fsencode(part)
    if len(raw) <= MOST_NAME_BYTES:
        return part
    beginnings = (os.fsdecode(raw[:end]) for end in range(MOST_NAME_BYTES - 17, 0, -1))
    # not cut within a character, which some file systems refuse
    whole = next(beginning for beginning in beginnings if part.startswith(beginning))
    return f"{whole}-{hashlib.blake2b(raw, digest_size=8).hexdigest()}"
