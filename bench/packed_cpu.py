"""The packed graph on a CPU, looked at closely: ``python bench/packed_cpu.py SECTION``. Rows go to results/packed_*.csv.

memory    peak memory above the weights for one long utterance, each provider in a process of its own.
profile   where our time goes, by kind of operation, and how near the products are to the machine's best.

Speed is ``hubert-fast bench``'s, accuracy ``accuracy.py``'s.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
from rows import RESULTS, append, origin

from hubert_fast.benchmark.arithmetic import ceiling
from hubert_fast.benchmark.meters import Memory
from hubert_fast.benchmark.providers import checked_names, provider
from hubert_fast.benchmark.subject import CONFIGS, Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES

CASES = {  # seconds of each utterance
    "mixed": (1.9, 3.1, 4.4, 6.2, 8.0, 11.3, 14.1, 16.5),
    "eight of 10 s": (10.0,) * 8,
    "one of 5 s": (5.0,),
    "tiny": (0.3, 0.5),
}
CPU = torch.device("cpu")


def columns() -> dict[str, str]:
    return origin(torch=torch.__version__, transformers=transformers.__version__) | {"threads": str(torch.get_num_threads())}


def peak_bytes(model: str, dtype: str, name: str, seconds: float, layers: int | None) -> tuple[int, float]:
    """Peak memory of one call above what the process held before it, and the seconds it took."""
    # what does not fit is to fail here, and not to take the machine down
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * total),) * 2)
    subject = Subject.random(model, CPU, DTYPES[dtype], **({} if layers is None else {"num_hidden_layers": layers}))
    (waveform,) = Work.of_seconds("", (seconds,)).waveforms
    made = provider(name, subject)
    warm_up, call = (made.forward([part]).run for part in (waveform[:16000], waveform))
    warm_up()

    meter = Memory(CPU)
    meter.start()
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    peak = meter.peak_bytes()
    if peak is None:
        raise SystemExit("this system does not tell a process's peak memory: Linux does, by /proc")
    return peak, took


def memory(model: str, dtype: str, provider: str, seconds: float, layers: int | None) -> list[dict]:
    """Layers free what they take, so a few stand for all in a fraction of the time."""
    command = [sys.executable, __file__, "peak", "--models", model, "--dtypes", dtype, "--seconds", str(seconds)]
    command += ["--layers", str(layers)] if layers else []
    child = subprocess.run([*command, "--providers", provider], capture_output=True, text=True)
    row = {
        "model": f"{model}, {layers} layers" if layers else model,
        "dtype": dtype,
        "provider": provider,
        "audio_seconds": f"{seconds:.0f}",
    }
    if child.returncode:
        reason = "killed: out of memory" if child.returncode == -9 else child.stderr.strip().splitlines()[-1][:200]
        return [row | {"peak_megabytes": "", "call_seconds": "", "failed": reason}]
    peak, took = child.stdout.split()[-2:]
    print(f"{model} {dtype} {seconds:.0f} s: {provider}: {int(peak) / 1e6:.0f} MB above the weights, {float(took):.0f} s")
    return [row | {"peak_megabytes": f"{int(peak) / 1e6:.0f}", "call_seconds": f"{float(took):.1f}", "failed": ""}]


KINDS = {  # the profiler's names
    "matrix products": ("aten::addmm", "aten::mm", "aten::addmm_"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "activation": ("aten::gelu_", "aten::gelu"),
    "layer norm": ("aten::native_layer_norm",),
    "positional convolution": ("aten::_fft_r2c", "aten::_fft_c2r", "aten::bmm", "aten::index"),
    "copies: windows, casts, results": ("aten::copy_", "aten::cat"),
    "residual adds": ("aten::add_",),
}


def profile(model: str, dtype: str, case: str) -> list[dict]:
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
    parser.add_argument("section", choices=["memory", "profile", "peak"])
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=CONFIGS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--cases", nargs="+", default=["mixed", "eight of 10 s", "one of 5 s"], choices=CASES)
    parser.add_argument("--providers", nargs="+", default=["ours", "ours-padded", "hf-sdpa"])
    parser.add_argument("--seconds", type=float, default=900, help="length of the utterance for memory")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, for memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)
    checked_names(",".join(options.providers))
    with torch.inference_mode():
        for model in options.models:
            for dtype in options.dtypes:
                if options.section == "memory":
                    made = [memory(model, dtype, name, options.seconds, options.layers) for name in options.providers]
                elif options.section == "profile":
                    made = [profile(model, dtype, case) for case in options.cases]
                else:  # what memory runs
                    print(*peak_bytes(model, dtype, options.providers[0], options.seconds, options.layers))
                    return
                append(options.out / f"packed_{options.section}.csv", columns(), [row for rows in made for row in rows])


if __name__ == "__main__":
    main()
