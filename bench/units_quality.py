"""Measure how much the demo model's units say about phones, layer by layer: `python bench/units_quality.py`.

Rows go to results/units_quality.csv. Two sets of speech are measured, with the phones that their synthesisers report:

bundled      the bundled recordings; k-means learns from the same frames that are measured
held out     200 utterances of voices that the model never heard (espeak-ng and flite), synthesised anew; k-means learns from
             100 utterances of other voices. Needs espeak-ng and flite: `apt-get install espeak-ng flite`

Features are the layers of the model and two baselines without a model: log-mel energies, and MFCC with two derivatives, from
which HuBERT's first units were learnt.
"""

from __future__ import annotations

import argparse
import ctypes.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed
sys.path.append(str(Path(__file__).resolve().parent / "demo"))  # the voices

import numpy as np
import torch

from hubert_fast import HubertConfig, audio, demo
from hubert_fast.benchmark.rows import append, origin, version
from hubert_fast.units import Encoder
from hubert_fast.units.kmeans import learn
from hubert_fast.units.quality import cluster_purity, labels_at_frames, phone_purity, pnmi

RESULTS = Path(__file__).resolve().parent / "results" / "units_quality.csv"
BUNDLED, HELD_OUT = "bundled", "held out"
LEARNING = "trained voices"  # sets of demo/evaluation.py
MEASURED = "unseen espeak-ng accent and variants", "unseen flite rms"
CLUSTERS, SEEDS = (50, 100, 200), (0, 1, 2)
LOG_MEL, MFCC = "log-mel", "MFCC"
VERSIONS = {"espeak-ng": r"eSpeak NG text-to-speech: (\S+)", "flite": r"version: flite-(\S+)-"}  # as they print them
WINDOW, HOP, MELS, COEFFICIENTS = 400, 320, 40, 13  # samples at 16 kHz, as the frames of the model

Utterance = tuple[np.ndarray, list[float], list[str]]  # waveform, and the start and name of each phone
Features = dict[str, np.ndarray]  # of all frames of a set, [N, C]


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Return the logarithm of 40 mel bands at the frames of HuBERT, float32 `[T, 40]`."""
    size = 512
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, size)) ** 2
    edges_hz = 700 * (10 ** (np.linspace(0, np.log10(1 + 8000 / 700), MELS + 2)) - 1)
    hz = np.arange(size // 2 + 1) * 16000 / size
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    bands = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
    return np.log(power @ bands.T + 1e-6).astype(np.float32)


def mfcc(energies: np.ndarray) -> np.ndarray:
    """Return 13 cepstral coefficients of log-mel energies and their first two derivatives, float32 `[T, 39]`."""
    angles = np.pi / MELS * (np.arange(MELS) + 0.5)
    static = energies @ np.cos(np.arange(COEFFICIENTS)[:, None] * angles).T * np.sqrt(2 / MELS)
    first = np.gradient(static, axis=0)
    return np.concatenate([static, first, np.gradient(first, axis=0)], axis=1).astype(np.float32)


def bundled() -> Iterator[Utterance]:
    phones = demo.phones()
    for recording in demo.recordings():
        labels = phones[recording.path.name]
        yield audio.load(recording.path), [phone.start_seconds for phone in labels], [phone.name for phone in labels]


def synthesised(name: str, most: int) -> Iterator[Utterance]:
    """Speak a set of demo/evaluation.py, with 0.2 s of silence and faint noise around it, as in the recordings."""
    from evaluation import evaluation_sets
    from phones import SILENCE, folded
    from voices import SAMPLE_RATE_HZ, speak

    rng = np.random.default_rng(0)
    silence_seconds = 0.2
    for text, voice in evaluation_sets()[name][:most]:
        speech, phones = speak(text, voice)
        padded = np.pad(0.6 * speech / np.abs(speech).max(), int(silence_seconds * SAMPLE_RATE_HZ))
        end_seconds = silence_seconds + len(speech) / SAMPLE_RATE_HZ
        starts = [0.0, *(silence_seconds + phone.start_seconds for phone in phones), end_seconds]
        names = [SILENCE, *(folded(phone.name) for phone in phones), SILENCE]
        yield (padded + 0.001 * rng.standard_normal(len(padded))).astype(np.float32), starts, names


def synthesisers() -> str:
    """Return the installed synthesisers with their versions. The text is empty without any."""
    commands = [[name, "--version"] for name in ("espeak-ng", "flite") if shutil.which(name)]
    printed = "\n".join(subprocess.run(command, capture_output=True, text=True).stdout for command in commands)
    found = {name: re.search(pattern, printed) for name, pattern in VERSIONS.items()}
    return ", ".join(f"{name} {match[1]}" for name, match in found.items() if match)


def measure(encoder: Encoder, utterances: Iterator[Utterance]) -> tuple[Features, np.ndarray]:
    """Return the features of all frames, and the name of the phone of each frame."""
    features: dict[str, list[np.ndarray]] = {}
    phones = []
    for waveform, starts, names in utterances:
        energies = log_mel(waveform)
        frames = {LOG_MEL: energies, MFCC: mfcc(energies)}
        frames |= {str(layer): states for layer, states in encoder.encode(waveform).frames.items()}
        for name, array in frames.items():
            features.setdefault(name, []).append(array)
        at_frames = labels_at_frames(starts, np.arange(len(names)), len(energies))
        phones += [names[index] for index in at_frames]
    return {name: np.concatenate(arrays) for name, arrays in features.items()}, np.array(phones)


def nearest(frames: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the unit of each frame, `[N]`."""
    norms = (centroids**2).sum(axis=1)
    blocks = (frames[start : start + 8192] for start in range(0, len(frames), 8192))
    return np.concatenate([(norms - 2 * block @ centroids.T).argmin(axis=1) for block in blocks])


