"""Write the rows of results/bench.csv with `hubert-fast bench` on a CPU: `python bench/cpu.py`, two hours on two cores.

Each case is an ordinary command, printed before it runs so that anyone can repeat it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

from hubert_fast import cli, console, demo

RESULTS = Path(__file__).resolve().parent / "results"

THEIRS = "hf-sdpa,hf-sdpa-sorted,hf-sdpa-single,hf-eager,hf-compile,hf-flash"
SINGLE = "openvino-single,openvino-static-single,onnxruntime-single"  # they are at their best with one utterance at a time
ALL = f"ours,ours-unpacked,ours-padded,accelerate,{THEIRS},openvino,{SINGLE}"
ONE_LENGTH = "ours,ours-unpacked,ours-padded,hf-sdpa,hf-sdpa-single,openvino,openvino-static,onnxruntime"
FIVE = f"ours,ours-single,ours-unpacked,accelerate-single,hf-sdpa,hf-sdpa-single,openvino,{SINGLE}"
SOME = "ours,ours-padded,hf-sdpa"
TEXTS = "ours,accelerate,hf-sdpa,hf-sdpa-sorted,hf-sdpa-single,openvino-single"
FIVE_UTTERANCES = Path(__file__).resolve().parent / "five_utterances.txt"  # 1.9 to 8 s
EVERY_PROTOCOL = "--protocol model,leaderboard,files"


def cases(tiny: bool) -> list[str]:
    """Return the options of each call."""
    if tiny:
        few = "--audio-seconds 0.6 --batch-seconds 0.3 --rounds 1"
        return [
            f"--config tiny --dtype float32 {EVERY_PROTOCOL} --lengths fixed:0.3 {few} --providers ours,ours-padded,hf-sdpa",
            f"--config tiny-large --dtype bfloat16 --lengths fixed:0.2 {few} --providers ours,hf-sdpa,hf-flash",
        ]
    dtypes, sizes = ("bfloat16", "float32"), ("base", "large")
    calls = []
    for size in sizes:
        for dtype in dtypes:
            # 40 s of audio keep the run short: transformers needs most of the time
            model = f"--config {size} --dtype {dtype}"
            options = f"{model} --audio-seconds 40 --batch-seconds 20 --rounds {3 if size == 'base' else 2}"
            calls.append(f"{model} --lengths fixed:5 --audio-seconds 5 --batch-seconds 5 --rounds 9 --providers {ONE_LENGTH}")
            calls.append(f"{model} --lengths {FIVE_UTTERANCES} --batch-seconds 24 --rounds 7 --providers {FIVE}")
            calls.append(f"{options} --providers {ALL}")
            calls.append(f"{options} --lengths fixed:10 --providers {ONE_LENGTH}")
            # three batches of eight, in which sorting by length pays, then utterances of one length, in which it cannot
            rounds = f"--rounds {2 if size == 'base' else 1}"
            calls.append(f"{model} --protocol leaderboard,files --audio-seconds 120 {rounds} --providers {TEXTS}")
            calls.append(
                f"{model} --protocol leaderboard --lengths fixed:6 --audio-seconds 48 --rounds 2 --providers {SOME},accelerate"
            )
    base = "--config base --dtype bfloat16 --rounds 2"
    for batch_seconds in (5, 20, 50):
        calls.append(f"{base} --audio-seconds 40 --batch-seconds {batch_seconds} --providers ours,hf-sdpa,hf-sdpa-sorted")
    for seconds in (15, 60, 240):
        calls.append(
            f"{base} --lengths fixed:{seconds} --audio-seconds {seconds} --batch-seconds {seconds} --providers ours,hf-sdpa"
        )
    for dtype in dtypes:
        calls.append(f"--model {demo.MODEL} --dtype {dtype} {EVERY_PROTOCOL} --lengths demo --providers {SOME},accelerate")
    return calls


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--csv", type=Path, default=RESULTS / "bench.csv", help="file for the rows (default: results/bench.csv)"
    )
    parser.add_argument("--tiny", action="store_true", help="test this program with tiny models")
    options = parser.parse_args(arguments)
    for case in cases(options.tiny):
        command = ["bench", "--device", "cpu", *shlex.split(case), "--csv", str(options.csv)]
        print("hubert-fast", *command, flush=True)
        if cli.main(command) == console.EXIT_CANNOT_RUN:
            return console.EXIT_CANNOT_RUN
    return console.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
