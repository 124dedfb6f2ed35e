"""Where batches run: a lane is a thread with a model on a device, or with its share of the CPU's cores."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from ..cuda_graphs import empty_cache
from ..devices import give_back_memory, is_out_of_memory
from ..hub import first_line
from ..modeling import HubertForCTC
from ..packed_audio import PackedAudio

MOST_CPU_LANES = 8
CPU_BATCH_SECONDS = 64.0
CPU_FRAMES, LEAST_FRAMES_FILLED = 64, 1024
TRIM_BATCHES = 16
# Of a GPU: enough frames to fill it, as far as its memory goes.
CUDA_BATCH_SECONDS, CUDA_SECONDS_PER_GIB = 1280.0, 16.0
RETRY_SECONDS = 1.0


@dataclass
class Flight:
    """A batch that a device works on: best ids and their log-probabilities ``[N]``, and how many frames each waveform has."""

    ids: torch.Tensor
    log_probs: torch.Tensor
    counts: list[int]
    done: torch.cuda.Event | None

    def land(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Wait for it; ids and log-probabilities of each waveform."""
        if self.done is not None:
            self.done.synchronize()
        ends = np.cumsum(self.counts)
        found = zip(np.split(self.ids.numpy(), ends), np.split(self.log_probs.numpy(), ends))
        return list(islice(found, len(self.counts)))  # what lies behind is filler


class Lane:
    """A model that takes a batch at a time.

    threads, all_threads: of PyTorch on a CPU, beside other lanes and alone. depth: batches that may be under way before the
    first is waited for.
    """

    def __init__(self, model: HubertForCTC, normalize: bool, threads: int | None = None, all_threads: int | None = None):
        self.model, self.normalize, self.threads, self.all_threads = model, normalize, threads, all_threads
        self.device = model.device
        self.depth = 1 if self.device.type == "cuda" else 0
        self._batches = 0
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def launch(self, waveforms: Sequence[np.ndarray], alone: bool = False) -> Flight:
        """Start a batch of waveforms ``[S_i]``; on CUDA it returns before they are done. alone: nothing runs beside it."""
        if self.threads is not None:
            torch.set_num_threads(self.all_threads if alone else self.threads)
        counts = self.model.frame_counts(torch.tensor([len(waveform) for waveform in waveforms])).tolist()
        if self._copies is None:
            waveforms = [*waveforms, *self._filler([len(waveform) for waveform in waveforms], sum(counts))]
        audio = PackedAudio.from_waveforms(
            waveforms, normalize=self.normalize, hop_samples=self._hop, pin_memory=self._copies is not None
        )
        if self._copies is None:
            out = self.model.argmax_packed(audio)
            self._batches += 1
            if self._batches % TRIM_BATCHES == 0:
                give_back_memory()
            return Flight(out.ids, out.log_probs, counts, None)
        with torch.cuda.device(self.device):
            work = torch.cuda.current_stream()
            with torch.cuda.stream(self._copies):
                audio = audio.to(self.device, non_blocking=True)
            work.wait_stream(self._copies)
            audio.samples.record_stream(work)
            out = self.model.argmax_packed(audio)
            ids, log_probs = _to_host(out.ids), _to_host(out.log_probs)
            done = torch.cuda.Event()
            done.record(work)
        return Flight(ids, log_probs, counts, done)

    def _filler(self, lengths: list[int], frames: int) -> list[np.ndarray]:
        """Return silence that makes a large batch a multiple of ``CPU_FRAMES``, before and after the convolutions.

        oneDNN keeps compiled code and memory for every number of rows that it meets, a thousand of them, and the allocator
        holes that fit none: 2.1 GB for a model of 6 million weights, where a few numbers take 0.7 GB in the same time.
        """
        if frames < LEAST_FRAMES_FILLED:
            return []
        hop, field = self._hop, self.model.config.receptive_field
        count = CPU_FRAMES - frames % CPU_FRAMES
        on_grid = sum(-(-length // hop) for length in lengths) + count
        # one sample is a place on the grid without a frame
        return [np.zeros(1, np.int16)] * (-on_grid % CPU_FRAMES) + [np.zeros(field + (count - 1) * hop, np.int16)]

    @property
    def _hop(self) -> int:
        return self.model.config.inputs_to_logits_ratio

    def recover(self) -> None:
        """Give back what the failed batch held."""
        if self.device.type == "cuda":
            empty_cache(self.device)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def lanes_for(model: HubertForCTC, normalize: bool, devices: Sequence[torch.device]) -> list[Lane]:
    """Make one lane for each GPU, each with a model of its own, or several on the CPU, which share the model.

    On a CPU single-threaded lanes beside each other lose no time waiting for each other at every operation.
    """
    if devices[0].type == "cpu":
        threads = torch.get_num_threads()
        count = cpu_lanes(threads)
        return [Lane(model, normalize, threads // count, threads) for _ in range(count)]
    models = [model] + [copy.deepcopy(model) for _ in devices[1:]]
    return [Lane(its_model.to(device), normalize) for its_model, device in zip(models, devices)]


def cpu_lanes(threads: int) -> int:
    """Return how many lanes share so many threads: as many as there may be that leave no more than a tenth of them idle."""
    return max(count for count in range(1, min(threads, MOST_CPU_LANES) + 1) if count * (threads // count) >= 0.9 * threads)


def batch_seconds_for(device: torch.device) -> float:
    """Return the audio seconds of a batch that a device is fast with."""
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    gibibytes = torch.cuda.get_device_properties(device).total_memory / (1 << 30)
    return min(CUDA_BATCH_SECONDS, CUDA_SECONDS_PER_GIB * gibibytes)


def run_smaller(launch: Callable[[list], Flight], items: list) -> tuple[list, list[tuple[list, str]]]:
    """Run what was too much memory at once in halves, those in halves again.

    Returns landed ``(items, frames)`` of parts that ran, and ``(items, reason)`` of single ones that are too much alone.
    """
    landed, failed = [], []
    parts, retried = [items], None
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
            elif retried is not part:  # others may have held the memory
                retried = part
                parts.append(part)
                time.sleep(RETRY_SECONDS)
            else:
                failed.append((part, f"too long for the memory of the device: {first_line(error)}"))
    return landed, failed
