"""Create the bundled recordings: `python bench/demo/recordings.py --out hubert_fast/demo/recordings`.

The training corpus has none of these sentences and voices. The files differ in format, sampling rate, channels and sample
format. The list was fixed before any file was transcribed. `references.csv` holds the text of each file.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
import soxr
from evaluation import BUNDLED
from voices import SAMPLE_RATE_HZ, Voice, speak

PAUSE = "; "  # makes a synthesiser pause between the sentences of a long recording

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for name, voice, sample_rate_hz, channels, subtype, indices in RECORDINGS:
        speech, _ = speak(PAUSE.join(BUNDLED[index] for index in indices), Voice(voice))
        silence = np.zeros(int(0.4 * SAMPLE_RATE_HZ), np.float32)
        speech = np.concatenate([silence, 0.6 * speech / np.abs(speech).max(), silence])
        speech = soxr.resample(speech, SAMPLE_RATE_HZ, sample_rate_hz)
        # each channel has its own level and its own faint noise
        levels = np.linspace(1.0, 0.7, channels)
        samples = speech[:, None] * levels + 0.001 * rng.standard_normal((len(speech), channels))
        soundfile.write(arguments.out / name, samples.astype(np.float32), sample_rate_hz, subtype=subtype)
        reference = " ".join(BUNDLED[index] for index in indices)
        rows.append({"file": name, "voice": voice, "reference": reference})
        print(f"{name:18s} {len(speech) / sample_rate_hz:5.1f} s  {reference}")
    with open(arguments.out / "references.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
