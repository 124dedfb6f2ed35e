"""Determine the output from `-o` and `--format`, and open it together with the files beside it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..audio import AUDIO_SUFFIXES
from .formats import FAILURES, Context, FileFormat, FolderFormat, Format, FormatTable, RowFormat
from .inputs import Inputs
from .job import writing
from .journal import Journal, JournalError
from .row_file import RowFile
from .sinks import Files, OneFile, Output, Rows, Stream
from .utterances import Shard

# name of the setting that says how texts were normalized; it only matters once results have been compared with references
NORMALIZER = "normalizer"
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
        table: The formats of the command.
        format: Name of the format.
        is_stream: Whether it is only written to, as results arrive, and never read back.
        is_single: Whether it is a single file for a single input, in a format that writes a file for each input.
        bare: Whether results are written without the name of their input.
        is_default: Whether neither the name nor an option determines the format.
    """

    path: Path | None
    table: FormatTable
    format: str
    is_stream: bool
    is_single: bool = False
    bare: bool = False
    is_default: bool = False

    @classmethod
    def of(
        cls, output: str | None, format: str | None, table: FormatTable, inputs: Inputs, shard: Shard | None = None
    ) -> Target:
        """Create the target that the options describe.

        Raises:
            ValueError: If they contradict each other or would overwrite an input.
        """
        if output is None or output == "-":
            if table.on_standard_output is None:
                raise ValueError(f"results do not go to standard output: name a file or folder with -o, for {table.names()}")
            _refuse_folder(table, format)
            bare = format is None and inputs.is_one_file
            return cls(None, table, format or table.on_standard_output, is_stream=True, bare=bare)
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
            _refuse_folder(table, format, f", but {path} is not a folder")
            return cls(path, table, format or table.named(named) or table.default, is_stream=True)
        is_folder = output.endswith("/") or path.is_dir()
        _check_name(named, format, table, is_folder)
        is_default = format is None and not named.suffix
        format = format or table.named(named) or (table.default_folder if is_folder else None) or table.default
        if table.has_file_each(format):
            single = table.named(named) == format and not is_folder
            if single and not inputs.is_one_file:
                raise ValueError(f"{format} writes a file for each input: name a folder with -o, and --format {format}")
            if path.is_file() and not single:
                raise ValueError(f"{format} writes a file for each input, but {path} is a file: name a folder")
            return cls(path, table, format, is_stream=False, is_single=single)
        if table.writes_folder(format):
            if path.is_symlink() and not path.exists():
                raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist: create that folder")
            if path.is_file():
                raise ValueError(f"{format} writes a folder, but {path} is a file: name a folder")
            return cls(path, table, format, is_stream=False)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for {format}")
        if output.endswith("/"):
            raise ValueError(
                f"{output} names a folder: name a file for {format}, or choose a format that writes a folder: "
                f"--format {table.names_with_folder()}"
            )
        return cls(path, table, format, is_stream=False, is_default=is_default)

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
        self,
        settings: dict[str, Any],
        overwrite: bool,
        retry_failed: bool,
        report: Callable[[str], None],
        defaults: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> Iterator[Sinks]:
        """Open the output.

        Args:
            settings: The settings of this run, with which an existing output must have been created.
            overwrite: Whether to replace an existing output.
            retry_failed: Whether inputs that failed in earlier runs are tried again.
            report: Function called with each message for the user.
            defaults: Settings that apply to journals that lack them.
            context: The run, for formats that write a folder of their own.

        Raises:
            JournalError: If this run cannot continue the existing output.
            OSError: If the output cannot be opened.
        """
        self.check(overwrite)
        format = self.table.formats[self.format]
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
            if isinstance(format, FolderFormat) and context is not None and (reason := format.refusal(context)):
                raise JournalError(reason)
            journal = open_journal(paths, settings, overwrite, defaults, self._remove)
            stack.callback(journal.close)
            done = journal.totals()
            if done.done or done.failed:
                report(f"continuing {self.path}: {done.done} {self.table.done} and {done.failed} failed in earlier runs")
            if retry_failed:
                journal.forget_failures()
                journal.commit({"errors": 0})
            failures = RowFile(paths.errors, "errors", journal, FAILURES, is_optional=True)
            stack.callback(failures.close)
            output = _open(self.path, format, journal, context)
            stack.callback(output.close)
            yield Sinks(output, journal, failures)

    def _remove(self, journal: Journal, settings: Mapping[str, Any]) -> None:
        """Remove the files of the output that is replaced, whose format may be another, as readers take a folder as a whole."""
        format = self.table.formats.get(settings.get("format", ""))
        if self.path is not None and self.path.is_dir() and isinstance(format, (FileFormat, FolderFormat)):
            for path in [*format.files(self.path, journal)]:
                path.unlink(missing_ok=True)


