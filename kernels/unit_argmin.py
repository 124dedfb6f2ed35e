"""Find the nearest centroid of each frame, without storing the distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from . import tuning
from .checks import check_devices, check_dtypes, check_shape, rows_of


@triton.jit(do_not_specialize=["n_rows"])
def _unit_argmin_kernel(
    x_ptr,
    columns_ptr,
    norms_ptr,
    units_ptr,
    n_rows,
    x_stride_row,
    N_IN: tl.constexpr,
    N_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program goes over all centroids for BLOCK_M frames, and keeps the least `|c|^2 - 2 x.c` so far and its index."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    # beyond the edge, the last row is computed again, but not stored
    x_offsets = tl.minimum(rows, n_rows - 1).to(tl.int64) * x_stride_row
    k = tl.arange(0, BLOCK_K)
    least = tl.full([BLOCK_M], float("inf"), dtype=tl.float32)
    nearest = tl.zeros([BLOCK_M], dtype=tl.int32)
    for first in range(0, N_COLUMNS, BLOCK_N):
        units = first + tl.arange(0, BLOCK_N)
        x_ptrs = x_ptr + x_offsets[:, None] + k[None, :]
        column_ptrs = columns_ptr + k.to(tl.int64)[:, None] * N_COLUMNS + units[None, :]
        products = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for done in range(0, N_IN, BLOCK_K):
            if N_IN % BLOCK_K == 0:
                x = tl.load(x_ptrs)
                columns = tl.load(column_ptrs)
            else:
                x = tl.load(x_ptrs, mask=(k < N_IN - done)[None, :], other=0.0)
                columns = tl.load(column_ptrs, mask=(k < N_IN - done)[:, None], other=0.0)
            products = tl.dot(x, columns, products, input_precision="ieee")
            x_ptrs += BLOCK_K
            column_ptrs += BLOCK_K * N_COLUMNS
        distances = tl.load(norms_ptr + units)[None, :] - 2 * products
        distances = tl.where(distances < float("inf"), distances, float("inf"))  # NaN is never the least
        top, where = tl.min(distances, axis=1, return_indices=True)
        nearest = tl.where(top < least, where + first, nearest)  # the first of equal distances, as in torch
        least = tl.minimum(least, top)
    tl.store(units_ptr + rows, nearest, mask=rows < n_rows)


def launch(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the index of the centroid nearest to each frame, int32 `[...]`, for `x` `[..., C]` and `centroids` `[K, C]`.

    Raises:
        ValueError: Shapes, dtypes or devices do not match.
    """
    check_devices(x=x, centroids=centroids)
    check_dtypes(x=x, centroids=centroids)
    if centroids.dim() != 2 or not centroids.numel():
        raise ValueError(f"centroids must be [K, C] and not empty, but are {list(centroids.shape)}")
    n_centroids, n_in = centroids.shape
    check_shape("x", x, (*x.shape[:-1], n_in), f"centroids {list(centroids.shape)}")
    units = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    if not units.numel():
        return units
    blocks = tuning.unit_argmin(n_centroids)
    columns, norms = _columns_of(centroids.float(), blocks["BLOCK_N"])
    # not converted in the kernel: for sm_100, triton 3.4 to 3.7 compile an "ieee" product of converted operands to tf32
    rows = rows_of(x).float()
    with torch.cuda.device_of(x):
        _unit_argmin_kernel[(tuning.cdiv(len(rows), blocks["BLOCK_M"]),)](
            rows, columns, norms, units, len(rows), rows.stride(0), N_IN=n_in, N_COLUMNS=columns.shape[1], **blocks
        )
    return units


def _columns_of(centroids: torch.Tensor, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centroids `[K, C]` as columns `[C, K']`, the layout that the product reads fastest, and `|c|^2` `[K']`.

    K' is a multiple of `multiple`. The columns beyond K are infinitely far from every frame.
    """
    extra = -len(centroids) % multiple
    columns = F.pad(centroids, (0, 0, 0, extra)).t().contiguous()
    return columns, F.pad(centroids.square().sum(1), (0, extra), value=float("inf"))
