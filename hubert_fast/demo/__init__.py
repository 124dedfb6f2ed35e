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


class Phone(NamedTuple):
    """A phone of a recording, as the synthesiser reports it, and its name in the phone set of flite's US voices."""

    start_seconds: float
    end_seconds: float
    name: str


def recordings() -> list[Recording]:
    """Return the bundled recordings."""
    with open(RECORDINGS / "references.csv", newline="", encoding="utf-8") as file:
        return [Recording(RECORDINGS / row["file"], row["voice"], row["reference"]) for row in csv.DictReader(file)]


def phones() -> dict[str, list[Phone]]:
    """Return the phones of each bundled recording by the name of its file. They cover it from its start to its end."""
    labels: dict[str, list[Phone]] = {}
    with open(RECORDINGS / "phones.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            phone = Phone(float(row["start_seconds"]), float(row["end_seconds"]), row["phone"])
            labels.setdefault(row["file"], []).append(phone)
    return labels
