"""Graphs of repeated layouts: which calls are captured and replayed, and that answers stay those of the inputs at hand.

There is no CUDA here: graphs, streams and events are stood in for by objects that do the same on a CPU, the rest is real.
"""

import copy
import pickle
import types
import weakref
from contextlib import contextmanager, nullcontext

import pytest
import torch
from conftest import POST_LN, PRE_LN, masked_batch
from test_packed import model_of
from torch.utils import _pytree as pytree

from hubert_fast import HubertModel, PackedAudio, cuda_graphs, packed_kernels
from hubert_fast.dispatch import BACKEND_VARIABLE

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
LENGTHS = (900, 0, 401)


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``: it replays by calling again, into the memory that the first results lie in."""

    def replay(self):
        assert not torch.is_inference_mode_enabled()
        self.log.append("replayed")
        fresh = self.call()(*self.inputs)  # the call is gone unless the cache keeps it
        for tensor, new in zip(pytree.tree_leaves(self.outputs), pytree.tree_leaves(fresh), strict=True):
            if tensor is not None:
                tensor.copy_(new)


class Event:
    """Stands in for ``torch.cuda.Event``."""

    def wait(self):
        pass

    def record(self):
        pass


@pytest.fixture
def captures(monkeypatch):
    """Let graphs run on the CPU, on kernels; return the log of what was captured and replayed."""
    log, capture = [], cuda_graphs._capture

    @contextmanager
    def recording(graph, stream, capture_error_mode):
        log.append("captured")
        assert capture_error_mode == "thread_local"
        yield

    def watched(call, inputs):
        captured = capture(call, inputs)
        graph = captured.replay.__self__
        graph.log, graph.call, graph.inputs, graph.outputs = log, weakref.ref(call), captured.inputs, captured.outputs
        for tensor in captured.inputs:
            tensor.fill_(torch.nan)
        return captured

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(cuda_graphs, "_capture", watched)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(packed_kernels, "graphs_can_run", lambda device: True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    return log


def audio_of(lengths=LENGTHS):
    return PackedAudio.from_waveforms([torch.randn(length) for length in lengths])


def with_graphs(values, limit=2):
    model = model_of(HubertModel, values)
    model.fast_path.cuda_graphs.limit = limit
    return model


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_the_answers_are_those_of_the_inputs_at_hand(values, mode, captures):
    model, plain = with_graphs(values), model_of(HubertModel, values)
    plain.load_state_dict(model.state_dict())
    kept = []
    for count in range(4):
        audio = audio_of()
        with mode():
            found = model.forward_packed(audio, output_hidden_states=True)
            expected = plain.forward_packed(audio, output_hidden_states=True)
        kept.append((found, expected))
        assert captures.count("captured") == (count > 0) and captures.count("replayed") == count
    for found, expected in kept:  # not overwritten by later replays
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(one, other) for one, other in zip(found.hidden_states, expected.hidden_states, strict=True))
        assert found.hidden_states[-1].data_ptr() == found[0].data_ptr()


def test_padded_calls_with_statistics_over_their_rows(captures):
    model, plain = with_graphs(POST_LN), model_of(HubertModel, POST_LN)
    plain.load_state_dict(model.state_dict())
    for _ in range(3):
        waveforms, mask = masked_batch((900, 700))
        with torch.no_grad():
            found, expected = (each(waveforms + 0.1, attention_mask=mask)[0] for each in (model, plain))
        assert torch.equal(found, expected)
    assert captures == ["captured", "replayed", "replayed"]


@torch.no_grad()
def test_what_makes_a_layout_another(captures):
    model = with_graphs(PRE_LN, limit=8)
    for _ in range(2):
        model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    model.forward_packed(audio_of((900, 401, 0)))
    model.forward_packed(audio_of(), output_hidden_states=True)
    model.encoder.layers[0].attention.q_proj.weight = torch.nn.Parameter(
        model.encoder.layers[0].attention.q_proj.weight.clone()
    )
    model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    model.encoder.layers[0].attention.q_proj.weight.data.mul_(2)  # in place: the graph reads it where it is
    audio = audio_of()
    found = model.forward_packed(audio)[0]
    assert captures == ["captured", "replayed"] * 2
    model.fast_path.cuda_graphs.limit = 0
    assert torch.equal(found, model.forward_packed(audio)[0])


@torch.no_grad()
def test_the_limit_forgets_the_graph_used_longest_ago(captures):
    model = with_graphs(PRE_LN, limit=1)
    for lengths in ((900,), (500,), (900,), (500,)):
        model.forward_packed(audio_of(lengths))
    assert captures == ["captured", "replayed"] * 2
    for count in range(3):  # layouts that come once push nothing out
        model.forward_packed(audio_of((600 + count,)))
    model.forward_packed(audio_of((500,)))
    assert captures == ["captured", "replayed"] * 2 + ["replayed"]
    model.fast_path.cuda_graphs.limit = 0
    assert not model.fast_path.cuda_graphs._graphs
    with pytest.raises(ValueError, match="limit must be a whole number from 0 on, but is -1"):
        model.fast_path.cuda_graphs.limit = -1


@torch.no_grad()
def test_what_cannot_be_captured_runs_without(captures, monkeypatch, caplog):
    model, audio = with_graphs(PRE_LN), audio_of()
    expected = model.forward_packed(audio)[0]

    @contextmanager
    def failing(graph, **options):
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "graph", failing)
    for _ in range(3):
        assert torch.equal(model.forward_packed(audio)[0], expected)
    told = [record for record in caplog.records if "runs without a CUDA graph" in record.message]
    assert len(told) == 1 and "CUDA out of memory" in told[0].message


@torch.no_grad()
def test_no_graph_of_a_call_that_copies_from_the_host_in_its_midst(captures):
    model = with_graphs(dict(POST_LN, conv_pos_batch_norm=True))
    waveforms, mask = masked_batch((900, 700))
    for _ in range(3):
        model(waveforms, attention_mask=mask)
    assert captures == []
    for _ in range(2):
        model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]


def test_copies_and_pickles_are_empty():
    model = with_graphs(PRE_LN)
    for path in (pickle.loads(pickle.dumps(model.fast_path)), copy.deepcopy(model.fast_path)):
        assert path.cuda_graphs.limit == 2 and not path.cuda_graphs._graphs
