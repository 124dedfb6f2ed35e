"""Draw results/packed_speed.svg from results/packed_speed.csv, times transformers' speed: ``python bench/packed_plot.py``."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from rows import RESULTS


def newest(path: Path) -> dict[tuple[str, str, str, str], dict[str, str]]:
    """Return the last row of each model, dtype, case and provider."""
    with open(path, newline="", encoding="utf-8") as file:
        return {tuple(row[key] for key in ("model", "dtype", "case", "provider")): row for row in csv.DictReader(file)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    results = parser.parse_args(arguments).results
    rows = newest(results / "packed_speed.csv")
    panels = list(dict.fromkeys((model, dtype) for model, dtype, *_ in rows))
    cases = list(dict.fromkeys(case for _, _, case, _ in rows))
    providers = list(dict.fromkeys(provider for *_, provider in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.6), sharey=True, squeeze=False)
    width = 0.8 / len(providers)
    for axis, (model, dtype) in zip(axes[0], panels):
        for index, provider in enumerate(providers):
            found = [rows.get((model, dtype, case, provider)) for case in cases]
            heights = [float(row["ratio"]) if row else 0 for row in found]
            bars = axis.bar([place + index * width for place in range(len(cases))], heights, width, label=provider)
            axis.bar_label(bars, [f"{float(row['rtfx']):.1f}x" if row else "" for row in found], fontsize=6)
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(cases))], cases, fontsize=8)
        axis.set_title(f"{model}, {dtype}", fontsize=9)
        axis.axhline(1, color="black", linewidth=0.5)
    axes[0][0].set_ylabel("times the speed of transformers sdpa\n(above the bars: times real time)", fontsize=8)
    devices = " / ".join(dict.fromkeys(f"{row['device']}, {row['threads']} threads" for row in rows.values()))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(providers), fontsize=8, frameon=False)
    figure.suptitle(devices, fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(results / "packed_speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
