"""Determine the output from `-o` and `--format`, and open it together with the files beside it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..audio import AUDIO_SUFFIXES
from ..jobs.inputs import Inputs, Shard
from ..jobs.journal import Journal, JournalError
from . import formats, normalizers
from .formats import FileFormat, RowFormat, has_file_each, names_with_file_each
from .job import writing
from .row_file import RowFile
from .sinks import Files, OneFile, Output, Rows, Stream

NORMALIZER = "normalizer"  # name of the setting; it only matters once transcripts have been compared with references
COMPRESSED_SUFFIXES = frozenset(".gz .bz2 .xz .zst .lz4 .br .zip .7z .tar .tgz".split())


class Sinks(NamedTuple):
    """The outputs of a job. Only one that a later run can continue has a journal and a file of failures."""

    output: Output
    journal: Journal | None = None
    failures: RowFile | None = None


@dataclass(frozen=True)
class Paths:
    """The files that belong to an output `OUT`: `OUT.journal`, `OUT.errors.jsonl` and `OUT.summary.json`."""

    output: Path

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)

    @property
    def journal(self) -> Path:
        return self._beside(".journal")

    @property
    def errors(self) -> Path:
        return self._beside(".errors.jsonl")

    @property
    def summary(self) -> Path:
        return self._beside(".summary.json")


@dataclass(frozen=True)
class Target:
    """An output before it is opened.

    Attributes:
        path: A file or folder; `None` is standard output.
        format: Name of the format.
        is_stream: Whether it is only written to, as results arrive, and never read back.
        is_single: Whether it is a single file for a single input, in a format that writes a file for each input.
        bare: Whether only the text is written, without the file name.
        is_default: Whether neither the name nor an option determines the format.
    """

    path: Path | None
    format: str
    is_stream: bool
    is_single: bool = False
    bare: bool = False
    is_default: bool = False

    @classmethod
    def of(cls, output: str | None, format: str | None, inputs: Inputs, shard: Shard | None = None) -> Target:
        """Create the target that the options describe.

        Raises:
            ValueError: If they contradict each other or would overwrite an input.
        """
        if output is None or output == "-":
            if has_file_each(format):
                raise ValueError(f"{format} writes a file for each input: name a folder with -o")
            bare = format is None and inputs.is_one_file
            return cls(None, format or formats.DEFAULT_ON_STANDARD_OUTPUT, is_stream=True, bare=bare)
        named = Path(output)
        if named.name in ("", ".."):
            raise ValueError(f"{output} cannot be an output: expected the name of a file or folder, not ., .. or /")
        path = named if shard is None else _of_shard(named, shard)
        exists = path.exists()
        beside = Paths(path)
        for file in (path, beside.journal, beside.errors, beside.summary):
            if any(os.path.exists(source) and file.exists() and os.path.samefile(file, source) for source in inputs.sources):
                raise ValueError(f"{file} is an input, and would be overwritten")
        if exists and not path.is_file() and not path.is_dir():  # a pipe, a device
            if has_file_each(format):
                raise ValueError(f"{format} writes a file for each input, but {path} is not a folder")
            return cls(path, format or _format_named(named) or formats.DEFAULT, is_stream=True)
        _check_name(named, format, is_folder=output.endswith("/") or path.is_dir())
        is_default = format is None and not named.suffix
        format = format or _format_named(named) or formats.DEFAULT
        if has_file_each(format):
            single = _format_named(named) == format and not path.is_dir() and not output.endswith("/")
            if single and not inputs.is_one_file:
                raise ValueError(f"{format} writes a file for each input: name a folder with -o, and --format {format}")
            if path.is_file() and not single:
                raise ValueError(f"{format} writes a file for each input, but {path} is a file: name a folder")
            return cls(path, format, is_stream=False, is_single=single)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for {format}")
        if output.endswith("/"):
            raise ValueError(
                f"{output} names a folder: name a file for {format}, or choose a format that writes a file for each input: "
                f"--format {names_with_file_each()}"
            )
        return cls(path, format, is_stream=False, is_default=is_default)

    @property
    def paths(self) -> Paths | None:
        """The files beside an output; `None` if it is one that no later run can continue."""
        return None if self.path is None or self.is_stream or self.is_single else Paths(self.path)

    def check(self, overwrite: bool) -> None:
        """Raise `JournalError` if this run must not touch existing files. Call it before a model is loaded."""
        if self.path is None or self.is_stream:
            return
        if not self.path.absolute().parent.is_dir():
            raise JournalError(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        if overwrite or not self.path.exists():
            return
        is_empty_folder = self.path.is_dir() and not any(self.path.iterdir())
        if not is_empty_folder and (self.paths is None or not self.paths.journal.exists()):
            raise JournalError(f"{self.path} exists already; --overwrite replaces it")

    @contextlib.contextmanager
    def opened(
        self, settings: dict[str, Any], overwrite: bool, retry_failed: bool, report: Callable[[str], None]
    ) -> Iterator[Sinks]:
        """Open the output.

        Raises:
            JournalError: If this run cannot continue the existing output.
            OSError: If the output cannot be opened.
        """
        self.check(overwrite)
        format = formats.FORMATS[self.format]
        with contextlib.ExitStack() as stack:
            if self.path is None or self.is_stream:
                assert isinstance(format, RowFormat)
                file = sys.stdout.buffer if self.path is None else stack.enter_context(_device(self.path))
                with writing("standard output" if self.path is None else str(self.path)):
                    stream = Stream(file, format, self.bare)
                stack.callback(stream.close)
                yield Sinks(stream)
                return
            if self.is_single:
                assert isinstance(format, FileFormat)
                yield Sinks(OneFile(self.path, format))
                return
            paths = Paths(self.path)
            journal = open_journal(paths, settings, overwrite)
            stack.callback(journal.close)
            done = journal.totals()
            if done.transcribed or done.failed:
                report(f"continuing {self.path}: {done.transcribed} transcribed and {done.failed} failed in earlier runs")
            if retry_failed:
                journal.forget_failures()
                journal.commit({"errors": 0})
            failures = RowFile(paths.errors, "errors", journal, formats.JSON_LINES, is_optional=True)
            stack.callback(failures.close)
            path = self.path
            output = Files(path, format, journal) if isinstance(format, FileFormat) else Rows(path, format, journal)
            stack.callback(output.close)
            yield Sinks(output, journal, failures)


def open_journal(paths: Paths, settings: dict[str, Any], overwrite: bool) -> Journal:
    """Open the journal of an output, either new or left by an earlier run with the same settings.

    Raises:
        JournalError: If the output exists without a journal, has other settings, or is in use by another run.
    """
    journal = Journal(paths.journal)
    try:
        before = journal.settings()
        if before is None and paths.output.is_file() and paths.output.stat().st_size and not overwrite:
            raise JournalError(f"{paths.output} exists already; --overwrite replaces it")
        if before is None or overwrite:
            journal.begin(settings)
            return journal
        _compare(paths.output, journal, before, settings)
        return journal
    except BaseException:
        journal.close()
        raise


def _compare(output: Path, journal: Journal, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise `JournalError` if settings differ from the journal's. Settings that an old journal lacks are added to it."""
    known = {NORMALIZER: normalizers.DEFAULT} | before
    if not any(journal.totals().errors):  # nothing has been scored yet
        known.pop(NORMALIZER)
    changed = [name for name, value in settings.items() if name in known and known[name] != value]
    if changed == [NORMALIZER]:
        raise JournalError(
            f"word errors of {output} were counted with the normalizer {known[NORMALIZER]}, not {settings[NORMALIZER]}: "
            f"continue with --normalizer {known[NORMALIZER]}, or start over with --overwrite"
        )
    if changed:
        differences = "; ".join(f"{name} was {known[name]}, is {settings[name]}" for name in changed)
        raise JournalError(f"{output} was created with other settings ({differences}); --overwrite starts over")
    if before != before | settings:
        journal.keep_settings(before | settings)


