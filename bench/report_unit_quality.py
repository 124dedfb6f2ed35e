"""Write the block and draw the plot on how much units say about phones."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from report_rows import Row, device, newest, table

from hubert_fast.benchmark.rows import read

BUNDLED, HELD_OUT = "bundled", "held out"
TITLES = {BUNDLED: "bundled recordings", HELD_OUT: "held-out voices"}
MEASURES = {"pnmi": "PNMI", "phone_purity": "phone purity", "cluster_purity": "cluster purity"}
CLUSTERS = "100"  # in the table


def rows_of(results: Path) -> list[Row]:
    return newest(read(results / "units_quality.csv"), "set")


def name(feature: str) -> str:
    return f"layer {feature}" if feature.isdigit() else feature


def mean_of(rows: list[Row], column: str, **values: str) -> float:
    """Return the mean of a column over the seeds, of the rows with these values."""
    return mean(float(row[column]) for row in rows if all(row[key] == value for key, value in values.items()))


def unit_quality(results: Path) -> str:
    """Tabulate PNMI and purity by layer, and say how they were measured. Raise `ValueError` if a set has no rows."""
    rows = rows_of(results)
    if missing := TITLES.keys() - {row["set"] for row in rows}:
        raise ValueError(f"units_quality.csv has no rows for {', '.join(sorted(missing))}: python bench/units_quality.py")

    def line(title: str, feature: str, prefix: str = "") -> list[str]:
        cells = [
            f"{mean_of(rows, prefix + column, set=speech, feature=feature, clusters=CLUSTERS):.3f}"
            for speech in TITLES
            for column in MEASURES
        ]
        return [title, *cells]

    lines = [line(name(feature), feature) for feature in dict.fromkeys(row["feature"] for row in rows)]
    lines.append(line("layer 2, shuffled", "2", "shuffled_"))
    bundled, held_out = (next(row for row in rows if row["set"] == speech) for speech in TITLES)
    header = [f"{CLUSTERS} units of", *(f"{title}, {speech}" for speech in TITLES for title in MEASURES.values())]
    return (
        table(header, lines) + f"\nMeans over {len({row['seed'] for row in rows})} seeds of k-means. *Bundled* recordings: "
        f"{int(bundled['frames']):,} frames, {bundled['phones']} phones; k-means learns from the same frames. *Held out*: "
        f"{int(held_out['frames']):,} frames, {held_out['phones']} phones, of voices and sentences that the model never heard; "
        f"k-means learns from {int(held_out['learning_frames']):,} frames of other voices, which speak the same sentences. "
        f"Synthesisers: {held_out['synthesisers'].replace(', ', ' and ')} ({device(held_out)}, torch {held_out['torch']}, "
        f"scikit-learn {held_out['scikit_learn']}, {held_out['utc'][:10]}).\n"
    )


def draw_units(results: Path, folder: Path) -> None:
    """Draw units.svg: PNMI and phone purity by layer and number of units, beside those of shuffled units."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = rows_of(results)
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "hubert_fast"}):  # the same rows make the same files
        figure = Figure(figsize=(10, 6.5))
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        for line, (column, title) in enumerate(list(MEASURES.items())[:2]):
            for axis, speech in zip(axes[line], TITLES):
                of_set = [row for row in rows if row["set"] == speech]
                features = list(dict.fromkeys(row["feature"] for row in of_set))
                for index, clusters in enumerate(dict.fromkeys(row["clusters"] for row in of_set)):
                    for prefix, style, label in (("", "o-", f"{clusters} units"), ("shuffled_", ":", "shuffled")):
                        values = [mean_of(of_set, prefix + column, feature=feature, clusters=clusters) for feature in features]
                        baselines = sum(not feature.isdigit() for feature in features)
                        names, color = [name(feature) for feature in features], f"C{index}"
                        # the line joins layers alone
                        axis.plot(names[:baselines], values[:baselines], style[0], color=color)
                        axis.plot(names[baselines:], values[baselines:], style, color=color, label=label)
                axis.set_title(f"{title}, {TITLES[speech]}", fontsize=9)
                axis.set_ylim(0, 1)
                axis.tick_params(labelsize=7)
                axis.grid(alpha=0.3)
        axes[0][0].legend(fontsize=6, ncols=3)
        figure.tight_layout()
        figure.savefig(folder / "units.svg", metadata={"Date": None})
