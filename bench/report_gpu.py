"""Write the blocks on GPUs, from the rows of the last call of `bench/gpu`. Each call has its own folder in results/gpu/."""

from __future__ import annotations

from pathlib import Path

from report_rows import Row, best_of_theirs, table

from hubert_fast.benchmark.rows import read
from hubert_fast.packed.cuda_graphs import NEWEST_TESTED_TORCH

MIXED, ONE = "librispeech", "fixed:5"
EAGER, COMPILED = "headline", "compile"  # stages


def last_call(results: Path) -> Path:
    """Return the folder of the last call that timed models. Folders are sorted by name."""
    folders = sorted(path.parent for path in (results / "gpu").glob("*/models.csv"))
    if not folders:
        raise ValueError(f"{results / 'gpu'} has no rows: python bench/gpu --out {results / 'gpu'}/NAME")
    return folders[-1]


def timed(results: Path, **values: str) -> list[Row]:
    """Return the rows of the protocol *model* in bfloat16 that have these values and a time.

    Rows at LibriSpeech's lengths are kept only if their batches have 1,280 s. A remark after the lengths, for example that the
    audio was noise, is removed.
    """
    rows = [row | {"lengths": row["lengths"].partition(",")[0]} for row in read(last_call(results) / "models.csv")]
    values = {"protocol": "model", "dtype": "bfloat16", **values}
    rows = [row for row in rows if row["rtfx"] and all(row[name] == value for name, value in values.items())]
    return [row for row in rows if row["lengths"] != MIXED or row["batch"] == "1280 s"]


def ours_and_theirs(rows: list[Row], ours: str = "ours") -> tuple[Row, Row]:
    """Return transformers' fastest row of one case, and our row that was measured in turn with it: the last one before it."""
    theirs = best_of_theirs(rows)
    return next(row for row in reversed(rows[: rows.index(theirs)]) if row["provider"] == ours), theirs


def environment(results: Path) -> dict[str, str]:
    """Return the machine and the versions of the last call."""
    return {row["key"]: row["value"] for row in read(last_call(results) / "environment.csv")}


def gpu_claim(results: Path) -> str:
    machine = environment(results)
    ours, theirs = ours_and_theirs(timed(results, model="large", lengths=MIXED, stage=EAGER))
    base, theirs_base = ours_and_theirs(timed(results, model="base", lengths=MIXED, stage=EAGER))
    single = timed(results, model="large", lengths=ONE, stage=EAGER)
    one, theirs_one = ours_and_theirs(single)
    without = next(row for row in single if row["provider"] == "ours-no-graphs")
    newest_with_graphs = ".".join(map(str, NEWEST_TESTED_TORCH))
    return (
        f"On one {machine['device']} in bfloat16, **hubert-large runs at {rate(ours)} times real time and hubert-base at "
        f"{rate(base)}**. That is {ratio(ours, theirs)} and {ratio(base, theirs_base)} times the speed of transformers' "
        f"fastest configuration in the same run without `torch.compile` (`{theirs['provider']}`){compiled(results)}. "
        f"hubert-large reaches {float(ours['share_of_ceiling']):.0%} of the rate that the chip sustains in its largest matrix "
        f"products ({float(ours['ceiling_tflops']):.0f} TFLOP/s). One utterance of 5 s takes hubert-large {latency(one)} ms "
        f"with CUDA graphs, which are on by default up to torch {newest_with_graphs}, and {latency(without)} ms without them; "
        f"transformers takes {latency(theirs_one)} ms.\n\n"
        f"Measured: the forward pass alone with random weights, at LibriSpeech's lengths, in batches of 1,280 s that lie on "
        f"the device, after the answers were compared (torch {machine['torch']}, triton {machine['triton']}, transformers "
        f"{machine['transformers']}, driver {machine['driver']}, {machine['utc'][:10]}).\n"
    )


def compiled(results: Path) -> str:
    """State the ratio to transformers under `torch.compile`, which has its own stage, or the reason why there is none."""
    stage = next((row for row in read(last_call(results) / "stages.csv") if row["stage"] == COMPILED), {"status": "left out"})
    parts = []
    for lengths, ours, text in ((MIXED, "ours", "mixed lengths"), (ONE, "ours-graphs", "one utterance of 5 s")):
        rows = timed(results, model="large", lengths=lengths, stage=COMPILED)
        if {"ours", "hf"} <= {row["provider"].partition("-")[0] for row in rows}:
            pair = ours_and_theirs(rows, ours)
            parts.append(f"{ratio(*pair)} times at {text} (`{pair[1]['provider']}`)")
    if parts:
        return f", and for hubert-large with it {' and '.join(parts)}"
    if stage["status"].startswith("killed"):
        return f". With it, transformers was not timed: it was still compiling after {float(stage['seconds']):.0f} s"
    return f". With it, transformers was not timed ({stage['status']})"


def ratio(ours: Row, theirs: Row) -> str:
    return f"{float(ours['rtfx']) / float(theirs['rtfx']):.1f}"


def rate(row: Row) -> str:
    return f"{float(row['rtfx']):,.0f}"


def latency(row: Row) -> str:
    return f"{float(row['latency_p50_ms']):.2g}"


def gpu(results: Path) -> str:
    folder = last_call(results)
    lines = []
    for row in read(folder / "models.csv"):
        times = [row["status"], "", ""]
        if row["rtfx"]:
            times = [f"{float(row['rtfx']):,.0f}", milliseconds(row["latency_p50_ms"]), share(row["share_of_ceiling"])]
        lines.append([f"{row['model']}, {row['dtype']}", row["case"], f"`{row['provider']}`", *times, row["max_error"]])
    header = [
        "model",
        "case",
        "provider",
        "times real time",
        "time of a batch (median)",
        "share of the ceiling",
        "largest error",
    ]
    return table(header, lines)


def gpu_ops(results: Path) -> str:
    rows = [row for row in read(last_call(results) / "ops.csv") if row["p50_ms"]]
    lines = []
    for row in (row for row in rows if row["provider"] == "ours"):
        same = [peer for peer in rows if (peer["op"], peer["shape"]) == (row["op"], row["shape"])]
        library = min((peer for peer in same if peer["provider"].startswith("library")), key=time_of, default=None)
        cells = [milliseconds(row["p50_ms"]), share(row["share"])]
        if library is not None:
            name = library["provider"].removeprefix("library: ")
            cells += [f"{name}: {milliseconds(library['p50_ms'])}", f"{time_of(library) / time_of(row):.2f}x"]
        lines.append([f"`{row['op']}`", row["shape"], *cells, *[""] * (4 - len(cells))])
    return table(["op", "shape", "ours", "share of the ceiling", "best library call", "speed-up over it"], lines)


def time_of(row: Row) -> float:
    return float(row["p50_ms"])


def milliseconds(text: str) -> str:
    return f"{float(text):.3g} ms" if text else ""


def share(text: str) -> str:
    return f"{float(text):.0%}" if text else ""
