"""Measure the way from files to units on a CPU: `python bench/units.py`. Rows go to results/units.csv.

Without --kmeans or --files, it times files to units: this package up to a layer and through all layers, the command
`hubert-fast units`, and loops over transformers and scikit-learn, all in turn on the same files. The model is hubert-base with
random weights, and the centroids are frames drawn at random. The units of each provider are compared with those of transformers
and scikit-learn in float32 before it is timed.

--kmeans  times an epoch of `hubert-fast kmeans` on random frames, and measures its peak memory
--files   measures the peak memory of `hubert-fast features` on different numbers of files
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import soundfile
import torch
import transformers
from units_providers import (
    COMMAND,
    CUT,
    FULL,
    JOB,
    LOOP,
    OURS,
    PADDED,
    Command,
    Job,
    Ours,
    Reference,
    Scene,
    Theirs,
    child_command,
    work,
    write_checkpoint,
)

from hubert_fast import HubertConfig, audio, cpus, demo
from hubert_fast.benchmark.meters import Memory
from hubert_fast.benchmark.rows import append, origin, percentiles, version
from hubert_fast.benchmark.subject import CONFIGS
from hubert_fast.devices import DTYPES, cpu_has

RESULTS = Path(__file__).resolve().parent / "results"
CPU = torch.device("cpu")
COLUMNS = (
    "stage provider model dtype layer clusters files frames audio_seconds rounds min_s p20_s p50_s p80_s rtfx peak_bytes "
    "process_peak_bytes other_units beyond_rounding"
).split()
KMEANS, WHOLE_KMEANS = "hubert-fast kmeans, an epoch", "hubert-fast kmeans, whole process"
FEATURES = "hubert-fast features, whole process"
CHANNELS, SOURCES = 768, 2000  # of random frames, which are noise around so many points
BLOCK_ROWS = 50_000
MEMORY_LAYER = 3


def columns() -> dict[str, str]:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "scikit_learn": version("scikit-learn")}
    return origin(**versions) | {"threads": str(torch.get_num_threads())}


def row_of(stage: str, provider: str, seconds: list[float], **values: Any) -> dict[str, Any]:
    """Return a row with all columns. Columns without a value are empty."""
    p20, p50, p80 = percentiles(seconds)
    row = {"stage": stage, "provider": provider, "rounds": len(seconds), "min_s": min(seconds)}
    row |= {"p20_s": p20, "p50_s": p50, "p80_s": p80, **values}
    if "audio_seconds" in values:
        row["rtfx"] = values["audio_seconds"] / p50
    print({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return {name: row.get(name, "") for name in COLUMNS}


def providers(scene: Scene, reference: Reference, layers: list[int], full: int) -> dict[tuple[str, int], Any]:
    """Return the providers by name and layer, in the order in which they run."""
    chosen: dict[tuple[str, int], Any] = {(FULL, full): Ours(scene, reference.centroids[full])}
    for layer in layers:
        centroids, predictor = reference.centroids[layer], reference.predictors[layer]
        chosen[OURS, layer] = Ours(scene, centroids)
        if layer == layers[0]:
            chosen[JOB, layer] = Job(scene, centroids)
            chosen[COMMAND, layer] = Command(scene, centroids)
            chosen[PADDED, layer] = Theirs(scene, layer, predictor, padded=True)
        chosen[LOOP, layer] = Theirs(scene, layer, predictor, cut=False)
        chosen[CUT, layer] = Theirs(scene, layer, predictor)
    return chosen


def speed(options: argparse.Namespace, dtype: str, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each provider and layer."""
    full = HubertConfig(**CONFIGS[options.model]).num_hidden_layers
    utterances = work(options.audio_seconds, folder / "audio")
    assert utterances.paths is not None
    scene = Scene(write_checkpoint(folder / "model", options.model), [*utterances.paths], folder, dtype)
    reference = Reference(scene, [*dict.fromkeys([*options.layers, full])], options.clusters)
    chosen = providers(scene, reference, options.layers, full)
    facts: dict[tuple[str, int], dict[str, Any]] = {}
    memory = Memory(CPU)
    for key, provider in chosen.items():  # this also warms up
        name, layer = key
        memory.start()
        units = provider.units()
        peak = memory.peak_bytes()
        judged = reference.judge(layer, units, DTYPES[dtype])
        print(f"{dtype}: {name}, layer {layer}: {judged}", flush=True)
        if judged.beyond_rounding and name != PADDED:  # in padded batches, the group norm of transformers sees the padding
            raise SystemExit(f"{name}, layer {layer}: {judged.beyond_rounding} units are wrong: no times are taken")
        facts[key] = {
            "model": options.model, "dtype": dtype, "layer": layer, "clusters": options.clusters,
            "files": len(scene.files), "frames": judged.frames, "audio_seconds": utterances.audio_seconds,
            "other_units": judged.other, "beyond_rounding": judged.beyond_rounding,
        }  # fmt: skip
        if isinstance(provider, Command):
            facts[key]["process_peak_bytes"] = provider.peak_bytes
        elif peak is not None:
            facts[key]["peak_bytes"] = peak
    return [row_of("speed", key[0], seconds, **facts[key]) for key, seconds in timed(chosen, options.rounds).items()]


