"""Lay out packed batches on a grid of frames.

Utterance i starts at sample `hop * o_i` with `o_{i+1} = o_i + ceil(n_i / hop)`, so its frames fall on the grid of frames of
the whole buffer at every convolution. Frames of the grid that straddle two utterances belong to neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from ..config import HubertConfig
from ..devices import upload
from ..kernels.schedule import ranges


def starts_on_grid(lengths: Sequence[int], hop_samples: int) -> tuple[list[int], int]:
    """Return the frame of the grid at which each utterance starts, and the size of the grid."""
    *starts, total = accumulate((-(-length // hop_samples) for length in lengths), initial=0)
    return starts, total


@dataclass(frozen=True)
class Grid:
    """The layout of a packed batch: plain numbers, known before any frame is computed.

    Attributes:
        starts: The frame of the grid at which each utterance starts, `[B]`.
        counts: The number of true frames of each utterance, `[B]`. The graph returns N frames, their sum.
        padded: The number of frames to which each utterance is padded for a batch norm before the positional convolution;
            `None` for no padding.
    """

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    padded: int | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], config: HubertConfig, padded_samples: int | None = None) -> Grid:
        """Lay out utterances of `lengths` samples for a model. `padded_samples` is the length of padded rows."""
        hop, field = config.inputs_to_logits_ratio, config.receptive_field

        def frames(samples: int) -> int:
            return (samples - field) // hop + 1 if samples >= field else 0

        padded = None if padded_samples is None else frames(padded_samples)
        return cls(tuple(starts_on_grid(lengths, hop)[0]), tuple(frames(length) for length in lengths), padded)

    @cached_property
    def frames(self) -> int:
        """N, the number of true frames of all utterances."""
        return sum(self.counts)

    @cached_property
    def end(self) -> int:
        """The frame of the grid after the last true one."""
        return max((start + count for start, count in zip(self.starts, self.counts) if count), default=0)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """The index of each utterance's first frame among the N packed frames, and N: `[B + 1]`."""
        return tuple(accumulate(self.counts, initial=0))

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Return `boundaries` as a tensor, int32 `[B + 1]`."""
        return upload(torch.from_numpy(np.array(self.boundaries, dtype=np.int32)), device)

    def true_frames(self, device: torch.device) -> Tensor | None:
        """Return the indices of the true frames, int64 `[N]`; `None` when all frames up to `end` are true."""
        frames = self.true_frames_on_host()
        return None if frames is None else upload(torch.from_numpy(frames), device)

    def true_frames_on_host(self, dtype: type = np.int64) -> np.ndarray | None:
        """Return `true_frames` as an array of `dtype`, `[N]`; `None` when all frames up to `end` are true."""
        return None if self.end == self.frames else ranges(np.array(self.starts), np.array(self.counts), dtype)
