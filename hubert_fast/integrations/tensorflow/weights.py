"""Translate between the weights of TensorFlow models and PyTorch's state dicts, and read and write `tf_model.h5`.

A weight has one name in each library, for example `hubert/encoder/layers.0/attention/k_proj/kernel` and
`hubert.encoder.layers.0.attention.k_proj.weight`, and often another layout. TensorFlow's names and the layout of the file are
those of `transformers.modeling_tf_utils` 4.34.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from ...hub import CheckpointError, first_line

H5_WEIGHTS = "tf_model.h5"
ROOTS = ("hubert", "lm_head")  # the layers of a model, with which the names of its weights begin
MAX_ATTRIBUTE_BYTES = 60_000  # HDF5 limits an attribute to 64 KiB: longer lists of names are split


class Layout(NamedTuple):
    """The layout of a weight in PyTorch, compared with TensorFlow.

    Attributes:
        name: The last part of its name in PyTorch.
        is_reversed: Whether its axes are in reverse order: `[K, C_in, C_out]` here is `[C_out, C_in, K]` there.
    """

    name: str
    is_reversed: bool = False

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return a weight of one library in the layout of the other."""
        return array.transpose() if self.is_reversed else array


LAYOUTS = {
    "kernel": Layout("weight", True),
    "bias": Layout("bias"),
    "gamma": Layout("weight"),
    "beta": Layout("bias"),
    "moving_mean": Layout("running_mean"),
    "moving_variance": Layout("running_var"),
    "weight_v": Layout("parametrizations.weight.original1"),
    "weight_g": Layout("parametrizations.weight.original0", True),  # [K, 1, 1] and [1, 1, K]
    "masked_spec_embed": Layout("masked_spec_embed"),
}


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the weights of a model by their TensorFlow names, which begin below the model."""
    return {variable.path.split(model.name + "/", 1)[-1]: variable for variable in model.weights}


def pytorch_name(name: str) -> str:
    """Return PyTorch's name of a weight with this TensorFlow name."""
    return ".".join([*name.split("/")[:-1], _layout(name).name])


def _layout(name: str) -> Layout:
    last = name.rpartition("/")[2]
    return LAYOUTS.get(last, Layout(last))


def state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the weights with PyTorch's names and layouts."""
    return {
        pytorch_name(name): np.ascontiguousarray(_layout(name).turned(keras.ops.convert_to_numpy(variable)))
        for name, variable in named_weights(model).items()
    }


def pytorch_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights with PyTorch's names and layouts."""
    return {
        pytorch_name(name): _layout(name).turned(np.empty(variable.shape, np.bool_)).shape
        for name, variable in named_weights(model).items()
    }


def assign(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Set the weights of a model from arrays with PyTorch's names and layouts. Weights that `state` lacks keep their values."""
    for name, variable in named_weights(model).items():
        if (array := state.get(pytorch_name(name))) is not None:
            variable.assign(_layout(name).turned(array))


def as_pytorch(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights that have TensorFlow's names, such as `tf_hubert_model/hubert/.../kernel:0`, as PyTorch has them."""
    state = {}
    for path, array in weights.items():
        name = _below_the_model(path)
        state[pytorch_name(name)] = _layout(name).turned(array)
    return state


def _below_the_model(path: str) -> str:
    """Return a weight's name without the group of the file and the name of the model, which stand before it."""
    parts = path.partition(":")[0].split("/")
    if len(parts) > 2 and parts[0] == parts[2]:  # GROUP/MODEL/GROUP/...
        return "/".join(parts[2:])
    roots = [index for index, part in enumerate(parts) if part in ROOTS]
    return "/".join(parts[roots[-1] :] if roots else parts)


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a `tf_model.h5`, or of one of the files that its index lists, with PyTorch's names and layouts.

    Raises:
        CheckpointError: The file cannot be read, or holds no weights.
    """
    import h5py

    weights: dict[str, np.ndarray] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            weights[name] = np.asarray(node)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except (OSError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as HDF5: {first_line(error)}") from None
    if not weights:
        raise CheckpointError(f"{path} must hold weights as transformers' save_pretrained writes them, but it holds none")
    return as_pytorch(weights)


def write_h5(model: keras.Model, path: Path) -> None:
    """Write a `tf_model.h5` that transformers' TensorFlow classes can read."""
    import h5py

    weights = named_weights(model)
    with h5py.File(path, "w") as file:
        roots = list(dict.fromkeys(name.partition("/")[0] for name in weights))
        _write_names(file, "layer_names", roots)
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = keras.__version__
        for root in (*roots, "top_level_model_weights"):
            group = file.create_group(root)
            of_layer = {name: variable for name, variable in weights.items() if name.startswith(root + "/")}
            full_names = {f"{model.name}/{name}:0": variable for name, variable in of_layer.items()}
            _write_names(group, "weight_names", full_names)
            for name, variable in full_names.items():
                group.create_dataset(name, data=keras.ops.convert_to_numpy(variable))


def _write_names(group: Any, attribute: str, names: Iterable[str]) -> None:
    """Write names as an attribute, or as several whose names end in 0, 1, ... where one would exceed HDF5's limit."""
    parts = list(_parts([name.encode() for name in names]))
    for index, part in enumerate(parts):
        group.attrs[attribute if len(parts) == 1 else f"{attribute}{index}"] = np.array(part) if part else []


def _parts(names: list[bytes]) -> Iterator[list[bytes]]:
    """Split names into lists that fit an attribute each. HDF5 pads all names of an attribute to the longest."""
    size = max(MAX_ATTRIBUTE_BYTES // max(map(len, names), default=1), 1)
    yield from (names[start : start + size] for start in range(0, max(len(names), 1), size))
