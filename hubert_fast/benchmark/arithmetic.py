"""Count the arithmetic that a model needs, and measure the highest rate of matrix products on a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import HubertConfig

# rows, inner width, columns: shapes that occur in these models, and a large one
CPU_PRODUCTS = ((2048, 2048, 2048), (4096, 1024, 1024), (1024, 4096, 1024), (512, 3072, 768))
CUDA_PRODUCTS = ((8192, 8192, 8192), (16384, 4096, 1024), (16384, 1024, 4096))
REPEATS = 8


def flop(config: HubertConfig, lengths: Sequence[int]) -> float:
    """Count the floating-point operations of the matrix products and convolutions that the utterances need without padding.

    A multiplication and an addition count as two. Norms and activations are not counted.

    Args:
        config: The configuration of a CTC model.
        lengths: The lengths of the utterances, in samples.
    """
    total = 0.0
    for length in lengths:
        frames, channels_in = length, 1
        for channels, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride):
            frames = (frames - kernel) // stride + 1
            total += 2.0 * frames * channels_in * channels * kernel
            channels_in = channels
        hidden, inner = config.hidden_size, config.intermediate_size
        total += 2.0 * frames * channels_in * hidden
        total += 2.0 * frames * hidden * (hidden // config.num_conv_pos_embedding_groups) * config.num_conv_pos_embeddings
        layer = 2.0 * frames * hidden * (4 * hidden + 2 * inner) + 4.0 * frames * frames * hidden
        total += config.num_hidden_layers * layer + 2.0 * frames * hidden * config.vocab_size
    return total


def ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the highest rate of matrix products on a device, in FLOP per second: an upper bound for every model.

    It is the rate of the fastest of `products`, whichever that is.
    """
    best = 0.0
    for rows, inner, columns in CUDA_PRODUCTS if device.type == "cuda" else CPU_PRODUCTS:
        a, b = (torch.randn(size, inner, device=device).to(dtype) for size in (rows, columns))
        for product in products(a, b):
            for _ in range(REPEATS):
                synchronize(device)
                start = time.perf_counter()
                product()
                synchronize(device)
                best = max(best, 2.0 * rows * inner * columns / (time.perf_counter() - start))
    return best


def products(x: Tensor, weight: Tensor) -> list[Callable[[], Tensor]]:
    """Return functions that compute `x @ weight.T`, one for each library that can.

    The first is PyTorch's choice: on a CPU MKL, for example. The second is oneDNN with the weight in a layout of its own, where
    the build of PyTorch has it and it takes the dtype.
    """
    found: list[Callable[[], Tensor]] = [lambda: torch.nn.functional.linear(x, weight)]
    if x.device.type == "cpu":
        try:
            ops = torch.ops.mkldnn
            reordered = ops._reorder_linear_weight(weight, x.shape[0])
            ops._linear_pointwise(x, reordered, None, "none", [], "none")
        except (AttributeError, RuntimeError):  # no such op, or not for this dtype on this CPU
            return found
        found.append(lambda: ops._linear_pointwise(x, reordered, None, "none", [], "none"))
    return found


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
