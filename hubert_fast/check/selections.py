"""Select the cases of a check: all of them, those that take seconds, and those that are repeated."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .cases import (
    BUILDERS,
    ODD,
    SIZES,
    OpCase,
    Size,
    Where,
    add_layer_norm,
    attention,
    attention_padded,
    conv_first_by_utterance,
    conv_gelu,
    conv_positional,
    normalize_waveforms,
    window_statistics,
)

# Frames of the utterances of a batch. With 4,096 rows or more, 16-bit products run in their largest blocks.
PRODUCTION, SOME, SHORT = [1500, 0, 1, 2999], [250, 0, 1, 449], [1, 0, 7, 12]
LITTLE_MEMORY = [1000, 0, 1, 800, 999, 900, 800]  # as many rows, but its attention scores take only 130 MB in float64
HEAD_DIMS, GROUP_CHANNELS = (32, 48, 64, 80, 96, 128), (48, 64, 80)
# pipelined ops, whose asynchronous copies could race with their products
REPEATED = ("linear_gelu", "linear_add", "conv_gelu", "conv_positional", "attention")


def every_case(at: Where, small: bool = False) -> Iterator[OpCase]:
    """Yield every op at odd shapes, at shapes of small batches and at those of large ones.

    Args:
        at: The dtype and device.
        small: Yield only what interpreted kernels can do in a minute.
    """
    for size, lengths in ((ODD, SHORT), *(() if small else ((size, SOME) for size in SIZES.values()))):
        yield from (builder(size, lengths, at) for builder in BUILDERS)
        yield conv_first_by_utterance(size, lengths, at)
        yield conv_gelu(size, lengths, at, 2)
        yield normalize_waveforms(size, lengths, at, pcm=True)
    yield conv_gelu(ODD._replace(pre_norm=False), SHORT, at)
    yield add_layer_norm(ODD._replace(pre_norm=False), SHORT, at)
    for head_dim in HEAD_DIMS:
        size = Size(f"head dim {head_dim}", hidden=2 * head_dim, heads=2)
        yield attention(size, SHORT if small else [130, 0, 1, 37], at)
        yield attention_padded(size, SHORT if small else [130, 0, 1, 37], at)
    kernel = 8 if small else 128
    for channels in GROUP_CHANNELS:
        for taps in (kernel, kernel - 1):
            size = Size(f"{channels} channels", hidden=2 * channels, groups=2, kernel=taps)
            yield conv_positional(size, SHORT if small else [150, 0, 1, 37], at)
    if not small and at.dtype.itemsize == 2:  # float32 runs in the same blocks for any number of rows
        for size in SIZES.values():
            yield from _production(size, PRODUCTION, at)


def _production(size: Size, lengths: list[int], at: Where) -> Iterator[OpCase]:
    """Yield every op with as many rows as a batch of 90 s has, so that it runs in the same blocks."""
    # padded rows run in the same blocks as packed ones, but their float64 scores would fill the memory
    yield from (builder(size, lengths, at) for builder in BUILDERS if builder is not attention_padded)
    yield conv_first_by_utterance(size, lengths, at)
    yield conv_gelu(size, lengths, at, 2)


def few_cases(at: Where, small: bool = False) -> Iterator[OpCase]:
    """Yield cases that take seconds: every op in the blocks of large, and the ops that run other code for base and xlarge.

    Args:
        at: The dtype and device.
        small: Yield only what interpreted kernels can do in seconds.
    """
    size, lengths, fp32 = ODD if small else SIZES["base"], SHORT if small else SOME, at._replace(dtype=torch.float32)
    yield normalize_waveforms(size, lengths, fp32, pcm=True)
    if at != fp32:  # waveforms are float32 whatever the model computes in
        yield from (builder(size, lengths, fp32) for builder in (normalize_waveforms, window_statistics))
    if small:
        yield from (builder(ODD, SHORT, at) for builder in BUILDERS)
        yield conv_first_by_utterance(ODD, SHORT, at)
        return
    large, base, xlarge = (SIZES[name] for name in ("large", "base", "xlarge"))
    yield from _production(large, LITTLE_MEMORY, at)
    yield attention_padded(large, SOME, at)
    for builder in (conv_positional, add_layer_norm, conv_gelu):
        yield builder(base, LITTLE_MEMORY, at)
    for builder in (attention, conv_positional):
        yield builder(xlarge, LITTLE_MEMORY, at)


def repeated_cases(at: Where, small: bool = False) -> Iterator[OpCase]:
    """Yield cases that must return equal bits on every call: ops that copy operands while multiplying others."""
    size, lengths = (ODD, SHORT) if small else (SIZES["large"], LITTLE_MEMORY)
    yield from (builder(size, lengths, at) for builder in BUILDERS if builder.__name__ in REPEATED)
