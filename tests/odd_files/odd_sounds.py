"""Give the sounds that the odd files hold: parts of the demo recordings, joined with each other and with silence.

A formula names them: ``"garden@8000"`` is the recording below at 8,000 Hz, ``"silence@8000:0.5"`` half a second of silence, and
``"garden@8000[0:0.6]"`` the first 0.6 s. ``" + "`` joins. Rates count, since 8,000 Hz takes the upper half of what is heard
away.
Nothing here uses the package's own decoder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

DEMO = Path(__file__).parents[2] / "hubert_fast" / "demo" / "recordings"
TERM = re.compile(r"(?P<name>\w+)@(?P<rate_hz>\d+)(?::(?P<seconds>[\d.]+))?(?:\[(?P<start>[\d.]+):(?P<end>[\d.]+)\])?")


class Base(NamedTuple):
    """A part of a demo recording, in seconds, and what is said in it."""

    file: str
    start: float
    end: float
    text: str


BASES = {
    "stop": Base("stop.wav", 0.3, 0.8, "STOP"),
    "short": Base("stop.wav", 0.36, 0.8, "STOP"),
    "garden": Base("radio.flac", 0.3, 1.22, "TURN THE GARDEN"),
    "room": Base("room.flac", 0.25, 2.15, "CALL ROOM THREE EIGHT TWO SIX"),
}


def samples(formula: str) -> list[tuple[np.ndarray, int]]:
    """Return what a formula names: for each term, mono int16 samples ``[S]`` and their rate in Hz."""
    return [_samples_of(TERM.fullmatch(term)) for term in formula.split(" + ")]


def at_16_khz(formula: str) -> np.ndarray:
    """Return what a formula names as int16 samples ``[S]`` at 16,000 Hz."""
    return np.concatenate([_resampled(term, rate_hz, 16000) for term, rate_hz in samples(formula)])


def seconds(formula: str) -> float:
    """Return how long it is."""
    return sum(len(term) / rate_hz for term, rate_hz in samples(formula))


def text(formula: str) -> str:
    """Return what is said in it, where no term is a part of a recording."""
    names = [TERM.fullmatch(term)["name"] for term in formula.split(" + ")]
    return " ".join(BASES[name].text for name in names if name in BASES)


def _samples_of(term: re.Match) -> tuple[np.ndarray, int]:
    rate_hz = int(term["rate_hz"])
    if term["name"] == "silence":
        return np.zeros(round(float(term["seconds"]) * rate_hz), np.int16), rate_hz
    base = BASES[term["name"]]
    whole, original_hz = soundfile.read(DEMO / base.file, always_2d=True)
    part = whole.mean(1)[round(base.start * original_hz) : round(base.end * original_hz)]
    made = _int16(soxr.resample(part, original_hz, rate_hz))
    if term["start"]:
        made = made[round(float(term["start"]) * rate_hz) : round(float(term["end"]) * rate_hz)]
    return made, rate_hz


def _resampled(values: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    return values if from_hz == to_hz else _int16(soxr.resample(values / 32768, from_hz, to_hz))


def _int16(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values * 32767), -32768, 32767).astype(np.int16)
