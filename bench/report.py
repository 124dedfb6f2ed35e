"""Write the tables and plots of README.md and docs/ from rows: `make report`, or `python bench/report.py [--check]`.

The function NAME writes the text between `<!-- rows: NAME -->` and `<!-- end of rows -->` on these pages, from the CSV files in
results/. `--check` writes nothing, and fails when a page differs from the text that the rows give.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

from report_cpu import (
    claim,
    contention,
    cpu_memory,
    files,
    layers,
    leaderboard,
    padded_texts,
    padding,
    products,
    providers,
    recognition,
    unpadded,
    wer,
)
from report_gpu import gpu, gpu_claim, gpu_ops
from report_plots import draw
from report_shards import shard_kills, shard_limits, shard_memory, shard_scaling, shard_speed
from report_summary import headline, summary
from report_tensorflow import tensorflow
from report_transcribe import bounded, seams, texts, transcription
from report_unit_quality import draw_units, unit_quality
from report_units import unit_kills, unit_kmeans, unit_memory, units

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
BLOCK = re.compile(r"(<!-- rows: ([\w-]+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)
BLOCKS: dict[str, Callable[[Path], str]] = {
    block.__name__: block
    for block in (
        headline, summary, claim, providers, leaderboard, padding, files, unpadded, cpu_memory, products, recognition,
        padded_texts, wer, layers, transcription, texts, bounded, contention, seams, tensorflow, units, unit_kmeans,
        unit_memory, unit_kills, unit_quality, shard_kills, shard_speed, shard_memory, shard_limits, shard_scaling,
        gpu_claim, gpu, gpu_ops,
    )
}  # fmt: skip


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold blocks."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str, results: Path) -> str:
    """Return a page with each of its blocks written from the rows. Raise `ValueError` for an unknown block."""

    def block(match: re.Match) -> str:
        if match[2] not in BLOCKS:
            raise ValueError(f"unknown block {match[2]!r}, expected one of {', '.join(BLOCKS)}")
        return f"{match[1]}{wrapped(BLOCKS[match[2]](results))}{match[4]}"

    return BLOCK.sub(block, text)


def wrapped(text: str) -> str:
    """Break paragraphs into lines of at most 128 characters; tables stay as they are."""
    lines = (line if line.startswith("|") else textwrap.fill(line, 128, break_on_hyphens=False) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of CSV files (default: results/ beside this file)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs/ (default: this repository)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page differs from the rows")
    options = parser.parse_args(arguments)
    before = {page: page.read_text(encoding="utf-8") for page in pages(options.root)}
    after = {page: filled(text, options.results) for page, text in before.items()}
    if options.check:
        return int(after != before)
    for page, text in after.items():
        if text != before[page]:
            page.write_text(text, encoding="utf-8")
    draw(options.results, options.root / "docs" / "images")
    draw_units(options.results, options.root / "docs" / "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
