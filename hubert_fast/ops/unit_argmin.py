"""Find the nearest centroid of each frame: its discrete unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import use_triton
from .precision import may_round_products, without_autocast

SLICE_BYTES = 32 << 20  # distances and copies of a slice of the frames; with less, threads often wait for each other


@without_autocast
def unit_argmin_eager(x: Tensor, centroids: Tensor) -> Tensor:
    """Compute `unit_argmin` in plain PyTorch: its definition.

    Distances are stored for one slice of the frames at a time, except under `torch.compile` and `torch.export`.
    """
    x, centroids = x.detach(), centroids.detach()  # an index has no gradient
    exact = x.dtype == torch.float64 or may_round_products(x.device.type)
    centroids = centroids.to(torch.float64 if exact else torch.float32)
    norms, rows = centroids.square().sum(1), x.reshape(-1, x.shape[-1])
    if torch.compiler.is_compiling():  # a loop would fix the number of frames
        return _nearest(rows, centroids, norms).view(x.shape[:-1])
    units = torch.empty(len(rows), dtype=torch.int32, device=x.device)
    bytes_per_row = centroids.element_size() * sum(centroids.shape)
    count = max(SLICE_BYTES // bytes_per_row, 1)
    for first in range(0, len(rows), count):
        units[first : first + count] = _nearest(rows[first : first + count], centroids, norms)
    return units.view(x.shape[:-1])


def _nearest(rows: Tensor, centroids: Tensor, norms: Tensor) -> Tensor:
    """Return the index of the least `|c|^2 - 2 x.c` for each row: `|x - c|^2` without `|x|^2`, which all have in common."""
    distances = torch.addmm(norms, rows.to(norms.dtype), centroids.t(), alpha=-2)
    infinity = float("inf")
    return distances.nan_to_num_(infinity, infinity, -infinity).argmin(1).int()


@torch.library.custom_op("hubert_fast::unit_argmin", mutates_args=())
def _unit_argmin_triton(x: Tensor, centroids: Tensor) -> Tensor:
    from ..kernels import unit_argmin as kernel

    return kernel.launch(x, centroids)


@_unit_argmin_triton.register_fake
def _(x: Tensor, centroids: Tensor) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.int32)


def unit_argmin(x: Tensor, centroids: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the index of the nearest centroid of each frame, which is the frame's discrete unit.

    All of it is computed in float32, whatever the dtype of `x`, and never in tf32 or bfloat16, even where PyTorch's settings
    allow that for its own products. The result is that of scikit-learn's `KMeans.predict`, except where the two least
    distances are equal within rounding. The distances `[..., K]` are never all in memory.
    Source: Hsu et al. 2021 (HuBERT), section II-A; Lloyd 1982 (k-means).

    Args:
        x: The features, `[..., C]`.
        centroids: The centroids, `[K, C]`, as `KMeans.cluster_centers_`.
        backend: `auto`, `eager` or `triton`; see `hubert_fast.dispatch`. By default that of the environment.

    Returns:
        The indices, int32 `[...]`: the first of equal distances. A distance that is NaN counts as infinite, and where all are
        infinite, as for a frame with NaN, the index is 0. A product with an infinite feature that is positive makes a
        distance of minus infinity, the least.

    Raises:
        ValueError: The kernel does not support operands of these shapes or dtypes, or `backend` is unknown.
        RuntimeError: A forced backend cannot run, or PyTorch rejects the operands of the definition.
    """
    x, centroids = x.detach(), centroids.detach()
    if use_triton(x, centroids, backend=backend, dtype=torch.float32):
        return _unit_argmin_triton(x, centroids)
    return unit_argmin_eager(x, centroids)
