"""The operations that have kernels: per op its definition in plain PyTorch, its registration, its public function.

The definition (``..._eager``) is what the op means: tests hold the kernel to it, and it runs wherever the kernel cannot. Its
arithmetic is float32 (float64 for float64) throughout, rounded once at the end. ``backend`` is ``auto``, ``eager`` or
``triton``: see :mod:`hubert_fast.dispatch`. No op has a backward: where a gradient is needed ``auto`` takes the definition.
Axes: N packed frames, C channels, H heads, D head dim, V vocabulary, B utterances, S samples.
"""

from .attention import attention, attention_eager, attention_padded, attention_padded_eager
from .convolutions import conv_first, conv_first_eager, conv_gelu, conv_gelu_eager
from .ctc import ctc_argmax, ctc_argmax_eager
from .normalization import add_layer_norm, add_layer_norm_eager, layer_norm, layer_norm_eager
from .positions import conv_positional, conv_positional_eager
from .products import linear_add, linear_add_eager, linear_gelu, linear_gelu_eager
from .waveforms import normalize_waveforms, normalize_waveforms_eager, window_statistics, window_statistics_eager

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
    "window_statistics",
    "window_statistics_eager",
]
