"""All that a GPU has to say about this package, in one command: ``python bench/gpu.py --out DIR --budget-seconds 540``.

environment  the machine and the versions.
ceilings     what the machine reaches: a copy, and products of each dtype.
values       every op on kernels against its definition in float64.
ops          time of every op, ours against the libraries', at the shapes of published models; what rules of tuning rest on.
models       whole models against transformers' configurations, as ``hubert-fast bench`` measures them: base, large and xlarge,
             batches of many sizes, one utterance at a time, long audio, and the protocols *leaderboard* and *files*.
compiled     time of every op's definition under torch.compile; last, since compiling takes longest.

Each section writes DIR/SECTION.csv a row at a time. A further call with the same DIR goes on where the last one ran out of
time. It needs no network and nothing beyond torch, triton and transformers. ``--tiny`` runs all of it on a CPU, interpreted, as
a test.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import gpu_ops
import torch
from gpu_cases import SIZES, TINY, Case, Provider, Where
from gpu_decisions import decisions
from gpu_models import models
from gpu_run import (
    LEFT_OUT,
    NAMES,
    OP_SECONDS,
    ROOT,
    DeviceLost,
    Run,
    Table,
    device_name,
    difference,
    percentiles_ms,
    read,
    tensors,
)
from gpu_values import values

import hubert_fast
from hubert_fast.benchmark.measure import SAME
from hubert_fast.benchmark.rows import first_line_of

LOOPS = ("attention", "conv_positional", "normalize_waveforms", "window_statistics")


def environment(run: Run) -> None:
    values = {
        "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": first_line_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "hubert_fast": hubert_fast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": metadata.version("triton"),
        "transformers": metadata.version("transformers"),
        "cuda": torch.version.cuda,
        "device": device_name(run),
    }
    if not run.tiny:
        chip = torch.cuda.get_device_properties(0)
        values |= {
            "capability": f"{chip.major}.{chip.minor}",
            "memory_bytes": chip.total_memory,
            "multiprocessors": chip.multi_processor_count,
            "driver": first_line_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    table = Table(run.out / "environment.csv", "key value status")
    for key, value in values.items():
        table.add(key=key, value=value, status="ok")


def ceilings(run: Run) -> None:
    table = Table(run.out / "ceilings.csv", "name value unit status")
    side, count = (64, 1 << 16) if run.tiny else (8192, 1 << 30)
    for name in ("copy", "bfloat16", "float16", "float32", "tf32"):
        row = {"name": name}
        if not table.is_due(run, **row):
            continue
        with table.reasons(**row):
            if name == "copy":
                source = torch.ones(count, dtype=torch.uint8, device=run.device)
                target, work, unit = torch.empty_like(source), 2 * count, "GB/s"
                call = lambda target=target, source=source: target.copy_(source)  # noqa: E731
            else:
                dtype = getattr(torch, name, torch.float32)
                a, b = (torch.randn(side, side, device=run.device).to(dtype) for _ in range(2))
                work, unit, call = 2 * side**3, "GFLOP/s", lambda a=a, b=b: a @ b
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            p50_ms = percentiles_ms(run.times_ms([call], 1.0))["p50_ms"]
            table.add(**row, value=work / p50_ms / 1e6, unit=unit, status="ok")
        torch.set_float32_matmul_precision("highest")


def op_cases(run: Run, with_decisions: bool) -> Iterator[Case]:
    """The most important first: bf16 of large models, five minutes at once."""
    if run.tiny:
        plan = [(TINY, [4, 5], torch.float32)]
    else:
        many, one, large = run.utterance_frames(15_000), [300], SIZES["large"]
        plan = [(size, lengths, torch.bfloat16) for lengths in (many, one) for size in SIZES.values()]
        plan += [(large, lengths, dtype) for dtype in (torch.float16, torch.float32) for lengths in (many, one)]
    for size, lengths, dtype in plan:
        at = Where(dtype, run.device)
        yield from (builder(size, lengths, at) for builder in gpu_ops.BUILDERS)
        yield gpu_ops.conv_gelu(size, lengths, at, 2)
        if with_decisions:
            yield from decisions(size, lengths, at)


OP_COLUMNS = (
    "op shape dtype provider p20_ms p50_ms p80_ms bytes flop tflops gb_per_second roofline max_error status"  # a CSV header
)


def time_ops(run: Run) -> None:
    table = Table(run.out / "ops.csv", OP_COLUMNS)
    for case in op_cases(run, with_decisions=True):
        measure(run, table, case, case.providers())


def time_compiled(run: Run) -> None:
    table = Table(run.out / "compiled.csv", OP_COLUMNS)
    # last those whose definitions are loops over utterances, of which the compiler makes a great deal
    for case in sorted(op_cases(run, with_decisions=False), key=lambda case: case.op in LOOPS):
        if run.tiny and run.time_left():
            row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
            table.add(**row, provider="torch.compile", status="skipped: tiny")
            continue
        torch.compiler.reset()
        measure(run, table, case, {"ours": case.providers()["ours"], "torch.compile": case.compiled()})


def measure(run: Run, table: Table, case: Case, providers: dict[str, Provider]) -> None:
    """Time providers on the same inputs, each only when it answers as the first does."""
    row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
    if not table.is_due(run, **row):
        return
    inputs, expected = [], None
    with table.reasons(**row):
        torch.manual_seed(0)
        inputs = [case.make()]
        size = sum(x.numel() * x.element_size() for x in tensors(inputs[0]))
        inputs += [case.make() for _ in range(1 if run.tiny else min(7, 200_000_000 // size))]  # more than caches hold
    for name, provider in providers.items() if inputs else ():
        named = {**row, "provider": name}
        with table.reasons(**named):
            calls = [provider.prepare(*arguments) for arguments in inputs]
            raw = calls[0]()
            moved = size + sum(x.numel() * x.element_size() for x in tensors(raw))
            answer = provider.finish(raw)
            error = difference(answer, answer if expected is None else expected)
            if expected is None:
                expected, moved_bytes = answer, moved
            if error > SAME[case.dtype]:
                table.add(**named, max_error=error, status="not timed: answers otherwise than the first provider")
                continue
            times = percentiles_ms(run.times_ms(calls, OP_SECONDS))
            rates = rates_of(run, case, moved_bytes, times["p50_ms"])
            table.add(**named, **times, bytes=moved_bytes, flop=case.flop, **rates, max_error=error, status="ok")


def rates_of(run: Run, case: Case, moved_bytes: int, time_ms: float) -> dict[str, Any]:
    """Rates, and the share of what this machine could reach: above 1 where float32 products are three tf32 ones."""
    best = {row["name"]: float(row["value"]) for row in read(run.out / "ceilings.csv") if row["status"] == "ok"}
    tflops, gb_per_second = case.flop / time_ms / 1e9, moved_bytes / time_ms / 1e6
    name = NAMES[case.dtype]
    share = max(1e3 * tflops / best[name], gb_per_second / best["copy"]) if {name, "copy"} <= best.keys() else ""
    return {"tflops": tflops, "gb_per_second": gb_per_second, "roofline": share}


def summarize(run: Run) -> str:
    """Write a table for people: ops with the best library call beside them, decisions, models; return it."""
    names = ("op", "shape", "dtype", "ours ms", "library", "ratio", "roofline", "compiled")
    lines = ["{:21} {:52} {:9} {:>7} {:>8} {:>6} {:>9} {:>8}".format(*names)]
    ops, compiled = ([row for row in read(run.out / f"{name}.csv") if row["p50_ms"]] for name in ("ops", "compiled"))
    for row in (row for row in ops if row["provider"] == "ours"):
        same = [other for other in ops if Table.key(other) == Table.key(row) and other is not row]
        ours_ms, best_ms = float(row["p50_ms"]), min((float(other["p50_ms"]) for other in same), default=float("nan"))
        under = [other["p50_ms"] for other in compiled if Table.key(other) == Table.key(row) and other["provider"] != "ours"]
        lines.append(
            f"{row['op']:21} {row['shape']:52} {row['dtype']:9} {ours_ms:7.3f} {best_ms:8.3f} {best_ms / ours_ms:6.2f} "
            f"{row['roofline']:>9}  {under[0] if under else '':>8}"
        )
    for row in ops:
        if row["op"].startswith("decision"):
            lines.append(f"{row['op']:21} {row['shape']:52} {row['dtype']:9} {float(row['p50_ms']):7.3f} {row['provider']}")
    timed = [row for row in read(run.out / "models.csv") if row["rtfx"]]
    for row in (row for row in timed if row["provider"] == "ours"):
        same = [other for other in timed if Table.key(other) == Table.key(row) and other["provider"].startswith("hf-")]
        theirs = max(same, key=lambda other: float(other["rtfx"]), default=row | {"rtfx": "nan", "provider": "nothing"})
        ratio = float(row["rtfx"]) / float(theirs["rtfx"])
        lines.append(
            f"{row['model']} {row['dtype']} {row['case']}: RTFx {row['rtfx']}, {row['share_of_ceiling']} of the ceiling; "
            f"best of transformers {theirs['rtfx']} ({theirs['provider']}), ratio {ratio:.2f}"
        )
    for name in SECTIONS:
        rows = read(run.out / f"{name}.csv")
        bad = [row for row in rows if row["status"] not in ("ok", "pass", LEFT_OUT)]
        left = sum(row["status"] == LEFT_OUT for row in rows)
        lines.append(f"{name}: {len(rows) - left} rows, {left} left out for want of time")
        lines += [f"  {' '.join(filter(None, (*Table.key(row), row.get('provider'))))}: {row['status']}" for row in bad]
    text = "\n".join(lines)
    (run.out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


# section -> what runs it, and the share of the time by which it must end, so that those after it have some
SECTIONS = {
    "environment": (environment, 1.0),
    "ceilings": (ceilings, 1.0),
    "values": (values, 0.35),
    "ops": (time_ops, 0.7),
    "models": (models, 0.9),
    "compiled": (time_compiled, 1.0),
}


def run_sections(run: Run) -> None:
    """Run those that are not finished, with a summary after each: nothing is lost when the process is ended."""
    marks = run.out / "finished.txt"
    for name, (section, share) in SECTIONS.items():
        if name in (marks.read_text().split() if marks.exists() else ()):
            continue
        run.share = share
        print(f"{name} ...", flush=True)
        section(run)
        if all(row["status"] != LEFT_OUT for row in read(run.out / f"{name}.csv")):
            with open(marks, "a") as file:
                print(name, file=file)
        summarize(run)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--budget-seconds", type=float, default=540, help="when to begin nothing more")
    parser.add_argument("--tiny", action="store_true", help="interpreted on the CPU, at tiny shapes: a test of this program")
    options = parser.parse_args(arguments)
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
        torch.set_num_threads(1)  # one lane: the interpreter serves one thread
    elif not torch.cuda.is_available():
        print("there is no CUDA device: --tiny runs a test of this program on the CPU", file=sys.stderr)
        return 2
    os.environ["HUBERT_FAST_BACKEND"] = "triton"  # whole models too, or a row with the reason
    torch.backends.cudnn.allow_tf32 = False  # as for products: float32 means float32
    run = Run(options.out, options.budget_seconds, options.tiny)
    before = {row["key"]: row["value"] for row in read(run.out / "environment.csv")}.get("device", device_name(run))
    if before != device_name(run):
        print(f"{run.out} has results of {before}, but this is {device_name(run)}: take another folder", file=sys.stderr)
        return 2
    try:
        run_sections(run)
    except DeviceLost as error:
        print(f"the device is lost to this process ({error}): call again to go on after that")
    print(summarize(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
