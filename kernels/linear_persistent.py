"""Compute a matrix product with bias and GELU by a persistent kernel: one program per multiprocessor, with TMA loads.

While a program finishes a tile, the operands of the next one are already being loaded. The kernel serves products with many
rows on Hopper whose weight divides into whole blocks; `linear` serves all others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .gelu import form_of, gelu


@triton.jit(do_not_specialize=["n_rows"])
def _linear_persistent_kernel(
    x_desc,
    weight_desc,
    out_desc,
    bias_ptr,
    n_rows,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """One program computes every PROGRAMS-th tile ``[BLOCK_M, BLOCK_N]`` of ``gelu(x weight^T + bias)``, in fp32."""
    tiles_m = tl.cdiv(n_rows, BLOCK_M)
    tiles_n: tl.constexpr = N_OUT // BLOCK_N
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        group = tile // (GROUP_M * tiles_n)
        group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
        within = tile % (GROUP_M * tiles_n)
        row = (group * GROUP_M + within % group_rows) * BLOCK_M
        column = within // group_rows * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for step in range(N_IN // BLOCK_K):
            x = x_desc.load([row, step * BLOCK_K])
            weight = weight_desc.load([column, step * BLOCK_K])
            acc = tl.dot(x, weight.T, acc)
        # one half after the other, as in linear
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        _finish(left, bias_ptr, out_desc, row, column, HAS_BIAS, GELU, BLOCK_N // 2)
        _finish(right, bias_ptr, out_desc, row, column + BLOCK_N // 2, HAS_BIAS, GELU, BLOCK_N // 2)


@triton.jit
def _finish(
    acc, bias_ptr, out_desc, row, column, HAS_BIAS: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Add the bias to BLOCK columns of a tile, apply GELU, and store them."""
    if HAS_BIAS:
        acc += tl.load(bias_ptr + column + tl.arange(0, BLOCK)).to(tl.float32)[None, :]
    if GELU is not None:
        acc = gelu(acc, GELU)
    out_desc.store([row, column], acc.to(out_desc.dtype))


def takes(*operands: torch.Tensor) -> bool:
    """Return whether TMA can read operands `[N, C]`: whether their addresses and row strides are multiples of 16 bytes."""
    return all(x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0 for x in operands)


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, apply_gelu: bool) -> None:
    """Fill `out` `[N, C_out]` from the rows of `x` `[N, C_in]`, which may overlap and which `linear` has checked."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    (n_rows, n_in), n_out = x.shape, len(weight)
    blocks = tuning.linear_persistent(n_in, n_out, x.element_size(), tuning.capability_of(x.device))
    block_m, block_n, block_k = (blocks[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    # a compile-time constant: it must not depend on the number of rows, or each number of tiles would compile another kernel
    programs = tuning.multiprocessors_of(x.device)
    tiles = tuning.cdiv(n_rows, block_m) * (n_out // block_n)
    weight = weight.contiguous()
    with torch.cuda.device_of(x):
        _linear_persistent_kernel[(min(programs, tiles),)](
            TensorDescriptor(x, [n_rows, n_in], [x.stride(0), 1], [block_m, block_k]),
            TensorDescriptor(weight, [n_out, n_in], [n_in, 1], [block_n, block_k]),
            TensorDescriptor(out, [n_rows, n_out], [n_out, 1], [block_m, block_n // 2]),
            weight if bias is None else bias.contiguous(), n_rows, N_IN=n_in, N_OUT=n_out, HAS_BIAS=bias is not None,
            GELU=form_of(x.dtype) if apply_gelu else None, PROGRAMS=programs, **blocks,
        )  # fmt: skip
