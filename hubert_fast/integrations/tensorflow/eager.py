"""Run eager calls of a layer as graphs, which call Python once and reuse the memory of intermediate results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

SIMPLE = {bool, int, float, str, type(None)}


class EagerGraphs:
    """Graphs of a function that computes with the weights of a layer, one for each kind of call.

    A graph is traced for tensors of any size. It reads the current values of the weights. Once the layer, or one below it, has
    other attributes, weights or layers than when it was traced, it is traced again.
    """

    def __init__(self) -> None:
        self._traced_state: list | None = None
        self._kept: list = []
        self._graphs: dict[Any, Callable] = {}

    def run(self, layer: keras.layers.Layer, function: Callable, tensors: tuple[tf.Tensor | None, ...], options: tuple) -> Any:
        """Return `function(*tensors, *options)`, computed by a graph if the call is eager.

        Args:
            layer: The layer whose state `function` depends on.
            function: Takes tensors, and options that are hashable.
            tensors: The tensors, or `None` in place of some.
            options: The options.
        """
        if not tf.executing_eagerly() or tf.config.functions_run_eagerly():
            return function(*tensors, *options)
        if _state(layer) != self._traced_state:
            self._graphs = {}
        specs = [None if tensor is None else tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in tensors]
        key = (*specs, *options)
        if key not in self._graphs:
            graph = tf.function(lambda *tensors: function(*tensors, *options), autograph=False)
            self._graphs[key] = graph.get_concrete_function(*specs)
            self._traced_state = _state(layer)  # now, since the first call of a layer may set attributes
            self._kept = [(part, dict(vars(part))) for part in layer._flatten_layers()]  # so that no id gets another object
        return self._graphs[key](*(tensor for tensor in tensors if tensor is not None))


def _state(layer: keras.layers.Layer) -> list:
    """Return what a graph of a layer depends on besides the values of weights. Objects stand as their ids."""
    state: list = []
    for part in layer._flatten_layers():
        state.append(id(part))
        state += [value if type(value) in SIMPLE else id(value) for name, value in vars(part).items() if name[0] != "_"]
        state += map(id, part._trainable_variables + part._non_trainable_variables)
    return state