@contextlib.contextmanager
def _device(path: Path) -> Iterator[BinaryIO]:
    file = open(path, "wb")  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # each row was flushed as it was written, and failures were reported then
            file.close()


def _format_named(path: Path) -> str | None:
    """Return the format that a file name's suffix stands for, in upper or lower case."""
    return next((name for suffix, name in formats.suffixes().items() if path.suffix.lower() == suffix.lower()), None)


def _check_name(path: Path, format: str | None, is_folder: bool) -> None:
    """Raise `ValueError` if the suffix of the name does not fit the content of the output."""
    suffix, known = path.suffix.lower(), ", ".join(formats.suffixes())
    if suffix in AUDIO_SUFFIXES:
        raise ValueError(f"{path} has the suffix of an audio file: expected one of {known}")
    if is_folder or not suffix:
        return
    if suffix in COMPRESSED_SUFFIXES:
        raise ValueError(f"{path} has the suffix of a compressed file, but outputs are not compressed: use one of {known}")
    if format is None and _format_named(path) is None:
        raise ValueError(f"{path} has the unknown suffix {path.suffix}: use one of {known}, or pass --format")


def _of_shard(path: Path, shard: Shard) -> Path:
    """Return the output of one shard, so that no two shards share a file: `out.jsonl` becomes `out.2-of-16.jsonl`."""
    return path.with_name(f"{path.stem}.{shard.index}-of-{shard.count}{path.suffix}")
