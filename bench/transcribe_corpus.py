"""Create files to transcribe: `python bench/transcribe_corpus.py --out build/corpus --files 2000`. Needs espeak-ng and flite.

The files hold the demo model's language in its training voices. Their lengths are distributed as in LibriSpeech's test sets
(log-normal, median 5.9 s, sigma 0.66, 1.3 to 35 s), and their formats are common in archives. `manifest.jsonl` lists each file
with its duration and text.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "demo"))
sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import soundfile
import soxr
from corpus import training_voice
from sentences import sentence
from voices import SAMPLE_RATE_HZ, speak

from hubert_fast.benchmark.work import LONGEST_SECONDS, MEDIAN_SECONDS, SHORTEST_SECONDS, SIGMA

# share, suffix, sampling rate, channels, subtype
FORMATS = (
    (30, "wav", 16000, 1, "PCM_16"),
    (20, "flac", 16000, 1, "PCM_16"),
    (10, "wav", 8000, 1, "ULAW"),
    (10, "wav", 44100, 2, "PCM_24"),
    (10, "flac", 48000, 2, "PCM_16"),
    (10, "mp3", 44100, 1, "MPEG_LAYER_III"),
    (10, "ogg", 16000, 1, "VORBIS"),
)


def make(number: int, folder: Path) -> dict:
    """Write one file and return its row of the manifest."""
    rng = random.Random(number)
    wanted_seconds = min(max(rng.lognormvariate(np.log(MEDIAN_SECONDS), SIGMA), SHORTEST_SECONDS), LONGEST_SECONDS)
    voice = training_voice(rng, accents=False)
    pause = np.zeros(int(0.4 * SAMPLE_RATE_HZ), np.float32)
    sentences, parts, seconds = [], [pause], 0.8
    while not sentences or seconds < wanted_seconds - 1.5:
        sentences.append(sentence(rng))
        speech, _ = speak(sentences[-1], voice)
        parts += [0.6 * speech / max(np.abs(speech).max(), 1e-3), pause]
        seconds += (len(speech) + len(pause)) / SAMPLE_RATE_HZ
    speech = np.concatenate(parts)
    _, suffix, rate_hz, channels, subtype = rng.choices(FORMATS, [share for share, *_ in FORMATS])[0]
    samples = soxr.resample(speech, SAMPLE_RATE_HZ, rate_hz)[:, None] * np.linspace(1, 0.7, channels)
    path = folder / f"{number // 1000:03d}" / f"{number:06d}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), rate_hz, subtype=subtype)
    duration = round(len(speech) / SAMPLE_RATE_HZ, 4)
    return {"audio_filepath": str(path.relative_to(folder)), "duration": duration, "text": " ".join(sentences)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--files", type=int, default=2000, help="number of files (default: 2000)")
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default: 2)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(options.processes) as pool,
        open(options.out / "manifest.jsonl", "w", encoding="utf-8") as manifest,
    ):
        for row in pool.map(partial(make, folder=options.out), range(options.files), chunksize=20):
            manifest.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
