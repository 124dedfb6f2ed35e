"""Choose block sizes for kernels, and decide where a library call replaces a kernel: pure functions of shapes and the chip.

`@triton.autotune` would time candidates at the first call of every shape, on the machine in production; nothing is timed here.
Results of `bench/tune.py`, in `tuned`, take precedence. The rules below apply to all other shapes and chips. They follow from
counting registers (255 per thread, 64 Ki per multiprocessor), shared memory, and bytes against operations.

`capability` is (major, minor): (8, 0) A100, (8, 6) and (8, 9) consumer and L40 chips, (9, 0) H100 and H200, (10, 0) B200,
(10, 3) B300, (12, 0) consumer Blackwell. Other chips are treated like those with the least shared memory.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch

from .tuned import TUNED

Blocks = dict[str, int]
SHARED_BYTES = {(8, 0): 166_912, (8, 7): 166_912, (9, 0): 232_448, (10, 0): 232_448, (10, 3): 232_448}
LEAST_SHARED_BYTES = 101_376
SMALL = (8, 6)


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def capability_of(device: torch.device) -> tuple[int, int]:
    """Return the capability of a CUDA device. Interpreted kernels get the block sizes of the smallest chip."""
    if device.type != "cuda":
        return SMALL
    return _capability(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def multiprocessors_of(device: torch.device) -> int:
    """Return the number of multiprocessors of a CUDA device; for other devices 132, as on Hopper."""
    if device.type != "cuda":
        return 132
    return _multiprocessors(torch.cuda.current_device() if device.index is None else device.index)


def shared_bytes(capability: tuple[int, int]) -> int:
    """Return the bytes of shared memory that one program can use."""
    return SHARED_BYTES.get(capability, LEAST_SHARED_BYTES)


def is_large(capability: tuple[int, int]) -> bool:
    """Return whether a chip is a data-centre chip, with enough shared memory for tiles of 128 x 256."""
    return capability in SHARED_BYTES


def has_wide_tensor_cores(capability: tuple[int, int]) -> bool:
    """Return whether tensor cores read operands from shared memory (wgmma on Hopper, tcgen05 on B200 and B300)."""
    return is_large(capability) and capability >= (9, 0)


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _tuned_for_rows(op: str, rows: int, key: tuple, capability: tuple[int, int]) -> Blocks | None:
    """Return the measured blocks for the number of rows whose ratio to `rows` is closest to 1, if there are any."""
    measured = {entry[2]: blocks for entry, blocks in TUNED.items() if entry[:2] == (op, capability) and entry[3:] == key}
    if not measured:
        return None
    return measured[min(measured, key=lambda count: abs(next_power_of_2(rows).bit_length() - count.bit_length()))]


def cdiv(number: int, size: int) -> int:
    """Return `number / size`, rounded up. `triton.cdiv` has more overhead."""
    return -(-number // size)


def stages(bytes_per_stage: int, capability: tuple[int, int], limit: int) -> int:
    """Return how many tiles of operands to keep in flight: as many as fit in shared memory, from 2 to `limit`."""
    return max(2, min(limit, shared_bytes(capability) // bytes_per_stage))


def _tuned(op: str, key: tuple, capability: tuple[int, int]) -> Blocks | None:
    return TUNED.get((op, capability, *key))


@lru_cache(maxsize=4096)  # the number of rows changes with every batch
def layer_norm(columns: int, rows: int) -> Blocks:
    """Return blocks for rows that are normalised in registers: 32 values per thread, 4,096 values (or one row) per program.

    Rows of more than 1,024 columns get 16 values per thread, since triton 3.7 spills with 32. Few rows are spread over four
    times as many programs, so that a short utterance does not leave the chip idle.
    """
    block = next_power_of_2(columns)
    together = max(1, (4096 if rows >= 4096 else 1024) // block)
    warps = together * block // (1024 if block <= 1024 else 512)
    return {"BLOCK_M": together, "BLOCK": block, "num_warps": min(max(warps, 1), 16)}


@lru_cache(maxsize=4096)
def linear(rows: int, n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks for a product `[rows, n_in] x [n_in, n_out]`.

    128 x 256 accumulators take 128 registers per thread in eight warps, half of all registers. Chips with less shared memory
    get 128 x 128. Few rows get smaller blocks, so that there are programs for all multiprocessors.
    """
    if (tuned := _tuned_for_rows("linear", rows, (n_in, n_out, itemsize), capability)) is not None:
        return tuned
    block_k = (64 if has_wide_tensor_cores(capability) else 32) * 2 // itemsize
    if itemsize == 4:
        block_m, block_n, warps, block_k = 64, 64, 4, 32
    elif is_large(capability) and rows >= 4096:
        block_m, block_n, warps = 128, 256, 8
    elif rows >= 1024:
        block_m, block_n, warps = 128, 128, 8
    else:
        block_m, block_n, warps = 64, 64, 4
    block_n = min(block_n, max(next_power_of_2(n_out), 16))
    depth = stages((block_m + block_n) * block_k * itemsize, capability, 4)
    return {
        "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "num_warps": warps, "num_stages": depth,
    }  # fmt: skip


