"""Measure jobs with an output for each shard: `python bench/shards.py SECTION`. Rows go to results/shards_*.csv.

kills   shards in tar archives, transcribed while the command is killed at random moments, then while Ray actors are, compared
        with the files themselves: is each row there, once, and the same?
speed   shards to text, from tar archives and from Parquet, against the model alone on the same audio
memory  peak memory of the command on few shards and on many
limits  utterances and megabytes a second with a model that takes no time: where reading, decoding and writing bend
ray     the same in actors on Ray, how long they take to start, and how many shards a second one driver hands out

kills and ray need Ray, Parquet needs pyarrow. Run nothing else meanwhile, except with kills.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import soundfile
import torch
from transcribe import NoModel, model_alone, peak_megabytes

from hubert_fast import audio, demo
from hubert_fast.benchmark.rows import append, origin, percentiles, version
from hubert_fast.jobs.shards.engine import ShardWork
from hubert_fast.jobs.shards.finding import Found
from hubert_fast.jobs.shards.local_engine import LocalShards
from hubert_fast.transcribe import Options, Transcriber
from hubert_fast.transcribe.formats import FORMATS

RESULTS = Path(__file__).resolve().parent / "results"
RATE_HZ = 16000
READERS = 4
FLOAT32 = ["--device", "cpu", "--dtype", "float32", "--quiet"]


def columns() -> dict[str, str]:
    versions = {"torch": torch.__version__, "transformers": version("transformers")}
    versions |= {"ray": version("ray"), "pyarrow": version("pyarrow")}
    return origin(**versions) | {"threads": str(torch.get_num_threads())}


def waveforms() -> list[np.ndarray]:
    """Return the bundled recordings."""
    return [audio.load(recording.path) for recording in demo.recordings()]


def wav(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, RATE_HZ, subtype="PCM_16", format="WAV")
    return content.getvalue()


def clips(seconds: float) -> list[bytes]:
    """Return the bundled recordings, cut into WAV files of this length."""
    count = round(seconds * RATE_HZ)
    return [wav(each[start : start + count]) for each in waveforms() for start in range(0, len(each) - count + 1, count)]


def write_tar(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"bytes": content, "path": name} for name, content in files]
    parquet.write_table(pyarrow.table({"audio": rows}), path, row_group_size=100)


def shard_files(number: int, count: int, contents: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for index in range(number * count, (number + 1) * count):
        yield f"{index:07}.wav", contents[index % len(contents)]


# ---- kills


def texts_of(paths: list[Path]) -> dict[str, list[str]]:
    """Return the texts of each clip, by the name of its file."""
    texts: dict[str, list[str]] = {}
    for path in paths:
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            name = row["id"].partition("::")[0].rpartition("/")[2]
            texts.setdefault(name, []).append(row["text"])
    return texts


def descendants(root: int) -> dict[int, str]:
    """Return the command lines of the processes that a process has started, and those have started, by their ids."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_below(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return {int(pid): command for pid, _, command in rows if int(pid) != root and is_below(int(pid))}


def kill_driver(command: list[str], out: Path, kills: int, rng: random.Random, most_seconds: float) -> list[int]:
    """Kill a command and its children `kills` times, then run it to its end. Return how many shards were done at each kill."""
    done: list[int] = []
    for number in range(1, kills + 1):
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(rng.uniform(0, most_seconds))
            raise SystemExit(f"the run ended before kill {number} of {kills}: give more --shards")
        except subprocess.TimeoutExpired:
            below = descendants(process.pid)
            for pid in (process.pid, *below):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()
        done.append(len([*out.glob("_shards/*.json")]))
        print(f"kill {number}: {done[-1]} shards are done", flush=True)
    subprocess.run(command, check=True)
    return done


