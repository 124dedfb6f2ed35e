"""Define what a file of centroids holds, whatever its format: the centroids, a projection before them, and what is known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class CentroidsError(ValueError):
    """A file of centroids is missing, unreadable or malformed, or does not fit the frames. The message says what to do."""


@dataclass(frozen=True)
class Projection:
    """A linear map that is applied to frames before their distances to the centroids: `frames @ weight.T + bias`.

    Attributes:
        weight: float32 `[C, C_model]`.
        bias: float32 `[C]`, or `None`.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Return the projected frames, float32 `[N, C_model]` to `[N, C]`."""
        projected = frames.astype(np.float32, copy=False) @ self.weight.T
        return projected if self.bias is None else projected + self.bias


@dataclass(frozen=True)
class Codebook:
    """The content of a file of centroids.

    Attributes:
        values: The centroids, an array that `checked` has not seen yet.
        projection: The projection before distances, if the file has one.
        metadata: Text about the centroids, with the keys of the files that `Centroids.save` writes.
    """

    values: Any
    projection: Projection | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def digest(*contents: np.ndarray | bytes) -> str:
    """Return a hash of arrays or bytes, 16 hexadecimal digits."""
    content_hash = hashlib.blake2b(digest_size=8)
    for content in contents:
        content_hash.update(np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content)
    return content_hash.hexdigest()


def checked(array: Any, dimensions: int, what: str) -> np.ndarray:
    """Return a contiguous float32 copy of an array.

    Raises:
        CentroidsError: It is not an array of finite floating-point numbers with so many dimensions, each of at least 1.
    """
    if not isinstance(array, np.ndarray):
        raise CentroidsError(f"{what} must be an array of numbers, but is a {type(array).__name__}")
    if array.dtype.kind != "f":
        raise CentroidsError(f"{what} must be floating-point numbers, but have dtype {array.dtype}")
    if array.ndim != dimensions or 0 in array.shape:
        expected = ["?", "[C]", "[K, C]"][dimensions]
        raise CentroidsError(f"{what} must have shape {expected}, each at least 1, but have shape {list(array.shape)}")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused
        values = np.array(array, dtype=np.float32, order="C")  # a copy, as the array may keep a whole file in memory
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        raise CentroidsError(f"{what} must be finite, but {len(rows)} of {len(values)} rows are not, the first being {rows[0]}")
    return values