def is_persistent(rows: int, n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Return whether a product runs on the persistent kernel `linear_persistent`, which fetches operands by TMA.

    Measured on an H200 in bf16, 60,000 x 1,024 x 4,096 with GELU: 0.767 ms, against 0.844 ms without (the library, with its own
    GELU by a less exact tanh: 0.737 ms); 52,195 x 1,536 x 512, a strided convolution: 0.137 ms against 0.163 ms. It has run
    on no other chip, and only with triton 3.6. Other versions from 3.4 to 3.9 compile it to the same code, give or take 24 of
    2,152 instructions and 7 of 164 registers. `hubert_fast.check` compares it with float64 before `auto` uses it.
    """
    blocks = linear_persistent(n_in, n_out, itemsize, capability)
    is_covered = n_in % blocks["BLOCK_K"] == 0 and n_out % blocks["BLOCK_N"] == 0
    return is_covered and rows >= 4096 and itemsize == 2 and capability == (9, 0)


@cache
def linear_persistent(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks for a persistent product: four stages of 128 x 256 x 64 fill the shared memory of Hopper."""
    tuned = _tuned("linear_persistent", (n_in, n_out, itemsize), capability)
    return tuned or {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8, "num_warps": 8, "num_stages": 4}


@cache
def linear_layer_norm(n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks for a product whose programs hold whole rows, in halves: 64 rows of 512 take 128 registers per thread."""
    half = max(next_power_of_2(n_out) // 2, 16)
    depth = stages((64 + 2 * half) * 32 * itemsize, capability, 4)
    return {"BLOCK_M": 64, "BLOCK_HALF": half, "BLOCK_K": 32, "num_warps": 8, "num_stages": depth}


def linear_gelu_by_library(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Return whether the library's product, followed by a pass for GELU, is faster than a Triton product that includes GELU.

    The pass reads and writes `2 * itemsize` bytes for an output that takes `2 * n_in` operations. Measured on an H200 in bf16,
    60,000 x 1,024 x 4,096: 0.986 ms with a pass, 0.767 ms without. float32 does not use tensor cores by default in PyTorch,
    and the library's product is faster there.
    """
    tuned = _tuned("linear_gelu_by_library", (n_in, n_out, itemsize), capability)
    return itemsize == 4 if tuned is None else bool(tuned["library"])


def linear_add_by_library(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Return whether the library's product, with the residual added by `add_layer_norm`, is faster than a fused Triton product.

    The fused product saves writing and reading an output, `2 * itemsize` bytes, but then the norm has to read the sum again,
    4 bytes. Measured on an H200 in bf16 with 60,000 rows, including the norm: 0.819 ms for the library against 0.936 ms for
    4,096 inputs, 0.362 ms against 0.383 ms for 1,024.
    """
    tuned = _tuned("linear_add_by_library", (n_in, n_out, itemsize), capability)
    return True if tuned is None else bool(tuned["library"])


def norm_in_convolution(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Return whether a strided convolution normalises in its epilogue, instead of in a separate pass.

    A program that holds whole rows of 512 holds 64 of them. For each k it reads 576 values for 32,768 products: at full rate
    105 bytes per nanosecond and multiprocessor, while the L2 cache delivers about 42 (H200). A separate pass costs 4 bytes for
    an output of 3,072 operations. Measured on an H200 in bf16, 52,195 x 1,536 x 512: 0.195 ms with a separate pass, 0.210 ms
    in the epilogue. So fusing helps only where the product is small compared with the pass.
    """
    tuned = _tuned("norm_in_convolution", (n_in, n_out, itemsize), capability)
    return (n_in < 512 and itemsize == 2) if tuned is None else bool(tuned["fused"])


@cache
def attention(head_dim: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks of queries and keys.

    With 16-bit operands the head dim is padded to a power of two. With float32 operands, which fill the registers, it is split
    into a power of two and a rest (80 is 64 + 16). In 16 bits, triton 3.6 miscompiled such a split: on an H200 kernels returned
    wrong results or read illegal addresses. 80 padded to 128 takes 0.831 ms, where 64 + 16 took 0.808 ms.

    With RELOAD, queries are read again for each block of keys, since float32 queries do not fit in the registers.
    """
    main = max(next_power_of_2(head_dim) if itemsize == 2 else 1 << (head_dim.bit_length() - 1), 16)
    rest = 0 if head_dim <= main else max(next_power_of_2(head_dim - main), 16)
    if (tuned := _tuned("attention", (head_dim, itemsize), capability)) is not None:
        return {"D_MAIN": main, "D_REST": rest, "RELOAD": itemsize == 4, **tuned}
    padded, reload = main + rest, False
    if itemsize == 2 and capability == (9, 0):
        # measured on an H200: 4% faster than 128 queries in 8 warps with 64 channels, 12% with 128
        block_m, block_n, warps = 64, 64 if padded <= 64 else 32, 4
    elif itemsize == 4 and exact_attention(head_dim, capability):
        main, rest = (main, rest) if rest else (main // 2, main // 2)  # halves, or operands alone would fill the registers
        reload, block_m, block_n, warps = True, *_exact_attention_blocks(padded, capability)
    elif itemsize == 4:
        block_m, block_n, reload = 64, 16, True
        warps = 8 if rest and capability >= (10, 0) else 4  # triton 3.4 spills with 4
    elif capability >= (12, 0) and head_dim == 128:
        block_m, block_n, warps = 32, 32, 4  # 128 queries spill in triton 3.7
    else:
        # without wgmma or tcgen05 the compiler needs more registers, and some versions spill with 32 keys; on Blackwell some
        # spill with 64 keys if channels are masked
        block_m, block_n = 128, 64 if padded <= 64 or has_wide_tensor_cores(capability) else 16
        if capability >= (10, 0) and head_dim < padded == 64:
            block_n = 32
        warps = 4 if padded <= 32 and not has_wide_tensor_cores(capability) else 8
    limit = 2 if itemsize == 4 or capability >= (10, 0) else 3
    depth = stages(2 * block_n * padded * itemsize + block_m * padded * itemsize // 2, capability, limit)
    return {
        "D_MAIN": main, "D_REST": rest, "RELOAD": reload, "BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps,
        "num_stages": depth,
    }  # fmt: skip


def _exact_attention_blocks(padded: int, capability: tuple[int, int]) -> tuple[int, int, int]:
    """Return queries, keys and warps for attention in true float32: the largest that spill with no triton since 3.4."""
    if padded <= 64:
        return 32, 16, 4
    if padded <= 80:
        return (16, 16, 4) if has_wide_tensor_cores(capability) else (32, 32, 8)
    return (32, 16, 8) if padded <= 96 else (32, 32, 8)


def exact_attention(head_dim: int, capability: tuple[int, int]) -> bool:
    """Return whether float32 attention multiplies in true float32, without tensor cores, since three tf32 products would spill.

    Three products hold each operand twice, as a high and a low part. From a head dim of 64 on (80 on Hopper) they take all
    registers.
    """
    return head_dim >= (80 if has_wide_tensor_cores(capability) else 64)


@cache
def conv_positional(channels: int, kernel: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks for the positional convolution, and FRAMES, the number of frames that share one row of the product.

    FRAMES fill 256 columns, or 128 with float32 or little shared memory: a wider product reads the frames less often, but takes
    `(kernel + FRAMES - 1) / kernel` times the operations.
    """
    if (tuned := _tuned("conv_positional", (channels, kernel, itemsize), capability)) is not None:
        return tuned
    big = itemsize == 2 and is_large(capability)
    block_n = max(256 if big else 128, next_power_of_2(channels))
    block_m, warps = 128 if big else 64, 8
    block_k = 64 if big and has_wide_tensor_cores(capability) else 32
    limit = 3 if capability == (9, 0) else 4  # measured on an H200: 2% faster
    depth = stages((block_m + block_n) * block_k * itemsize, capability, limit)
    return {
        "FRAMES": max(1, min(block_n // channels, kernel)), "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k,
        "num_warps": warps, "num_stages": depth,
    }  # fmt: skip


@cache
def conv_first(channels: int, frames_per_hop: int) -> Blocks:
    """Return blocks of frames and channels: 16 x 512 accumulators. A block lies in one hop, and so in one utterance."""
    block_c = next_power_of_2(channels)
    limit = max(1, min(64, 8192 // block_c))
    block_t = 1
    while block_t < limit and frames_per_hop % (2 * block_t) == 0:
        block_t *= 2
    return {"BLOCK_T": block_t, "BLOCK_C": block_c, "num_warps": min(max(block_t * block_c // 1024, 1), 8)}


CONV_FIRST_FRAMES = 64  # largest number of frames in a program of `conv_first_product`


@cache
def conv_first_product(channels: int, has_norm: bool) -> Blocks:
    """Return blocks of frames and channels. A norm needs all channels of a frame in one program.

    There are 64 accumulators per thread, so that several programs share a multiprocessor and one computes while another loads.
    Measured on an H200 in bf16, 837,758 frames of 512 channels: 0.502 ms with a norm, 0.392 ms without; with two and four times
    as many accumulators per program 0.525 and 0.636 ms, 0.406 and 0.544 ms.
    """
    block_c = max(next_power_of_2(channels), 16)
    if not has_norm:
        block_c = min(block_c, 256)
    block_t = min(max(8192 // block_c, 16), CONV_FIRST_FRAMES)
    return {"BLOCK_T": block_t, "BLOCK_C": block_c, "num_warps": min(max(block_t * block_c // 2048, 1), 16)}


@cache
def ctc_argmax(vocabulary: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Return blocks of rows, tokens and inputs: a vocabulary of 32 is one block, thousands are split into blocks of 128."""
    block_v = max(16, min(next_power_of_2(vocabulary), 128 if itemsize == 2 else 32))
    block_k = 64 if itemsize == 2 else 32
    depth = stages((64 + block_v) * block_k * itemsize, capability, 4)
    return {"BLOCK_M": 64, "BLOCK_V": block_v, "BLOCK_K": block_k, "num_warps": 4, "num_stages": depth}


@cache
def unit_argmin(centroids: int) -> Blocks:
    """Return blocks of rows, centroids and inputs, for a product in true float32, without tensor cores, on all chips.

    64 x 64 sums are 32 per thread, and 16 inputs are 512 multiply-adds per thread between two loads. Every triton since 3.4
    compiles this to 124 to 146 registers, and up to 193 where 16 does not divide the inputs. With 32 inputs, or with 128
    centroids in 8 warps, some spill for sm_100.
    """
    block_n = max(16, min(next_power_of_2(centroids), 64))
    return {"BLOCK_M": 64, "BLOCK_N": block_n, "BLOCK_K": 16, "num_warps": 4, "num_stages": 3}
