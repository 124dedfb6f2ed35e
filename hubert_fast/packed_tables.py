"""What the kernels of the packed graph are told of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import upload
from .grid import Grid
from .ops.waveforms import WindowTables
from .packed_features import SampleSpans


class Tables(NamedTuple):
    """What the kernels of one batch are told about where its frames lie: int32, uploaded at once.

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
        windows = None
        if first.norm == "group":
            windows = WindowTables.of(*samples[1:], first.conv.kernel_size[0], first.conv.stride[0], device)
        counts = torch.tensor(grid.counts, dtype=torch.long)
        starts = counts.cumsum(0) - counts
        blocks, rows = (int((-(-counts // size)).sum()) for size in (query_block, frames_per_span))
        field, hop = model.config.receptive_field, model.config.inputs_to_logits_ratio
        hops = torch.arange(grid.end + -(-field // hop))  # the windows of the last frame reach into hops after it
        true_frames = grid.true_frames(torch.device("cpu"))
        parts = (
            torch.searchsorted(torch.tensor(grid.starts, dtype=torch.long), hops, right=True) - 1,
            torch.empty(0, dtype=torch.int32) if true_frames is None else true_frames,
            attention.work_of(counts, starts, counts, query_block, blocks),
            conv_positional.spans_of(counts, starts, frames_per_span, rows),
        )
        # each starts at a multiple of 16 bytes, since kernels are compiled for the alignment of their operands
        padded = [F.pad(part.flatten().int(), (0, -part.numel() % 4)) for part in parts]
        flat = upload(torch.cat(padded), device)
        utterances, true, work, spans = (
            part[: like.numel()].view(like.shape) for part, like in zip(flat.split([len(part) for part in padded]), parts)
        )
        return cls(utterances, None if true_frames is None else true, work, spans, windows)
