"""What ``-o`` and ``--format`` ask for, and the files that go with it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..audio import AUDIO_SUFFIXES
from . import formats
from .inputs import Inputs, Shard
from .job import Paths, open_journal, writing
from .journal import Journal, JournalError
from .outputs import Files, OneFile, Output, Rows, Stream
from .row_file import RowFile

COMPRESSED_SUFFIXES = frozenset(".gz .bz2 .xz .zst .lz4 .br .zip .7z .tar .tgz".split())


class Sinks(NamedTuple):
    """Where a job writes; journal and failures of outputs that a run can go on with."""

    output: Output
    journal: Journal | None = None
    failures: RowFile | None = None


@dataclass(frozen=True)
class Target:
    """An output that is not opened yet.

    path: of a file or folder; ``None`` is standard output. is_stream: written as it comes, never read back. is_single: the one
    file of the one input. bare: the text alone. is_default: neither the name nor an option says the format.
    """

    path: Path | None
    format: str
    is_stream: bool
    is_single: bool = False
    bare: bool = False
    is_default: bool = False

    @classmethod
    def of(cls, output: str | None, format: str | None, inputs: Inputs, shard: Shard | None = None) -> Target:
        """Understand the options. Raises ``ValueError`` when they do not go together, or would overwrite an input."""
        if output in (None, "-"):
            if format in formats.FILES:
                raise ValueError(f"{format} has a file for each input: name a folder with -o")
            return cls(None, format or "txt", is_stream=True, bare=format is None and inputs.is_one_file)
        named = Path(output)
        if named.name in ("", ".."):
            raise ValueError(f"{output} cannot be an output: name a file, or a folder by its own name")
        path = named if shard is None else _of_shard(named, shard)
        exists = path.exists()
        beside = Paths(path)
        for file in (path, beside.journal, beside.errors, beside.summary):
            if any(os.path.exists(source) and file.exists() and os.path.samefile(file, source) for source in inputs.sources):
                raise ValueError(f"{file} is an input, and would be overwritten")
        if exists and not path.is_file() and not path.is_dir():  # a pipe, a device
            if format in formats.FILES:
                raise ValueError(f"{format} has a file for each input: {path} is no folder")
            return cls(path, format or _format_named(named) or "jsonl", is_stream=True)
        _check_name(named, format, is_folder=output.endswith("/") or path.is_dir())
        is_default = format is None and not named.suffix
        format = format or _format_named(named) or "jsonl"
        if format in formats.FILES:
            single = _format_named(named) == format and not path.is_dir() and not output.endswith("/")
            if single and not inputs.is_one_file:
                raise ValueError(f"{format} has a file for each input: name a folder with -o, and --format {format}")
            if path.is_file() and not single:
                raise ValueError(f"{path} is a file: {format} has a file for each input, so name a folder")
            return cls(path, format, is_stream=False, is_single=single)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for {format}")
        if output.endswith("/"):
            raise ValueError(
                f"{output} is named as a folder is: name a file for {format}, or a format with a file for each input: "
                f"--format {', '.join(formats.FILES)}"
            )
        return cls(path, format, is_stream=False, is_default=is_default)

    @property
    def paths(self) -> Paths | None:
        """The files beside an output that a run can go on with."""
        return None if self.is_stream or self.is_single else Paths(self.path)

    def check(self, overwrite: bool) -> None:
        """Raise ``JournalError`` when there is something that this run may not touch: before a model is loaded."""
        if self.is_stream:
            return
        if not self.path.absolute().parent.is_dir():
            raise JournalError(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        if overwrite or not self.path.exists():
            return
        is_empty_folder = self.path.is_dir() and not any(self.path.iterdir())
        if not is_empty_folder and (self.is_single or not self.paths.journal.exists()):
            raise JournalError(f"{self.path} exists already; --overwrite replaces it")

    @contextlib.contextmanager
    def opened(
        self, settings: dict[str, Any], overwrite: bool, retry_failed: bool, told: Callable[[str], None]
    ) -> Iterator[Sinks]:
        """Take hold of it. Raises ``JournalError`` when a run may not go on with what is there, ``OSError``."""
        self.check(overwrite)
        with contextlib.ExitStack() as stack:
            if self.is_stream:
                file = sys.stdout.buffer if self.path is None else stack.enter_context(_device(self.path))
                with writing("standard output" if self.path is None else str(self.path)):
                    stream = Stream(file, self.format, self.bare)
                stack.callback(stream.close)
                yield Sinks(stream)
                return
            if self.is_single:
                yield Sinks(OneFile(self.path, self.format))
                return
            paths = self.paths
            journal = open_journal(paths, settings, overwrite)
            stack.callback(journal.close)
            done = journal.totals()
            if done.transcribed or done.failed:
                told(f"going on with {self.path}: {done.transcribed} transcribed and {done.failed} failed before")
            if retry_failed:
                journal.forget_failures()
                journal.commit({"errors": 0})
            failures = RowFile(paths.errors, "errors", journal, formats.ROWS["jsonl"], is_optional=True)
            stack.callback(failures.close)
            output = (Files if self.format in formats.FILES else Rows)(self.path, self.format, journal)
            stack.callback(output.close)
            yield Sinks(output, journal, failures)


@contextlib.contextmanager
def _device(path: Path) -> Iterator[Any]:
    file = open(path, "wb")  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # every row was flushed, and a failure told, when it was written
            file.close()


def _format_named(path: Path) -> str | None:
    """Return the format that a name ends in, whatever the case of its letters."""
    return next((name for suffix, name in formats.SUFFIXES.items() if path.suffix.lower() == suffix.lower()), None)


def _check_name(path: Path, format: str | None, is_folder: bool) -> None:
    """Raise ``ValueError`` for a name that says something else than what the output would hold."""
    suffix, known = path.suffix.lower(), ", ".join(formats.SUFFIXES)
    if suffix in AUDIO_SUFFIXES:
        raise ValueError(f"{path} has the suffix of an audio file: expected one of {known}")
    if is_folder or not suffix:
        return
    if suffix in COMPRESSED_SUFFIXES:
        raise ValueError(f"{path} has the suffix of a compressed file, but outputs are not compressed: use one of {known}")
    if format is None and _format_named(path) is None:
        raise ValueError(f"{path} has the unknown suffix {path.suffix}: use one of {known}, or pass --format")


def _of_shard(path: Path, shard: Shard) -> Path:
    """Name the output of one shard, so that no two write one file: ``out.jsonl`` of shard 2/16 is ``out.2-of-16.jsonl``."""
    return path.with_name(f"{path.stem}.{shard.index}-of-{shard.count}{path.suffix}")
