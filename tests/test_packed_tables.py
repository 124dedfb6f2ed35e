"""Compare the NumPy tables that the host gives to kernels with their tensor versions and with plain loops."""

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN
from hubert_fast.kernels.schedule import parts_of, parts_on_host, ranges
from small_models import model_of

from hubert_fast import HubertModel
from hubert_fast.devices import upload_together
from hubert_fast.packed import Grid
from hubert_fast.packed.tables import (
    GRAPH_UTTERANCES,
    Tables,
    attention_work,
    bucket_of,
    positional_spans,
    tables_on_host,
    utterances_of,
)
from hubert_fast.packed.torch_graph import SampleSpans

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

CPU = torch.device("cpu")
COUNTS = {
    "one": [1],
    "whole parts": [16, 32, 16],
    "no frames": [0, 0],
    "equal and empty": [17, 0, 40, 17, 0, 1, 40],
    "many": np.random.default_rng(0).integers(0, 300, 165).tolist(),
}
counts = pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)


@counts
def test_parts(counts):
    utterance, first, parts = parts_on_host(np.array(counts), 16)
    expected = parts_of(torch.tensor(counts), 16, len(utterance))
    assert utterance.tolist() == expected[0].tolist() and first.tolist() == expected[1].tolist() and expected[2].all()
    assert parts.tolist() == [-(-count // 16) for count in counts]


@counts
@pytest.mark.parametrize("size", [16, 128])
def test_lists_of_work(counts, size):
    from hubert_fast.kernels import attention, conv_positional

    tensor = torch.tensor(counts)
    starts = tensor.cumsum(0) - tensor
    work, spans = attention_work(np.array(counts), size), positional_spans(np.array(counts), size)
    assert work.dtype == spans.dtype == np.int32
    assert work.tolist() == attention.work_of(tensor, starts, tensor, size, len(work)).tolist()
    assert spans.tolist() == conv_positional.spans_of(tensor, starts, size, len(spans)).tolist()
    assert len(work) == len(spans) == sum(-(-count // size) for count in counts)


def test_ranges():
    assert ranges(np.array([3, 9, 0]), np.array([2, 0, 3])).tolist() == [3, 4, 0, 1, 2]
    assert ranges(np.array([], int), np.array([], int), np.int32).dtype == np.int32


@pytest.mark.parametrize("lengths", [[], [0], [9], [10, 14, 15, 0, 20470, 9, 10235, 5], [1024 * 5 + 5, 1024 * 5 + 10]], ids=str)
def test_chunks_of_windows_and_of_samples(lengths):
    from hubert_fast.kernels import waveforms, window_statistics

    from hubert_fast.ops.window_statistics import WindowTables

    starts = (np.cumsum([0, *lengths]) + 7).tolist()[:-1]
    chunks, rows, samples = [], [], []
    for start, length in zip(starts, lengths):
        windows = max((length - 10) // 5 + 1, 0)
        rows.append([[start + 5 * at, min(1024, windows - at)] for at in range(0, windows, 1024)])
        chunks.append(windows)
        first = len(samples)
        samples += [[start + at, min(8192, length - at), first, length] for at in range(0, length, 8192)]
    work, chunk_counts = window_statistics.work_of(lengths, starts, 10, 5)
    entries = [entry for row in rows for entry in row]
    assert work.tolist() == entries and chunk_counts.tolist() == [len(row) for row in rows]
    assert waveforms.work_of(lengths, starts).tolist() == samples
    tables = WindowTables.of(starts, lengths, 10, 5, CPU)
    most = max(map(len, rows), default=0)
    assert tables.work.tolist() == entries and tables.chunk_limit == most
    assert tables.slots.tolist() == [index * most + at for index, row in enumerate(rows) for at in range(len(row))]
    assert tables.share.tolist() == [1 / windows if windows else float("inf") for windows in chunks]


def test_utterances_of_hops():
    assert utterances_of((0, 3, 3, 5), 7).tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert utterances_of((0, 3, 9, 12), 5).tolist() == [0, 0, 0, 1, 1]  # utterances that start later have no frames
    assert utterances_of((0,), 2).dtype == np.int32


def test_frames_of_the_grid():
    config = model_of().config
    grid = Grid.of((2400, 0, 401, 1, 1039, 720), config)
    assert grid.starts == (0, 8, 8, 10, 11, 15) and grid.counts == (7, 0, 1, 0, 2, 2)
    expected = [*range(7), 8, 11, 12, 15, 16]
    assert (grid.frames, grid.end, grid.boundaries) == (12, 17, (0, 7, 7, 8, 8, 10, 12))
    assert grid.true_frames(CPU).tolist() == expected and grid.true_frames(CPU).dtype == torch.int64
    assert grid.true_frames_on_host(np.int32).tolist() == expected
    assert grid.cu_seqlens(CPU).tolist() == [0, 7, 7, 8, 8, 10, 12] and grid.cu_seqlens(CPU).dtype == torch.int32
    assert Grid.of((2400, 0, 100), config).true_frames(CPU) is None
    assert grid == Grid.of((2400, 0, 401, 1, 1039, 720), config)  # cached values do not affect equality


def test_upload_together_copies_many_arrays_at_once():
    strided = np.arange(12, dtype=np.int32).reshape(3, 4).T
    arrays = [strided, np.array([], np.int64), np.array([1.5, -np.inf]), np.arange(3), np.zeros((0, 2), np.int32)]
    uploaded = upload_together(arrays, CPU)
    for tensor, array in zip(uploaded, arrays, strict=True):
        assert tensor.tolist() == array.tolist() and tensor.numpy().dtype == array.dtype and tensor.shape == array.shape
        assert tensor.storage_offset() * tensor.itemsize % 16 == 0 and tensor.is_contiguous()
    assert len({tensor.untyped_storage().data_ptr() for tensor in uploaded}) == 1
    assert upload_together([], CPU) == []


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("lengths", [(720, 0, 401, 1, 9000), (3600,)], ids=["gaps", "no gaps"])
def test_all_tables_are_uploaded_at_once(values, lengths):
    from hubert_fast.kernels import attention, conv_positional

    model = model_of(HubertModel, values)
    grid = Grid.of(lengths, model.config)
    spans = SampleSpans(torch.zeros(grid.starts[-1] * 320 + 9000), [320 * start for start in grid.starts], list(lengths))
    tables = Tables.of(model, torch.float32, grid, spans, CPU)
    tensor = torch.tensor(grid.counts)
    starts = tensor.cumsum(0) - tensor
    block, frames = attention.block_of(12, torch.float32, CPU), conv_positional.frames_of(16, 16, torch.float32, CPU)
    hops = torch.arange(grid.end + 2)
    assert tables.utterances.tolist() == (torch.searchsorted(torch.tensor(grid.starts), hops, right=True) - 1).tolist()
    assert tables.work.tolist() == attention.work_of(tensor, starts, tensor, block, len(tables.work)).tolist()
    assert (
        tables.positional_work.tolist()
        == conv_positional.spans_of(tensor, starts, frames, len(tables.positional_work)).tolist()
    )
    true = grid.true_frames(CPU)
    assert (tables.true_frames is None) is (true is None) is (len(lengths) == 1)
    assert true is None or tables.true_frames.tolist() == true.tolist()
    assert (tables.windows is None) is (values is PRE_LN)
    tensors = [entry for entry in (*tables, *(tables.windows or ())) if isinstance(entry, torch.Tensor)]
    assert len({entry.untyped_storage().data_ptr() for entry in tensors}) == 1
    assert all(entry.dtype == torch.int32 for entry in tables[:4] if entry is not None)


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_tables_of_a_bucket_have_fixed_sizes(values):
    """They begin like the tables of the batch, and their sizes depend only on the bucket."""
    model, random, sizes = model_of(HubertModel, values), np.random.default_rng(0), {}
    draws = [random.integers(0, most, number).tolist() for most in (400, 3000, 60000) for number in range(1, 9)]
    # the most entries: one utterance that fills its bucket, and eight that each begin new entries
    for lengths in [*draws, [20480], [491520], [61440] * 8, [61121] * 8, [399] * 8, [491520 - 8 * 320, *[1] * 7]]:
        grid = Grid.of(lengths, model.config)
        hops = sum(-(-length // 320) for length in lengths)
        spans = SampleSpans(torch.empty(hops * 320), [320 * start for start in grid.starts], lengths)
        bucket = bucket_of(hops, len(lengths))
        exact, _ = tables_on_host(model, torch.float32, grid, spans, CPU)
        padded, most = tables_on_host(model, torch.float32, grid, spans, CPU, bucket)
        shapes = [(table.shape, table.dtype) for table in padded], most
        assert sizes.setdefault(bucket, shapes) == shapes
        exact[1] = exact[1] if len(exact[1]) else np.arange(grid.frames)
        utterances, true_frames, work, chunks = padded[0], padded[1], padded[2], exact[-3]
        assert len(utterances) == bucket + 2 and utterances.max() < len(lengths) and len(true_frames) == bucket
        for index, (table, own) in enumerate(zip(padded, exact, strict=True)):
            if (index, values) != (5, POST_LN):  # slots, which depend on the largest number of chunks
                assert np.array_equal(table[: len(own)], own)
            rest = table[len(own) :]
            assert index == 0 or (rest == {5: GRAPH_UTTERANCES * most, 6: 1}.get(index, 0)).all()
        if values is POST_LN:
            slots = padded[5][: len(chunks)]
            assert len(set(slots.tolist())) == len(chunks) and (slots < GRAPH_UTTERANCES * most).all()
            assert (np.bincount(slots // most, minlength=8)[: len(lengths)] * 1024 >= np.array(lengths) // 5 - 1).all()
        assert len(work) > 0 and padded[2].dtype == np.int32
