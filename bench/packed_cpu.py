"""The packed graph on a CPU against transformers: ``python bench/packed_cpu.py SECTION``. Rows go to results/packed_*.csv.

speed     seconds for a batch, all providers in turn in one process on the same inputs; answers are compared first.
accuracy  distance from float64 of each provider and dtype.
memory    peak memory above the weights for one long utterance, each provider in a process of its own.
profile   where our time goes, by kind of operation, and how near the products are to the machine's best.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from packed_models import (
    CASES,
    MODELS,
    OURS,
    OURS_PADDED,
    PROVIDERS,
    THEIRS,
    THEIRS_COMPILED,
    one_by_one,
    padded,
    pair,
    runs,
    speech,
    true_frames,
)
from rows import RESULTS, append, origin, percentiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Two graphs of the same weights may differ by this share of the largest logit before anything is timed.
SAME = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def columns() -> dict[str, str]:
    return origin(torch=torch.__version__, transformers=transformers.__version__) | {"threads": str(torch.get_num_threads())}


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, all called once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def speed(model: str, dtype: str, case: str, providers: list[str], rounds: int) -> list[dict]:
    utterances = speech(CASES[case])
    theirs, ours = pair(model, DTYPES[dtype])
    calls = {name: call for name, call in runs(theirs, ours, utterances).items() if name in {THEIRS, *providers}}
    answers = {name: true_frames(name, call(), utterances).double() for name, call in calls.items()}  # warms up too
    expected = {OURS: one_by_one(theirs, utterances).double()}
    errors = {}
    for name, found in answers.items():
        other = expected.get(name, answers[THEIRS])
        errors[name] = error = ((found - other).abs().max() / other.abs().max()).item()
        if not error <= SAME[DTYPES[dtype]]:
            raise SystemExit(f"{name} is {error:.1e} away from transformers: not timed")
    seconds = in_turn(calls, rounds)
    audio_seconds, rows = sum(CASES[case]), []
    for name, times in seconds.items():
        p20, p50, p80 = percentiles(times)
        ratio = percentiles([other / own for own, other in zip(times, seconds[THEIRS])])[1]
        rows.append(
            {
                "model": model, "dtype": dtype, "case": case, "provider": name, "rounds": rounds,
                "p20_s": f"{p20:.3f}", "p50_s": f"{p50:.3f}", "p80_s": f"{p80:.3f}",
                "audio_seconds": f"{audio_seconds:.1f}", "rtfx": f"{audio_seconds / p50:.2f}",
                "ratio": f"{ratio:.2f}", "difference": f"{errors[name]:.1e}",
            }
        )  # fmt: skip
        print(f"{model} {dtype} {case}: {name}: {p50:.2f} s, {ratio:.2f} times transformers", flush=True)
    return rows


def accuracy(model: str, dtype: str, seconds: tuple[float, ...]) -> list[dict]:
    """Weights and waveforms are rounded to ``dtype`` for the float64 reference too: what is left is arithmetic."""
    utterances = [utterance.to(DTYPES[dtype]).float() for utterance in speech(seconds)]
    providers = (OURS, OURS_PADDED, THEIRS)
    theirs, ours = pair(model, DTYPES[dtype])
    calls = runs(theirs, ours, utterances)
    found = {name: true_frames(name, calls[name](), utterances) for name in providers}
    exact = theirs.double()
    alone = one_by_one(exact, utterances)
    rows, mask = padded(utterances, torch.float64)
    together = true_frames(THEIRS, exact(rows, attention_mask=mask).logits, utterances)
    results = []
    for name in providers:
        expected = alone if name == OURS else together
        error = (found[name].double() - expected).abs() / expected.abs().max()
        results.append(
            {
                "model": model, "dtype": dtype, "provider": name, "frames": len(error),
                "max_error": f"{error.max().item():.2e}", "mean_error": f"{error.mean().item():.2e}",
            }
        )  # fmt: skip
        print(f"{model} {dtype}: {name}: max {error.max().item():.1e}, mean {error.mean().item():.1e} of the largest logit")
    return results


def peak_bytes(model: str, dtype: str, provider: str, seconds: float, layers: int | None) -> tuple[int, float]:
    """Peak resident memory of one call above what the process held before it, and the seconds it took. Linux only."""
    utterances = speech((seconds,))
    # what does not fit is to fail here, and not to take the machine down
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * total),) * 2)
    models = pair(model, DTYPES[dtype], layers)
    warm_up, call = (runs(*models, part)[provider] for part in ([utterances[0][:16000]], utterances))
    warm_up()

    def status(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.split(f"{field}:")[1].split()[0])

    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    call()
    return status("VmHWM") - before, time.perf_counter() - start


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
    call = runs(*pair(model, DTYPES[dtype]), speech(CASES[case]))[OURS]
    call()
    best = ceiling(DTYPES[dtype])
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
                "share_of_ceiling": f"{flops / time_us / 1e3 / best:.2f}" if flops else "",
            }
        )  # fmt: skip
        print(f"{model} {dtype} {case}: {kind}: {time_us / 1e3:.0f} ms, {100 * time_us / total:.1f} %")
    return rows


def ceiling(dtype: torch.dtype) -> float:
    """Return the best of many large products on this machine, in GFLOP/s."""
    best = 0.0
    for rows, inner, columns in ((2048, 2048, 2048), (4096, 1024, 1024), (1024, 4096, 1024), (512, 3072, 768)):
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        seconds = in_turn({"": lambda a=a, b=b: torch.nn.functional.linear(a, b)}, 8)[""]
        best = max(best, 2 * rows * inner * columns / min(seconds) / 1e9)
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["speed", "accuracy", "memory", "profile", "peak"])
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=MODELS)
    parser.add_argument("--dtypes", nargs="+", default=[*DTYPES], choices=DTYPES)
    parser.add_argument("--cases", nargs="+", default=["mixed", "eight of 10 s", "one of 5 s"], choices=CASES)
    parser.add_argument("--providers", nargs="+", default=[OURS, OURS_PADDED, THEIRS], choices=PROVIDERS)
    parser.add_argument("--compiled", action="store_true", help=f"add the provider {THEIRS_COMPILED!r}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=900, help="length of the utterance for memory")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, for memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)
    if options.compiled:
        options.providers = [*options.providers, THEIRS_COMPILED]
    with torch.inference_mode():
        for model in options.models:
            for dtype in options.dtypes:
                if options.section == "speed":
                    made = [speed(model, dtype, case, options.providers, options.rounds) for case in options.cases]
                elif options.section == "accuracy":
                    made = [accuracy(model, dtype, CASES[options.cases[0]][:4])]
                elif options.section == "memory":
                    made = [memory(model, dtype, name, options.seconds, options.layers) for name in options.providers]
                elif options.section == "profile":
                    made = [profile(model, dtype, case) for case in options.cases]
                else:  # what memory runs
                    print(*peak_bytes(model, dtype, options.providers[0], options.seconds, options.layers))
                    return
                append(options.out / f"packed_{options.section}.csv", columns(), [row for rows in made for row in rows])


if __name__ == "__main__":
    main()
