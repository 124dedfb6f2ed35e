"""Read the headers of NumPy's `.npy` files, and rows of their arrays with plain reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ..hub import first_line
from .codebook import CentroidsError

MAGIC = b"\x93NUMPY"


class NpyFile(NamedTuple):
    """An array `[N, C]` of floating-point numbers in a file.

    Attributes:
        path: The file.
        dtype: The dtype of the array.
        shape: Its shape.
        offset: The byte in the file at which the array begins.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path, by_rows: bool = True) -> NpyFile:
        """Read the header of a file.

        Args:
            path: The file.
            by_rows: Whether its rows are to be read alone, for which they must be in C order.

        Raises:
            CentroidsError: The file is missing, cut off, or not a `.npy` file with a 2-D floating-point array in that order.
        """
        try:
            with open(path, "rb") as file:
                version = npy_format.read_magic(file)
                read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
                shape, is_fortran, dtype = read(file)
                offset, size = file.tell(), file.seek(0, 2)
        except OSError as error:
            raise CentroidsError(f"{path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:  # not this format, or a version of it that NumPy does not know
            raise CentroidsError(f"{path} is not a complete .npy file ({first_line(error)}): write it again") from None
        if dtype.kind != "f" or len(shape) != 2:
            raise CentroidsError(
                f"{path} must hold a floating-point array [rows, channels], but holds shape {list(shape)} and dtype {dtype}"
            )
        if by_rows and is_fortran and min(shape) > 1:
            raise CentroidsError(
                f"{path} is in Fortran order, so its rows cannot be read alone: write it with np.save(path, "
                f"np.ascontiguousarray(array))"
            )
        expected = offset + math.prod(shape) * dtype.itemsize
        if size < expected:
            raise CentroidsError(
                f"{path} is cut off: its header says {expected:,} bytes, but it has {size:,}: write or download it again"
            )
        return cls(path, dtype, shape, offset)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return rows of the array, in its dtype. Mapped pages would count as the process's memory, so rows are read."""
        channels = self.shape[1]
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset + start * channels * self.dtype.itemsize)
                rows = np.fromfile(file, self.dtype, count * channels)
        except OSError as error:
            raise CentroidsError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if len(rows) < count * channels:
            raise CentroidsError(f"{self.path} has become shorter while it was read: write it again")
        return rows.reshape(count, channels)
