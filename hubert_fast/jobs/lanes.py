"""Run batches in lanes. Each lane is a model on a GPU or on a share of the CPU's cores, and is driven by its own thread."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from ..config import HubertConfig
from ..devices import give_back_memory, is_out_of_memory
from ..hub import first_line
from ..packed import PackedAudio
from ..packed.cuda_graphs import empty_cache

MOST_CPU_LANES = 8
CPU_BATCH_SECONDS = 64.0
CPU_FRAMES, LEAST_FRAMES_FILLED = 64, 1024  # batches of at least 1,024 frames are filled up, see `Lane._filler`
TRIM_BATCHES = 16  # after this many batches on a CPU, free memory is given back to the system
# Batches for a GPU: enough frames to fill it, limited by its memory.
CUDA_BATCH_SECONDS, CUDA_SECONDS_PER_GIB = 1280.0, 16.0
RETRY_SECONDS = 1.0


Arrays = tuple[np.ndarray, ...]  # what a model computes for a waveform: arrays with a row for each frame


class PackedModel(Protocol):
    """A model that computes something for each frame of a packed batch, such as `HubertForCTC`."""

    @property
    def config(self) -> HubertConfig: ...

    @property
    def device(self) -> torch.device: ...

    def frame_counts(self, samples: torch.Tensor) -> torch.Tensor: ...


Compute = Callable[[Any, PackedAudio], tuple[torch.Tensor, ...]]  # runs a model; tensors have dtypes that NumPy knows


@dataclass
class Flight:
    """A batch in progress: tensors with a row for each frame, and the number of frames of each waveform."""

    tensors: tuple[torch.Tensor, ...]
    counts: list[int]
    done: torch.cuda.Event | None

    def land(self) -> list[Arrays]:
        """Wait for the batch; return the arrays of each waveform."""
        if self.done is not None:
            self.done.synchronize()
        ends = np.cumsum(self.counts)
        parts = zip(*(np.split(tensor.numpy(), ends) for tensor in self.tensors))
        return list(islice(parts, len(self.counts)))  # the rest is filler


class Lane:
    """A model that runs one batch after another.

    Args:
        model: The model, on the lane's device.
        compute: Runs the model on a packed batch.
        normalize: Whether waveforms are normalized to zero mean and unit variance.
        threads: PyTorch threads to use on a CPU while other lanes are busy; `None` leaves PyTorch's setting alone.
        all_threads: PyTorch threads to use on a CPU while no other lane is busy.
    """

    def __init__(
        self,
        model: PackedModel,
        compute: Compute,
        normalize: bool,
        threads: int | None = None,
        all_threads: int | None = None,
    ):
        self.model, self.compute, self.normalize = model, compute, normalize
        self.threads, self.all_threads = threads, all_threads
        self.device = model.device
        self.depth = 1 if self.device.type == "cuda" else 0  # batches in progress before waiting for the first one
        self._batches = 0
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def launch(self, waveforms: Sequence[np.ndarray], alone: bool = False) -> Flight:
        """Start a batch of waveforms `[S_i]`; on CUDA, return before it is done.

        Args:
            waveforms: The batch.
            alone: Whether no other lane is busy.
        """
        if self.threads is not None and self.all_threads is not None:
            torch.set_num_threads(self.all_threads if alone else self.threads)
        counts = self.model.frame_counts(torch.tensor([len(waveform) for waveform in waveforms])).tolist()
        if self._copies is None:
            waveforms = [*waveforms, *self._filler([len(waveform) for waveform in waveforms], sum(counts))]
        audio = PackedAudio.from_waveforms(
            waveforms, normalize=self.normalize, hop_samples=self._hop, pin_memory=self._copies is not None
        )
        if self._copies is None:
            tensors = self.compute(self.model, audio)
            self._batches += 1
            if self._batches % TRIM_BATCHES == 0:
                give_back_memory()
            return Flight(tensors, counts, None)
        with torch.cuda.device(self.device):
            work = torch.cuda.current_stream()
            with torch.cuda.stream(self._copies):
                audio = audio.to(self.device, non_blocking=True)
            work.wait_stream(self._copies)
            audio.samples.record_stream(work)
            tensors = tuple(_to_host(tensor) for tensor in self.compute(self.model, audio))
            done = torch.cuda.Event()
            done.record(work)
        return Flight(tensors, counts, done)

    def _filler(self, lengths: list[int], frames: int) -> list[np.ndarray]:
        """Return silent waveforms that fill a large batch up to multiples of `CPU_FRAMES`, on the grid and in valid frames.

        oneDNN caches code and memory for up to a thousand different numbers of rows, which fragments the allocator's memory.
        A model with 6 million weights took 2.1 GB without filler and 0.7 GB with it, at the same speed.
        """
        if frames < LEAST_FRAMES_FILLED:
            return []
        hop, field = self._hop, self.model.config.receptive_field
        count = CPU_FRAMES - frames % CPU_FRAMES
        on_grid = sum(-(-length // hop) for length in lengths) + count
        # a waveform of one sample takes a position on the grid but has no frame
        return [np.zeros(1, np.int16)] * (-on_grid % CPU_FRAMES) + [np.zeros(field + (count - 1) * hop, np.int16)]

    @property
    def _hop(self) -> int:
        return self.model.config.inputs_to_logits_ratio

    def recover(self) -> None:
        """Release the memory that a failed batch held."""
        if self.device.type == "cuda":
            empty_cache(self.device)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def lanes_for(model: Any, compute: Compute, normalize: bool, devices: Sequence[torch.device]) -> list[Lane]:
    """Create a lane with its own copy of the model for each GPU, or several lanes on the CPU that share one model.

    On a CPU, several lanes with few threads each are faster than one lane with all threads, which would wait for each other
    after every operation.
    """
    if devices[0].type == "cpu":
        threads = torch.get_num_threads()
        count = cpu_lanes(threads)
        return [Lane(model, compute, normalize, threads // count, threads) for _ in range(count)]
    models = [model] + [copy.deepcopy(model) for _ in devices[1:]]
    return [Lane(each.to(device), compute, normalize) for each, device in zip(models, devices)]


def cpu_lanes(threads: int) -> int:
    """Return the number of CPU lanes: as many as possible, up to `MOST_CPU_LANES`, with at most a tenth of `threads` idle."""
    return max(count for count in range(1, min(threads, MOST_CPU_LANES) + 1) if count * (threads // count) >= 0.9 * threads)


def batch_seconds_for(device: torch.device) -> float:
    """Return the default size of a batch on a device, in seconds of audio."""
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    gibibytes = torch.cuda.get_device_properties(device).total_memory / (1 << 30)
    return min(CUDA_BATCH_SECONDS, CUDA_SECONDS_PER_GIB * gibibytes)


def run_smaller(launch: Callable[[list], Flight], items: list) -> tuple[list, list[tuple[list, str]]]:
    """Run a batch that ran out of memory in halves, and split these again if necessary.

    Returns:
        `(items, results)` for each part that ran, and `(items, reason)` for each single item that is still too large.
    """
    landed: list[tuple[list, list]] = []
    failed: list[tuple[list, str]] = []
    parts: list[list] = [items]
    retried: list | None = None
    while parts:
        part = parts.pop()
        try:
            landed.append((part, launch(part).land()))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            elif retried is not part:  # other processes may have held the memory
                retried = part
                parts.append(part)
                time.sleep(RETRY_SECONDS)
            else:
                failed.append((part, f"too long for the memory of the device: {first_line(error)}"))
    return landed, failed
