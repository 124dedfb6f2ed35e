"""Evaluate the demo recogniser: `python bench/demo/evaluation.py --model hubert_fast/demo --csv bench/results/demo_wer.csv`.

The program prints and records the greedy word error rate of each evaluation set in float32. The training corpus has none of the
sentences of these sets.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
import random
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # hubert_fast, where it is not installed

from sentences import sentence
from voices import (
    ESPEAK_ACCENTS,
    ESPEAK_VARIANTS,
    FLITE_VOICES,
    UNSEEN_ESPEAK_ACCENT,
    UNSEEN_ESPEAK_VARIANTS,
    UNSEEN_FLITE_VOICE,
    Voice,
    speak,
)

SENTENCES = 300
SEED = 20_261_122
BUNDLED = (
    "move forward eleven steps",
    "turn the garden radio off please",
    "seven zero four four nine one two",
    "set a timer for forty five minutes",
    "nine hundred and eighty seven thousand six hundred and fifty four",
    "please make the bedroom lights blue",
    "call room three eight two six",
    "three point one four one",
    "switch on the office fan",
    "open the kitchen window",
    "stop",
    "add twelve thousand three hundred forty five and sixty seven",
    "turn the volume down by thirty five percent",
    "go to page eight hundred nineteen",
)


@functools.cache
def held_out_sentences() -> frozenset[str]:
    """Return all sentences of the evaluation sets and of the bundled recordings."""
    return frozenset(BUNDLED) | frozenset(_evaluation_sentences())


@functools.cache
def _evaluation_sentences() -> tuple[str, ...]:
    """Draw distinct sentences of at least two words: training cannot avoid single words of a closed vocabulary."""
    rng = random.Random(SEED)
    sentences: dict[str, None] = {}
    while len(sentences) < SENTENCES:
        text = sentence(rng)
        if " " in text and text not in BUNDLED:
            sentences[text] = None
    return tuple(sentences)


def evaluation_sets() -> dict[str, list[tuple[str, Voice]]]:
    """Return `(sentence, voice)` pairs by name of the set. Rates and pitches vary less than in training."""
    texts = _evaluation_sentences()
    rng = random.Random(SEED + 1)

    def spoken(voices: list[str], count: int = SENTENCES) -> list[tuple[str, Voice]]:
        return [(text, Voice(rng.choice(voices), rng.uniform(0.85, 1.2), rng.uniform(0.8, 1.25))) for text in texts[:count]]

    trained = [f"espeak:{accent}+{variant}" for accent in ESPEAK_ACCENTS for variant in ESPEAK_VARIANTS]
    trained_flite = [f"flite:{voice}" for voice in FLITE_VOICES]
    unseen = [f"espeak:{UNSEEN_ESPEAK_ACCENT}+{variant}" for variant in UNSEEN_ESPEAK_VARIANTS]
    mixed = [rng.choice(trained if index % 10 < 7 else trained_flite) for index in range(1000)]
    return {
        "trained voices": spoken(mixed),
        "trained voices, espeak-ng": spoken(trained),
        "trained voices, flite": spoken(trained_flite),
        "unseen espeak-ng accent and variants": spoken(unseen),
        "unseen flite rms": spoken([f"flite:{UNSEEN_FLITE_VOICE}"]),
        "unseen festival kal_diphone": spoken(["festival:kal_diphone"], 100),
        "unseen festival ked_diphone": spoken(["festival:ked_diphone"], 100),
        "unseen festival slt_hts": spoken(["festival:cmu_us_slt_arctic_hts"], 100),
    }


def main() -> None:
    import jiwer
    import torch

    from hubert_fast import __version__, demo
    from hubert_fast.transcribe import Transcriber

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--csv", type=Path, help="CSV file to append the results to (default: none)")
    parser.add_argument("--errors", type=int, default=0, help="number of wrong sentences to print per set (default: 0)")
    arguments = parser.parse_args()
    transcriber = Transcriber.from_pretrained(arguments.model, device="cpu", dtype="float32")

    results = {
        name: [(text, voice.name, transcriber.transcribe(speak(text, voice)[0]).lower()) for text, voice in pairs]
        for name, pairs in evaluation_sets().items()
    }
    results["bundled recordings"] = [
        (recording.reference, recording.voice, transcriber.transcribe_file(recording.path).text.lower())
        for recording in demo.recordings()
    ]
    columns = {
        "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "torch": torch.__version__,
        "device": "cpu",
        "dtype": "float32",
    }
    rows = []
    for name, triples in results.items():
        references, hypotheses = [text for text, _, _ in triples], [text for _, _, text in triples]
        word_error, letter_error = jiwer.wer(references, hypotheses), jiwer.cer(references, hypotheses)
        rows.append(
            columns | {"set": name, "sentences": len(triples), "wer": round(word_error, 4), "cer": round(letter_error, 4)}
        )
        print(f"{name:40s} {len(triples):4d} sentences   WER {100 * word_error:6.2f} %   CER {100 * letter_error:6.2f} %")
        wrong = [triple for triple in triples if triple[0] != triple[2]]
        for reference, voice, hypothesis in wrong[: arguments.errors]:
            print(f"    {voice}: {reference} | {hypothesis}")
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        is_new = not arguments.csv.exists()
        with open(arguments.csv, "a", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
