"""Utterances of any lengths end to end in one buffer, and where the frames of each come to lie.

Utterance i starts at sample ``hop * o_i`` with ``o_{i+1} = o_i + ceil(n_i / hop)``, so its frames fall on the grid of frames of
the whole buffer at every convolution. Frames of the grid that straddle two utterances belong to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import HubertConfig

HOP_SAMPLES = 320  # samples from one frame to the next in every published HuBERT: 20 ms
INT16_SCALE = 1 / 32768


@dataclass(frozen=True, eq=False)
class PackedAudio:
    """A batch of utterances without padding: what ``forward_packed`` takes. :meth:`from_waveforms` makes one.

    samples: ``[S]``, float32 or int16, 16 kHz; the utterances, each starting at a multiple of ``hop_samples``.
    lengths: samples of each utterance, ``[B]``.
    normalize: whether :meth:`waveform` scales each utterance to zero mean and unit variance.
    """

    samples: Tensor
    lengths: tuple[int, ...]
    normalize: bool = False
    hop_samples: int = HOP_SAMPLES

    @classmethod
    def from_waveforms(
        cls, waveforms: Iterable[Any], *, normalize: bool = False, hop_samples: int = HOP_SAMPLES
    ) -> PackedAudio:
        """Pack waveforms ``[S_i]`` at 16 kHz, of any lengths, 0 included: NumPy arrays, tensors or lists of numbers.

        Floating point is kept as float32. int16 is PCM: it stays int16 while all are (half the memory and half the copy to a
        GPU) and counts as value / 32768.

        normalize: zero mean and unit variance for each utterance, as preprocessors with ``do_normalize`` do. They do it later,
            on the device where the model runs.
        hop_samples: samples from one frame to the next; 320 unless the model's ``conv_stride`` says otherwise.

        Raises ``ValueError`` naming the waveform that is not 1-D or neither floating point nor int16.
        """
        if hop_samples < 1:
            raise ValueError(f"hop_samples must be positive, but is {hop_samples}")
        if isinstance(waveforms, (Tensor, np.ndarray)) and waveforms.ndim == 1:
            raise ValueError("waveforms must be a list of 1-D waveforms, but a single one came: put it into a list")
        checked = [_checked(waveform, index) for index, waveform in enumerate(waveforms)]
        as_int16 = bool(checked) and all(waveform.dtype == torch.int16 for waveform in checked)
        lengths = tuple(len(waveform) for waveform in checked)
        starts, total = _starts(lengths, hop_samples)
        samples = torch.zeros(total * hop_samples, dtype=torch.int16 if as_int16 else torch.float32)
        for waveform, start in zip(checked, starts):
            target = samples[start * hop_samples :][: len(waveform)]
            target.copy_(waveform)
            if waveform.dtype == torch.int16 and not as_int16:
                target.mul_(INT16_SCALE)
        return cls(samples, lengths, normalize, hop_samples)

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        samples = f"{self.samples.dtype} on {self.samples.device}"
        return f"PackedAudio({len(self)} utterances, {sum(self.lengths)} samples, {samples}, normalize={self.normalize})"

    @property
    def starts(self) -> list[int]:
        """The sample at which each utterance starts, ``[B]``."""
        return [start * self.hop_samples for start in _starts(self.lengths, self.hop_samples)[0]]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedAudio:
        """Return this batch with its samples on another device."""
        return replace(self, samples=self.samples.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedAudio:
        """Return this batch with its samples in page-locked memory, from which copies to a GPU can overlap with work."""
        return replace(self, samples=self.samples.pin_memory())

    def waveforms(self) -> list[Tensor]:
        """Return the utterances, ``[S_i]`` each, in floating point and normalised if asked: views of one buffer."""
        return self._utterances(self.waveform())

    def waveform(self) -> Tensor:
        """Return all samples, ``[S]``, as the model takes them: in floating point, each utterance normalised if asked."""
        samples = self.samples
        if samples.dtype == torch.int16:
            samples = samples.float().mul_(INT16_SCALE)
        if self.normalize:
            samples = samples if samples is not self.samples else samples.clone()
            for utterance in self._utterances(samples):
                if len(utterance):
                    variance, mean = torch.var_mean(utterance, correction=0)
                    utterance.sub_(mean).div_((variance + 1e-7).sqrt())
        return samples

    def _utterances(self, samples: Tensor) -> list[Tensor]:
        return [samples[start : start + length] for start, length in zip(self.starts, self.lengths)]


def _checked(waveform: Any, index: int) -> Tensor:
    try:
        tensor = torch.as_tensor(waveform)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"waveform {index} must be a 1-D array of samples, but is no array of numbers: {error}") from None
    if tensor.dim() != 1:
        raise ValueError(f"waveform {index} must be 1-D, but has shape {list(tensor.shape)}")
    if tensor.numel() and not tensor.is_floating_point() and tensor.dtype != torch.int16:
        raise ValueError(f"waveform {index} must be floating point or int16, but is {tensor.dtype}")
    return tensor.detach()


def _starts(lengths: Sequence[int], hop_samples: int) -> tuple[list[int], int]:
    """Return the frame of the grid at which each utterance starts, and the size of the grid."""
    *starts, total = accumulate((-(-length // hop_samples) for length in lengths), initial=0)
    return starts, total


@dataclass(frozen=True)
class Grid:
    """Where the frames of a packed batch lie, and where its true frames come from: plain numbers, known before any is computed.

    starts: frame of the grid at which each utterance starts, ``[B]``.
    counts: its true frames, ``[B]``. They are what comes out, N in all.
    """

    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], config: HubertConfig) -> Grid:
        """Lay out utterances of ``lengths`` samples for a model."""
        hop, field = config.inputs_to_logits_ratio, config.receptive_field
        counts = tuple((length - field) // hop + 1 if length >= field else 0 for length in lengths)
        return cls(tuple(_starts(lengths, hop)[0]), counts)

    @property
    def frames(self) -> int:
        """N, the true frames of all utterances."""
        return sum(self.counts)

    @property
    def end(self) -> int:
        """The frame of the grid after the last true one."""
        return max((start + count for start, count in zip(self.starts, self.counts) if count), default=0)

    @property
    def boundaries(self) -> list[int]:
        """Frame at which each utterance starts among the N, and N: ``[B + 1]``."""
        return list(accumulate(self.counts, initial=0))

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Return :attr:`boundaries` as attention kernels take them: int32 ``[B + 1]``."""
        return torch.tensor(self.boundaries, dtype=torch.int32, device=device)

    def true_frames(self, device: torch.device) -> Tensor | None:
        """Return which frames of the grid are true, int64 ``[N]``; ``None`` when all up to :attr:`end` are."""
        if self.end == self.frames:
            return None
        ranges = [torch.arange(start, start + count) for start, count in zip(self.starts, self.counts)]
        return torch.cat(ranges).to(device)