def _open(path: Path, format: Format, journal: Journal, context: Context | None) -> Output:
    if isinstance(format, FileFormat):
        return Files(path, format, journal)
    if isinstance(format, FolderFormat):
        assert context is not None
        return format.open(path, journal, context)
    assert isinstance(format, RowFormat)
    return Rows(path, format, journal)


def open_journal(
    paths: Paths,
    settings: dict[str, Any],
    overwrite: bool,
    defaults: Mapping[str, Any] | None = None,
    remove: Callable[[Journal, Mapping[str, Any]], None] = lambda journal, settings: None,
) -> Journal:
    """Open the journal of an output, either new or left by an earlier run with the same settings.

    Args:
        paths: The output.
        settings: The settings of this run.
        overwrite: Whether the output is begun anew.
        defaults: Settings that apply to journals that lack them.
        remove: Function that removes an output that is replaced, given its journal and settings.

    Raises:
        JournalError: If the output exists without a journal, has other settings, or is in use by another run.
    """
    journal = Journal(paths.journal)
    try:
        before = journal.settings()
        if before is None and paths.output.is_file() and paths.output.stat().st_size and not overwrite:
            raise JournalError(f"{paths.output} exists already; --overwrite replaces it")
        if before is None or overwrite:
            if before is not None:
                remove(journal, before)
            journal.begin(settings)
            paths.summary.unlink(missing_ok=True)  # it says that another run was complete
            return journal
        _compare(paths.output, journal, before, settings, defaults or {})
        return journal
    except BaseException:
        journal.close()
        raise


def _compare(
    output: Path, journal: Journal, before: dict[str, Any], settings: dict[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Raise `JournalError` if settings differ from the journal's. Settings that an old journal lacks are added to it."""
    kept = check_settings(str(output), before, settings, defaults, any(journal.totals().errors))
    if before != kept:
        journal.keep_settings(kept)


def check_settings(
    output: str, before: dict[str, Any], settings: dict[str, Any], defaults: Mapping[str, Any], has_scores: bool
) -> dict[str, Any]:
    """Return the settings of an output that is continued.

    Args:
        output: Its name, for messages.
        before: Its settings so far.
        settings: The settings of this run.
        defaults: Settings that apply if `before` lacks them.
        has_scores: Whether results were compared with references, so that the normalizer matters.

    Raises:
        JournalError: If they differ.
    """
    known = {**defaults, **before}
    if not has_scores:
        known.pop(NORMALIZER, None)
    changed = [name for name, value in settings.items() if name in known and known[name] != value]
    if changed == [NORMALIZER]:
        raise JournalError(
            f"word errors of {output} were counted with the normalizer {known[NORMALIZER]}, not {settings[NORMALIZER]}: "
            f"continue with --normalizer {known[NORMALIZER]}, or start over with --overwrite"
        )
    if changed:
        differences = "; ".join(f"{name} was {known[name]}, is {settings[name]}" for name in changed)
        raise JournalError(f"{output} was created with other settings ({differences}); --overwrite starts over")
    return before | settings


@contextlib.contextmanager
def _device(path: Path) -> Iterator[BinaryIO]:
    file = open(path, "wb")  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # each row was flushed as it was written, and failures were reported then
            file.close()


def _refuse_folder(table: FormatTable, format: str | None, why: str = "") -> None:
    """Raise `ValueError` if a format writes a folder, for an output that is none."""
    if table.writes_folder(format):
        what = "a file for each input" if table.has_file_each(format) else "a folder"
        raise ValueError(f"{format} writes {what}{why or ': name a folder with -o'}")


def _check_name(path: Path, format: str | None, table: FormatTable, is_folder: bool) -> None:
    """Raise `ValueError` if the suffix of the name does not fit the content of the output."""
    suffix, known = path.suffix.lower(), ", ".join(table.suffixes())
    if suffix in AUDIO_SUFFIXES:
        raise ValueError(f"{path} has the suffix of an audio file: expected one of {known}")
    if is_folder or not suffix or table.writes_folder(format):
        return
    if suffix in COMPRESSED_SUFFIXES:
        raise ValueError(f"{path} has the suffix of a compressed file, but outputs are not compressed: use one of {known}")
    if format is None and table.named(path) is None:
        raise ValueError(f"{path} has the unknown suffix {path.suffix}: use one of {known}, or pass --format")


def _of_shard(path: Path, shard: Shard) -> Path:
    """Return the output of one shard, so that no two shards share a file: `out.jsonl` becomes `out.2-of-16.jsonl`."""
    return path.with_name(f"{path.stem}.{shard.index}-of-{shard.count}{path.suffix}")
