"""Provide the sounds in the odd files: parts of the demo recordings, joined with each other and with silence.

A formula describes a sound: `"garden@8000"` is the recording of that name below at 8,000 Hz, `"silence@8000:0.5"` is half a
second of silence, `"garden@8000[0:0.6]"` is the first 0.6 s, and `" + "` joins. The rate matters, because at 8,000 Hz the
upper half of the spectrum is lost. Nothing here uses the package's own decoder.
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
    """Return mono int16 samples `[S]` and their rate in Hz for each term of a formula."""
    return [_samples_of(TERM.fullmatch(term)) for term in formula.split(" + ")]


def at_16_khz(formula: str) -> np.ndarray:
    """Return the sound of a formula as int16 samples `[S]` at 16,000 Hz."""
    return np.concatenate([_resampled(term, rate_hz, 16000) for term, rate_hz in samples(formula)])


def seconds(formula: str) -> float:
    """Return the duration of a formula."""
    return sum(len(term) / rate_hz for term, rate_hz in samples(formula))


def text(formula: str) -> str:
    """Return the words spoken in a formula, none of whose terms may be only part of a recording."""
    names = [TERM.fullmatch(term)["name"] for term in formula.split(" + ")]
    return " ".join(BASES[name].text for name in names if name in BASES)


def _samples_of(term: re.Match) -> tuple[np.ndarray, int]:
    rate_hz = int(term["rate_hz"])
    if term["name"] == "silence":
        return np.zeros(round(float(term["seconds"]) * rate_hz), np.int16), rate_hz
    base = BASES[term["name"]]
    whole, original_hz = soundfile.read(DEMO / base.file, always_2d=True)
    part = whole.mean(1)[round(base.start * original_hz) : round(base.end * original_hz)]
    values = _int16(soxr.resample(part, original_hz, rate_hz))
    if term["start"]:
        values = values[round(float(term["start"]) * rate_hz) : round(float(term["end"]) * rate_hz)]
    return values, rate_hz


def _resampled(values: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    return values if from_hz == to_hz else _int16(soxr.resample(values / 32768, from_hz, to_hz))


def _int16(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values * 32767), -32768, 32767).astype(np.int16)
