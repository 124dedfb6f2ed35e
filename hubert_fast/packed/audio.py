"""Define `PackedAudio`: utterances of any lengths, end to end in one buffer, the input of `forward_packed`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import is_out_of_memory
from ..ops.waveforms import INT16_SCALE, normalize_waveforms
from .grid import starts_on_grid

HOP_SAMPLES = 320  # samples from one frame to the next in every published HuBERT: 20 ms


@dataclass(frozen=True, eq=False)
class PackedAudio:
    """A batch of utterances without padding, the input of `forward_packed`. Create one with `from_waveforms`.

    Attributes:
        samples: The utterances at 16 kHz, float32 or int16 `[S]`, each starting at a multiple of `hop_samples`.
        lengths: The number of samples of each utterance, `[B]`.
        normalize: Whether each utterance is scaled to zero mean and unit variance before the model reads it.
        hop_samples: The number of samples from one frame to the next.

    Raises:
        ValueError: `samples` has another shape or dtype or is too short for `lengths`, or a length is negative.
    """

    samples: Tensor
    lengths: tuple[int, ...]
    normalize: bool = False
    hop_samples: int = HOP_SAMPLES

    def __post_init__(self) -> None:
        if self.samples.dim() != 1 or not (self.samples.is_floating_point() or self.samples.dtype == torch.int16):
            shape = list(self.samples.shape)
            raise ValueError(f"samples must be 1-D, floating point or int16, but are {self.samples.dtype} {shape}")
        if not all(isinstance(length, int) and length >= 0 for length in self.lengths):
            raise ValueError(f"lengths must be whole numbers, 0 or more, but are {self.lengths!r}")
        needed = starts_on_grid(self.lengths, self.hop_samples)[1] * self.hop_samples
        if len(self.samples) < needed:
            raise ValueError(f"samples must have at least {needed} entries for these lengths, but has {len(self.samples)}")

    @classmethod
    def from_waveforms(
        cls,
        waveforms: Iterable[Any],
        *,
        normalize: bool = False,
        hop_samples: int = HOP_SAMPLES,
        pin_memory: bool = False,
    ) -> PackedAudio:
        """Pack copies of waveforms `[S_i]` at 16 kHz, of any lengths including 0.

        Floating-point waveforms are stored as float32. int16 waveforms are PCM, where value v stands for v / 32768. If all
        waveforms are int16, they stay int16, which halves the memory and the time of the copy to a GPU.

        Args:
            waveforms: NumPy arrays, tensors or lists of numbers.
            normalize: Scale each utterance to zero mean and unit variance, as preprocessors with `do_normalize` do. This
                happens later, on the model's device.
            hop_samples: Samples from one frame to the next: the product of the model's `conv_stride`, 320 in every published
                HuBERT.
            pin_memory: Write the samples straight into page-locked memory, from which `to(device, non_blocking=True)` and
                `forward_packed` copy to a GPU without waiting for it. PyTorch reuses such memory for later batches, in blocks
                of powers of two, and only after it has been copied.

        Raises:
            ValueError: A waveform is not 1-D, or neither floating point nor int16 (the message gives its index), or
                `hop_samples` is not a positive integer.
            RuntimeError: `pin_memory` is set, but PyTorch finds no GPU.
        """
        if not isinstance(hop_samples, int) or hop_samples < 1:
            raise ValueError(f"hop_samples must be a positive whole number, but is {hop_samples!r}")
        if isinstance(waveforms, (Tensor, np.ndarray)) and waveforms.ndim == 1:
            raise ValueError("waveforms must be a list of 1-D waveforms, but got a single one: put it into a list")
        checked = [_checked(waveform, index) for index, waveform in enumerate(waveforms)]
        as_int16 = bool(checked) and all(dtype == torch.int16 for _, dtype in checked)
        lengths = tuple(len(waveform) for waveform, _ in checked)
        starts, total = starts_on_grid(lengths, hop_samples)
        if pin_memory:
            samples = _pinned(total * hop_samples, torch.int16 if as_int16 else torch.float32)
            memory = samples.numpy()
        else:
            # NumPy asks the system for huge pages, whose first touch costs a fifth of what torch.empty's memory costs
            memory = np.empty(total * hop_samples, dtype=np.int16 if as_int16 else np.float32)
            samples = torch.from_numpy(memory)
        for (waveform, dtype), first, end in zip(checked, starts, [*starts[1:], total]):
            begin, gap = first * hop_samples, first * hop_samples + len(waveform)
            memory[gap : end * hop_samples] = 0
            if isinstance(waveform, np.ndarray):
                with np.errstate(over="ignore", invalid="ignore"):  # as in torch, float64 may become infinite
                    memory[begin:gap] = waveform
            else:  # a gradient may go through this copy
                samples[begin:gap].copy_(waveform)
            if dtype == torch.int16 and not as_int16:
                samples[begin:gap].mul_(INT16_SCALE)
        return cls(samples, lengths, normalize, hop_samples)

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        samples = f"{self.samples.dtype} on {self.samples.device}"
        return f"PackedAudio({len(self)} utterances, {sum(self.lengths)} samples, {samples}, normalize={self.normalize})"

    @property
    def starts(self) -> list[int]:
        """The sample at which each utterance starts, `[B]`."""
        return [start * self.hop_samples for start in starts_on_grid(self.lengths, self.hop_samples)[0]]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedAudio:
        """Return this batch with its samples on another device."""
        samples = self.samples.to(device, non_blocking=non_blocking)
        return self if samples is self.samples else replace(self, samples=samples)

    def pin_memory(self) -> PackedAudio:
        """Return this batch with its samples in page-locked memory, from which copies to a GPU can overlap with work.

        This copies samples that lie elsewhere; `from_waveforms` with `pin_memory=True` writes them there directly.
        """
        return replace(self, samples=self.samples.pin_memory())

    def waveforms(self) -> list[Tensor]:
        """Return the utterances, `[S_i]` each, in floating point and normalised if `normalize` is set: views of one buffer.

        That buffer is `samples` itself, unless they are int16 or must be normalised.
        """
        return self.split(self.waveform())

    def waveform(self) -> Tensor:
        """Return all samples as the model reads them: floating point `[S]`, normalised if `normalize` is set."""
        if self.normalize:
            return normalize_waveforms(self.samples, self.starts, self.lengths)
        return self.samples.float().mul_(INT16_SCALE) if self.samples.dtype == torch.int16 else self.samples

    def split(self, samples: Tensor) -> list[Tensor]:
        """Split a buffer that is laid out like `samples` into utterances, `[S_i]` each: views."""
        return [samples[start : start + length] for start, length in zip(self.starts, self.lengths)]


def _pinned(size: int, dtype: torch.dtype) -> Tensor:
    """Return page-locked memory for `size` samples, not initialised.

    PyTorch's caching host allocator reuses a block once its tensor is gone and every `copy_(non_blocking=True)` from or to it
    has finished: the copy records its stream with the block, and freeing the block records an event on that stream. So a batch
    may be dropped before its copy has finished, and no ring of buffers is needed.
    """
    try:
        return torch.empty(size, dtype=dtype, device="cpu", pin_memory=True)
    except RuntimeError as error:
        if is_out_of_memory(error) or torch.cuda.is_available():
            raise
        raise RuntimeError(
            "pin_memory=True needs a GPU, but PyTorch finds none; pass pin_memory=torch.cuda.is_available()"
        ) from error


def _checked(waveform: Any, index: int) -> tuple[Tensor | np.ndarray, torch.dtype]:
    """Return a waveform and its dtype; an array stays an array, since torch would copy arrays of some layouts."""
    try:
        if isinstance(waveform, np.ndarray):
            dtype = torch.from_numpy(np.empty(0, dtype=waveform.dtype.newbyteorder("="))).dtype
        else:
            waveform = torch.as_tensor(waveform)
            dtype = waveform.dtype
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"waveform {index} must be a 1-D array of samples, but cannot be read as numbers: {error}") from None
    if waveform.ndim != 1:
        raise ValueError(f"waveform {index} must be 1-D, but has shape {list(waveform.shape)}")
    if len(waveform) and not dtype.is_floating_point and dtype != torch.int16:
        raise ValueError(f"waveform {index} must be floating point or int16, but is {dtype}")
    return waveform, dtype
