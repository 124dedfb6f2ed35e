"""Draw the plots of docs/benchmarks.md from rows."""

from __future__ import annotations

from pathlib import Path

from report_rows import Row, bench

from hubert_fast.benchmark.plot import bars
from hubert_fast.benchmark.rows import read


def draw(results: Path, folder: Path) -> None:
    """Draw bench.svg (times real time of every provider and protocol) and details.svg (where time and memory go)."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    whole = [row for row in bench(results, whole="True") if row["rtfx"]]
    with matplotlib.rc_context({"svg.hashsalt": "hubert_fast"}):  # the same rows make the same files
        if whole:
            bars(whole, folder / "bench.svg")
        details(results, folder, [row for row in bench(results, whole="False") if row["rtfx"]], whole)


def details(results: Path, folder: Path, rows: list[Row], whole: list[Row]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7))
    ceiling, operations, batch, memory = figure.subplots(2, 2).flat

    for provider in ("ours", "hf-sdpa", "hf-sdpa-sorted"):
        provider_rows = [row for row in whole if row["protocol"] == "model" and row["provider"] == provider]
        names = [f"{row['model']}\n{row['dtype']}" for row in provider_rows]
        ceiling.plot(names, [100 * float(row["share_of_ceiling"]) for row in provider_rows], "o", label=provider)
    ceiling.set(title="share of the machine's best matrix product, %", ylim=(0, 100))

    profiles = read(results / "packed_profile.csv")
    profiles = [row for row in profiles if row["case"] == "mixed" and row["model"] in ("base", "large")]
    shares = {(row["model"], row["dtype"], row["operations"]): 100 * float(row["share"]) for row in profiles}
    names = list(dict.fromkeys((model, dtype) for model, dtype, _ in shares))
    bottom = [0.0] * len(names)
    for kind in dict.fromkeys(kind for *_, kind in shares):
        heights = [shares.get((*name, kind), 0.0) for name in names]
        operations.bar([f"{model}\n{dtype}" for model, dtype in names], heights, bottom=bottom, label=kind)
        bottom = [one + other for one, other in zip(bottom, heights)]
    operations.set(title="our time by operation, %", ylim=(0, 100))

    for axis, name, key in ((batch, "batch_seconds", "rtfx"), (memory, "audio_seconds", "peak_bytes")):
        marks: set[float] = set()
        for provider in ("ours", "hf-sdpa", "hf-sdpa-sorted"):
            points = []
            for row in rows:
                if (row["model"], row["dtype"], row["protocol"]) != ("base", "bfloat16", "model"):
                    continue
                is_sweep = row["lengths"] == "librispeech"
                is_length = row["lengths"].startswith("fixed:") and row["utterances"] == "1"
                if row["provider"] == provider and (is_sweep if name == "batch_seconds" else is_length):
                    x = float(row["batch"].partition(" ")[0]) if name == "batch_seconds" else float(row["audio_seconds"])
                    points.append((x, float(row[key]) * (1.0 if key == "rtfx" else 1e-6)))
            if points:
                axis.plot(*zip(*sorted(points)), "o-", label=provider)
                marks |= {x for x, _ in points}
        axis.set_xscale("log")
        axis.set_xticks(sorted(marks), [f"{x:g}" for x in sorted(marks)])
        axis.minorticks_off()
    batch.set(title="times real time by seconds in a batch (base, bfloat16)", ylim=(0, None))
    memory.set(title="MB above the weights by seconds of one utterance (base, bfloat16)", ylim=(0, None))
    for axis in (ceiling, operations, batch, memory):
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=7)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=6)
        else:
            axis.set_axis_off()  # there are no rows for it
            axis.set_title("")
    figure.tight_layout()
    figure.savefig(folder / "details.svg", metadata={"Date": None})
