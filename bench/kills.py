"""Kill jobs at random moments and check what they have written: `python bench/kills.py`. Rows go to results/kills.csv.

The inputs are the bundled recordings under many names, and the model is the demo model. Each job is started, killed with all
its child processes (SIGKILL) after a random time, and started again, as often as --kills says. The last start runs to the end.
Then each input must have exactly one row, the files of frames must hold as many rows as the index lists, and the frames or
units of each input must be those of its recording alone. Parquet needs pyarrow, and labels need scikit-learn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import torch
from units_providers import child_command

from hubert_fast import demo
from hubert_fast.benchmark.rows import append, origin, version
from hubert_fast.jobs.journal import Journal
from hubert_fast.units import Centroids, Encoder, kmeans

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = "command format files kills kills_with_progress rows missing doubled frames frames_in_files differing seconds".split()
LAYER, CLUSTERS = 3, 50
FRAME_ERROR = 2e-3  # as a share of the length of all frames of a file; float16 rounds to 5e-4
SETTINGS = ["--device", "cpu", "--dtype", "float32", "--quiet"]


class Entry(NamedTuple):
    """What an output says about an input: its audio file, and its frames `[T, C]` or units `[T]`."""

    audio: str
    values: np.ndarray


class Output(NamedTuple):
    """What was read from an output.

    Attributes:
        entries: Its rows.
        frames_in_files: The number of frames in files of frames; `None` if there are none.
    """

    entries: list[Entry]
    frames_in_files: int | None = None


class Job(NamedTuple):
    """A job that is killed.

    Attributes:
        command: The command of `hubert-fast`.
        format: The format of its output.
        arguments: Its further arguments.
        output: The output.
        read: Function that reads the output.
        journal: The journal.
        centroids: The file of centroids, for units.
    """

    command: str
    format: str
    arguments: Sequence[object]
    output: Path
    read: Callable[[Path], Output]
    journal: Path
    centroids: Path | None = None


def read_shards(folder: Path) -> Output:
    entries = []
    shards = {path.name: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    for row in rows_of(folder / "index.jsonl"):
        shard = shards[f"layer{LAYER}-{row['shard']:05}.npy"]
        entries.append(Entry(row["audio"], shard[row["start"] : row["start"] + row["frames"]]))
    return Output(entries, sum(map(len, shards.values())))


def read_parquet_frames(folder: Path) -> Output:
    entries = [Entry(audio, np.stack(frames)) for audio, frames in parquet_rows(folder, f"layer{LAYER}")]
    return Output(entries)


def read_units(path: Path) -> Output:
    return Output([Entry(row["audio"], np.array(row["units"])) for row in rows_of(path)])


def read_labels(folder: Path) -> Output:
    return read_units(folder / "labels.jsonl")


def read_parquet_units(folder: Path) -> Output:
    return Output([Entry(audio, units) for audio, units in parquet_rows(folder, "units")])


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def parquet_rows(folder: Path, column: str) -> Iterator[tuple[str, np.ndarray]]:
    from pyarrow import parquet

    for path in sorted(folder.glob("*.parquet")):
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=64, columns=["audio", column]):
            yield from zip(batch["audio"].to_pylist(), batch[column].to_numpy(zero_copy_only=False))


def jobs(audio: Path, folder: Path, centroids: Path) -> list[Job]:
    """Return the jobs, with default settings except for small files of frames and few centroids."""
    layer = ["--layer", LAYER]
    small = [*layer, "--shard-megabytes", 20]  # so that a run begins several shards
    units = ["--kmeans", centroids]
    learning = [*layer, "--clusters", CLUSTERS, "--frames", 20_000]
    labels = folder / "labels"
    chosen = []
    for command, format, arguments, output, read, file in (
        ("features", "shards", small, folder / "shards", read_shards, None),
        ("features", "parquet", small, folder / "parquet", read_parquet_frames, None),
        ("units", "jsonl", units, folder / "units.jsonl", read_units, centroids),
        ("units", "parquet", units, folder / "units", read_parquet_units, centroids),
    ):
        chosen.append(Job(command, format, [audio, *arguments], output, read, Path(f"{output}.journal"), file))
    journal, learnt = labels / "labels.jsonl.journal", labels / "kmeans.safetensors"
    return [*chosen, Job("label", "jsonl", [audio, *learning], labels, read_labels, journal, learnt)]


def write_corpus(folder: Path, count: int) -> dict[str, Path]:
    """Link the bundled recordings under `count` names; return the recording of each name."""
    recordings = [recording.path for recording in demo.recordings()]
    corpus = {}
    for number in range(count):
        source = recordings[number % len(recordings)]
        path = folder / f"{number // 100:03}" / f"{number:05}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError:  # another file system
            path.write_bytes(source.read_bytes())
        corpus[str(path)] = source
    return corpus


def run_killed(job: Job, kills: int, most_seconds: float, rng: random.Random, folder: Path) -> int:
    """Run a job, killed `kills` times after up to `most_seconds`. Return how many of these runs completed any input."""
    arguments = [job.command, *job.arguments, "-o", job.output, "--format", job.format, *SETTINGS]
    command = child_command(folder / "peak", *arguments)
    done = [0]
    for number in range(1, kills + 1):
        seconds = rng.uniform(0, most_seconds)
        process = subprocess.Popen(command, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done.append(inputs_done(job.journal))
            print(f"{job.command} {job.format}: kill {number} after {seconds:.2f} s: {done[-1]} inputs are done", flush=True)
            continue
        raise SystemExit(f"{job.command} ended with {status} before kill {number} of {kills}: give more --files")
    subprocess.run(command, check=True)
    return sum(after > before for before, after in itertools.pairwise(done))


def inputs_done(journal: Path) -> int:
    if not journal.exists():
        return 0
    opened = Journal(journal)
    try:
        return opened.totals().done
    finally:
        opened.close()


def judge(output: Output, corpus: dict[str, Path], expected: dict[Path, np.ndarray]) -> dict[str, Any]:
    """Return the columns of a row that say whether an output is complete and right."""
    seen = [entry.audio for entry in output.entries]
    differing = sum(not agree(entry.values, expected[corpus[entry.audio]]) for entry in output.entries)
    frames = sum(len(entry.values) for entry in output.entries)
    return {
        "rows": len(seen), "missing": len(corpus.keys() - set(seen)), "doubled": len(seen) - len(set(seen)), "frames": frames,
        "frames_in_files": frames if output.frames_in_files is None else output.frames_in_files, "differing": differing,
    }  # fmt: skip


def agree(values: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether units are the same, or frames are the same within rounding."""
    if values.shape != expected.shape:
        return False
    if values.ndim == 1:
        return bool(np.array_equal(values, expected))
    error = np.linalg.norm(values.astype(np.float32) - expected) / np.linalg.norm(expected)
    return bool(error < FRAME_ERROR)