def rows_of(
    name: str, learning: Features, measured: Features, phone_names: np.ndarray, clusters: Sequence[int], seeds: Sequence[int]
) -> Iterator[dict]:
    from threadpoolctl import threadpool_limits

    names, phones = np.unique(phone_names, return_inverse=True)
    for feature, frames in measured.items():
        for count in clusters:
            for seed in seeds:
                with threadpool_limits(1):  # k-means on few frames gains nothing from threads that wait for each other
                    units = nearest(frames, learn(learning[feature], count, seed=seed).values)
                shuffled = np.random.default_rng(seed).permutation(units)
                yield {
                    "set": name,
                    "feature": feature,
                    "clusters": count,
                    "seed": seed,
                    "learning_frames": len(learning[feature]),
                    "frames": len(frames),
                    "phones": len(names),
                    "phone_purity": phone_purity(units, phones),
                    "cluster_purity": cluster_purity(units, phones),
                    "pnmi": pnmi(units, phones),
                    "shuffled_phone_purity": phone_purity(shuffled, phones),
                    "shuffled_cluster_purity": cluster_purity(shuffled, phones),
                    "shuffled_pnmi": pnmi(shuffled, phones),
                }


def main(options: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help=f"CSV file to append to (default: {RESULTS.name} in results/)"
    )
    parser.add_argument("--sets", nargs="+", choices=(BUNDLED, HELD_OUT), default=(BUNDLED, HELD_OUT), help="default: both")
    parser.add_argument(
        "--clusters", type=int, nargs="+", default=CLUSTERS, help="numbers of centroids to measure (default: 50 100 200)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of k-means (default: 0 1 2)")
    parser.add_argument(
        "--utterances", type=int, default=100, help="utterances of each synthesised set, at most 300 (default: 100)"
    )
    arguments = parser.parse_args(options)
    if HELD_OUT in arguments.sets and not (ctypes.util.find_library("espeak-ng") and shutil.which("flite")):
        print("the held-out set needs espeak-ng and flite: apt-get install espeak-ng flite, or --sets bundled", file=sys.stderr)
        return 1

    layers = range(1 + HubertConfig.from_pretrained(demo.MODEL).num_hidden_layers)
    encoder = Encoder.from_pretrained(demo.MODEL, layers=layers, device="cpu", dtype="float32")
    versions = {"torch": torch.__version__, "numpy": np.__version__, "scikit_learn": version("scikit-learn")}
    columns = origin(**versions, synthesisers=synthesisers())
    for name in arguments.sets:
        if name == BUNDLED:
            measured, phones = measure(encoder, bundled())
            learning = measured
        else:
            learning, _ = measure(encoder, synthesised(LEARNING, arguments.utterances))
            sets = [measure(encoder, synthesised(each, arguments.utterances)) for each in MEASURED]
            measured = {feature: np.concatenate([features[feature] for features, _ in sets]) for feature in learning}
            phones = np.concatenate([labels for _, labels in sets])
        rows = []
        for row in rows_of(name, learning, measured, phones, arguments.clusters, arguments.seeds):
            rows.append(row)
            print(
                f"{name:9s} {row['feature']:8s} K {row['clusters']:3d} seed {row['seed']}   phone purity "
                f"{row['phone_purity']:.3f}   PNMI {row['pnmi']:.3f}   shuffled {row['shuffled_pnmi']:.3f}",
                flush=True,
            )
        append(arguments.out, columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