def kill_actors(command: list[str], out: Path, kills: int, rng: random.Random, most_seconds: float) -> list[int]:
    """Run a command on Ray, and kill one of its actors `kills` times. Return how many shards were done at each kill."""
    process = subprocess.Popen(command, start_new_session=True)
    done: list[int] = []
    while len(done) < kills and process.poll() is None:
        try:
            process.wait(rng.uniform(0, most_seconds))
            break
        except subprocess.TimeoutExpired:
            actors = [pid for pid, line in descendants(process.pid).items() if "ray::" in line and "MapWorker" in line]
            if not actors:
                continue  # they are starting
            os.kill(rng.choice(actors), signal.SIGKILL)
            done.append(len([*out.glob("_shards/*.json")]))
            print(f"actor {len(done)} killed: {done[-1]} shards are done", flush=True)
    if process.wait():
        raise SystemExit(f"the run ended with {process.returncode}")
    return done


def judge(expected: dict[str, list[str]], found: dict[str, list[str]]) -> dict[str, int]:
    """Count rows, and the clips that have none, several, or another text than expected."""
    return {
        "rows": sum(map(len, found.values())),
        "missing": len(expected.keys() - found.keys()),
        "doubled": sum(len(texts) > 1 for texts in found.values()),
        "differing": sum(texts[0] not in expected.get(name, []) for name, texts in found.items()),
    }


