"""Choose the hidden states that a forward pass returns, and thereby how many layers it computes.

State 0 is the input of the first layer and state l the output of layer l, as in the `hidden_states` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class StateSelection(NamedTuple):
    """The hidden states that a forward pass returns.

    Attributes:
        states: The states to return, in this order.
        depth: The number of layers to compute.
        with_last: Whether the last hidden state is returned, too.
        normed: Those of `states` that are returned after the final norm of a pre-LN encoder.
    """

    states: tuple[int, ...]
    depth: int
    with_last: bool
    normed: tuple[int, ...]


def select_layers(layers: Iterable[int], final_norm: bool | None, num_layers: int, normed_last: bool | None) -> StateSelection:
    """Return the selection of a call with `layers`: their states alone, and no layer above the highest of them.

    Args:
        layers: The states to return. Negative numbers count back from the last layer, which is -1.
        final_norm: Whether states are returned after the final norm. `None` applies it to the last layer's state if
            `normed_last` is true, and to no other.
        num_layers: The number of layers of the encoder.
        normed_last: Whether `hidden_states` holds the last state after the final norm; `None` if the encoder has no final norm.

    Raises:
        TypeError: `layers` are not whole numbers.
        ValueError: There is no such layer, `layers` is empty, or `final_norm` is true but there is no final norm.
    """
    if isinstance(layers, (int, str)) or not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a sequence of layer numbers, such as [9], but is {layers!r}")
    states = []
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise TypeError(f"layers must be whole numbers, but one is {layer!r}")
        if not -num_layers - 1 <= layer <= num_layers:
            raise ValueError(f"layers must be 0 (the input of the first layer) to {num_layers}, but one is {layer}")
        states.append(layer % (num_layers + 1))
    if not states:
        raise ValueError("layers must name at least one layer, but is empty")
    if final_norm and normed_last is None:
        raise ValueError("final_norm is true, but this model has no final norm: its do_stable_layer_norm is False")
    normed_last = final_norm is None and normed_last
    normed = [state for state in dict.fromkeys(states) if final_norm or (normed_last and state == num_layers)]
    return StateSelection(tuple(states), max(states), False, tuple(normed))
