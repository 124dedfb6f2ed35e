"""A small HuBERT-CTC checkpoint and recordings to try it on: synthetic voices, closed vocabulary.

A demonstration and a regression test, not a speech recogniser for real use: it knows ninety words (numbers, digits, short
commands) and has only ever heard synthesised speech. `bench/demo/README.md` tells how it was made and what it reaches.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).parent
RECORDINGS = MODEL / "recordings"


class Recording(NamedTuple):
    path: Path
    voice: str
    reference: str


def recordings() -> list[Recording]:
    """The bundled recordings with what is said in them."""
    with open(RECORDINGS / "references.csv", newline="", encoding="utf-8") as file:
        return [Recording(RECORDINGS / row["file"], row["voice"], row["reference"]) for row in csv.DictReader(file)]