def kills(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rng, contents = random.Random(options.seed), clips(options.clip_seconds)
    files = folder / "files"
    for number in range(options.shards):
        write_tar(folder / f"{number:03}.tar", shard_files(number, options.clips, contents))
        place = files / f"{number:03}"
        place.mkdir(parents=True)
        for name, content in shard_files(number, options.clips, contents):
            (place / name).write_bytes(content)
    base = [sys.executable, "-m", "hubert_fast", "transcribe"]
    start = time.perf_counter()
    subprocess.run([*base, str(files), "-o", str(folder / "files.jsonl"), *FLOAT32], check=True)
    print(f"files: {time.perf_counter() - start:.0f} s", flush=True)
    expected = texts_of([folder / "files.jsonl"])
    pattern = f"{folder}/{{000..{options.shards - 1:03}}}.tar"
    on_ray = ["--engine", "ray", "--ray-actors", "2", "--threads", "1", "--readers", "2"]
    cases: list[tuple[str, list[str], Callable[..., list[int]], float]] = [
        ("command, in one process", [], kill_driver, options.most_seconds),
        ("command, on Ray", on_ray, kill_driver, 2 * options.most_seconds),  # actors take long to start
        ("actors on Ray", on_ray, kill_actors, options.most_seconds),
    ]
    measured = []
    for case, extra, kill, most_seconds in cases:
        if options.cases and case not in options.cases:
            continue
        out = folder / case.replace(" ", "-").replace(",", "")
        command = [*base, pattern, "-o", str(out), "--per-shard", *extra, *FLOAT32]
        start = time.perf_counter()
        done = kill(command, out, options.kills, rng, most_seconds)
        progress = sum(after > before for before, after in itertools.pairwise([0, *done]))
        found = texts_of(sorted(out.glob("[!_]*.jsonl")))
        measured.append(
            {
                "case": case, "shards": options.shards, "clips": options.shards * options.clips,
                "kills": len(done), "kills_with_progress": progress,
                **judge(expected, found), "seconds": f"{time.perf_counter() - start:.0f}",
            }
        )  # fmt: skip
        print(measured[-1], flush=True)
    return measured


# ---- speed and limits


def run_shards(
    transcriber: Transcriber, shards: list[Path], out: Path, readers: int, workers: int | None, format: str
) -> float:
    """Transcribe shards into a new folder; return the seconds that it took, without loading the model."""
    work = ShardWork(str(out), format, FORMATS[format], Options(ordered=True, workers=workers), readers=readers)
    out.mkdir()
    start = time.perf_counter()
    engine = LocalShards(transcriber, work, lambda result: None)
    for result in engine.results(Found(str(path), path.stem) for path in shards):
        if result.entry is None or result.entry.failed:
            raise SystemExit(f"{result.shard.url}: {result.error or result.examples}")
    return time.perf_counter() - start


def speed(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    samples = waveforms()
    contents = [wav(each) for each in samples]
    inputs = [samples[index % len(samples)] for index in range(options.shards * options.clips)]
    audio_seconds = sum(map(len, inputs)) / RATE_HZ
    for number in range(options.shards):
        write_tar(folder / f"{number:03}.tar", shard_files(number, options.clips, contents))
        write_parquet(folder / f"{number:03}.parquet", shard_files(number, options.clips, contents))
    outs = (folder / f"out{number}" for number in itertools.count())

    def shards(suffix: str, format: str) -> Callable[[], float]:
        paths = sorted(folder.glob(f"*.{suffix}"))
        return lambda: run_shards(transcriber, paths, next(outs), 4, None, format)

    def alone() -> float:
        start = time.perf_counter()
        model_alone(transcriber, inputs, 64 * RATE_HZ)
        return time.perf_counter() - start

    calls = {
        "model alone": alone,
        "tar to jsonl": shards("tar", "jsonl"),
        "parquet to jsonl": shards("parquet", "jsonl"),
        "parquet to parquet": shards("parquet", "parquet"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    alone()
    order, rng = [*calls], random.Random(options.seed)
    for _ in range(options.rounds):
        rng.shuffle(order)
        for name in order:
            seconds[name].append(calls[name]())
            print(f"{name}: {audio_seconds / seconds[name][-1]:.0f} times real time", flush=True)
    base = percentiles(seconds["model alone"])[1]
    measured = []
    for name, times in seconds.items():
        _, p50, _ = percentiles(times)
        measured.append(
            {
                "case": name, "shards": options.shards, "clips": len(inputs), "audio_seconds": f"{audio_seconds:.0f}",
                "rounds": len(times), "p50_s": f"{p50:.2f}", "least_s": f"{min(times):.2f}",
                "rtfx": f"{audio_seconds / p50:.1f}", "share_of_model_alone": f"{base / p50:.3f}",
                "share_of_model_alone_by_minima": f"{min(seconds['model alone']) / min(times):.3f}",
            }
        )  # fmt: skip
        print(measured[-1], flush=True)
    return measured


def memory(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    contents = clips(options.clip_seconds)
    measured = []
    for count in (4, 16, options.shards):
        for number in range(count):
            if not (path := folder / f"{number:03}.tar").exists():
                write_tar(path, shard_files(number, options.clips, contents))
        out = folder / f"out{count}"
        peak, took = peak_megabytes(f"{folder}/{{000..{count - 1:03}}}.tar", "-o", out, "--per-shard", "--dtype", "float32")
        measured.append(
            {
                "shards": count, "clips": count * options.clips, "megabytes": f"{count * path.stat().st_size / 1e6:.0f}",
                "peak_megabytes": f"{peak:.0f}", "seconds": f"{took:.1f}",
            }
        )  # fmt: skip
        print(measured[-1], flush=True)
    return measured


def free_transcriber() -> Transcriber:
    """Return a transcriber whose model takes no time."""
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    transcriber._lanes = [NoModel()]  # type: ignore[list-item]
    return transcriber


def adding(measured: list[dict[str, Any]]) -> Callable[..., None]:
    """Return a function that adds a row of limits."""

    def row(case: str, utterances: int, megabytes: float, audio_seconds: float, times: list[float]) -> None:
        _, p50, _ = percentiles(times)
        measured.append(
            {
                "case": case, "utterances": utterances, "rounds": len(times), "p50_s": f"{p50:.2f}",
                "least_s": f"{min(times):.2f}",
                "utterances_per_s": f"{utterances / p50:.0f}", "megabytes_per_s": f"{megabytes / p50:.1f}",
                "rtfx": f"{audio_seconds / p50:.0f}",
            }
        )  # fmt: skip
        print(measured[-1], flush=True)

    return row


def limits(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(40 * RATE_HZ)).astype(np.float32)
    measured: list[dict[str, Any]] = []
    row = adding(measured)
    transcriber, outs = free_transcriber(), (folder / f"out{number}" for number in itertools.count())
    for kind, seconds, most in (("wav", 1.0, 4000), ("wav", 10.0, 600), ("flac", 10.0, 600), ("wav", 40.0, 160)):
        count = max(round(most * options.scale), 8)
        samples = noise[: round(seconds * RATE_HZ)]
        content = io.BytesIO()
        soundfile.write(content, samples, RATE_HZ, subtype="PCM_16", format=kind.upper())
        data = content.getvalue()
        shards = [folder / f"{kind}-{seconds:g}-{number}.tar" for number in range(8)]
        for path in shards:
            write_tar(path, ((f"{index:05}.{kind}", data) for index in range(count // 8)))
        total = count // 8 * 8
        for readers in (1, 2, 4) if kind == "wav" else (4,):
            times = [run_shards(transcriber, shards, next(outs), readers, None, "jsonl") for _ in range(options.rounds)]
            row(f"one process, {seconds:g} s {kind}, {readers} readers", total, len(data) * total / 1e6, seconds * total, times)
        if kind == "wav" and seconds == 10.0:
            times = [run_shards(transcriber, shards, next(outs), 4, None, "parquet") for _ in range(options.rounds)]
            row("one process, 10 s wav, 4 readers, to parquet", total, len(data) * total / 1e6, seconds * total, times)
    journal_limit(options, row)
    manifest_limit(options, folder, row)
    return measured


def journal_limit(options: argparse.Namespace, row: Callable[..., None]) -> None:
    """Measure how many rows a second one journal takes: results that are ready, a row and a record for each."""
    from hubert_fast.jobs.inputs import Inputs
    from hubert_fast.jobs.job import Job
    from hubert_fast.jobs.progress import Progress
    from hubert_fast.jobs.sinks import Rows
    from hubert_fast.jobs.target import Paths, open_journal
    from hubert_fast.transcribe.results import Result, Transcript
    from hubert_fast.transcribe.summary import TranscriptionSummary

    count, times = round(50_000 * options.scale), []

    class Ready:
        batch_seconds = 0.0

        def __init__(self, job: Job):
            self._job = job

        def stop(self) -> None:
            pass

        def results(self) -> Iterator[Result]:
            for utterance in self._job.utterances():
                yield Result(utterance, (Transcript("ONE TWO THREE FOUR FIVE SIX", 10.0, 0.9),))

    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            names = Path(name, "list.jsonl")
            names.write_text("".join(json.dumps({"audio": f"s3://b/{index}.wav"}) + "\n" for index in range(count)))
            out = Path(name, "out.jsonl")
            journal = open_journal(Paths(out), {}, overwrite=True)
            output = Rows(out, FORMATS["jsonl"], journal)
            summary, progress = TranscriptionSummary(str(out), "", "", ""), Progress(quiet=True, most_failures=0)
            job = Job(Inputs([names]), output, summary, progress, journal=journal)
            start = time.perf_counter()
            job.run(Ready(job))
            times.append(time.perf_counter() - start)
            output.close()
            journal.close()
    row("one journal, results that are ready", count, 0.0, 10.0 * count, times)


def manifest_limit(options: argparse.Namespace, folder: Path, row: Callable[..., None]) -> None:
    """Measure how long a run with many shards takes to begin again: a listing and a file with all entries."""
    from hubert_fast.jobs.shards.manifest import Entry, Manifest
    from hubert_fast.jobs.shards.storage import Storage

    count = round(100_000 * options.scale)
    place = folder / "manifest"
    for each in ("_shards", ""):
        (place / each).mkdir(parents=True, exist_ok=True)
    entries = [Entry(f"{index:06}", f"s3://b/{index:06}.tar", f"{index:06}.jsonl", 1, 500, 0, 5000.0) for index in range(count)]
    for entry in entries:
        (place / entry.file).write_text(entry.to_json())
        (place / entry.output).write_text("\n")
    (place / "_shards.jsonl").write_text("".join(entry.to_json() for entry in entries))
    times = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        assert len(Manifest(Storage.of(str(place))).entries) == count
        times.append(time.perf_counter() - start)
    row(f"one manifest, {count:,} finished shards", count, 0.0, 5000.0 * count, times)


def ray_limits(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure actors with a model that takes no time, and how many shards a second one driver hands out.

    The time begins with the first result, when other shards are half done: those that may be are left out of the count.
    """
    import ray

    from hubert_fast.jobs.ray_engine import Cluster
    from hubert_fast.jobs.shards.on_ray import RayShards

    variables = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent), *filter(None, sys.path)])}
    settings: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(**settings, runtime_env={"env_vars": variables})
    data = wav((0.1 * np.random.default_rng(0).standard_normal(10 * RATE_HZ)).astype(np.float32))
    measured: list[dict[str, Any]] = []
    row = adding(measured)
    sizes = {"many": max(round(75 * options.scale), 2), "one": 1}
    for name, count in sizes.items():
        write_tar(folder / f"ray-{name}.tar", ((f"{index:05}.wav", data) for index in range(count)))
    for actors, name, shards in ((1, "many", 64), (2, "many", 64), (2, "one", max(round(400 * options.scale), 20))):
        times, starts = [], []
        for number in range(options.rounds):
            out = folder / f"ray{actors}{name}{number}"
            out.mkdir()
            work = ShardWork(str(out), "jsonl", FORMATS["jsonl"], Options(ordered=True, workers=1), readers=READERS)
            engine = RayShards(free_transcriber, "cpu", work, Cluster(actors=(actors, actors), threads=1))
            start, first = time.perf_counter(), 0.0
            for result in engine.results([Found(str(folder / f"ray-{name}.tar"), f"{index:04}") for index in range(shards)]):
                first = first or time.perf_counter()
                if result.entry is None:
                    raise SystemExit(result.error)
            times.append(time.perf_counter() - first)
            starts.append(first - start)
        total = (shards - READERS * actors) * sizes[name]
        plural = "actor" if actors == 1 else "actors"
        row(f"Ray, {actors} {plural}, shards of {sizes[name]}", total, len(data) * total / 1e6, 10.0 * total, times)
        row(f"Ray, {actors} {plural}, until the first of its shards", sizes[name], 0.0, 0.0, starts)
    ray.shutdown()
    return measured


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["kills", "speed", "memory", "limits", "ray"], help="what to measure: see above")
    parser.add_argument("--shards", type=int, default=64, help="number of shards (default: 64)")
    parser.add_argument("--clips", type=int, default=500, help="utterances in a shard (default: 500)")
    parser.add_argument("--clip-seconds", type=float, default=0.6, help="length of clips, for kills and memory (default: 0.6)")
    parser.add_argument("--kills", type=int, default=10, help="kills of each kind (default: 10)")
    parser.add_argument(
        "--most-seconds",
        type=float,
        default=30.0,
        help="most seconds until a kill; twice that for commands on Ray (default: 30)",
    )
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases of kills (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="timed passes (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work of limits to do (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills (default: 0)")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files (default: bench/results)")
    options = parser.parse_args(arguments)
    sections = {"kills": kills, "speed": speed, "memory": memory, "limits": limits, "ray": ray_limits}
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        measured = sections[options.section](options, Path(name))
    append(options.out / f"shards_{options.section}.csv", columns(), measured)
    return int(any(row.get("missing") or row.get("doubled") or row.get("differing") for row in measured))


if __name__ == "__main__":
    sys.exit(main())
