"""Build the tables of a batch that kernels read: the utterance of each frame, and the work of each program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..devices import upload_together
from ..kernels.schedule import parts_on_host
from ..ops.window_statistics import WindowTables, max_chunks, windows_on_host
from .grid import Grid
from .torch_graph import SampleSpans

if TYPE_CHECKING:
    from ..modeling import HubertModel

GRAPH_FRAMES, GRAPH_UTTERANCES = 1536, 8  # limits of a short batch, for which a CUDA graph is captured: about 30 seconds


class Tables(NamedTuple):
    """The tables of one batch on its device, uploaded in one copy; int32, except those of `windows`.

    Attributes:
        utterances: The utterance of each hop of the samples, `[hops]`.
        true_frames: The indices of the grid's frames that belong to an utterance, `[N]`; `None` if all do.
        work: The work list of attention, `[entries, 4]`.
        positional_work: The rows of the positional convolution, `[entries, 3]`.
        windows: The tables for the statistics of a GroupNorm; `None` if there is none.
    """

    utterances: Tensor
    true_frames: Tensor | None
    work: Tensor
    positional_work: Tensor
    windows: WindowTables | None

    @classmethod
    def of(
        cls, model: HubertModel, dtype: torch.dtype, grid: Grid, statistics_spans: SampleSpans, device: torch.device
    ) -> Tables:
        """Build the tables for the block sizes that the kernels of `model` use in `dtype`."""
        arrays, chunk_limit = tables_on_host(model, dtype, grid, statistics_spans, device)
        return cls.from_parts(upload_together(arrays, device), chunk_limit)

    @classmethod
    def from_parts(cls, parts: Sequence[Tensor], chunk_limit: int) -> Tables:
        """Assemble the arrays of `tables_on_host` after their copy to the device."""
        utterances, true_frames, work, positional_work, *windows = parts
        window_tables = None
        if windows:
            window_work, slots, share = windows
            window_tables = WindowTables(window_work, slots, share, chunk_limit)
        return cls(utterances, true_frames if len(true_frames) else None, work, positional_work, window_tables)


def bucket_of(hops: int, utterances: int) -> int | None:
    """Return the number of frames for which a short batch's CUDA graph is captured; `None` for a batch that is not short.

    Args:
        hops: The length of the samples in hops. A batch has at most that many frames.
        utterances: The number of utterances.
    """
    if hops > GRAPH_FRAMES or utterances > GRAPH_UTTERANCES:
        return None
    step = 64 if hops <= 512 else 128
    return -(-hops // step) * step


def tables_on_host(
    model: HubertModel,
    dtype: torch.dtype,
    grid: Grid,
    statistics_spans: SampleSpans,
    device: torch.device,
    bucket: int | None = None,
) -> tuple[list[np.ndarray], int]:
    """Return the arrays of `Tables`, and `chunk_limit` of `WindowTables`; an empty `true_frames` stands for all frames.

    Args:
        dtype: The dtype in which the kernels compute.
        statistics_spans: The samples for the statistics of a GroupNorm.
        device: The device of the kernels.
        bucket: The number of frames from `bucket_of`, if a CUDA graph is to run. The sizes of the arrays then depend on it
            alone: entries beyond those of the batch have no frames, and true frames beyond the batch's own repeat frame 0.
    """
    from ..kernels import attention, conv_positional

    first, conv = model.feature_extractor.conv_layers[0], model.encoder.pos_conv_embed.conv
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    query_block = attention.block_of(head_dim, dtype, device)
    frames_per_span = conv_positional.frames_of(conv.in_channels // conv.groups, conv.kernel_size[0], dtype, device)
    field, hop = model.config.receptive_field, model.config.inputs_to_logits_ratio
    counts, true_frames = np.array(grid.counts, dtype=np.int64), grid.true_frames_on_host(np.int32)
    if true_frames is None:
        true_frames = np.arange(0 if bucket is None else grid.frames, dtype=np.int32)
    end = grid.end if bucket is None else bucket
    arrays = [
        utterances_of(grid.starts, end + -(-field // hop)),  # the last frame's windows reach into the hops after it
        true_frames,
        attention_work(counts, query_block),
        positional_spans(counts, frames_per_span),
    ]
    if bucket is None:
        if first.norm != "group":
            return arrays, 0
        windows, chunk_limit = windows_on_host(*statistics_spans[1:], kernel, stride)
        return [*arrays, *windows], chunk_limit
    chunks, chunk_limit = max_chunks(bucket * hop, stride, GRAPH_UTTERANCES)
    if first.norm == "group":
        windows, chunk_limit = windows_on_host(*statistics_spans[1:], kernel, stride, chunk_limit)
        arrays += windows
    # the last entry of each utterance may be incomplete: one entry more for each
    sizes = (
        *(len(arrays[0]), bucket, bucket // query_block + GRAPH_UTTERANCES, bucket // frames_per_span + GRAPH_UTTERANCES),
        *(chunks, chunks, GRAPH_UTTERANCES),
    )
    fills = 0, 0, 0, 0, 0, GRAPH_UTTERANCES * chunk_limit, 1.0
    return [_padded(array, size, fill) for array, size, fill in zip(arrays, sizes, fills)], chunk_limit


def _padded(array: np.ndarray, size: int, fill: float) -> np.ndarray:
    """Append entries of `fill` until `array` has `size` of them."""
    padded = np.full((size, *array.shape[1:]), fill, dtype=array.dtype)
    padded[: len(array)] = array
    return padded


def utterances_of(starts: tuple[int, ...], hops: int) -> np.ndarray:
    """Return the utterance of each of `hops` hops, int32 `[hops]`: the last utterance that starts at or before the hop."""
    sizes = np.diff(np.minimum([*starts, hops], hops))
    return np.repeat(np.arange(len(starts), dtype=np.int32), sizes)


def attention_work(counts: np.ndarray, block: int) -> np.ndarray:
    """Compute `kernels.attention.work_of` on the host, for utterances of `counts` frames `[B]` side by side."""
    order = np.argsort(-counts, kind="stable")
    starts, counts = (counts.cumsum() - counts)[order], counts[order]
    utterance, first, _ = parts_on_host(counts, block)
    work = np.empty((len(utterance), 4), dtype=np.int32)
    work[:, 0], work[:, 1], work[:, 2:] = starts[utterance], first, counts[utterance, None]
    return work


def positional_spans(counts: np.ndarray, frames: int) -> np.ndarray:
    """Compute `kernels.conv_positional.spans_of` on the host, for utterances of `counts` frames `[B]` side by side."""
    utterance, first, _ = parts_on_host(counts, frames)
    ends = counts.cumsum()
    spans = np.empty((len(utterance), 3), dtype=np.int32)
    spans[:, 1], spans[:, 2] = (ends - counts)[utterance], ends[utterance]
    spans[:, 0] = spans[:, 1] + first
    return spans
