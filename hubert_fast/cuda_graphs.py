"""CUDA graphs of the packed graph, for batches that are laid out alike: some two hundred launches become one.

A short utterance keeps a GPU busy for less time than Python needs to launch its kernels. A batch whose lengths came before is
replayed instead: its samples are copied to where the captured kernels read, and results from where they write.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Call = Callable[..., Any]


@dataclass
class _Captured:
    """A call as it was captured: where it reads and writes, and what replays it."""

    inputs: list[Tensor]
    outputs: Any
    replay: Callable[[], None]


class GraphCache:
    """The graphs of one model, the ``limit`` last used. The second batch of a layout is captured, the third is replayed.

    Each graph keeps memory of its own for all that is computed between. Safe among threads; copies and pickles are empty.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self._seen: OrderedDict[Hashable, _Captured | None] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, key: Hashable, prepare: Callable[[], Call], *inputs: Tensor) -> Any:
        """Return what ``prepare()(*inputs)`` gives, in memory of the caller's own.

        key: all that decides which kernels run, where weights lie included. prepare: does what may not be captured, such as
            copies from the host, and returns the call, which must keep alive what it reads.
        """
        with self._lock:
            known = key in self._seen
            captured = self._seen.pop(key, None)
            if known and captured is None:
                captured = _capture(prepare(), inputs)
            self._seen[key] = captured
            while len(self._seen) > self.limit:
                self._seen.popitem(last=False)
            if captured is None:
                return prepare()(*inputs)
            with torch.inference_mode(False), torch.no_grad():
                for static, given in zip(captured.inputs, inputs, strict=True):
                    static.copy_(given)
                captured.replay()
            return _copied(captured.outputs)  # in the caller's mode


def _copied(outputs: Any) -> Any:
    """Copy all tensors, once each: one that is there twice stays one."""
    copies = {id(tensor): tensor.clone() for tensor in pytree.tree_leaves(outputs) if tensor is not None}
    return pytree.tree_map_only(Tensor, lambda tensor: copies[id(tensor)], outputs)


def _capture(call: Call, inputs: tuple[Tensor, ...]) -> _Captured:
    """Capture a call that has run before, so that its kernels are compiled, on copies of its inputs."""
    with torch.inference_mode(False), torch.no_grad():  # ordinary tensors, whatever the mode of later calls
        static = [given.clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call(*static)
    return _Captured(static, outputs, graph.replay)
