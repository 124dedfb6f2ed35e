"""Create the bundled recordings: `python bench/demo/recordings.py --out hubert_fast/demo/recordings`.

The training corpus has none of these sentences and voices. The files differ in format, sampling rate, channels and sample
format. The list was fixed before any file was transcribed. `references.csv` holds the text of each file.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from evaluation import BUNDLED
from voices import SAMPLE_RATE_HZ, Phone, Voice, speak

PAUSE = "; "  # makes a synthesiser pause between the sentences of a long recording
SILENCE_SECONDS = 0.4  # before and after the speech

# name, voice, sampling rate, channels, subtype, indices of BUNDLED
RECORDINGS = (
    ("steps.wav", "espeak:en-gb-x-gbcwmd+f4", 16000, 1, "PCM_16", (0,)),
    ("radio.flac", "espeak:en-us+m7", 44100, 2, "PCM_16", (1,)),
    ("telephone.wav", "espeak:en-gb-x-gbcwmd+Alicia", 8000, 1, "ULAW", (2,)),
    ("timer.flac", "espeak:en+Hugo", 48000, 2, "PCM_24", (3,)),
    ("large_number.wav", "espeak:en-gb-x-rp+benjamin", 22050, 1, "PCM_16", (4,)),
    ("lights.wav", "espeak:en-us-nyc+quincy", 48000, 2, "PCM_24", (5,)),
    ("room.flac", "espeak:en-gb-x-gbcwmd+m7", 16000, 1, "PCM_16", (6,)),
    ("pi.wav", "espeak:en-gb-scotland+f4", 32000, 1, "FLOAT", (7,)),
    ("fan.flac", "flite:rms", 16000, 1, "PCM_16", (8,)),
    ("window.wav", "flite:rms", 44100, 2, "PCM_16", (9,)),
    ("stop.wav", "espeak:en-029+Hugo", 16000, 1, "PCM_U8", (10,)),
    ("sum.flac", "espeak:en-us+Alicia", 11025, 1, "PCM_16", (11,)),
    ("volume.flac", "espeak:en-gb-x-gbclan+benjamin", 96000, 1, "PCM_24", (12,)),
    ("long.flac", "espeak:en-gb-x-gbcwmd+quincy", 24000, 1, "PCM_16", (13, 3, 6, 1, 5, 2)),
)


class Spoken(NamedTuple):
    """A recording before it is written.

    Attributes:
        name: The name of the file.
        voice: The name of the voice.
        reference: What is said.
        samples: float32 `[samples, channels]`.
        sample_rate_hz: Sampling rate of the file.
        subtype: Sample format of the file.
        phones: The phones that the synthesiser reports, with their times in the file.
        speech_end_seconds: Where the speech ends and `SILENCE_SECONDS` of silence begin.
    """

    name: str
    voice: str
    reference: str
    samples: np.ndarray
    sample_rate_hz: int
    subtype: str
    phones: list[Phone]
    speech_end_seconds: float

    def write(self, file: Path | BinaryIO) -> None:
        container = Path(self.name).suffix[1:]
        soundfile.write(file, self.samples, self.sample_rate_hz, subtype=self.subtype, format=container)


def spoken() -> Iterator[Spoken]:
    """Yield all recordings, always in the same order: what espeak-ng said before changes its timing."""
    rng = np.random.default_rng(0)
    for name, voice, sample_rate_hz, channels, subtype, indices in RECORDINGS:
        speech, phones = speak(PAUSE.join(BUNDLED[index] for index in indices), Voice(voice))
        speech_end_seconds = SILENCE_SECONDS + len(speech) / SAMPLE_RATE_HZ
        silence = np.zeros(int(SILENCE_SECONDS * SAMPLE_RATE_HZ), np.float32)
        speech = np.concatenate([silence, 0.6 * speech / np.abs(speech).max(), silence])
        speech = soxr.resample(speech, SAMPLE_RATE_HZ, sample_rate_hz)
        # each channel has its own level and its own faint noise
        levels = np.linspace(1.0, 0.7, channels)
        samples = speech[:, None] * levels + 0.001 * rng.standard_normal((len(speech), channels))
        phones = [Phone(SILENCE_SECONDS + phone.start_seconds, phone.name) for phone in phones]
        reference = " ".join(BUNDLED[index] for index in indices)
        yield Spoken(name, voice, reference, samples.astype(np.float32), sample_rate_hz, subtype, phones, speech_end_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for recording in spoken():
        recording.write(arguments.out / recording.name)
        rows.append({"file": recording.name, "voice": recording.voice, "reference": recording.reference})
        seconds = len(recording.samples) / recording.sample_rate_hz
        print(f"{recording.name:18s} {seconds:5.1f} s  {recording.reference}")
    with open(arguments.out / "references.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
