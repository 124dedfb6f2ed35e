"""CUDA graphs of the packed graph, for batches that are laid out alike: some two hundred launches become one.

A short utterance keeps a GPU busy for less time than Python needs to launch its kernels. A batch whose lengths came before is
replayed instead: its samples are copied to where the captured kernels read, and results from where they write.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

logger = logging.getLogger(__name__)

Call = Callable[..., Any]
LAYOUTS_REMEMBERED = 1024  # that came once: their keys alone


@dataclass
class _Captured:
    """A call as it was captured.

    call: kept because it holds what the captured kernels read beside ``inputs``. done: an event after the last results were
    copied, for which the next copy into ``inputs`` waits, as it may be on another stream.
    """

    call: Call
    inputs: list[Tensor]
    outputs: Any
    replay: Callable[[], None]
    done: torch.cuda.Event

    def run(self, inputs: tuple[Tensor, ...]) -> Any:
        with torch.cuda.device_of(self.inputs[0]):
            self.done.wait()
            with torch.inference_mode(False), torch.no_grad():
                for static, given in zip(self.inputs, inputs, strict=True):
                    static.copy_(given)
                self.replay()
            outputs = _copied(self.outputs)  # in the caller's mode
            self.done.record()
            return outputs


class GraphCache:
    """The graphs of one model, the ``limit`` last used. The second batch of a layout is captured, the third is replayed.

    Each graph keeps memory of its own for all that is computed between. Safe among threads and streams. A layout that cannot be
    captured (no memory, say) is logged once and runs as it would without graphs.
    """

    def __init__(self, limit: int = 0):
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._came_once: OrderedDict[Hashable, bool] = OrderedDict()  # whether a second time is to be captured
        self._lock = threading.Lock()
        self.limit = limit

    @property
    def limit(self) -> int:
        """How many graphs are kept at most; with 0, which is the default, none is made. Lowering it frees memory at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be a whole number from 0 on, but is {limit!r}")
        with self._lock:
            self._limit = limit
            self._trim()

    def _trim(self) -> None:
        while len(self._graphs) > self._limit:
            self._graphs.popitem(last=False)
        while len(self._came_once) > LAYOUTS_REMEMBERED:
            self._came_once.popitem(last=False)

    def run(self, key: Hashable, prepare: Callable[[], Call], *inputs: Tensor) -> Any:
        """Return what ``prepare()(*inputs)`` gives, in memory of the caller's own.

        key: all that decides which kernels run, where weights lie included. prepare: does what may not be captured, such as
            copies from the host, and returns the call, which must keep alive what it reads.
        """
        with self._lock:
            captured = self._graphs.get(key)
            if captured is None and self._came_once.get(key, False):
                captured = self._try(key, prepare, inputs)
            if captured is not None:
                self._graphs.move_to_end(key)
                return captured.run(inputs)
            self._came_once.setdefault(key, True)
            self._trim()
        return prepare()(*inputs)

    def _try(self, key: Hashable, prepare: Callable[[], Call], inputs: tuple[Tensor, ...]) -> _Captured | None:
        try:
            captured = _capture(prepare(), inputs)
        except RuntimeError as error:
            logger.warning("this layout runs without a CUDA graph, as capturing it failed: %s", error)
            self._came_once[key] = False
            return None
        del self._came_once[key]
        self._graphs[key] = captured
        self._trim()
        return captured


def _copied(outputs: Any) -> Any:
    """Copy all tensors, once each: one that is there twice stays one."""
    copies = {id(tensor): tensor.clone() for tensor in pytree.tree_leaves(outputs) if tensor is not None}
    return pytree.tree_map_only(Tensor, lambda tensor: copies[id(tensor)], outputs)


def _capture(call: Call, inputs: tuple[Tensor, ...]) -> _Captured:
    """Capture a call on copies of its inputs, after a run on the same stream: what is compiled or set up is so by then."""
    device = inputs[0].device
    # ordinary tensors, whatever the mode of later calls
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        static = [given.clone() for given in inputs]
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            call(*static)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may allocate meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = call(*static)
        return _Captured(call, static, outputs, graph.replay, torch.cuda.Event())
