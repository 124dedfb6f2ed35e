"""Damage audio files at random and decode them. Each must give samples or a reason, fast, in bounded memory, with no crash.

    python bench/audio_mutations.py --count 10000 --out bench/results/audio_mutations.csv

A recording is encoded in ten formats; bytes are cut off, flipped, inserted, deleted, repeated and overwritten. A child process
decodes, so that a crash or hang costs only that child, and is counted. The program writes one row per format. `decoder_lost`
counts the files that made FFmpeg's own process crash or hang, for which the decoder raises an ordinary error.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "webm", "aac", "aiff", "wma")
FORMATS_HELP = ", ".join(FORMATS)
HANG_SECONDS = 10.0
HEADER_BYTES = 200
SIZES = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\1\0\0\0")


def encoded(samples: np.ndarray, format: str) -> bytes:
    """Encode mono float32 `[S]` at 16 kHz (Opus: 48 kHz) with libsndfile or, for formats it lacks, with FFmpeg."""
    import av
    import soundfile

    file = io.BytesIO()
    if format in ("wav", "flac", "aiff", "mp3", "ogg"):
        soundfile.write(file, samples, 16000, format=format.upper())
        return file.getvalue()
    codec, container, rate_hz = {
        "opus": ("libopus", "ogg", 48000),
        "webm": ("libopus", "webm", 48000),
        "m4a": ("aac", "ipod", 16000),
        "aac": ("aac", "adts", 16000),
        "wma": ("wmav2", "asf", 16000),
    }[format]
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout, stream.bit_rate = "mono", 32_000
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate_hz, stream.codec_context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def mutated(data: bytes, seed: int) -> bytes:
    """Return `data` with one to four kinds of damage. The seed determines the damage."""
    rng = np.random.default_rng(seed)
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(out)
        if not size:
            break
        near_header = rng.random() < 0.5
        at = int(rng.integers(0, min(size, HEADER_BYTES) if near_header else size))
        length = int(rng.integers(1, max(size // 4, 2)))
        kind = rng.integers(0, 8)
        if kind == 0:
            del out[int(rng.integers(0, size)) :]
        elif kind == 1:
            for offset in rng.integers(0, min(size, HEADER_BYTES) if near_header else size, rng.integers(1, 33)):
                out[offset] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            out[at:at] = rng.bytes(int(rng.integers(1, 300)))
        elif kind == 3:
            del out[at : at + (int(rng.integers(1, 64)) if near_header else length)]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        elif kind == 5:
            out[at : at + 4] = SIZES[int(rng.integers(0, len(SIZES)))]
        elif kind == 6:
            out[at : at + length] = bytes(min(length, size - at))
        else:
            out[at : at + length] = rng.bytes(min(length, size - at))
    return bytes(out)


def _decode(folder: str) -> None:
    """Decode the mutation requested by each line of standard input, a JSON list `[format, seed]`, and print the result.

    Half of them are decoded with `keep_truncated`, so that files with wrong headers are decoded too.
    """
    from hubert_fast import audio

    for line in sys.stdin:
        format, seed = json.loads(line)
        path = Path(folder, "mutation")
        path.write_bytes(mutated(Path(folder, format).read_bytes(), seed))
        start, seconds, notes = time.perf_counter(), 0.0, []
        try:
            for block in audio.read_blocks(path, note=notes.append, keep_truncated=bool(seed // len(FORMATS) % 2)):
                seconds += block.shape[1] / 16000
            kind, reason = ("note" if notes else "text"), "; ".join(notes)
        except audio.AudioError as error:
            kind, reason = "reason", str(error)
            if "the decoder crashed" in reason or "the decoder produced no audio" in reason:
                kind = "decoder_lost"
        except Exception as error:
            kind, reason = "exception", f"{type(error).__name__}: {error}"
        wall_seconds = time.perf_counter() - start
        answer = {"kind": kind, "reason": reason, "seconds": seconds, "wall_seconds": wall_seconds, "peak_bytes": _peak_bytes()}
        print(json.dumps(answer), flush=True)


def _peak_bytes() -> int:
    """Return the largest memory that this process has had, in bytes.

    `getrusage` would include the memory of the parent, which a child shares until it executes another program.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


class Child:
    """A process that decodes, with a time limit for each file."""

    def __init__(self, folder: str):
        self._folder = folder
        self._process: subprocess.Popen | None = None

    def ask(self, format: str, seed: int) -> dict:
        """Return the result for a mutation. Its `kind` is `"crash"` or `"hang"` if the child did not answer."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--decode", self._folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        hangs = []
        process = self._process
        timer = threading.Timer(HANG_SECONDS, lambda: (hangs.append(True), process.kill()))
        timer.start()
        try:
            process.stdin.write(json.dumps([format, seed]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        status, self._process = process.wait(), None
        kind = "hang" if hangs else "crash"
        return {"kind": kind, "reason": f"status {status}", "seconds": 0.0, "wall_seconds": HANG_SECONDS, "peak_bytes": 0}

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


def run(count: int, first_seed: int, say=print) -> list[dict]:
    """Try `count` mutations spread over `FORMATS`, and return a row per format."""
    from hubert_fast import audio, demo

    samples = audio.load(demo.RECORDINGS / "steps.wav")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            data = encoded(samples, format)
            Path(folder, format).write_bytes(data)
            rows[format] = {"format": format, "bytes": len(data), "mutations": 0, "kinds": Counter(), "slowest_seconds": 0.0,
                            "peak_bytes": 0, "most_seconds": 0.0}  # fmt: skip
        child = Child(folder)
        for index in range(count):
            format, seed = FORMATS[index % len(FORMATS)], first_seed + index
            answer, row = child.ask(format, seed), rows[format]
            row["mutations"] += 1
            row["kinds"][answer["kind"]] += 1
            row["slowest_seconds"] = max(row["slowest_seconds"], answer["wall_seconds"])
            row["peak_bytes"] = max(row["peak_bytes"], answer["peak_bytes"])
            row["most_seconds"] = max(row["most_seconds"], answer["seconds"])
            if answer["kind"] in ("crash", "hang", "exception") or answer["wall_seconds"] > 2 or answer["seconds"] > 60:
                say(f"{format} {seed}: {answer}")
        child.close()
    return list(rows.values())


COLUMNS = (
    "format", "bytes", "mutations", "text", "note", "reason", "decoder_lost", "exception", "crash", "hang", "slowest_seconds",
    "most_seconds", "peak_bytes",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    count_help = f"total number of mutations, spread over {FORMATS_HELP} (default: 10000)"
    parser.add_argument("--count", type=int, default=10_000, help=count_help)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first mutation; each further one adds 1 (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="write the rows as CSV to this file (default: standard output)")
    parser.add_argument("--decode", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        return _decode(options.decode)
    rows = run(options.count, options.seed)
    table = [
        {**row, **{kind: row["kinds"][kind] for kind in COLUMNS[3:10]}, "slowest_seconds": round(row["slowest_seconds"], 3),
         "most_seconds": round(row["most_seconds"], 2)}
        for row in rows
    ]  # fmt: skip
    with open(options.out, "w", newline="") if options.out else sys.stdout as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
