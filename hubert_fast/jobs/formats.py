"""Define kinds of output formats, and the table of formats from which a command derives its options and file names.

The command line reads such tables for `--help`, so this module must not import torch.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .journal import Journal
    from .outcomes import Outcome
    from .parquet_columns import Columns
    from .sinks import Output
    from .utterances import Shard


class Context(NamedTuple):
    """The run that opens an output.

    Attributes:
        runner: The runner.
        options: The options of the command.
        name: A name for the inputs: that of the first one, without its folder and suffix.
        shard: The part of the inputs, if they are divided.
    """

    runner: Any
    options: argparse.Namespace
    name: str
    shard: Shard | None


@dataclass(frozen=True)
class Format:
    """An output format.

    Attributes:
        suffix: Suffix of file names, without the dot.
        description: Shown by `--help`.
        is_json: Whether rows are JSON, so that they can carry notes and escape file names that are not UTF-8.
        is_aligned: Whether row i belongs to input i, so that rows are in the order of the inputs, and those that fail have one.
        has_notes: Whether rows that are not JSON carry notes too.
    """

    suffix: str
    description: str
    is_json: bool = False
    is_aligned: bool = False
    has_notes: bool = False


@dataclass(frozen=True, kw_only=True)
class RowFormat(Format):
    """A format that holds all utterances in one file.

    Attributes:
        text: Function that returns the rows of a result.
        bare: Function that returns the rows of a result without the name of the input.
        head: Text at the beginning of the file, such as the header of a table.
        between: Text between the rows of consecutive results.
        tail: Text at the end of the file, which is absent while a run is writing.
        failure: The row of an input that failed, for formats that are aligned.
    """

    text: Callable[[Any], str]
    failure: str = ""
    bare: Callable[[Any], str] | None = None
    head: str = ""
    between: str = ""
    tail: str = ""

    def end(self, is_empty: bool) -> str:
        """Return the tail of the file, without its leading newline if the file has no rows."""
        return self.tail.lstrip() if is_empty else self.tail


@dataclass(frozen=True, kw_only=True)
class FileFormat(Format):
    """A format with a file for each utterance, or for each of its channels.

    Attributes:
        contents: Function that returns the content of each file of a result.
        files: Function that returns the files of an output, given its folder and journal, which --overwrite removes; by default
            they stay until their utterance is done again.
    """

    contents: Callable[[Any], Sequence[str | bytes]]
    files: Callable[[Path, Journal], Iterable[Path]] = lambda folder, journal: ()


@dataclass(frozen=True, kw_only=True)
class FolderFormat(Format):
    """A format with a folder of files, each of which holds many utterances.

    Attributes:
        open: Function that opens the output, given the folder, the journal and the run.
        files: Function that returns the files of an output, given its folder and journal, which --overwrite removes.
        refusal: Function that returns why a run cannot write this format; `None` if it can.
        columns: Function that returns the columns of results in Parquet files, given the runner; `None` for other formats.
        needs: The module that the format needs, and how to install it.
    """

    open: Callable[[Path, Journal, Context], Output]
    files: Callable[[Path, Journal], Iterable[Path]]
    refusal: Callable[[Context], str | None] = lambda context: None
    columns: Callable[[Any], Columns] | None = None
    needs: tuple[str, str] | None = None


def check_format(name: str, format: Format, channels: str, retry_failed: bool) -> None:
    """Check that a format can be written with these options, before anything is loaded. Raises `ValueError` if not.

    Args:
        name: The format's name.
        format: The format.
        channels: `"mix"` or `"each"`.
        retry_failed: Whether inputs that failed in earlier runs are tried again.
    """
    if format.is_aligned and channels == "each":
        raise ValueError(f"with --channels each, a file has several rows, but {name} has a row for each input")
    if format.is_aligned and retry_failed:
        raise ValueError(
            f"--retry-failed would put rows out of order, since row i of {name} belongs to input i: start over with --overwrite"
        )
    if isinstance(format, FolderFormat) and format.needs is not None and find_spec(format.needs[0]) is None:
        raise ValueError(f"{name} needs {format.needs[0]}: {format.needs[1]}")


@dataclass(frozen=True)
class FormatTable:
    """The output formats of a command.

    Attributes:
        formats: The formats, by the values of `--format`.
        default: The format of a name without a suffix.
        on_standard_output: The format on standard output; `None` if the command does not write there.
        default_folder: The format of a name that is a folder; `None` if a folder needs `--format`.
        done: Participle for what the command does to an input, for messages: `"transcribed"`.
    """

    formats: Mapping[str, Format]
    default: str
    on_standard_output: str | None
    done: str
    default_folder: str | None = None

    def names(self) -> str:
        """Return the names of all formats: `"jsonl, txt, ..."`."""
        return ", ".join(self.formats)

    def has_file_each(self, name: str | None) -> bool:
        """Return whether a format, given by name, writes a file for each utterance."""
        return name is not None and isinstance(self.formats[name], FileFormat)

    def names_with_file_each(self) -> str:
        """Return the names of the formats that write a file for each utterance: `"srt, vtt, ..."`."""
        return ", ".join(filter(self.has_file_each, self.formats))

    def writes_folder(self, name: str | None) -> bool:
        """Return whether a format, given by name, writes a folder of any kind."""
        return name is not None and isinstance(self.formats[name], (FileFormat, FolderFormat))

    def names_with_folder(self) -> str:
        """Return the names of the formats that write a folder: `"srt, vtt, ..."`."""
        return ", ".join(filter(self.writes_folder, self.formats))

    def suffixes(self) -> dict[str, str]:
        """Return the format that each suffix names: `{".jsonl": "jsonl", ...}`."""
        return {f".{format.suffix}": name for name, format in self.formats.items() if not isinstance(format, FolderFormat)}

    def named(self, path: Path) -> str | None:
        """Return the format that a file name's suffix stands for, in upper or lower case."""
        return next((name for suffix, name in self.suffixes().items() if path.suffix.lower() == suffix.lower()), None)

    def listed(self) -> str:
        """Return the formats with their descriptions, for `--help`."""
        return ", ".join(f"{name} ({format.description})" for name, format in self.formats.items())


def table(rows: Sequence[Sequence[str]], delimiter: str, end: str) -> str:
    """Return rows separated by a delimiter; fields that contain it, quotes or line ends are quoted."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue()


def notes_entry(result: Outcome) -> dict[str, list[str]]:
    """Return the entry with the notes of a result for its JSON object; `{}` if there are none."""
    return {"notes": [*result.notes]} if result.notes else {}


def error_row(result: Outcome) -> str:
    """Return a failure as a JSON line."""
    row: dict[str, Any] = {"id": result.utterance.id, "audio": result.utterance.audio, "error": result.error}
    return json.dumps(row | notes_entry(result), ensure_ascii=False) + "\n"


FAILURES = RowFormat("jsonl", "a JSON object per failure", text=error_row, is_json=True)
