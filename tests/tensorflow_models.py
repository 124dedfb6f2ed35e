"""Build the same model in PyTorch and in TensorFlow, and compare tensors of the two libraries. Needs TensorFlow."""

# ruff: noqa: E402
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WHY = "TensorFlow is not installed: `make test-tensorflow` installs it and runs these tests"
tf = pytest.importorskip("tensorflow", reason=WHY)

import numpy as np
import torch
from conftest import assert_close
from small_models import model_of

from hubert_fast import HubertForCTC, HubertModel
from hubert_fast.integrations.tensorflow.weights import LAYOUTS, assign, named_weights, pytorch_name, pytorch_shapes
from hubert_fast.tensorflow import TFHubertForCTC, TFHubertModel
from hubert_fast.weight_names import fit_prefix

COUNTERPARTS = {HubertForCTC: TFHubertForCTC, HubertModel: TFHubertModel}
WITHOUT_GRADIENT = "k_proj/bias"  # the softmax ignores what all keys have in common: only rounding is left


def pair(values, cls=HubertForCTC, **overrides):
    """Return a model of each library, with equal weights."""
    model = model_of(cls, values, **overrides)
    counterpart = COUNTERPARTS[cls](model.config)
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    assign(counterpart, fit_prefix(state, pytorch_shapes(counterpart), "hubert."))
    return model, counterpart


def as_torch(tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(tensor if isinstance(tensor, np.ndarray) else tensor.numpy()))


def assert_equal_frames(actual, expected, counts, tolerance, label):
    """Compare `[B, T, ...]` on the frames that are not padding."""
    rows = [(a[:count], e[:count]) for a, e, count in zip(as_torch(actual), expected, counts)]
    assert_close(torch.cat([a for a, _ in rows]), torch.cat([e for _, e in rows]), tolerance, label)


def assert_equal_gradients(model, gradients, expected: dict, tolerance="gradient"):
    """Compare gradients of the trainable weights with those in `expected`, by PyTorch's names, in PyTorch's layout."""
    names = {id(variable): name for name, variable in named_weights(model).items()}
    compared = 0
    for variable, gradient in zip(model.trainable_weights, gradients):
        name = names[id(variable)]
        reference = expected.get(pytorch_name(name))
        if reference is None:
            assert gradient is None, f"{name} has a gradient only in TensorFlow"
        elif not name.endswith(WITHOUT_GRADIENT):
            layout = LAYOUTS[name.rpartition("/")[2]]
            assert_close(as_torch(layout.turned(np.asarray(gradient))), reference, tolerance, name)
            compared += 1
    assert compared > 10
