"""Measure the transcription of many files: `python bench/transcribe.py SECTION --corpus build/corpus`.

Rows go to results/transcribe_*.csv. `transcribe_corpus.py` makes the corpus.

speed   files on disk to text in a file: this package, its model alone on the same audio, and transformers' pipeline, with a
        comparison of their texts
memory  peak memory of the command on few short files, on many, and on one file of three hours
seams   word errors of long recordings in chunks, against the same recordings in one piece and against the reference
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import soundfile
import torch

from hubert_fast import audio, demo
from hubert_fast.benchmark.providers import their_pipeline
from hubert_fast.benchmark.rows import append, origin, percentiles
from hubert_fast.jobs.job import Job
from hubert_fast.jobs.progress import Progress
from hubert_fast.jobs.sinks import Rows
from hubert_fast.jobs.target import Paths, open_journal
from hubert_fast.transcribe import Inputs, Options, Transcriber
from hubert_fast.transcribe.formats import FORMATS
from hubert_fast.transcribe.scoring import Scorer, score
from hubert_fast.transcribe.summary import TranscriptionSummary

RESULTS = Path(__file__).resolve().parent / "results"
OURS, MODEL_ALONE = "hubert_fast, files to text", "hubert_fast, model alone"
WITHOUT_MODEL = "hubert_fast, files to text without the model"
THEIRS = "transformers pipeline, batch 8"
THEIRS_SORTED = "transformers pipeline, batch 8, sorted by length"
THEIRS_SINGLE = "transformers pipeline, batch 1"


def columns() -> dict[str, str]:
    import transformers

    threads = {"threads": str(torch.get_num_threads())}
    return origin(torch=torch.__version__, transformers=transformers.__version__) | threads


def manifest(corpus: Path, files: int | None) -> list[dict]:
    lines = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:files]]
    return [row | {"audio_filepath": str((corpus / row["audio_filepath"]).absolute())} for row in rows]


def write_manifest(rows: list[dict], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def files_to_text(transcriber: Transcriber, manifest_path: Path, out: Path) -> dict[str, str]:
    """Run the job of `hubert-fast transcribe`, with its journal, and return the text of each file."""
    summary = TranscriptionSummary(str(out), "demo", "cpu", "")
    paths = Paths(out)
    journal = open_journal(paths, {}, overwrite=True)
    output = Rows(out, FORMATS["jsonl"], journal)
    progress, scorer = Progress(quiet=True, most_failures=0), Scorer(summary.normalizer)
    job = Job(Inputs([manifest_path]), output, summary, progress, journal=journal, score=scorer)
    job.run(transcriber.run(job.utterances(), Options()))
    output.close()
    journal.close()
    return {row["audio"]: row["text"] for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}


def model_alone(transcriber: Transcriber, waveforms: list[np.ndarray], batch_samples: int) -> None:
    """Run packed batches of waveforms from memory on all lanes, without turning results into text."""
    batches: list[list[np.ndarray]] = [[]]
    for waveform in waveforms:
        if batches[-1] and sum(map(len, batches[-1])) + len(waveform) > batch_samples:
            batches.append([])
        batches[-1].append(waveform)
    remaining = iter(batches)

    def run(lane: object) -> None:
        for batch in remaining:
            lane.launch(batch).land()

    threads = [threading.Thread(target=run, args=(lane,)) for lane in transcriber.lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class NoModel:
    """A lane that takes no time and returns a word for every second: it shows the cost of everything but the model."""

    depth = 0

    def launch(self, waveforms: list[np.ndarray], alone: bool = False) -> NoModel:
        self.frames = [np.arange((len(waveform) - 400) // 320 + 1, dtype=np.int32) % 50 for waveform in waveforms]
        return self

    def land(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # id 4 separates words, 5 to 9 are letters, 1 to 3 are special tokens, which are dropped
        return [(np.where(ids < 10, ids, 0), np.full(len(ids), -0.1, np.float32)) for ids in self.frames]


def without_model() -> Transcriber:
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    transcriber._lanes = [NoModel()]
    return transcriber


def their_texts(dtype: torch.dtype) -> Callable[[list[str], int], dict[str, str]]:
    """Return a function that runs transformers' pipeline on the demo checkpoint and returns the text of each file."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.HubertForCTC.from_pretrained(demo.MODEL, dtype=dtype)
    run = their_pipeline(model, transformers.Wav2Vec2Processor.from_pretrained(demo.MODEL))
    return lambda paths, batch: dict(zip(paths, run(paths, batch)))


