"""What the kernels of the packed graph are told of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .devices import upload_together
from .grid import Grid
from .kernels.schedule import parts_on_host
from .ops.waveforms import WindowTables, windows_on_host
from .packed_features import SampleSpans


class Tables(NamedTuple):
    """What the kernels of one batch are told about where its frames lie: int32, uploaded at once with the windows.

    utterances: that of each hop of the samples. true_frames: which frames of the grid are true, ``[N]``, or ``None`` for all.
    work: of attention, ``[entries, 4]``. spans: of the positional convolution, ``[entries, 3]``.
    windows: for the statistics of a GroupNorm, where there is one.
    """

    utterances: Tensor
    true_frames: Tensor | None
    work: Tensor
    spans: Tensor
    windows: WindowTables | None

    @classmethod
    def of(cls, model: nn.Module, dtype: torch.dtype, grid: Grid, samples: SampleSpans, device: torch.device) -> Tables:
        """Lay out a batch for the blocks that the kernels of ``model`` take in ``dtype``."""
        from .kernels import attention, conv_positional

        first, conv = model.feature_extractor.conv_layers[0], model.encoder.pos_conv_embed.conv
        head_dim = model.config.hidden_size // model.config.num_attention_heads
        query_block = attention.block_of(head_dim, dtype, device)
        frames_per_span = conv_positional.frames_of(conv.in_channels // conv.groups, conv.kernel_size[0], dtype, device)
        field, hop = model.config.receptive_field, model.config.inputs_to_logits_ratio
        counts, true_frames = np.array(grid.counts, dtype=np.int64), grid.true_frames_on_host(np.int32)
        arrays = [
            utterances_of(grid.starts, grid.end + -(-field // hop)),  # the windows of the last frame reach into hops after it
            np.empty(0, dtype=np.int32) if true_frames is None else true_frames,
            attention_work(counts, query_block),
            positional_spans(counts, frames_per_span),
        ]
        most = 0
        if first.norm == "group":
            windows, most = windows_on_host(*samples[1:], first.conv.kernel_size[0], first.conv.stride[0])
            arrays += windows
        utterances, true, work, spans, *windows = upload_together(arrays, device)
        windows = WindowTables(*windows, most) if windows else None
        return cls(utterances, None if true_frames is None else true, work, spans, windows)


def utterances_of(starts: tuple[int, ...], hops: int) -> np.ndarray:
    """Return the utterance of each of ``hops`` hops, int32: the last that starts there or before."""
    sizes = np.diff(np.minimum([*starts, hops], hops))
    return np.repeat(np.arange(len(starts), dtype=np.int32), sizes)


def attention_work(counts: np.ndarray, block: int) -> np.ndarray:
    """Return what ``kernels.attention.work_of`` does for utterances of ``counts`` frames side by side, ``[B]``."""
    order = np.argsort(-counts, kind="stable")
    starts, counts = (counts.cumsum() - counts)[order], counts[order]
    utterance, first, _ = parts_on_host(counts, block)
    work = np.empty((len(utterance), 4), dtype=np.int32)
    work[:, 0], work[:, 1], work[:, 2:] = starts[utterance], first, counts[utterance, None]
    return work


def positional_spans(counts: np.ndarray, frames: int) -> np.ndarray:
    """Return what ``kernels.conv_positional.spans_of`` does for utterances of ``counts`` frames side by side, ``[B]``."""
    utterance, first, _ = parts_on_host(counts, frames)
    ends = counts.cumsum()
    spans = np.empty((len(utterance), 3), dtype=np.int32)
    spans[:, 1], spans[:, 2] = (ends - counts)[utterance], ends[utterance]
    spans[:, 0] = spans[:, 1] + first
    return spans
