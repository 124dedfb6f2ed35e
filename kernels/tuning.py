"""Which blocks a kernel takes, and where a library call takes its place: pure functions of shapes, bytes and the chip.

``@triton.autotune`` would time candidates at the first call of every shape, on the machine that serves; here nothing is timed.
What ``bench/tune.py`` measured is in :mod:`.tuned` and goes first; the rules below serve every other shape and chip. They come
from counting: registers (255 a thread, 64 Ki a multiprocessor), shared memory, and bytes against operations.

``capability`` is (major, minor): (8, 0) A100, (8, 6) and (8, 9) consumer and L40 chips, (9, 0) H100 and H200, (10, 0) B200,
(10, 3) B300, (12, 0) consumer Blackwell. A chip that is not in the list is taken for one with the least shared memory.
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
    """Return the capability of a CUDA device, asked for once; interpreted kernels are cut as for the smallest chip."""
    if device.type != "cuda":
        return SMALL
    return _capability(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def multiprocessors_of(device: torch.device) -> int:
    """Return how many multiprocessors a CUDA device has, asked for once; 132, those of Hopper, of what is no such device."""
    if device.type != "cuda":
        return 132
    return _multiprocessors(torch.cuda.current_device() if device.index is None else device.index)


def shared_bytes(capability: tuple[int, int]) -> int:
    """Return the shared memory that one program may take."""
    return SHARED_BYTES.get(capability, LEAST_SHARED_BYTES)


def is_large(capability: tuple[int, int]) -> bool:
    """Whether a chip is of those made for data centres: shared memory for tiles of 128 x 256."""
    return capability in SHARED_BYTES


def has_wide_tensor_cores(capability: tuple[int, int]) -> bool:
    """Whether tensor cores read operands from shared memory (wgmma of Hopper, tcgen05 of B200 and B300)."""
    return is_large(capability) and capability >= (9, 0)


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def _tuned_for_rows(op: str, rows: int, key: tuple, capability: tuple[int, int]) -> Blocks | None:
    """Return what was measured for the number of rows nearest to this one, by their ratio."""
    measured = {entry[2]: blocks for entry, blocks in TUNED.items() if entry[:2] == (op, capability) and entry[3:] == key}
    if not measured:
        return None
    return measured[min(measured, key=lambda other: abs(next_power_of_2(rows).bit_length() - other.bit_length()))]


def cdiv(number: int, size: int) -> int:
    """Return how many parts of ``size`` cover ``number``. Triton's own does more than divide."""
    return -(-number // size)


def stages(bytes_per_stage: int, capability: tuple[int, int], most: int) -> int:
    """Return how many tiles of operands are kept in flight: as many as shared memory holds, 2 at least."""
    return max(2, min(most, shared_bytes(capability) // bytes_per_stage))


def _tuned(op: str, key: tuple, capability: tuple[int, int]) -> Blocks | None:
    return TUNED.get((op, capability, *key))


@lru_cache(maxsize=4096)  # every batch has other rows
def layer_norm(columns: int, rows: int) -> Blocks:
    """Blocks for rows normalised in registers, 32 values a thread: 4,096 values a program, one row at least.

    Rows of more than 1,024 columns have 16 values a thread, since triton 3.7 spills with 32. Few rows are spread over four
    times as many programs, so that a short utterance does not leave the chip idle.
    """
    block = next_power_of_2(columns)
    together = max(1, (4096 if rows >= 4096 else 1024) // block)
    warps = together * block // (1024 if block <= 1024 else 512)
    return {"BLOCK_M": together, "BLOCK": block, "num_warps": min(max(warps, 1), 16)}


@lru_cache(maxsize=4096)
def linear(rows: int, n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of a product ``[rows, n_in] x [n_in, n_out]``.

    128 x 256 accumulators are 128 registers a thread in eight warps, half of all; chips with less shared memory take 128 x 128.
    Few rows take fewer at once, so that there are programs for all multiprocessors.
    """
    if (found := _tuned_for_rows("linear", rows, (n_in, n_out, itemsize), capability)) is not None:
        return found
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
    """Whether a product is persistent, with its operands fetched by TMA: :mod:`.linear_persistent`.

    Measured on an H200 in bf16, 60,000 x 1,024 x 4,096 with GELU: 0.767 ms against 0.844 ms (the library with its own GELU, by
    a coarser tanh: 0.737 ms); 52,195 x 1,536 x 512, a strided convolution: 0.137 ms against 0.163 ms. No other chip has run it.
    That was triton 3.6; the others from 3.4 to 3.9 make the same of it within 24 of 2,152 instructions and 7 of 164 registers,
    and :mod:`hubert_fast.check` holds it to float64 before ``auto`` takes it.
    """
    blocks = linear_persistent(n_in, n_out, itemsize, capability)
    covered = n_in % blocks["BLOCK_K"] == 0 and n_out % blocks["BLOCK_N"] == 0
    return covered and rows >= 4096 and itemsize == 2 and capability == (9, 0)


@cache
def linear_persistent(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of a persistent product: four stages of 128 x 256 x 64 fill the shared memory of Hopper."""
    found = _tuned("linear_persistent", (n_in, n_out, itemsize), capability)
    return found or {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8, "num_warps": 8, "num_stages": 4}


@cache
def linear_layer_norm(n_out: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of a product whose programs hold whole rows, as two halves: 64 of 512 columns are 128 registers a thread."""
    half = max(next_power_of_2(n_out) // 2, 16)
    depth = stages((64 + 2 * half) * 32 * itemsize, capability, 4)
    return {"BLOCK_M": 64, "BLOCK_HALF": half, "BLOCK_K": 32, "num_warps": 8, "num_stages": depth}


def linear_gelu_by_library(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Whether the library's product and a pass for GELU beat a Triton product with GELU inside.

    The pass reads and writes ``2 * itemsize`` bytes per output that takes ``2 * n_in`` operations. Measured on an H200 in bf16,
    60,000 x 1,024 x 4,096: 0.986 ms, against 0.767 ms inside. float32 has no tensor cores in PyTorch's default, and the
    library's product is better there.
    """
    found = _tuned("linear_gelu_by_library", (n_in, n_out, itemsize), capability)
    return itemsize == 4 if found is None else bool(found["library"])


def linear_add_by_library(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Whether the library's product, its result added by :mod:`.add_layer_norm`, beats a Triton product with the add inside.

    Fused, ``2 * itemsize`` bytes are saved per output (written, read again); but the norm that follows has to read the sum
    again, 4 bytes more. Measured on an H200 in bf16 with 60,000 rows and the norm: 0.819 ms against 0.936 ms for 4,096 inputs,
    0.362 ms against 0.383 ms for 1,024.
    """
    found = _tuned("linear_add_by_library", (n_in, n_out, itemsize), capability)
    return True if found is None else bool(found["library"])


def norm_in_convolution(n_in: int, n_out: int, itemsize: int, capability: tuple[int, int]) -> bool:
    """Whether a strided convolution normalises in its epilogue, or a pass of its own does.

    A program that holds whole rows of 512 has 64 of them: for each k it reads 576 values for 32,768 products, 105 bytes a
    nanosecond and multiprocessor at full rate, where the second-level cache gives about 42 (H200). A pass of its own costs 4
    bytes for an output of 3,072 operations. Measured on an H200 in bf16, 52,195 x 1,536 x 512: 0.195 ms with a pass of its own,
    0.210 ms inside. So it pays where the product is small against the pass.
    """
    found = _tuned("norm_in_convolution", (n_in, n_out, itemsize), capability)
    return (n_in < 512 and itemsize == 2) if found is None else bool(found["fused"])


@cache
def attention(head_dim: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of queries and keys.

    Of 16-bit operands the head dim is padded to a power of two. float32 ones cut it into a power of two and a rest (80 is
    64 + 16), since they fill the registers. In 16 bits that was wrong: kernels that triton 3.6 made of it answered wrongly on
    an H200, or read illegal addresses. 80 padded to 128 takes 0.831 ms where 64 + 16 took 0.808 ms.

    RELOAD: whether queries are read again for each block of keys, since float32 ones do not fit in registers with the rest.
    """
    main = max(next_power_of_2(head_dim) if itemsize == 2 else 1 << (head_dim.bit_length() - 1), 16)
    rest = 0 if head_dim <= main else max(next_power_of_2(head_dim - main), 16)
    if (found := _tuned("attention", (head_dim, itemsize), capability)) is not None:
        return {"D_MAIN": main, "D_REST": rest, "RELOAD": itemsize == 4, **found}
    padded, reload = main + rest, False
    if itemsize == 2 and capability == (9, 0):
        # measured on an H200: 4 % faster than 128 queries in 8 warps at 64 channels, 12 % at 128
        block_m, block_n, warps = 64, 64 if padded <= 64 else 32, 4
    elif itemsize == 4 and exact_attention(head_dim, capability):
        main, rest = (main, rest) if rest else (main // 2, main // 2)  # halves, or operands alone fill the registers
        reload, block_m, block_n, warps = True, *_exact_attention_blocks(padded, capability)
    elif itemsize == 4:
        block_m, block_n, reload = 64, 16, True
        warps = 8 if rest and capability >= (10, 0) else 4  # triton 3.4 spills with 4
    elif capability >= (12, 0) and head_dim == 128:
        block_m, block_n, warps = 32, 32, 4  # 128 queries spill in triton 3.7
    else:
        # without wide tensor cores the compiler asks more registers, and some versions spill with 32 keys; on Blackwell some
        # spill with 64 keys where channels are masked
        block_m, block_n = 128, 64 if padded <= 64 or has_wide_tensor_cores(capability) else 16
        if capability >= (10, 0) and head_dim < padded == 64:
            block_n = 32
        warps = 4 if padded <= 32 and not has_wide_tensor_cores(capability) else 8
    most = 2 if itemsize == 4 or capability >= (10, 0) else 3
    depth = stages(2 * block_n * padded * itemsize + block_m * padded * itemsize // 2, capability, most)
    return {
        "D_MAIN": main, "D_REST": rest, "RELOAD": reload, "BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps,
        "num_stages": depth,
    }  # fmt: skip


def _exact_attention_blocks(padded: int, capability: tuple[int, int]) -> tuple[int, int, int]:
    """Return queries, keys and warps of attention in float32 proper: the largest that no triton since 3.4 spills with."""
    if padded <= 64:
        return 32, 16, 4
    if padded <= 80:
        return (16, 16, 4) if has_wide_tensor_cores(capability) else (32, 32, 8)
    return (32, 16, 8) if padded <= 96 else (32, 32, 8)


def exact_attention(head_dim: int, capability: tuple[int, int]) -> bool:
    """Whether float32 attention multiplies in float32 proper, on no tensor core, because three tf32 products would spill.

    They hold each operand twice, as a high and a low part: those of 64 and more take all registers, on Hopper those of 80.
    """
    return head_dim >= (80 if has_wide_tensor_cores(capability) else 64)


@cache
def conv_positional(channels: int, kernel: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of the positional convolution, and how many frames, FRAMES, share one row of the product.

    FRAMES fill 256 columns (128 where shared memory or float32 asks for less): a wider product re-reads the frames less often,
    for ``(kernel + FRAMES - 1) / kernel`` of the operations.
    """
    if (found := _tuned("conv_positional", (channels, kernel, itemsize), capability)) is not None:
        return found
    big = itemsize == 2 and is_large(capability)
    block_n = max(256 if big else 128, next_power_of_2(channels))
    block_m, warps = 128 if big else 64, 8
    block_k = 64 if big and has_wide_tensor_cores(capability) else 32
    most = 3 if capability == (9, 0) else 4  # measured on an H200: 2 % faster
    depth = stages((block_m + block_n) * block_k * itemsize, capability, most)
    return {
        "FRAMES": max(1, min(block_n // channels, kernel)), "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k,
        "num_warps": warps, "num_stages": depth,
    }  # fmt: skip


@cache
def conv_first(channels: int, frames_per_hop: int) -> Blocks:
    """Frames and channels at once: 16 x 512 accumulators; a block lies within one hop, and so within one utterance."""
    block_c = next_power_of_2(channels)
    most = max(1, min(64, 8192 // block_c))
    block_t = 1
    while block_t < most and frames_per_hop % (2 * block_t) == 0:
        block_t *= 2
    return {"BLOCK_T": block_t, "BLOCK_C": block_c, "num_warps": min(max(block_t * block_c // 1024, 1), 8)}


CONV_FIRST_FRAMES = 64  # of a program of :mod:`.conv_first_product`, at most


@cache
def conv_first_product(channels: int, has_norm: bool) -> Blocks:
    """Frames and channels at once: a norm needs all channels of a frame in one program.

    64 accumulators a thread, so that several programs share a multiprocessor and one computes while another loads. Measured on
    an H200 in bf16, 837,758 frames of 512 channels: 0.502 ms with a norm, 0.392 ms without; twice and four times as many
    accumulators a program take 0.525 and 0.636 ms, 0.406 and 0.544 ms.
    """
    block_c = max(next_power_of_2(channels), 16)
    if not has_norm:
        block_c = min(block_c, 256)
    block_t = min(max(8192 // block_c, 16), CONV_FIRST_FRAMES)
    return {"BLOCK_T": block_t, "BLOCK_C": block_c, "num_warps": min(max(block_t * block_c // 2048, 1), 16)}


@cache
def ctc_argmax(vocabulary: int, itemsize: int, capability: tuple[int, int]) -> Blocks:
    """Blocks of rows, tokens and inputs: a vocabulary of 32 in one block, thousands in blocks of 128."""
    block_v = max(16, min(next_power_of_2(vocabulary), 128 if itemsize == 2 else 32))
    block_k = 64 if itemsize == 2 else 32
    depth = stages((64 + block_v) * block_k * itemsize, capability, 4)
    return {"BLOCK_M": 64, "BLOCK_V": block_v, "BLOCK_K": block_k, "num_warps": 4, "num_stages": depth}
