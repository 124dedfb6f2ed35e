"""HuBERT in TensorFlow: the two TensorFlow classes of transformers 4, which transformers 5 no longer has.

    from hubert_fast.tensorflow import TFHubertForCTC  # instead of: from transformers import TFHubertForCTC

The models are Keras 3 models on TensorFlow 2.16 or newer. They read and write the checkpoints of PyTorch and of TensorFlow.
"""

from __future__ import annotations

import re
from typing import Any

MINIMUM = {"tensorflow": "2.16", "keras": "3.0", "h5py": "3.0"}
INSTALL = "pip install 'hubert_fast[tensorflow]'"


def _require(module: Any, name: str) -> None:
    """Raise `ImportError` if a module is older than `MINIMUM` says."""
    found = [int(part) for part in re.findall(r"\d+", module.__version__)[:2]]
    if found < [int(part) for part in MINIMUM[name].split(".")]:
        raise ImportError(
            f"hubert_fast.tensorflow needs {name} {MINIMUM[name]} or newer, but this is {module.__version__}: {INSTALL}"
        )


try:
    import h5py
    import keras
    import tensorflow
except ImportError as error:
    missing = (error.name or "tensorflow").partition(".")[0]
    raise ImportError(f"hubert_fast.tensorflow needs {missing}: {INSTALL}") from error
_require(tensorflow, "tensorflow")
_require(keras, "keras")
_require(h5py, "h5py")
if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"hubert_fast.tensorflow needs Keras to run on TensorFlow, but it runs on {keras.backend.backend()}: set the "
        f"environment variable KERAS_BACKEND=tensorflow, or remove `backend` from ~/.keras/keras.json"
    )

from .integrations.tensorflow.encoder import TFHubertMainLayer  # noqa: E402
from .integrations.tensorflow.modeling import TFHubertForCTC, TFHubertModel  # noqa: E402
from .integrations.tensorflow.outputs import TFBaseModelOutput, TFCausalLMOutput  # noqa: E402
from .integrations.tensorflow.pretrained import TFHubertPreTrainedModel  # noqa: E402

__all__ = [
    "TFBaseModelOutput",
    "TFCausalLMOutput",
    "TFHubertForCTC",
    "TFHubertMainLayer",
    "TFHubertModel",
    "TFHubertPreTrainedModel",
]
