"""Run short batches under CUDA graphs: one launch instead of about 250.

A short utterance keeps a GPU busy for a fraction of the time that Python needs to launch its kernels. A graph is captured for
each batch size, rounded up, and replayed for every batch of that size. A replay copies samples and tables into the buffers that
the captured kernels read, and copies results out of the buffers that they write.
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

from ..dispatch import cuda_graphs_requested

logger = logging.getLogger("hubert_fast.packed")

Prepare = Callable[[], tuple[Callable[..., Any], list[Tensor]]]  # returns a function and its arguments
GRAPHS = 32  # two for each size of a short batch: for packed calls, and for padded calls of models with a GroupNorm
NEWEST_TESTED_TORCH = (2, 11)  # the newest version with which graphs have run on a GPU
KEYS_REMEMBERED = 64  # of the latest calls without a graph, so that the second call with a key is captured
_CAPTURING = threading.Lock()  # a capture begins by waiting for the device, which fails during another capture


def default_limit(torch_version: str, requested: bool | None) -> int:
    """Return how many graphs a model keeps by default.

    The default is 0 with torch 2.12 and newer, on which no graph has been tested: there, freeing a graph also frees library
    memory that other graphs of the same stream may still use.

    Args:
        torch_version: The version of torch, such as `"2.11.0"`.
        requested: The setting of `HUBERT_FAST_CUDA_GRAPHS`, which takes precedence; `None` if it is not set.
    """
    if requested is None:
        requested = tuple(map(int, torch_version.split(".")[:2])) <= NEWEST_TESTED_TORCH
    return GRAPHS if requested else 0


@dataclass
class _Captured:
    """A captured call. It holds no model: the model holds the cache, and a cycle would keep the weights in memory."""

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
                return _copied(self.outputs, rows)  # in the caller's gradient mode
            finally:
                shared.done.record()


@dataclass
class _Generation:
    """Graphs that share one memory pool, since their replays follow one another. They are freed together.

    Attributes:
        device: The device of the graphs.
        addresses: The addresses of the weights that they read.
        stream: The stream on which they are captured, so that memory that libraries allocate for this stream lies in the pool.
        warm_up: The stream of the warm-up run before each capture. Its memory lies outside the pool.
        done: An event recorded after the last results were copied. The next replay, perhaps on another stream, waits for it.
        graphs: The captured calls by key.
    """

    device: torch.device
    addresses: Hashable
    stream: torch.cuda.Stream
    warm_up: torch.cuda.Stream
    done: torch.cuda.Event
    graphs: dict[Hashable, _Captured] = field(default_factory=dict)

    @classmethod
    def on(cls, device: torch.device, addresses: Hashable) -> _Generation:
        """Create a generation without graphs."""
        return cls(device, addresses, torch.cuda.Stream(device), torch.cuda.Stream(device), torch.cuda.Event())


class GraphCache:
    """The CUDA graphs of one model. The second call with a key is captured; that call and later ones are replayed.

    All graphs compute in one memory pool; each also keeps its inputs and results. All are freed when a new graph would exceed
    `limit`, or when weights have moved. The cache is thread-safe, also across streams: replays follow one another. If a capture
    fails, for example because memory runs out, a warning is logged once, and calls with that key run without a graph.

    CUDA and PyTorch restrict other threads during a capture, which takes some tens of milliseconds: they may not wait for the
    whole device, free cached memory, draw CUDA random numbers or capture a graph of their own. Each capture waits for the
    device and frees cached memory. Programs that cannot accept this set `limit` to 0, or `HUBERT_FAST_CUDA_GRAPHS=0`.

    Attributes:
        replays: The number of calls that graphs have served.
    """

    def __init__(self, limit: int | None = None):
        self._generation: _Generation | None = None
        self._may_capture: OrderedDict[Hashable, bool] = OrderedDict()  # key -> whether to capture the next call with it
        self._lock = threading.Lock()
        self.replays = 0
        self.limit = default_limit(torch.__version__, cuda_graphs_requested()) if limit is None else limit

    @property
    def limit(self) -> int:
        """The largest number of graphs to keep (default: 32; 0 with torch 2.12 and later). 0 turns graphs off.

        Lowering it below the number of existing graphs frees all of them at once.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be a whole number, 0 or more, but is {limit!r}")
        with self._lock:
            self._limit = limit
            if len(self) > limit:
                self._free()

    def __len__(self) -> int:
        return 0 if self._generation is None else len(self._generation.graphs)

    def _free(self) -> None:
        if self._generation is not None:
            self._generation.done.synchronize()  # a replay on another stream may still be using this memory
            self._generation = None

    def run(
        self,
        key: Hashable,
        addresses: Hashable,
        device: torch.device,
        prepare: Prepare,
        inputs: Sequence[Tensor],
        rows: int,
    ) -> Any | None:
        """Replay the graph of `key` on `inputs` and return the results; return `None` if there is no such graph.

        Args:
            key: Everything that determines which kernels run.
            addresses: The addresses of the weights that these kernels read.
            prepare: Returns the function to capture and its arguments, tensors of the captured size. Each input is copied to
                the front of its argument, as far as it fits.
            inputs: Tensors on the device or in pinned memory, one for each argument.
            rows: The number of rows to return of each result. They are copied, so that later replays do not overwrite them.
        """
        with self._lock:
            generation = self._generation
            if generation is not None and (generation.device, generation.addresses) != (device, addresses):
                self._free()
                self._may_capture.clear()
                generation = None
            captured = None if generation is None else generation.graphs.get(key)
            if captured is None and self._limit and self._may_capture.get(key, False):
                captured = self._try_to_capture(key, addresses, device, prepare, inputs)
            if captured is None or self._generation is None:
                self._may_capture.setdefault(key, True)
                self._may_capture.move_to_end(key)
                if len(self._may_capture) > KEYS_REMEMBERED:
                    self._may_capture.popitem(last=False)
                return None
            self.replays += 1
            return captured.run(inputs, rows, self._generation)

    def _try_to_capture(
        self, key: Hashable, addresses: Hashable, device: torch.device, prepare: Prepare, inputs: Sequence[Tensor]
    ) -> _Captured | None:
        try:
            if len(self) >= self._limit:
                logger.info("freeing the %d CUDA graphs of a model, since another batch size needs one", len(self))
                self._free()
            if self._generation is None:
                self._generation = _Generation.on(device, addresses)
            captured = _capture(prepare, inputs, self._generation)
        except Exception as error:  # of any kind, since compilers raise their own: the call runs without a graph
            logger.warning("batches of this size run without a CUDA graph, since capturing it failed: %s", error)
            self._may_capture[key] = False
            self._free()  # a failed capture may leave the pool in a bad state
            return None
        self._generation.graphs[key] = captured
        return captured


