"""Write results to a file of rows, to a folder with a file for each utterance, or to a stream such as standard output."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .formats import FileFormat, RowFormat
from .journal import Journal, JournalError, Row
from .outcomes import Outcome
from .row_file import RowFile, encoded, sync_path
from .utterances import Utterance

MOST_NAME_BYTES = 200  # of a file name; file systems allow 255


class Output:
    """Receives results. Whatever was written before `sync` survives a power cut.

    Subclasses that buffer nothing and leave nothing to clean up only override `write`.

    Attributes:
        is_aligned: Whether row i belongs to input i: see `Format`.
    """

    is_aligned = False

    def prepare(self, result: Outcome) -> bool:
        """Return whether the journal must be committed before this result is written."""
        return False

    def write(self, result: Outcome) -> Row | None:
        """Write a result. Return the position of its rows, or `None` if they are in a stream or in a file of their own."""
        raise NotImplementedError

    def write_failure(self, result: Outcome) -> None:
        """Write what stands for a failed input in an aligned output."""

    def drop_older(self, result: Outcome) -> None:
        """Remove the files of an earlier result of the same utterance that this result does not overwrite."""

    def sync(self) -> dict[str, int]:
        """Flush everything to disk; return the sizes for the journal, by role."""
        return {}

    def finish(self) -> None:
        """Complete the output, once all results are committed."""

    def close(self) -> None:
        """Close the output; if the run was cut short, leave it as complete as possible."""


class Rows(Output):
    """An output that holds all utterances in one file."""

    def __init__(self, path: Path, format: RowFormat, journal: Journal):
        self._format, self.is_aligned = format, format.is_aligned
        self._file = RowFile(path, "output", journal, self._format)

    def write(self, result: Outcome) -> Row:
        return self._file.append(self._format.text(result))

    def write_failure(self, result: Outcome) -> None:
        if self.is_aligned:
            self._file.append(self._format.failure)

    def sync(self) -> dict[str, int]:
        return self._file.sync()

    def finish(self) -> None:
        self._file.finish()

    def close(self) -> None:
        self._file.close()


class Files(Output):
    """An output with a file for each utterance, in the folder structure of the inputs: `talks/a.wav` becomes `talks/a.srt`.

    If another utterance already has that name, the file is `talks/a.wav.srt`, or has a hash in its name. The journal
    records who owns a name before the second file is written, so a resumed run chooses the same names.

    Raises:
        JournalError: If the journal lists files but the folder is missing or empty.
    """

    def __init__(self, folder: Path, format: FileFormat, journal: Journal):
        self._folder, self._format, self._journal = folder, format, journal
        self._written: set[Path] = set()
        if journal.totals().done and not (folder.is_dir() and any(folder.iterdir())):
            raise JournalError(
                f"{folder} is empty or missing, but {journal.path} lists files in it: restore them, "
                f"or start over with --overwrite"
            )
        folder.mkdir(exist_ok=True)

    def _names(self, utterance: Utterance, count: int) -> Iterator[list[str]]:
        """Yield lists of names for the files of `count` channels, the preferred one first."""
        name, full = safe_name(utterance.name), safe_name(utterance.name + os.path.splitext(utterance.audio)[1])
        for stem in (name, full, f"{full}.{utterance.key.hex()}"):
            channels = [""] if count == 1 else [f".{channel}" for channel in range(1, count + 1)]
            yield [f"{stem}{channel}.{self._format.suffix}" for channel in channels]

    def _own_names(self, result: Outcome) -> list[str]:
        """Return the preferred names that no other utterance owns."""
        owners = (result.utterance.key, None)
        names = self._names(result.utterance, result.channels)
        return next(each for each in names if all(self._journal.owner(name) in owners for name in each))

    def prepare(self, result: Outcome) -> bool:
        names, best = self._own_names(result), next(self._names(result.utterance, result.channels))
        is_new = any(self._journal.owner(name) is None for name in names)
        for name in names if is_new else ():
            self._journal.claim(name, result.utterance.key)
        return is_new and names != best

    def write(self, result: Outcome) -> None:
        for name, content in zip(self._own_names(result), self._format.contents(result)):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content)
            self._written |= {path, *path.parents[: len(Path(name).parts)]}

    def drop_older(self, result: Outcome) -> None:
        utterance, kept = result.utterance, set(self._own_names(result) if result.channels else ())
        for count in itertools.count(1):  # of channels: the journal does not say how many there were
            names = set(itertools.chain(*self._names(utterance, count))) - kept
            own = [name for name in names if self._journal.owner(name) == utterance.key]
            for name in own:
                (self._folder / name).unlink(missing_ok=True)
            if count > max(result.channels, 1) and not own:
                return
            kept |= names

    def sync(self) -> dict[str, int]:
        for path in self._written:
            with contextlib.suppress(FileNotFoundError):  # removed by a later result, or by the user
                sync_path(path)
        self._written.clear()
        return {}


class OneFile(Output):
    """An output that is a single file for a single utterance."""

    def __init__(self, path: Path, format: FileFormat):
        self._path, self._format = path, format

    def write(self, result: Outcome) -> None:
        replace(self._path, self._format.contents(result)[0])

    def sync(self) -> dict[str, int]:
        if self._path.exists():
            sync_path(self._path)
        return {}


class Stream(Output):
    """An output that writes each row at once, to standard output, a pipe or a device.

    Args:
        file: Receives the bytes.
        format: The format of the rows.
        bare: Leave out the name of the input, if the format can.
    """

    def __init__(self, file: BinaryIO, format: RowFormat, bare: bool):
        self._file, self._format = file, format
        self._text = format.bare if bare and format.bare is not None else format.text
        self.is_aligned = format.is_aligned
        self._is_empty, self._is_finished = True, False
        self._file.write(encoded(self._format.head))

    def write(self, result: Outcome) -> None:
        self._append(self._text(result))

    def write_failure(self, result: Outcome) -> None:
        if self.is_aligned:
            self._append(self._format.failure)

    def _append(self, text: str) -> None:
        # file names that are not UTF-8 go out as the bytes they came as; in JSON they are escaped
        errors = "backslashreplace" if self._format.is_json else "surrogateescape"
        between = "" if self._is_empty else self._format.between
        self._is_empty = False
        self._file.write((between + text).encode("utf-8", errors))
        self._file.flush()

    def finish(self) -> None:
        self._is_finished = True  # set first, so that `close` does not try again if writing fails
        self._file.write(encoded(self._format.end(self._is_empty)))
        self._file.flush()

    def close(self) -> None:
        if not self._is_finished:
            with contextlib.suppress(OSError):  # the reader may have closed the stream, and thereby ended the run
                self.finish()


def replace(path: Path, content: str | bytes, *, is_synced: bool = False) -> None:
    """Write a file atomically: either the whole content appears or nothing, unless the power fails before it is synced.

    Args:
        path: The file. A symbolic link stays, and the file that it points to is replaced.
        content: Its content.
        is_synced: Whether to sync the file before it appears.

    Raises:
        OSError: The file cannot be written.
    """
    path = path.resolve() if path.is_symlink() else path
    unfinished = path.with_name(f".{path.name}.unfinished")  # a fixed name, so that killed runs leave at most one behind
    try:
        unfinished.write_bytes(content if isinstance(content, bytes) else encoded(content))
        if is_synced:
            sync_path(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def safe_name(name: str) -> str:
    """Return a relative path that cannot leave its folder, with parts short enough for file systems."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(_short(part) for part in parts) or "unnamed"


def _short(part: str) -> str:
    raw = os.fsencode(part)
    if len(raw) <= MOST_NAME_BYTES:
        return part
    prefixes = (os.fsdecode(raw[:end]) for end in range(MOST_NAME_BYTES - 17, 0, -1))
    # the cut must not split a character: some file systems refuse such names
    prefix = next(prefix for prefix in prefixes if part.startswith(prefix))
    return f"{prefix}-{hashlib.blake2b(raw, digest_size=8).hexdigest()}"
