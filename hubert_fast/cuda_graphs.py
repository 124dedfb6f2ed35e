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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .dispatch import cuda_graphs_asked

logger = logging.getLogger(__name__)

Prepare = Callable[[], tuple[Callable[..., Any], list[Tensor]]]  # a call, and the tensors that it takes
GRAPHS = 32  # two for each size of a short batch: packed calls, and padded ones of models with a GroupNorm
NEWEST_TORCH_RUN = (2, 11)  # under which graphs have run on a GPU
KEYS_REMEMBERED = 64
_CAPTURING = threading.Lock()  # each capture begins by waiting for the device, which fails while another goes on


def default_limit(torch_version: str, asked: bool | None) -> int:
    """Return how many graphs a model keeps by default.

    With a torch newer than those under which graphs have run on a GPU it is 0: from 2.12 on a graph's end frees memory of
    libraries that other graphs of its stream may still use. asked: what ``HUBERT_FAST_CUDA_GRAPHS`` says, if anything.
    """
    if asked is None:
        asked = tuple(map(int, torch_version.split(".")[:2])) <= NEWEST_TORCH_RUN
    return GRAPHS if asked else 0


@dataclass
class _Captured:
    """A call as it was captured. It holds no model, since the model holds the cache: a cycle would keep weights for a while."""

    inputs: list[Tensor]
    outputs: Any
    graph: torch.cuda.CUDAGraph

    def run(self, inputs: Sequence[Tensor], rows: int, shared: _Generation) -> Any:
        with torch.cuda.device(shared.device):
            shared.done.wait()
            try:
                with torch.inference_mode(False), torch.no_grad():
                    _fill(self.inputs, inputs)
                    self.graph.replay()
                return _copied(self.outputs, rows)  # in the caller's mode
            finally:
                shared.done.record()


@dataclass
class _Generation:
    """Graphs that share one pool of memory, since their replays follow one another. They are freed together or not at all.

    places: where the weights lie that they read. stream: all are captured on it, so that what libraries allocate for it lies
        in the pool. warm_up: the stream of the run before a capture, whose memory is not the pool's. done: an event after the
        last results were copied; the next replay waits for it, as it may be on another stream.
    """

    device: torch.device
    places: Hashable
    stream: torch.cuda.Stream
    warm_up: torch.cuda.Stream
    done: torch.cuda.Event
    graphs: dict[Hashable, _Captured] = field(default_factory=dict)

    @classmethod
    def on(cls, device: torch.device, places: Hashable) -> _Generation:
        """Begin with no graph."""
        return cls(device, places, torch.cuda.Stream(device), torch.cuda.Stream(device), torch.cuda.Event())