def empty_cache(device: torch.device) -> None:
    """Free the cached memory of a CUDA device, as soon as no capture is running."""
    with _CAPTURING, torch.cuda.device(device):
        torch.cuda.empty_cache()


def _fill(static: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    for tensor, given in zip(static, inputs, strict=True):
        size = min(len(tensor), len(given))
        tensor[:size].copy_(given[:size], non_blocking=True)


def _copied(outputs: Any, rows: int) -> Any:
    """Copy the first rows of all tensors. A tensor that occurs twice is copied once."""
    copies = {id(tensor): tensor[:rows].clone() for tensor in pytree.tree_leaves(outputs) if tensor is not None}
    return pytree.tree_map_only(Tensor, lambda tensor: copies[id(tensor)], outputs)


def _capture(prepare: Prepare, inputs: Sequence[Tensor], shared: _Generation) -> _Captured:
    """Capture a call on copies of its inputs, after a warm-up on another stream, which compiles kernels."""
    # ordinary tensors, even if this call runs in inference mode
    with _CAPTURING, torch.inference_mode(False), torch.no_grad(), torch.cuda.device(shared.device):
        call, static = prepare()
        _fill(static, inputs)
        current, graph = torch.cuda.current_stream(shared.device), torch.cuda.CUDAGraph()
        shared.warm_up.wait_stream(current)
        with torch.cuda.stream(shared.warm_up):
            call(*static)
        shared.stream.wait_stream(shared.warm_up)
        # a pool lives as long as a graph in it; its handle is useless afterwards
        pool = next((captured.graph.pool() for captured in shared.graphs.values()), None)
        with (
            torch.cuda.stream(shared.stream),  # PyTorch leaves it set after a failed capture
            torch.cuda.graph(
                graph, pool=pool, stream=shared.stream, capture_error_mode="thread_local"
            ),  # other threads may allocate
        ):
            outputs = call(*static)
        current.wait_stream(shared.stream)
        return _Captured(static, outputs, graph)
