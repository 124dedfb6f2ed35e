"""Define the peers for CPUs: transformers' model in OpenVINO and in ONNX Runtime, converted from the weights of the subject.

Both are called as transformers' model is. A graph is converted when it is first needed, so a warm-up pass must come before the
timing. Batches without padding run on a graph that has no mask.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .subject import Subject, Unavailable

# Exported to OpenVINO and to ONNX, eager attention gives fewer operations than SDPA's decomposition, and OpenVINO fuses both.
ATTENTION = "eager"
EXAMPLE_LENGTHS = (8000, 5000)  # samples of the batch that is traced; the graphs take any batch
STATIC_SHAPES = 6  # each has its own copy of the weights, in the layout that OpenVINO chooses

Infer = Callable[[Sequence[np.ndarray]], np.ndarray]  # takes inputs [B, S] and returns logits [B, T, V]


class Output(NamedTuple):
    """The output of a call.

    Attributes:
        logits: Float32, `[B, T, V]`. The memory may belong to the library, which reuses it in the next call.
    """

    logits: Tensor


class _Graph(torch.nn.Module):
    """transformers' model as a function from tensors to a tensor, which exporters need."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.model(input_values, attention_mask=attention_mask).logits


class Exported:
    """A CTC model of transformers that another library runs on the CPU, with as many threads as torch has.

    Args:
        subject: The model.

    Attributes:
        dtype: The dtype of the inputs.

    Raises:
        Unavailable: The library is not installed, or does not run on the device or in the dtype of the subject.
    """

    library: str
    packages: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    dtype = torch.float32

    def __init__(self, subject: Subject):
        if subject.device.type != "cpu":
            raise Unavailable(f"{self.library} is compared on CPUs, but the device is {subject.device}")
        if missing := [package for package in self.packages if find_spec(package) is None]:
            raise Unavailable(f"{missing[0]} is not installed: pip install 'hubert_fast[bench-cpu]'")
        if subject.dtype not in self.dtypes:
            dtype, *names = (str(dtype).removeprefix("torch.") for dtype in (subject.dtype, *self.dtypes))
            raise Unavailable(f"{self.library} is compared in {' and '.join(names)}, but the dtype is {dtype}")
        self.subject = subject
        with torch.inference_mode(False):  # exporters cannot trace tensors of inference mode
            self._graph = _Graph(subject.theirs(ATTENTION, torch.float32)).eval()
        self._infer: dict[bool, Infer] = {}  # with a mask and without

    def __call__(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Output:
        """Return the logits of a padded batch.

        Args:
            input_values: Float32, `[B, S]`.
            attention_mask: `[B, S]`, 1 for samples and 0 for padding. Without padding it is not used.
        """
        inputs = [input_values.numpy()]
        if attention_mask is not None and not attention_mask.all():
            inputs.append(attention_mask.to(torch.int64).numpy())
        has_mask = len(inputs) == 2
        if has_mask not in self._infer:
            with torch.inference_mode(False), torch.no_grad(), _quiet():
                self._infer[has_mask] = self._convert(_example(has_mask))
        return Output(torch.from_numpy(self._infer[has_mask](inputs)))

    def _convert(self, example: tuple[Tensor, ...]) -> Infer:
        """Convert the model, and return a function that runs it.

        Args:
            example: `input_values` [B, S], and `attention_mask` if the graph takes one.
        """
        raise NotImplementedError


def _example(has_mask: bool) -> tuple[Tensor, ...]:
    lengths = torch.tensor(EXAMPLE_LENGTHS)
    mask = (torch.arange(max(EXAMPLE_LENGTHS)) < lengths[:, None]).long()
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return (values, mask) if has_mask else (values,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of exporters about the code of transformers. The outputs are compared before anything is timed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@cache
def _core() -> Any:
    """Return the process's only `openvino.Core`.

    Each loads a plugin that replaces the stack of signal handlers. If there are two, and the first is freed first, the second
    restores the stack that the first has unmapped, and the next signal ends the process (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _compiled(model: Any, dtype: torch.dtype) -> Infer:
    options = {
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = _core().compile_model(model, "CPU", options).create_infer_request()
    return lambda inputs: request.infer(list(inputs), share_inputs=True, share_outputs=True)[0]


class OpenVino(Exported):
    """OpenVINO, with a graph for batches of any shape.

    In bfloat16, the weights are converted from float32 that holds the values of bfloat16, and OpenVINO computes in bfloat16.
    """

    library, packages, dtypes = "OpenVINO", ("openvino",), (torch.float32, torch.bfloat16)

    def __init__(self, subject: Subject):
        super().__init__(subject)
        if subject.dtype == torch.bfloat16 and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable("OpenVINO does not compute in bfloat16 on this CPU")

    def _converted(self, example: tuple[Tensor, ...]) -> Any:
        import openvino

        shapes = [openvino.PartialShape([-1, -1])] * len(example)
        return openvino.convert_model(self._graph, example_input=example, input=shapes)

    def _convert(self, example: tuple[Tensor, ...]) -> Infer:
        return _compiled(self._converted(example), self.subject.dtype)


class OpenVinoStatic(OpenVino):
    """OpenVINO, with a graph for each shape of a batch, compiled when a batch first has that shape."""

    def __init__(self, subject: Subject):
        super().__init__(subject)
        self._shapes: dict[tuple[int, ...], Infer] = {}

    def _convert(self, example: tuple[Tensor, ...]) -> Infer:
        model, dtype, shapes = self._converted(example), self.subject.dtype, self._shapes

        def infer(inputs: Sequence[np.ndarray]) -> np.ndarray:
            shape = (len(inputs), *inputs[0].shape)
            if shape not in shapes:
                if len(shapes) == STATIC_SHAPES:
                    raise Unavailable(
                        f"openvino-static keeps the graphs of at most {STATIC_SHAPES} shapes of batches, but this work has "
                        f"more: use equal lengths, or openvino"
                    )
                static = model.clone()
                static.reshape({port: list(inputs[0].shape) for port in static.inputs})
                shapes[shape] = _compiled(static, dtype)
            return shapes[shape](inputs)

        return infer


class OnnxRuntime(Exported):
    """ONNX Runtime with all its optimisations, on a graph from torch's exporter."""

    library, packages, dtypes = "ONNX Runtime", ("onnxruntime", "onnx", "onnxscript"), (torch.float32,)

    def _convert(self, example: tuple[Tensor, ...]) -> Infer:
        import onnxruntime

        names = ["input_values", "attention_mask"][: len(example)]
        dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in example)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # threads wait actively during a call, but not after it, where they would slow the next provider
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                self._graph, example, path, input_names=names, output_names=["logits"], dynamic_shapes=dynamic, dynamo=True,
                verbose=False,
            )  # fmt: skip
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, dict(zip(names, inputs)))[0]
