"""Create a part of the demo recogniser's training corpus: `python bench/demo/corpus.py --out build/demo --hours 40`.

With `--accents`, espeak-ng speaks every utterance in a different random accent. The program writes `audio.i16` (all
utterances end to end, int16, 16 kHz) and `utterances.jsonl` (text, voice, first sample, sample count, phones with their start
times). Sentences of the evaluation sets (`evaluation.py`) never enter the corpus.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from evaluation import held_out_sentences
from sentences import sentence
from voices import ESPEAK_ACCENTS, ESPEAK_VARIANTS, FLITE_VOICES, SAMPLE_RATE_HZ, Voice, speak

FLITE_SHARE = 0.3
BLOCK_UTTERANCES = 200


def training_voice(rng: random.Random, accents: bool) -> Voice:
    rate = rng.uniform(0.75, 1.35)
    pitch = rng.uniform(0.6, 1.5)
    if not accents and rng.random() < FLITE_SHARE:
        return Voice(f"flite:{rng.choice(FLITE_VOICES)}", rate, pitch)
    accent_seed = rng.getrandbits(32) if accents else None
    return Voice(f"espeak:{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}", rate, pitch, accent_seed)


def make_block(seed: int, accents: bool) -> list[tuple[dict, np.ndarray]]:
    """Speak `BLOCK_UTTERANCES` utterances. One in eight joins two or three sentences, with a short pause between them."""
    rng = random.Random(seed)
    held_out = held_out_sentences()
    block = []
    while len(block) < BLOCK_UTTERANCES:
        parts = [sentence(rng) for _ in range(rng.choice((2, 3)) if rng.random() < 0.125 else 1)]
        if any(part in held_out for part in parts):
            continue
        voice = training_voice(rng, accents)
        waveform, phones = speak(", ".join(parts), voice)
        peak = max(np.abs(waveform).max(), 1e-3)
        samples = np.round(waveform * (0.9 / peak) * 32767).astype(np.int16)
        row = {
            "text": " ".join(parts),
            "voice": voice.name,
            "phones": [[round(p.start_seconds, 3), p.name] for p in phones],
        }
        block.append((row, samples))
    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--hours", type=float, default=30, help="hours of audio (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--accents", action="store_true", help="give every utterance a different random accent")
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default: 2)")
    arguments = parser.parse_args()
    make = functools.partial(make_block, accents=arguments.accents)
    arguments.out.mkdir(parents=True, exist_ok=True)
    target_samples = int(arguments.hours * 3600 * SAMPLE_RATE_HZ)
    written_samples = 0
    with (
        ProcessPoolExecutor(arguments.processes) as pool,
        open(arguments.out / "audio.i16", "wb") as audio,
        open(arguments.out / "utterances.jsonl", "w") as rows,
    ):
        seed = arguments.seed * 1_000_003
        while written_samples < target_samples:
            seeds = range(seed, seed := seed + 4 * arguments.processes)
            for block in pool.map(make, seeds):
                for row, samples in block:
                    audio.write(samples.tobytes())
                    rows.write(json.dumps({**row, "first_sample": written_samples, "samples": len(samples)}) + "\n")
                    written_samples += len(samples)
            print(f"{written_samples / SAMPLE_RATE_HZ / 3600:.1f} of {arguments.hours} h", flush=True)


if __name__ == "__main__":
    main()
