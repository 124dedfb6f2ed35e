"""Provide a small HuBERT-CTC checkpoint, and recordings of synthetic voices to try it on.

It serves for demonstrations and regression tests, not for real use: it knows ninety words (numbers, digits, short commands) and
was trained on synthetic speech only. `bench/demo/README.md` describes its training and its accuracy.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).parent
RECORDINGS = MODEL / "recordings"


class Recording(NamedTuple):
    """A bundled recording: its file, the name of its voice, and its transcript."""

    path: Path
    voice: str
    reference: str


def recordings() -> list[Recording]:
    """Return the bundled recordings."""
    with open(RECORDINGS / "references.csv", newline="", encoding="utf-8") as file:
        return [Recording(RECORDINGS / row["file"], row["voice"], row["reference"]) for row in csv.DictReader(file)]