def timed(chosen: dict[tuple[str, int], Any], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Return the seconds of each pass of each provider. They run in turn."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in chosen}
    for _ in range(rounds):
        for key, provider in chosen.items():
            run: Callable[[], Any] = provider.run if isinstance(provider, (Command, Job)) else provider.units
            start = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - start)
            print(f"{key[0]}, layer {key[1]}: {seconds[key][-1]:.2f} s", flush=True)
    return seconds


def write_frames(path: Path, rows: int) -> None:
    """Write float16 frames: noise around points that are drawn at random."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((SOURCES, CHANNELS), dtype=np.float32)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (rows, CHANNELS)})
        for start in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - start)
            noise = rng.standard_normal((count, CHANNELS), dtype=np.float32)
            (points[rng.integers(SOURCES, size=count)] + noise).astype(np.float16).tofile(file)


def kmeans(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Learn centroids with the command; return a row for an epoch and one for the whole process."""
    frames, peak_file = folder / "frames.npy", folder / "peak"
    write_frames(frames, options.frames)
    arguments = ["kmeans", frames, "-o", folder / "kmeans.safetensors", "--clusters", options.clusters]
    start = time.perf_counter()
    child = subprocess.Popen(
        child_command(peak_file, *arguments, "--epochs", options.epochs), stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    ends = []
    for line in child.stderr:
        print(line, end="", flush=True)
        if line.startswith("hubert-fast: epoch "):
            ends.append(time.perf_counter())
    if status := child.wait():
        raise SystemExit(f"hubert-fast kmeans ended with {status}")
    whole = time.perf_counter() - start
    facts = {"dtype": "float16", "clusters": options.clusters, "frames": options.frames}
    facts |= {"process_peak_bytes": int(peak_file.read_text())}
    # the time until the end of the first epoch includes the start of the process and the choice of the first centroids
    epochs = np.diff(ends).tolist()
    rows = [row_of("kmeans", KMEANS, epochs, **facts)] if epochs else []
    return [*rows, row_of("kmeans", WHOLE_KMEANS, [whole], **facts)]


def memory_of_files(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each number of files."""
    one_second, peak_file = folder / "one.wav", folder / "peak"
    soundfile.write(one_second, audio.load(demo.recordings()[0].path)[:16000], 16000, subtype="PCM_16")
    rows = []
    for count in options.files:
        source = folder / f"audio-{count}"
        for number in range(count):
            path = source / f"{number // 1000:03d}" / f"{number:06d}.wav"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            os.link(one_second, path)
        arguments = ["features", source, "-o", folder / f"frames-{count}", "--layer", MEMORY_LAYER, "--quiet"]
        command = child_command(peak_file, *arguments, "--device", "cpu", "--dtype", "float32")
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        facts = {"model": "demo", "dtype": "float32", "layer": MEMORY_LAYER, "files": count, "audio_seconds": float(count)}
        rows.append(row_of("memory", FEATURES, [seconds], **facts, process_peak_bytes=int(peak_file.read_text())))
    return rows


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with a message if the options cannot be used."""
    last = HubertConfig(**CONFIGS[options.model]).num_hidden_layers
    if any(not 1 <= layer <= last for layer in options.layers):
        parser.error(f"--layers must be from 1 to {last}, but are {options.layers}")
    if "bfloat16" in options.dtypes and not any(map(cpu_has, ("amx_tile", "avx512_bf16"))):
        parser.error("this CPU has no instructions that multiply bfloat16: use --dtypes float32")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_mutually_exclusive_group()
    stages.add_argument("--kmeans", action="store_true", help="measure the learning of centroids instead")
    stages.add_argument(
        "--files", nargs="+", type=int, metavar="N", help="measure the memory for these numbers of files of 1 s instead"
    )
    parser.add_argument("--model", default="base", choices=["base", "tiny"], help="size of the model (default: base)")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"], help="dtypes (default: float32)"
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[6, 9], help="layers whose units are computed (default: 6 9)")
    parser.add_argument("--clusters", type=int, default=500, help="number of centroids (default: 500)")
    parser.add_argument("--audio-seconds", type=float, default=120.0, help="seconds of audio in all files (default: 120)")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each provider, after a first one (default: 5)")
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames to learn from, with --kmeans (default: 1000000)")
    parser.add_argument("--epochs", type=int, default=5, help="most epochs, with --kmeans (default: 5)")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of units.csv (default: bench/results)")
    options = parser.parse_args(arguments)
    check(parser, options)
    torch.set_num_threads(cpus.thread_count())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for dtype in ["float32"] if options.kmeans or options.files else options.dtypes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            if options.kmeans:
                rows = kmeans(options, Path(name))
            elif options.files:
                rows = memory_of_files(options, Path(name))
            else:
                rows = speed(options, dtype, Path(name))
        append(options.out / "units.csv", columns(), rows)


if __name__ == "__main__":
    main()
