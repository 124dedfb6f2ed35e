"""Run the packed graph on packed audio or on padded rows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..devices import upload
from ..hidden_states import StateSelection
from ..kernels.schedule import ranges
from .audio import PackedAudio
from .grid import Grid, starts_on_grid
from .kernel_graph import encode_on_kernels
from .serve import compute_dtype, is_on_kernels
from .torch_graph import SampleSpans, States, encode

if TYPE_CHECKING:
    from ..modeling import HubertModel

logger = logging.getLogger("hubert_fast.packed")


def run_packed(model: HubertModel, audio: PackedAudio, grid: Grid, selection: StateSelection) -> States:
    """Run packed audio through a model's packed graph and return hidden states `[N, C]`.

    Args:
        audio: The utterances, on the model's device.
        grid: Their layout, from `Grid.of`.
        selection: The hidden states to return.
    """
    on_kernels = is_on_kernels(model, audio.samples)  # first, to raise before any work if a forced backend cannot run
    waveform = audio.waveform()
    statistics_spans = SampleSpans(waveform, [start * audio.hop_samples for start in grid.starts], list(audio.lengths))
    return _run(model, on_kernels, waveform, grid, statistics_spans, selection)


def run_padded(model: HubertModel, input_values: Tensor, attention_mask: Tensor | None, selection: StateSelection) -> States:
    """Run padded rows `[B, S]` through a model's packed graph and return hidden states `[B, T, C]`, zeros in padded frames.

    As in transformers, norms over time include the padding: a GroupNorm, and a batch norm before the positional convolution.
    """
    batch, samples = input_values.shape
    hop = model.config.inputs_to_logits_ratio
    if attention_mask is None:
        lengths = [samples] * batch
    else:
        lengths = attention_mask.sum(-1, dtype=torch.long).clamp(0, samples).tolist()
    grid = Grid.of(lengths, model.config, padded_samples=samples)
    waveform = _flatten(input_values, lengths, grid, hop)
    if all(length == samples for length in lengths):  # nothing is padded: the statistics are those of packed audio
        statistics_spans = SampleSpans(waveform, [start * hop for start in grid.starts], lengths)
    else:
        statistics_spans = SampleSpans(input_values.reshape(-1), [row * samples for row in range(batch)], [samples] * batch)
    last, states = _run(model, is_on_kernels(model, waveform), waveform, grid, statistics_spans, selection)
    rows = _rows_among_padded(grid, waveform.device)
    padded: dict[int, Tensor] = {}
    for x in (last, *(states or ())):  # the last state is often the last hidden state itself, and is padded once
        if x is not None and id(x) not in padded:
            padded[id(x)] = _pad(x, grid, rows)
    return None if last is None else padded[id(last)], None if states is None else tuple(padded[id(x)] for x in states)


def _run(
    model: HubertModel,
    on_kernels: bool,
    waveform: Tensor,
    grid: Grid,
    statistics_spans: SampleSpans,
    selection: StateSelection,
) -> States:
    dtype = compute_dtype(model)
    logger.debug("packed, on kernels" if on_kernels else "packed, in plain PyTorch")
    if on_kernels:
        model.fast_path.weights.clear()  # copies from calls on a CPU, before the model moved here
        return encode_on_kernels(model, dtype, waveform, grid, statistics_spans, selection)
    return encode(model, model.fast_path.weights.weights_of(model, dtype), waveform, grid, statistics_spans, selection)


def _rows_among_padded(grid: Grid, device: torch.device) -> Tensor | None:
    """Return the index of each packed frame among the padded frames, int64 `[N]`; `None` when there is no padding."""
    batch, frames = len(grid.counts), grid.padded or 0
    if grid.frames == batch * frames:
        return None
    return upload(torch.from_numpy(ranges(np.arange(batch) * frames, np.array(grid.counts))), device)


def _pad(x: Tensor, grid: Grid, rows: Tensor | None) -> Tensor:
    """Put packed frames `[N, C]` into rows `[B, T, C]`: a view when there is no padding."""
    batch, frames, channels = len(grid.counts), grid.padded or 0, x.shape[1]
    if rows is None:
        return x.view(batch, frames, channels)
    return x.new_zeros(batch * frames, channels).index_copy_(0, rows, x).view(batch, frames, channels)


def _flatten(input_values: Tensor, lengths: list[int], grid: Grid, hop: int) -> Tensor:
    """Lay the true samples of padded rows end to end on the grid; a view when they are already laid out that way."""
    samples = input_values.shape[1]
    if samples % hop == 0 and all(length == samples for length in lengths):
        return input_values.reshape(-1)
    flat = input_values.new_zeros(starts_on_grid(lengths, hop)[1] * hop)
    for row, start, length in zip(input_values, grid.starts, lengths):
        flat[start * hop :][:length] = row[:length]
    return flat
