"""Read the rows of Parquet and Arrow files as a stream: audio files as bytes in a column, or paths to them.

The Arrow files of Hugging Face's datasets have the IPC stream format; other programs write the IPC file format, which is such a
stream between two marks, and is read as one.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from ...audio.contained import Contained
from ...first_bytes import HEAD_BYTES, identify
from ...hub import first_line
from ..paths import PathResolver, parent_folder
from ..row_paths import utterance_of
from ..rows import parse_row
from ..utterances import Utterance
from . import streams
from .kinds import name_of
from .retries import StorageError
from .table_columns import ColumnError, Columns, choose

PARQUET_MAGIC, FILE_MAGIC, STREAM_MAGIC = b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"
BATCH_BYTES, MOST_BATCH_ROWS = 8 << 20, 1024
BUFFER_BYTES = 1 << 20  # of a column

Note = Callable[[str], None]


class _DamagedError(Exception):
    """A file ends too early; the message says how that shows."""


class _File(io.RawIOBase):
    """The file for pyarrow, which wraps exceptions in its own. This object keeps those of the storage.

    Attributes:
        failure: The error of the storage.
        has_ended: Whether pyarrow tried to read beyond the end.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.failure, self.has_ended = file, cast("StorageError | None", None), False

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except StorageError as error:
            self.failure = error
            raise
        self.has_ended = self.has_ended or len(data) < size
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def utterances(source: str, column: str | None = None, note: Note = lambda message: None) -> Iterator[Utterance]:
    """Yield the rows of a Parquet or Arrow file, in its order, with the bytes of audio that the file holds.

    Rows whose audio is a path or URL are as those of a list: their offset and duration count. If the file is damaged, or is
    of another kind, the last utterance has an error that says so.

    Args:
        source: The path or URL of the file.
        column: The column with the audio; `None` to find it.
        note: Function called with each warning about the file.

    Raises:
        StorageError: If the file cannot be opened or read.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        reason = "reading Parquet and Arrow files needs pyarrow: pip install 'hubert_fast[parquet]'"
        yield Utterance(source, source, error=f"{source}: {reason}")
        return
    count, problem = 0, None
    with streams.opened(source) as opened:
        head = cast(io.BufferedReader, opened).peek(HEAD_BYTES)[:HEAD_BYTES]
        if not head.startswith((PARQUET_MAGIC, FILE_MAGIC, STREAM_MAGIC)):
            identity = identify(head)
            reason = "this is neither a Parquet nor an Arrow file" if identity is None else identity.instead_of("a table")
            yield Utterance(source, source, error=f"{source}: {reason}")
            return
        file = _File(opened)
        batches = _parquet(file, source, column) if head.startswith(PARQUET_MAGIC) else _arrow(file, head, column)
        rows = _Rows(source, note)
        while problem is None:
            try:
                columns, batch = next(batches)
                _check(columns, batch)
            except StopIteration:
                break
            except StorageError:
                raise
            except Exception as error:  # pyarrow raises errors of many kinds
                if file.failure is not None:
                    raise file.failure from None
                problem = str(error) if isinstance(error, ColumnError) else _damage(count, error)
                break
            for index in range(batch.num_rows):
                yield rows.utterance(count, columns, batch, index)
                count += 1
            del batch
    if problem is not None:
        yield Utterance(source, source, error=f"{source}: {problem}")
    elif not count:
        yield Utterance(source, source, error=f"{source}: no rows in this table")


def _damage(count: int, error: Exception) -> str:
    reason = first_line(error)
    if not count:
        return f"the table is damaged at its beginning, or its end is missing: {reason}"
    rows = "1 row before that was" if count == 1 else f"{count} rows before that were"
    return f"the table is damaged after row {count - 1} ({reason}): {rows} read, and the rest is lost"


def _parquet(file: _File, source: str, column: str | None) -> Iterator[tuple[Columns, Any]]:
    """Yield the rows of a Parquet file in small batches, so that memory does not grow with its row groups.

    A page of a column is read as a whole. Those that pyarrow writes hold a megabyte, or up to 1,024 values if these are large.
    """
    from pyarrow import parquet

    if not file.seekable():
        raise StorageError(f"{source}: this server gives no random access, which Parquet files need: download the file first")
    table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
    columns = choose(table.schema_arrow, column)
    names = [columns.audio, *columns.texts, *columns.times]
    for index in range(table.num_row_groups):
        group = table.metadata.row_group(index)
        row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        n_rows = max(1, min(MOST_BATCH_ROWS, BATCH_BYTES // row_bytes))
        for batch in table.iter_batches(n_rows, row_groups=[index], columns=names, use_threads=False):
            yield columns, batch


def _arrow(file: _File, head: bytes, column: str | None) -> Iterator[tuple[Columns, Any]]:
    """Yield the record batches of an Arrow file. Their size is the choice of whoever wrote it."""
    from pyarrow import ipc

    if head.startswith(FILE_MAGIC):
        file.read(len(FILE_MAGIC))
    reader = ipc.open_stream(file)
    columns = choose(reader.schema, column)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            break
        yield columns, batch
    if file.has_ended:
        raise _DamagedError("its end mark is missing, so it may be cut off")


def _check(columns: Columns, batch: Any) -> None:
    """Raise an error if a damaged batch has lengths or numbers that would lead out of its memory."""
    from pyarrow import ArrowInvalid

    for name in (columns.audio, *columns.texts, *columns.times):
        try:
            batch.column(name).validate(full=True)
        except ArrowInvalid as error:
            if "UTF8" not in str(error):  # file names and texts need not be UTF-8
                raise


class _Rows:
    """Makes utterances of the rows of a table.

    Args:
        source: The path or URL of the table.
        note: Function called with each warning.
    """

    def __init__(self, source: str, note: Note):
        self._source, self._note = source, note
        self._stem = PurePosixPath(name_of(source)).stem
        self._resolver = PathResolver(parent_folder(source))

    def utterance(self, number: int, columns: Columns, batch: Any, index: int) -> Utterance:
        """Return a row of a batch; `number` counts the rows of the table from 0."""
        url = f"parquet://{number}::{self._source}"
        try:
            content, path = _audio(batch.column(columns.audio)[index], columns.kind)
            names = columns.texts if content is not None else columns.texts + columns.times
            fields = {name: _value(batch.column(name)[index]) for name in names}
        except IndexError as error:  # in the numbers of a dictionary
            return Utterance(url, url, error=f"{url}: this row is damaged: {first_line(error)}")
        entry = parse_row(number, {**fields, "audio": url if content is not None or not path else path}, "row")
        reason = None if entry.error is None else entry.error.removeprefix(f"row {number}").removeprefix(":").strip()
        if content is None and not path:
            reason = f"the column {columns.audio} has no audio in this row"
        if reason is not None:
            return Utterance(entry.id or url, url, error=f"{url}: {reason}")
        if entry.note is not None:
            self._note(entry.note)
        if content is None:
            return utterance_of(entry, self._resolver.resolve(entry.audio))
        stem = PurePosixPath(path).stem if path else ""
        name = entry.id or stem or f"{self._stem}-{number:06d}"
        return Utterance(entry.id or url, Contained.of(url, content), reference=entry.reference, name=name)


def _audio(value: Any, kind: str) -> tuple[bytes | None, str]:
    """Return the bytes of audio, and its path; `None` and `""` stand for what is missing."""
    if not value.is_valid:
        return None, ""
    if kind == "bytes":
        return value.as_py(), ""
    if kind == "text":
        return None, _value(value)
    fields = {name: value[name] for name in ("bytes", "path") if name in value}
    content, path = (None if name not in fields else _value(fields[name]) for name in ("bytes", "path"))
    return (content if isinstance(content, bytes) else None), (path if isinstance(path, str) else "")


def _value(value: Any) -> Any:
    """Return a scalar as bytes, text or a number. Text that is not UTF-8 keeps its bytes, as file names do."""
    with contextlib.suppress(UnicodeDecodeError):
        plain = value.as_py()
        return plain if plain is None or isinstance(plain, (bytes, str, int, float)) else str(plain)
    value = getattr(value, "value", value)  # of a dictionary
    return value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
