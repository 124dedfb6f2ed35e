"""Define the operations that have kernels. Each file has the name of its kernel's file in kernels/ (`hubert_fast.kernels`).

Each file holds, in this order: the definition in plain PyTorch (`..._eager`), the registration with PyTorch, and the public
function. Tests compare the kernel with the definition, and the definition with the module of `hubert_fast.layers` that it
reproduces. A definition computes in float32 throughout (in float64 for float64 inputs and for statistics of windows), and
rounds once at the end.

The ops can be used on their own, also under `torch.compile` and `torch.export`. The public function runs the kernel or the
definition, according to `backend`: `auto`, `eager` or `triton` (see `hubert_fast.dispatch`). The graph in
`hubert_fast.packed.kernel_graph` launches the kernels directly, since dispatching a registered op costs it several
microseconds. No kernel has a backward pass: where a gradient is needed, `auto` runs the definition.

Axes: N packed frames, C channels, H heads, D head dim, V vocabulary, B utterances, S samples.
"""

from .add_layer_norm import add_layer_norm, add_layer_norm_eager
from .attention import attention, attention_eager, attention_padded, attention_padded_eager
from .conv_first import conv_first, conv_first_eager
from .conv_positional import conv_positional, conv_positional_eager
from .ctc_argmax import ctc_argmax, ctc_argmax_eager
from .layer_norm import layer_norm, layer_norm_eager
from .linear import conv_gelu, conv_gelu_eager, linear_add, linear_add_eager, linear_gelu, linear_gelu_eager
from .unit_argmin import unit_argmin, unit_argmin_eager
from .waveforms import normalize_waveforms, normalize_waveforms_eager
from .window_statistics import window_statistics, window_statistics_eager

__all__ = [
    "add_layer_norm",
    "add_layer_norm_eager",
    "attention",
    "attention_eager",
    "attention_padded",
    "attention_padded_eager",
    "conv_first",
    "conv_first_eager",
    "conv_gelu",
    "conv_gelu_eager",
    "conv_positional",
    "conv_positional_eager",
    "ctc_argmax",
    "ctc_argmax_eager",
    "layer_norm",
    "layer_norm_eager",
    "linear_add",
    "linear_add_eager",
    "linear_gelu",
    "linear_gelu_eager",
    "normalize_waveforms",
    "normalize_waveforms_eager",
    "unit_argmin",
    "unit_argmin_eager",
    "window_statistics",
    "window_statistics_eager",
]
