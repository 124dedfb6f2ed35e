"""Draw speeds as bars, with a panel for each model, dtype and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = {"ours": "#1b7837", "acc": "#7fbf7b", "hf-": "#762a83"}  # by the prefix of the provider's name


def bars(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw rows of `measure` into a file, whose suffix selects the format.

    Args:
        rows: The rows, as `measure` returns them or as read from CSV.
        path: The file.

    Raises:
        ValueError: No row has a time, or matplotlib does not support the format.
    """
    from matplotlib.figure import Figure

    timed = [row for row in rows if row["rtfx"] not in ("", None)]
    if not timed:
        raise ValueError("no provider has a time")
    panels = list(dict.fromkeys((row["model"], row["dtype"]) for row in timed))
    protocols = list(dict.fromkeys(row["protocol"] for row in timed))
    longest = max(len({row["provider"] for row in timed if row["protocol"] == protocol}) for protocol in protocols)
    figure = Figure(figsize=(3.3 * len(panels) + 1, (0.32 * longest + 0.7) * len(protocols) + 0.5))
    axes = figure.subplots(len(protocols), len(panels), squeeze=False)
    for line, protocol in enumerate(protocols):
        for column, (model, dtype) in enumerate(panels):
            axis = axes[line][column]
            selected = [row for row in timed if (row["model"], row["dtype"], row["protocol"]) == (model, dtype, protocol)]
            if not selected:
                axis.set_axis_off()
                continue
            names, heights = [row["provider"] for row in selected], [float(row["rtfx"]) for row in selected]
            bars_drawn = axis.barh(names[::-1], heights[::-1], color=[_color(name) for name in names[::-1]])
            axis.bar_label(
                bars_drawn,
                [f"{height:.0f}" if height >= 100 else f"{height:.3g}" for height in heights[::-1]],
                fontsize=7,
                padding=2,
            )
            axis.set_title(f"{model}, {dtype}: {protocol}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
            if line == len(protocols) - 1:
                axis.set_xlabel("times real time", fontsize=7)
    origins = dict.fromkeys(f"{row['device']}, torch {row['torch']}, transformers {row['transformers']}" for row in timed)
    figure.suptitle(" / ".join(origins), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _color(provider: str) -> str:
    return next((color for prefix, color in COLORS.items() if provider.startswith(prefix)), "#999999")
