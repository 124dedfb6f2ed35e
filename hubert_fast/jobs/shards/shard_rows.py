"""Write the rows of one shard to a temporary file, in a format that holds many utterances in one file."""

from __future__ import annotations

import contextlib
from typing import Any, BinaryIO

from ..formats import FolderFormat, Format, RowFormat
from ..outcomes import Outcome
from ..row_file import encoded

GROUP_BYTES = 32 << 20  # of a row group of a Parquet file, which is held in memory


class ShardRows:
    """The rows of a shard, in the order of its utterances."""

    def write(self, result: Outcome) -> None:
        """Write a result."""
        raise NotImplementedError

    def write_failure(self, result: Outcome) -> None:
        """Write what stands for a failed utterance in an aligned format."""

    def finish(self) -> None:
        """Complete the file."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is held, also after a failure."""


class TextRows(ShardRows):
    """Rows of text."""

    def __init__(self, file: BinaryIO, format: RowFormat):
        self._file, self._format, self._is_empty = file, format, True
        self._file.write(encoded(format.head))

    def write(self, result: Outcome) -> None:
        self.append(self._format.text(result))

    def write_failure(self, result: Outcome) -> None:
        if self._format.is_aligned:
            self.append(self._format.failure)

    def append(self, text: str) -> None:
        """Write rows of text."""
        if text:
            between = "" if self._is_empty else self._format.between
            self._file.write(encoded(between + text))
            self._is_empty = False

    def finish(self) -> None:
        self._file.write(encoded(self._format.end(self._is_empty)))


class ParquetRows(ShardRows):
    """Rows of a Parquet file."""

    def __init__(self, file: BinaryIO, columns: Any):
        from pyarrow import parquet

        self._columns, self._writer = columns, parquet.ParquetWriter(file, columns.schema)
        self._group: list[Any] = []
        self._bytes = 0

    def write(self, result: Outcome) -> None:
        import pyarrow

        for arrays in self._columns.rows(result):
            batch = pyarrow.RecordBatch.from_arrays(arrays, schema=self._columns.schema)
            self._group.append(batch)
            self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._end_group()

    def _end_group(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_batches(self._group, self._columns.schema).combine_chunks())
        self._group, self._bytes = [], 0

    def finish(self) -> None:
        if self._group:
            self._end_group()
        self._writer.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a Parquet writer that is not closed would write when it is collected
            self._writer.close()


def shard_rows(file: BinaryIO, format: Format, runner: Any) -> ShardRows:
    """Return the rows of a shard in a format that `suffix_of` accepts."""
    if isinstance(format, RowFormat):
        return TextRows(file, format)
    assert isinstance(format, FolderFormat) and format.columns is not None
    return ParquetRows(file, format.columns(runner))


def suffix_of(name: str, format: Format) -> str:
    """Return the suffix of the output of a shard.

    Raises:
        ValueError: If the format cannot hold a shard in one file.
    """
    if isinstance(format, RowFormat):
        return format.suffix
    if isinstance(format, FolderFormat) and format.columns is not None:
        return "parquet"
    raise ValueError(f"{name} cannot hold the results of a shard in one file: use parquet, jsonl or another format with rows")
