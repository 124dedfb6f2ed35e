"""Profile the packed graph on a CPU: `python bench/cpu_profile.py`. Rows go to results/packed_profile.csv.

Each row has the time of one kind of operation and its share of the whole; for matrix products also their rate, as a share of
the machine's best.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch
import transformers

from hubert_fast.benchmark.arithmetic import ceiling
from hubert_fast.benchmark.providers import provider
from hubert_fast.benchmark.rows import append, origin
from hubert_fast.benchmark.subject import CONFIGS, Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES
from hubert_fast.packed import cpu_kernels

RESULTS = Path(__file__).resolve().parent / "results"
CASES = {  # seconds of each utterance
    "mixed": (1.9, 3.1, 4.4, 6.2, 8.0, 11.3, 14.1, 16.5),
    "eight of 10 s": (10.0,) * 8,
    "one of 5 s": (5.0,),
    "tiny": (0.3, 0.5),
}
CPU = torch.device("cpu")


KINDS = {  # the profiler's names of the operators of each kind
    "matrix products": (
        "mkldnn::_linear_pointwise",
        "mkldnn::_convolution_pointwise",
        "aten::addmm",
        "aten::mm",
        "aten::addmm_",
    ),
    "attention": ("attention", "aten::_scaled_dot_product_flash_attention_for_cpu"),
    "first convolution": ("first_convolution",),
    "norms and residual adds": ("add_layer_norm", "layer_norm_gelu_", "aten::native_layer_norm", "aten::add_"),
    "activation": ("aten::gelu_", "aten::gelu"),
    "positional convolution": ("positions", "aten::_fft_r2c", "aten::_fft_c2r", "aten::bmm", "aten::index"),
    "copies: windows, casts, results": ("aten::copy_", "aten::cat"),
}
# in C++, which the profiler does not see
KERNELS = "attention", "add_layer_norm", "layer_norm_gelu_", "first_convolution", "positions"


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the profiler see the calls of a function, under its name."""

    def call(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.record_function(function.__name__):
            return function(*arguments, **options)

    return call


def flop(event: Any) -> int:
    """Return the floating-point operations of a profiled operator: PyTorch's own count, or that of oneDNN's operators."""
    if event.name == "mkldnn::_linear_pointwise":
        (rows, inner), (outer, _) = event.input_shapes[:2]
        return 2 * rows * inner * outer
    if event.name == "mkldnn::_convolution_pointwise":
        (_, _, _, frames), (outer, inner, _, kernel), stride = *event.input_shapes[:2], event.concrete_inputs[4][1]
        return 2 * ((frames - kernel) // stride + 1) * inner * kernel * outer
    return event.flops or 0


@torch.inference_mode()
def profile(model: str, dtype: str, case: str) -> list[dict]:
    """Profile one batch and return a row for each kind of operation that it has."""
    subject = Subject.random(model, CPU, DTYPES[dtype])
    call = provider("ours", subject).forward(Work.of_seconds(case, CASES[case]).waveforms).run
    call()
    best = ceiling(DTYPES[dtype], CPU) / 1e9
    options = dict(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True, record_shapes=True)
    with torch.profiler.profile(**options) as profiler:
        call()
    events = [event for event in profiler.events() if event.self_cpu_time_total > 0]
    total, rest, rows = sum(event.self_cpu_time_total for event in events), events, []
    for kind, names in (*KINDS.items(), ("everything else", None)):
        entries = [event for event in rest if names is None or event.name in names]
        rest = [event for event in rest if event not in entries]
        if not entries:
            continue
        time_us = sum(event.self_cpu_time_total for event in entries)
        flops = sum(map(flop, entries)) if kind == "matrix products" else 0
        rows.append(
            {
                "model": model, "dtype": dtype, "case": case, "operations": kind, "calls": len(entries),
                "milliseconds": f"{time_us / 1e3:.1f}", "share": f"{time_us / total:.3f}",
                "gflops": f"{flops / time_us / 1e3:.0f}" if flops else "",
                "ceiling_gflops": f"{best:.0f}" if flops else "",
                "share_of_ceiling": f"{flops / time_us / 1e3 / best:.3g}" if flops else "",
            }
        )  # fmt: skip
        print(f"{model} {dtype} {case}: {kind}: {time_us / 1e3:.0f} ms, {100 * time_us / total:.1f} %")
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=CONFIGS, help="models (default: base large)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES,
                        help="dtypes (default: float32 bfloat16)")  # fmt: skip
    parser.add_argument("--cases", nargs="+", default=["mixed", "eight of 10 s", "one of 5 s"], choices=CASES,
                        help="batches of utterances to profile (default: all but tiny)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of packed_profile.csv (default: bench/results)")
    options = parser.parse_args(arguments)
    columns = origin(torch=torch.__version__, transformers=transformers.__version__)
    for name in KERNELS:
        setattr(cpu_kernels, name, recorded(getattr(cpu_kernels, name)))
    columns |= {"threads": str(torch.get_num_threads())}
    for model in options.models:
        for dtype in options.dtypes:
            rows = [row for case in options.cases for row in profile(model, dtype, case)]
            append(options.out / "packed_profile.csv", columns, rows)


if __name__ == "__main__":
    main()
