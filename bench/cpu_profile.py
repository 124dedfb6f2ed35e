"""Profile the packed graph on a CPU: `python bench/cpu_profile.py`. Rows go to results/packed_profile.csv.

Each row has the time of one kind of operation and its share of the whole; for matrix products also their rate, as a share of
the machine's best.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch
import transformers

from hubert_fast.benchmark.arithmetic import ceiling
from hubert_fast.benchmark.providers import provider
from hubert_fast.benchmark.rows import append, origin
from hubert_fast.benchmark.subject import CONFIGS, Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES

RESULTS = Path(__file__).resolve().parent / "results"
CASES = {  # seconds of each utterance
    "mixed": (1.9, 3.1, 4.4, 6.2, 8.0, 11.3, 14.1, 16.5),
    "eight of 10 s": (10.0,) * 8,
    "one of 5 s": (5.0,),
    "tiny": (0.3, 0.5),
}
CPU = torch.device("cpu")


KINDS = {  # the profiler's names of the operators of each kind
    "matrix products": ("aten::addmm", "aten::mm", "aten::addmm_"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "activation": ("aten::gelu_", "aten::gelu"),
    "layer norm": ("aten::native_layer_norm",),
    "positional convolution": ("aten::_fft_r2c", "aten::_fft_c2r", "aten::bmm", "aten::index"),
    "copies: windows, casts, results": ("aten::copy_", "aten::cat"),
    "residual adds": ("aten::add_",),
}


@torch.inference_mode()
def profile(model: str, dtype: str, case: str) -> list[dict]:
    """Profile one batch and return a row for each kind of operation."""
    subject = Subject.random(model, CPU, DTYPES[dtype])
    call = provider("ours", subject).forward(Work.of_seconds(case, CASES[case]).waveforms).run
    call()
    best = ceiling(DTYPES[dtype], CPU) / 1e9
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profiler:
        call()
    averages = profiler.key_averages()
    total, rest, rows = sum(entry.self_cpu_time_total for entry in averages), [*averages], []
    for kind, names in (*KINDS.items(), ("everything else", None)):
        entries = [entry for entry in rest if names is None or entry.key in names]
        rest = [entry for entry in rest if entry not in entries]
        time_us = sum(entry.self_cpu_time_total for entry in entries)
        flops = sum(entry.flops or 0 for entry in entries) if kind == "matrix products" else 0
        rows.append(
            {
                "model": model, "dtype": dtype, "case": case, "operations": kind, "calls": sum(e.count for e in entries),
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
    columns |= {"threads": str(torch.get_num_threads())}
    for model in options.models:
        for dtype in options.dtypes:
            rows = [row for case in options.cases for row in profile(model, dtype, case)]
            append(options.out / "packed_profile.csv", columns, rows)


if __name__ == "__main__":
    main()