def speed(rows: list[dict], dtype: str, rounds: int, their_rounds: int) -> list[dict]:
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype=dtype)
    paths = [row["audio_filepath"] for row in rows]
    waveforms = [next(iter(blocks)) for blocks in ([audio.load(path)] for path in paths)]
    audio_seconds = sum(map(len, waveforms)) / 16000
    theirs, no_model = their_texts(getattr(torch, dtype)), without_model()
    by_length = [path for _, path in sorted(zip(map(len, waveforms), paths))]
    texts: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest_path, out = write_manifest(rows, Path(folder, "manifest.jsonl")), Path(folder, "out.jsonl")
        calls: dict[str, Callable[[], dict | None]] = {
            MODEL_ALONE: lambda: model_alone(transcriber, waveforms, 64 * 16000),
            OURS: lambda: files_to_text(transcriber, manifest_path, out),
            WITHOUT_MODEL: lambda: files_to_text(no_model, manifest_path, out) and None,
            THEIRS: lambda: theirs(paths, 8),
            THEIRS_SORTED: lambda: theirs(by_length, 8),
            THEIRS_SINGLE: lambda: theirs(paths, 1),
        }
        files_to_text(transcriber, write_manifest(rows[:20], Path(folder, "few.jsonl")), out)  # warm-up
        theirs(paths[:16], 8)
        model_alone(transcriber, waveforms[:100], 64 * 16000)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            for name, call in calls.items():
                if name not in (OURS, MODEL_ALONE, WITHOUT_MODEL) and number >= their_rounds:
                    continue
                start = time.perf_counter()
                answer = call()
                seconds[name].append(time.perf_counter() - start)
                texts[name] = answer or texts.get(name, {})
                print(f"{dtype}: {name}: {audio_seconds / seconds[name][-1]:.0f} times real time", flush=True)
    measured = []
    for name, times in seconds.items():
        p20, p50, p80 = percentiles(times)
        different = [path for path, text in texts[name].items() if text != texts[THEIRS_SINGLE][path]]
        errors = [score(row["text"], texts[name][row["audio_filepath"]]) for row in rows if texts[name]]
        words = sum(error.words for error in errors)
        measured.append(
            {
                "dtype": dtype, "provider": name, "files": len(rows), "audio_seconds": f"{audio_seconds:.0f}",
                "rounds": len(times), "p20_s": f"{p20:.2f}", "p50_s": f"{p50:.2f}", "p80_s": f"{p80:.2f}",
                "rtfx": f"{audio_seconds / p50:.1f}",
                "share_of_model_alone": f"{percentiles(seconds[MODEL_ALONE])[1] / p50:.3f}",
                "times_pipeline": f"{percentiles(seconds[THEIRS])[1] / p50:.2f}",
                "other_text_than_one_by_one": len(different) if texts[name] else "",
                "wer": f"{sum(error.word_errors for error in errors) / words:.4f}" if errors else "",
            }
        )  # fmt: skip
        print(measured[-1])
    return measured


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hubert_fast", "transcribe", *map(str, arguments), "--quiet"]


