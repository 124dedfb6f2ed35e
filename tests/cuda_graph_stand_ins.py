"""Stand-ins for CUDA's graphs, streams and events, which do the same on a CPU."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils import _pytree as pytree

from hubert_fast.dispatch import BACKEND_VARIABLE, CUDA_GRAPHS_VARIABLE
from hubert_fast.packed import cuda_graphs, kernel_graph


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``: it replays by calling again, into the memory that the first results lie in."""

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
    """Stands in for ``torch.cuda.Event``; the log says what waits for it and when it is recorded."""

    def __init__(self):
        self.log = []

    def wait(self):
        self.log.append("waited")

    def record(self):
        self.log.append("recorded")

    def synchronize(self):
        self.log.append("synchronized")


class Stream:
    """Stands in for ``torch.cuda.Stream``; it knows whether anything ran on it outside a capture."""

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
    """Let graphs run on the CPU, on kernels; return the log of what was captured and replayed. New memory is no number."""
    log, capture, empty = [], cuda_graphs._capture, torch.empty

    @contextmanager
    def recording(graph, pool, stream, capture_error_mode):
        log.append("captured")
        graph.shared = pool
        assert capture_error_mode == "thread_local"
        assert not stream.ran_outside  # or memory of libraries would lie outside the graphs' pool
        stream.captures = True
        yield

    def watched(prepare, inputs, shared):
        prepared = []

        def remembered():
            prepared.append(prepare())
            return prepared[0]

        captured = capture(remembered, inputs, shared)
        graph = captured.graph
        graph.call = prepared[0][0]
        graph.log, graph.inputs, graph.outputs = log, captured.inputs, captured.outputs
        for tensor in captured.inputs:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        return captured

    def poisoned(*size, **options):
        made = empty(*size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(cuda_graphs, "_capture", watched)
    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.entered())
    monkeypatch.setattr(kernel_graph, "graphs_can_run", lambda device: True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    monkeypatch.setenv(CUDA_GRAPHS_VARIABLE, "1")  # whichever torch this is
    return log
