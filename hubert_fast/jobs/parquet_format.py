"""Define the format of a folder of Parquet files, which the tables of several commands contain.

The command line reads these tables for `--help`, so this module must import neither torch nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .formats import Context, FolderFormat

if TYPE_CHECKING:
    from .journal import Journal
    from .parquet_columns import Columns
    from .sinks import Output

PYARROW = ("pyarrow", "pip install 'hubert_fast[parquet]'")
PART_BYTES = 256 << 20


def parquet_format(
    columns: Callable[[Any], Columns],
    part_bytes: Callable[[Context], int] = lambda context: PART_BYTES,
    has_notes: bool = False,
) -> FolderFormat:
    """Return the format of a folder of Parquet files of bounded size.

    Args:
        columns: Function that returns the columns of results, given the runner.
        part_bytes: Function that returns the size from which on a file is complete, given the run; 256 MiB by default.
        has_notes: Whether there is a column with notes.
    """

    def opened(folder: Path, journal: Journal, context: Context) -> Output:
        from .parquet_parts import ParquetParts

        return ParquetParts(folder, journal, columns(context.runner), part_bytes(context))

    return FolderFormat(
        "",
        "a folder of Parquet files of bounded size",
        has_notes=has_notes,
        open=opened,
        files=_files,
        columns=columns,
        needs=PYARROW,
    )


def _files(folder: Path, journal: Journal) -> Iterable[Path]:
    from .parquet_parts import files_of_parts

    return files_of_parts(folder, journal)