def peak_megabytes(*arguments: object) -> tuple[float, float]:
    """Run the command. Return its peak resident memory and its duration in seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command(*arguments))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"transcribe ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start


def memory(rows: list[dict], dtype: str, counts: list[int], hours: float) -> list[dict]:
    short = sorted(rows, key=lambda row: row["duration"])[: max(len(rows) // 4, 1)]
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases: list[tuple[str, Path, float]] = []
        for count in counts:
            # ids make every entry unique, as file names would
            repeated = [short[index % len(short)] | {"id": str(index)} for index in range(count)]
            manifest_path = write_manifest(repeated, folder / f"{count}.jsonl")
            cases.append((f"{count} short files", manifest_path, sum(row["duration"] for row in repeated)))
        long = long_recording(rows, hours * 3600, folder / "long.flac")[1]
        cases.append((f"one file of {hours:g} h", folder / "long.flac", long))
        for case, source, audio_seconds in cases:
            peak, took = peak_megabytes(source, "-o", folder / "out.jsonl", "--overwrite", "--dtype", dtype)
            measured.append(
                {
                    "dtype": dtype, "case": case, "audio_seconds": f"{audio_seconds:.0f}",
                    "peak_megabytes": f"{peak:.0f}", "seconds": f"{took:.1f}",
                }
            )  # fmt: skip
            print(measured[-1], flush=True)
    return measured


BETWEEN = " / "  # separates the texts of two files


def long_recording(rows: list[dict], seconds: float, path: Path) -> tuple[str, float]:
    """Join files of the corpus into one FLAC, repeating them if necessary. Return its text and its length in seconds."""
    texts, written = [], 0
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as out:
        while written < seconds * 16000:
            for row in rows:
                samples = audio.load(row["audio_filepath"])
                out.write(samples)
                texts.append(row["text"])
                written += len(samples)
                if written >= seconds * 16000:
                    break
    return BETWEEN.join(texts), written / 16000


def seams(rows: list[dict], dtype: str, minutes: float, pieces: list[tuple[float, float]]) -> list[dict]:
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype=dtype)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.flac")
        reference, seconds = long_recording(rows, 60 * minutes, path)
        parts = [row["audio_filepath"] for row in rows][: reference.count(BETWEEN) + 1]
        reference = reference.replace(BETWEEN, " ")
        whole = transcriber.transcribe_file(path, chunk_seconds=seconds + 1, overlap_seconds=0).text
        alone = " ".join(result.transcripts[0].text for result in transcriber.transcribe_many(parts, ordered=True))
        for chunk, overlap in pieces:
            text = transcriber.transcribe_file(path, chunk_seconds=chunk, overlap_seconds=overlap).text
            against_whole, against_alone, errors = (score(expected, text) for expected in (whole, alone, reference))
            errors_of_whole, errors_of_alone = score(reference, whole), score(reference, alone)
            measured.append(
                {
                    "dtype": dtype, "audio_seconds": f"{seconds:.0f}", "chunk_seconds": chunk, "overlap_seconds": overlap,
                    "seams": int((seconds - chunk) // (chunk - overlap)) + 1, "words": against_whole.words,
                    "word_errors_against_whole": against_whole.word_errors,
                    "wer_against_whole": f"{against_whole.word_errors / against_whole.words:.5f}",
                    "wer": f"{errors.word_errors / errors.words:.4f}",
                    "wer_of_whole": f"{errors_of_whole.word_errors / errors_of_whole.words:.4f}",
                    "wer_of_files_alone": f"{errors_of_alone.word_errors / errors_of_alone.words:.4f}",
                    "wer_against_files_alone": f"{against_alone.word_errors / against_alone.words:.4f}",
                }
            )  # fmt: skip
            print(measured[-1], flush=True)
    return measured


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["speed", "memory", "seams"], help="what to measure: see above")
    parser.add_argument("--corpus", type=Path, required=True, help="folder from transcribe_corpus.py")
    parser.add_argument("--files", type=int, help="number of files to use, from the first (default: all)")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], help="dtypes of the model (default: float32 bfloat16)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed passes of this package (default: 3)")
    parser.add_argument("--their-rounds", type=int, default=1, help="timed passes of transformers (default: 1)")
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[500, 20000], help="numbers of short files for memory (default: 500 20000)"
    )
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file for memory (default: 3)")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the long recording for seams (default: 20)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files (default: bench/results)")
    options = parser.parse_args(arguments)
    rows = manifest(options.corpus, options.files)
    for dtype in options.dtypes:
        if options.section == "speed":
            measured = speed(rows, dtype, options.rounds, options.their_rounds)
        elif options.section == "memory":
            measured = memory(rows, dtype, options.counts, options.hours)
        else:
            measured = seams(rows, dtype, options.minutes, [(40.0, 4.0), (40.0, 0.0), (20.0, 4.0), (10.0, 2.0), (10.0, 0.0)])
        append(options.out / f"transcribe_{options.section}.csv", columns(), measured)


if __name__ == "__main__":
    main()
