"""CUDA graphs of the packed graph, for short batches: some two hundred and fifty launches become one.

A short utterance keeps a GPU busy for a fraction of the time that Python needs to launch its kernels. A graph is captured for
the size of a batch, rounded up, and replayed for every batch of that size: samples and tables are copied to where the captured
kernels read, and results from where they write.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

logger = logging.getLogger(__name__)

Prepare = Callable[[], tuple[Callable[..., Any], list[Tensor]]]  # a call, and the tensors that it takes
GRAPHS = 16  # one for each size of a short batch
KEYS_REMEMBERED = 64  # of calls that came once
_CAPTURING = threading.Lock()  # each capture begins by waiting for the device, which fails while another goes on


@dataclass
class _Lane:
    """What the graphs of one cache share, since their replays follow one another.

    stream: all are captured on it, so that libraries set up one workspace. done: an event after the last results were copied.
        The next replay waits for it, as it may be on another stream.
    """

    device: torch.device
    stream: torch.cuda.Stream
    done: torch.cuda.Event


@dataclass
class _Captured:
    """A call as it was captured. It holds no model, since the model holds the cache: a cycle would keep weights for a while."""

    inputs: list[Tensor]
    outputs: Any
    graph: torch.cuda.CUDAGraph

    def run(self, inputs: Sequence[Tensor], rows: int, lane: _Lane) -> Any:
        with torch.cuda.device(lane.device):
            lane.done.wait()
            try:
                with torch.inference_mode(False), torch.no_grad():
                    _fill(self.inputs, inputs)
                    self.graph.replay()
                return _copied(self.outputs, rows)  # in the caller's mode
            finally:
                lane.done.record()


class GraphCache:
    """The graphs of one model, the ``limit`` last used. The second call of a key is captured and replayed, as are later ones.

    All graphs compute in one pool of memory, as large as the largest of them needs, beside which each keeps its inputs and
    results. Safe among threads and streams: replays follow one another. What cannot be captured (for lack of memory, say) is
    logged once and runs as it would without graphs. CUDA lets no other thread wait for the whole device during a capture, some
    tens of milliseconds: a program whose threads do that sets ``limit`` to 0.

    replays: how many calls were answered by a graph.
    """

    def __init__(self, limit: int = GRAPHS):
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._came_once: OrderedDict[Hashable, bool] = OrderedDict()  # whether a second time is to be captured
        self._lane: _Lane | None = None
        self._lock = threading.Lock()
        self.replays = 0
        self.limit = limit

    @property
    def limit(self) -> int:
        """How many graphs are kept at most (default: 16); with 0 none is made. Lowering it frees memory at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be a whole number from 0 on, but is {limit!r}")
        with self._lock:
            self._limit = limit
            self._trim(limit)

    def _trim(self, limit: int) -> None:
        if len(self._graphs) > limit and self._lane is not None:
            self._lane.done.synchronize()  # a replay on another stream may still use the memory that is freed here
        while len(self._graphs) > limit:
            self._graphs.popitem(last=False)
        while len(self._came_once) > KEYS_REMEMBERED:
            self._came_once.popitem(last=False)

    def run(
        self,
        key: Hashable,
        device: torch.device,
        prepare: Prepare,
        inputs: Sequence[Tensor],
        rows: int,
    ) -> Any | None:
        """Replay the call of ``key`` on ``inputs``; return ``None`` where there is no graph of it.

        key: all that decides which kernels run, where weights lie included. prepare: returns the call and, at the size that it
            is captured for, the tensors that it takes: each input is copied to the front of one, as far as that reaches.
        inputs: on the device or in pinned memory. rows: how many rows of each result are wanted; they are returned in memory of
            the caller's own.
        """
        with self._lock:
            captured = self._graphs.get(key)
            if captured is None and self._came_once.get(key, False):
                captured = self._try(key, device, prepare, inputs)
            if captured is None or self._lane is None:
                self._came_once.setdefault(key, True)
                self._trim(self._limit)
                return None
            if key in self._graphs:  # unless the limit is 0 by now
                self._graphs.move_to_end(key)
            self.replays += 1
            return captured.run(inputs, rows, self._lane)

    def _try(
        self,
        key: Hashable,
        device: torch.device,
        prepare: Prepare,
        inputs: Sequence[Tensor],
    ) -> _Captured | None:
        try:
            if self._lane is None or self._lane.device != device:  # the model has moved
                self._trim(0)
                self._lane = _Lane(device, torch.cuda.Stream(device), torch.cuda.Event())
            # a pool lives as long as a graph in it: its handle is of no use after
            pool = next((captured.graph.pool() for captured in self._graphs.values()), None)
            captured = _capture(prepare, inputs, self._lane, pool)
        except RuntimeError as error:
            logger.warning("batches of this size run without a CUDA graph, as capturing it failed: %s", error)
            self._came_once[key] = False
            return None
        del self._came_once[key]
        self._graphs[key] = captured
        self._trim(self._limit)
        return captured


def _fill(static: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    for tensor, given in zip(static, inputs, strict=True):
        size = min(len(tensor), len(given))
        tensor[:size].copy_(given[:size], non_blocking=True)


def _copied(outputs: Any, rows: int) -> Any:
    """Copy the first rows of all tensors, once each: one that is there twice stays one."""
    copies = {id(tensor): tensor[:rows].clone() for tensor in pytree.tree_leaves(outputs) if tensor is not None}
    return pytree.tree_map_only(Tensor, lambda tensor: copies[id(tensor)], outputs)


def _capture(prepare: Prepare, inputs: Sequence[Tensor], lane: _Lane, pool: tuple[int, int] | None) -> _Captured:
    """Capture a call on copies of its inputs, after a run on the same stream: what is compiled or set up is so by then."""
    # ordinary tensors, whatever the mode of later calls
    with _CAPTURING, torch.inference_mode(False), torch.no_grad(), torch.cuda.device(lane.device):
        call, static = prepare()
        _fill(static, inputs)
        current, graph = torch.cuda.current_stream(lane.device), torch.cuda.CUDAGraph()
        lane.stream.wait_stream(current)
        with torch.cuda.stream(lane.stream):  # which PyTorch would leave set after a capture that failed
            call(*static)
            # other threads may allocate meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=lane.stream, capture_error_mode="thread_local"):
                outputs = call(*static)
        current.wait_stream(lane.stream)
        return _Captured(static, outputs, graph)
