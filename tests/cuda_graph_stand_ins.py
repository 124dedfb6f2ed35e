"""Stand-ins for CUDA graphs, streams and events that do the same on a CPU."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils import _pytree as pytree

from hubert_fast.dispatch import BACKEND_VARIABLE, CUDA_GRAPHS_VARIABLE
from hubert_fast.packed import cuda_graphs, kernel_graph


class Graph:
    """Stand in for `torch.cuda.CUDAGraph`: a replay calls the function again and writes over the captured outputs."""

    def replay(self):
        assert not torch.is_inference_mode_enabled()
        self.log.append("replayed")
        fresh = self.call(*self.inputs)
        for tensor, new in zip(pytree.tree_leaves(self.outputs), pytree.tree_leaves(fresh), strict=True):
            if tensor is not None:
                tensor.copy_(new)

    def pool(self):
        return self.shared or (id(self), 0)


class Event:
    """Stand in for `torch.cuda.Event`; `log` lists the calls of its methods."""

    def __init__(self):
        self.log = []

    def wait(self):
        self.log.append("waited")

    def record(self):
        self.log.append("recorded")

    def synchronize(self):
        self.log.append("synchronized")


class Stream:
    """Stand in for `torch.cuda.Stream` and note whether anything ran on it outside a capture."""

    captures = ran_outside = False

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    @contextmanager
    def entered(self):
        self.captures = False
        yield
        self.ran_outside = self.ran_outside or not self.captures


@pytest.fixture
def captures(monkeypatch):
    """Run graphs of our kernels on the CPU; return a log of captures and replays. `torch.empty` gives NaN."""
    log, capture, empty = [], cuda_graphs._capture, torch.empty

    @contextmanager
    def graph_context(graph, pool, stream, capture_error_mode):
        log.append("captured")
        graph.shared = pool
        assert capture_error_mode == "thread_local"
        assert not stream.ran_outside  # otherwise libraries would allocate memory outside the graphs' pool
        stream.captures = True
        yield

    def logged_capture(prepare, inputs, shared):
        prepared = []

        def recorded_prepare():
            prepared.append(prepare())
            return prepared[0]

        captured = capture(recorded_prepare, inputs, shared)
        graph = captured.graph
        graph.call = prepared[0][0]
        graph.log, graph.inputs, graph.outputs = log, captured.inputs, captured.outputs
        for tensor in captured.inputs:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        return captured

    def empty_of_nan(*size, **options):
        tensor = empty(*size, **options)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(cuda_graphs, "_capture", logged_capture)
    monkeypatch.setattr(torch, "empty", empty_of_nan)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph_context)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.entered())
    monkeypatch.setattr(kernel_graph, "graphs_can_run", lambda device: True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    monkeypatch.setenv(CUDA_GRAPHS_VARIABLE, "1")  # whatever the version of torch
    return log
