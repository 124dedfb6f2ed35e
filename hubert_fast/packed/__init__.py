"""Run inference fast: the packed graph of HuBERT, which computes no padding.

`modeling.HubertModel` asks whether this graph may serve a call (serve.py). If so, `run_packed` or `run_padded` (run.py) runs
it, in plain PyTorch (torch_graph.py) or on Triton kernels (kernel_graph.py). audio.py and grid.py define the layout of a
batch.

The kernels are in kernels/ beside this package, which is imported as `hubert_fast.kernels`.
"""

from .audio import PackedAudio
from .grid import Grid
from .run import run_packed, run_padded
from .serve import GRADIENT, FastPath, is_on_kernels, why_not_now
from .untouched import Inspection, Watch, attention_is_unknown, has_hook, is_defined_in, walk

__all__ = [
    "FastPath",
    "GRADIENT",
    "Grid",
    "Inspection",
    "PackedAudio",
    "Watch",
    "attention_is_unknown",
    "has_hook",
    "is_defined_in",
    "is_on_kernels",
    "run_packed",
    "run_padded",
    "walk",
    "why_not_now",
]
