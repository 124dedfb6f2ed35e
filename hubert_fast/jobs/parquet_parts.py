"""Write results to Parquet files of bounded size, so that a killed run can go on.

A Parquet file is written as a whole. Until a part is large enough, its rows are in an Arrow IPC stream beside it
(`part-00003.arrows`), which grows at its end and is cut off at the size in the journal when a run continues.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .journal import Journal, JournalError, Row
from .outcomes import Outcome
from .parquet_columns import Columns
from .row_file import check_size, sync_path
from .sinks import Output

if TYPE_CHECKING:
    import pyarrow

PART, ROWS = "part", "rows"  # roles in the journal: the numbers of the current part and of the next row
NAME = re.compile(r"part-(\d{5,})\.(?:arrows|parquet|parquet\.unfinished)")
UNFINISHED = ".unfinished"
NUMBER = "row"  # the column that numbers all rows, by which outdated ones are found
GROUP_BYTES = 128 << 20  # of a row group, which is held in memory


def files_of_parts(folder: Path, journal: Journal) -> Iterator[Path]:
    """Yield the files of an output in parts."""
    for number in range(journal.size_of(PART) + 1):
        for suffix in ("arrows", "parquet", "parquet" + UNFINISHED):
            yield folder / f"part-{number:05d}.{suffix}"


class ParquetParts(Output):
    """An output in Parquet files `part-00000.parquet` and so on, with the columns of the results and `row`, their number.

    Args:
        folder: The folder, created if missing.
        journal: Records sizes, the current part and outdated rows.
        columns: The columns of the results.
        part_bytes: The size from which on a part is complete.

    Raises:
        JournalError: If the folder or the stream of the current part is missing or cut off.
    """

    def __init__(self, folder: Path, journal: Journal, columns: Columns, part_bytes: int):
        import pyarrow

        self._folder, self._journal, self._columns, self._part_bytes = folder, journal, columns, part_bytes
        self._schema = pyarrow.schema([pyarrow.field(NUMBER, pyarrow.int64()), *columns.schema])
        if journal.totals().done and not folder.is_dir():
            raise JournalError(f"{folder} is missing, but {journal.path} lists rows in it: restore it, or use --overwrite")
        folder.mkdir(exist_ok=True)
        self._part, self._next_row = journal.size_of(PART), journal.size_of(ROWS)
        for number in range(self._part):
            if not self._parquet(number).exists():
                raise JournalError(
                    f"{self._parquet(number)} is missing, but {journal.path} lists rows in it: restore it, or start over with "
                    "--overwrite"
                )
        for path in folder.iterdir():
            if (match := NAME.fullmatch(path.name)) is None:
                continue
            number = int(match[1])
            if path.suffix == UNFINISHED or (number >= self._part if path.suffix == ".parquet" else number != self._part):
                path.unlink()  # written after the last commit, or superseded by it
        self._file, self._size = self._open_stream(journal.size_of(self._stream.name))

    def _open_stream(self, size: int) -> tuple[BinaryIO, int]:
        """Open the stream of the current part, cut off at its committed size, and return it with its size."""
        check_size(self._stream, size, self._journal)
        file = open(self._stream, "ab")  # noqa: SIM115
        file.truncate(size)
        if size:
            return file, size
        head = self._schema.serialize()
        file.write(head)
        sync_path(self._folder)
        return file, head.size

    @property
    def _stream(self) -> Path:
        return self._folder / f"part-{self._part:05d}.arrows"

    def _parquet(self, part: int) -> Path:
        return self._folder / f"part-{part:05d}.parquet"

    def write(self, result: Outcome) -> Row:
        import pyarrow

        first = self._next_row
        for arrays in self._columns.rows(result):
            numbered = [pyarrow.array([self._next_row], pyarrow.int64()), *arrays]
            message = pyarrow.RecordBatch.from_arrays(numbered, schema=self._schema).serialize()
            self._file.write(message)
            self._size += message.size
            self._next_row += 1
        return Row("output", first, self._next_row - first, 0)

    def sync(self) -> dict[str, int]:
        self._file.flush()
        os.fsync(self._file.fileno())
        sizes = {self._stream.name: self._size, ROWS: self._next_row}
        if self._size >= self._part_bytes:
            sizes |= self._begin_part()
        return {PART: self._part, **sizes}

    def _begin_part(self) -> dict[str, int]:
        """Complete the current part and begin the next one; return the sizes to commit. Until then, the old stream stays."""
        self._file.close()
        self._write_part()
        self._part += 1
        self._file, self._size = self._open_stream(0)
        return {PART: self._part, self._stream.name: 0}

    def _write_part(self) -> None:
        import pyarrow

        with pyarrow.OSFile(str(self._stream)) as stream:
            self._write_parquet(self._part, pyarrow.ipc.open_stream(stream))

    def _write_parquet(self, part: int, batches: Iterable[pyarrow.RecordBatch]) -> None:
        """Write a part, which appears as a whole."""
        import pyarrow
        from pyarrow import parquet

        path = self._parquet(part)
        unfinished = path.with_name(path.name + UNFINISHED)
        with parquet.ParquetWriter(unfinished, self._schema) as writer:
            for group in _groups(batches):
                writer.write_table(pyarrow.Table.from_batches(group, self._schema).combine_chunks())
        sync_path(unfinished)
        os.replace(unfinished, path)
        sync_path(self._folder)

    def finish(self) -> None:
        if self._size > self._schema.serialize().size:
            self._journal.commit(self._begin_part())
        self.close()
        self._journal.commit({self._stream.name: 0})
        for path in self._folder.glob("part-*.arrows"):
            if NAME.fullmatch(path.name):
                path.unlink()
        if stale := self._journal.stale_rows("output"):
            self._remove({number for row in stale for number in range(row.start, row.start + row.bytes)})
            self._journal.forget_stale("output")

    def _remove(self, numbers: set[int]) -> None:
        """Write the parts that hold outdated rows again, without them. After a kill, the next run does what is left."""
        import pyarrow
        from pyarrow import compute, parquet

        outdated = pyarrow.array(sorted(numbers), pyarrow.int64())
        for part in range(self._part):
            path = self._parquet(part)
            if compute.any(compute.is_in(parquet.read_table(path, columns=[NUMBER])[NUMBER], value_set=outdated)).as_py():
                file = parquet.ParquetFile(path)
                kept = (
                    batch.filter(compute.invert(compute.is_in(batch.column(NUMBER), value_set=outdated)))
                    for batch in file.iter_batches(batch_size=64)
                )
                self._write_parquet(part, kept)

    def close(self) -> None:
        self._file.close()


def _groups(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[list[pyarrow.RecordBatch]]:
    """Divide batches into the row groups of a Parquet file."""
    group: list[pyarrow.RecordBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