class GraphCache:
    """The graphs of one model: the second call of a key is captured and replayed, as are later ones.

    All graphs compute in one pool of memory, beside which each keeps its inputs and results. When ``limit`` of them are there
    and another is wanted, or weights have moved, all are freed. Safe among threads and streams: replays follow one another.
    What cannot be captured (for lack of memory, say) is logged once and runs as it would without graphs.

    CUDA and PyTorch restrict other threads during a capture, some tens of milliseconds: they may not wait for the whole device,
    free cached memory, draw CUDA random numbers or capture a graph of their own. Each capture waits for the device and frees
    cached memory. A program that cannot live with that sets ``limit`` to 0, or ``HUBERT_FAST_CUDA_GRAPHS=0``.

    replays: how many calls were answered by a graph.
    """

    def __init__(self, limit: int | None = None):
        self._generation: _Generation | None = None
        self._may_capture: OrderedDict[Hashable, bool] = OrderedDict()  # of calls that came: whether the next is captured
        self._lock = threading.Lock()
        self.replays = 0
        self.limit = default_limit(torch.__version__, cuda_graphs_asked()) if limit is None else limit

    @property
    def limit(self) -> int:
        """How many graphs are kept at most (default: 32; 0 with torch 2.12 and later); with 0 none is made.

        Lowering it below the number of graphs frees all of them at once.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be a whole number from 0 on, but is {limit!r}")
        with self._lock:
            self._limit = limit
            if len(self) > limit:
                self._free()

    def __len__(self) -> int:
        return 0 if self._generation is None else len(self._generation.graphs)

    def _free(self) -> None:
        if self._generation is not None:
            self._generation.done.synchronize()  # a replay on another stream may still use the memory that is freed here
            self._generation = None

    def run(
        self,
        key: Hashable,
        places: Hashable,
        device: torch.device,
        prepare: Prepare,
        inputs: Sequence[Tensor],
        rows: int,
    ) -> Any | None:
        """Replay the call of ``key`` on ``inputs``; return ``None`` where there is no graph of it.

        key: all that decides which kernels run. places: where the weights lie that they read. prepare: returns the call and, at
            the size that it is captured for, the tensors that it takes: each input is copied to the front of one, as far as
            that reaches. inputs: on the device or in pinned memory. rows: how many rows of each result are wanted; they are
            returned in memory of the caller's own.
        """
        with self._lock:
            generation = self._generation
            if generation is not None and (generation.device, generation.places) != (device, places):
                self._free()
                self._may_capture.clear()
                generation = None
            captured = None if generation is None else generation.graphs.get(key)
            if captured is None and self._limit and self._may_capture.get(key, False):
                captured = self._try_to_capture(key, places, device, prepare, inputs)
            if captured is None or self._generation is None:
                self._may_capture.setdefault(key, True)
                if len(self._may_capture) > KEYS_REMEMBERED:
                    self._may_capture.popitem(last=False)
                return None
            self.replays += 1
            return captured.run(inputs, rows, self._generation)

    def _try_to_capture(
        self, key: Hashable, places: Hashable, device: torch.device, prepare: Prepare, inputs: Sequence[Tensor]
    ) -> _Captured | None:
        try:
            if len(self) >= self._limit:
                logger.info("the %d CUDA graphs of a model are freed, as another size came", len(self))
                self._free()
            if self._generation is None:
                self._generation = _Generation.on(device, places)
            captured = _capture(prepare, inputs, self._generation)
        except Exception as error:  # also what compilers raise: the call does without a graph
            logger.warning("batches of this size run without a CUDA graph, as capturing it failed: %s", error)
            self._may_capture[key] = False
            self._free()  # a failed capture may leave the pool in a state that no other should share
            return None
        self._generation.graphs[key] = captured
        return captured


def empty_cache(device: torch.device) -> None:
    """Free the cached memory of a CUDA device, which must not happen during a capture."""
    with _CAPTURING, torch.cuda.device(device):
        torch.cuda.empty_cache()


def _fill(static: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    for tensor, given in zip(static, inputs, strict=True):
        size = min(len(tensor), len(given))
        tensor[:size].copy_(given[:size], non_blocking=True)


def _copied(outputs: Any, rows: int) -> Any:
    """Copy the first rows of all tensors, once each: one that is there twice stays one."""
    copies = {id(tensor): tensor[:rows].clone() for tensor in pytree.tree_leaves(outputs) if tensor is not None}
    return pytree.tree_map_only(Tensor, lambda tensor: copies[id(tensor)], outputs)


def _capture(prepare: Prepare, inputs: Sequence[Tensor], shared: _Generation) -> _Captured:
    """Capture a call on copies of its inputs, after a run on another stream: what is compiled or set up is so by then."""
    # ordinary tensors, whatever the mode of later calls
    with _CAPTURING, torch.inference_mode(False), torch.no_grad(), torch.cuda.device(shared.device):
        call, static = prepare()
        _fill(static, inputs)
        current, graph = torch.cuda.current_stream(shared.device), torch.cuda.CUDAGraph()
        shared.warm_up.wait_stream(current)
        with torch.cuda.stream(shared.warm_up):
            call(*static)
        shared.stream.wait_stream(shared.warm_up)
        # a pool lives as long as a graph in it: its handle is of no use after
        pool = next((captured.graph.pool() for captured in shared.graphs.values()), None)
        with (
            torch.cuda.stream(shared.stream),  # PyTorch would leave it set after a capture that failed
            torch.cuda.graph(graph, pool=pool, stream=shared.stream, capture_error_mode="thread_local"),  # others may allocate
        ):
            outputs = call(*static)
        current.wait_stream(shared.stream)
        return _Captured(static, outputs, graph)