def values_alone(encoder: Encoder) -> dict[Path, np.ndarray]:
    """Return the frames or units of each recording, encoded alone."""
    values = {}
    for recording in demo.recordings():
        encoding = encoder.encode_file(recording.path)
        values[recording.path] = encoding.frames[LAYER] if encoding.units is None else encoding.units
    return values


def load_encoder(centroids: Path | None) -> Encoder:
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    if centroids is None:
        return Encoder.from_pretrained(demo.MODEL, layers=[LAYER], **settings)
    return Encoder.from_pretrained(demo.MODEL, kmeans=Centroids.load(centroids), **settings)


def write_centroids(path: Path) -> None:
    """Learn centroids of the bundled recordings. Those of `label` are learnt by the job itself."""
    encoder = load_encoder(None)
    frames = np.concatenate([*values_alone(encoder).values()])
    kmeans.learn(frames, clusters=CLUSTERS, source=encoder.sources[0]).save(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="number of inputs (default: 3000)")
    parser.add_argument("--kills", type=int, default=20, help="kills of each job (default: 20)")
    parser.add_argument("--most-seconds", type=float, default=10.0, help="most seconds until a kill (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument(
        "--jobs", nargs="+", metavar="COMMAND", help="only these commands: features, units, label (default: all)"
    )
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kills.csv (default: bench/results)")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder, rng = Path(name), random.Random(options.seed)
        corpus = write_corpus(folder / "audio", options.files)
        centroids = folder / "centroids.safetensors"
        write_centroids(centroids)
        for job in jobs(folder / "audio", folder, centroids):
            if options.jobs and job.command not in options.jobs:
                continue
            start = time.perf_counter()
            progress = run_killed(job, options.kills, options.most_seconds, rng, folder)
            facts = {"command": job.command, "format": job.format, "files": options.files, "kills": options.kills}
            facts |= {"kills_with_progress": progress, "seconds": f"{time.perf_counter() - start:.1f}"}
            facts |= judge(job.read(job.output), corpus, values_alone(load_encoder(job.centroids)))
            print(facts, flush=True)
            rows.append({column: facts[column] for column in COLUMNS})
    versions = {"torch": torch.__version__, "scikit_learn": version("scikit-learn"), "pyarrow": version("pyarrow")}
    append(options.out / "kills.csv", origin(**versions), rows)
    return int(
        any(row["missing"] or row["doubled"] or row["differing"] or row["frames"] != row["frames_in_files"] for row in rows)
    )


if __name__ == "__main__":
    sys.exit(main())
