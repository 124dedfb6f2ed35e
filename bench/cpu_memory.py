"""Measure the memory that a model takes on a CPU above its weights: `python bench/cpu_memory.py`.

Each case runs in a process of its own: it creates a model with random weights, runs it, and reports how far its resident memory
rose at the peak, and how far it is above the start afterwards. Rows go to results/cpu_memory.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch

from hubert_fast.benchmark.meters import Memory, resident_bytes
from hubert_fast.benchmark.ours import Ours
from hubert_fast.benchmark.rows import append, origin
from hubert_fast.benchmark.subject import CONFIGS, Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES, give_back_memory

RESULTS = Path(__file__).resolve().parent / "results"
CPU = torch.device("cpu")
CALLS = 3


@torch.inference_mode()
def measure(model: str, dtype: str, pack: bool, seconds: float) -> dict[str, int]:
    """Return the bytes of the weights, and of the process above its start: at the peak and after the calls."""
    subject = Subject.random(model, CPU, DTYPES[dtype])
    subject.ours.hubert.fast_path.weights.pack = pack
    call = Ours(subject).forward(Work.of_seconds("", [seconds]).waveforms).run
    memory = Memory(CPU)
    memory.start()
    before = resident_bytes()
    for _ in range(CALLS):
        call()
    peak = memory.peak_bytes()
    give_back_memory()
    weights = sum(parameter.nbytes for parameter in subject.ours.parameters())
    return {"weights_bytes": weights, "peak_bytes": peak or 0, "held_bytes": resident_bytes() - before}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=CONFIGS, help="models (default: base large)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES,
                        help="dtypes (default: float32 bfloat16)")  # fmt: skip
    parser.add_argument("--seconds", nargs="+", type=float, default=[5.0, 60.0], help="seconds of audio (default: 5 60)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of cpu_memory.csv (default: bench/results)")
    parser.add_argument("--one", nargs=4, metavar="VALUE", help=argparse.SUPPRESS)  # a case, in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        model, dtype, pack, seconds = options.one
        print(json.dumps(measure(model, dtype, pack == "True", float(seconds))))
        return
    rows = []
    for model in options.models:
        for dtype in options.dtypes:
            for pack in (True, False):
                for seconds in options.seconds:
                    case = [model, dtype, str(pack), str(seconds)]
                    command = [sys.executable, __file__, "--one", *case]
                    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    rows.append(dict(zip(("model", "dtype", "packed", "seconds"), case)) | json.loads(output))
                    print(rows[-1], flush=True)
    append(options.out / "cpu_memory.csv", origin(torch=torch.__version__) | {"threads": str(torch.get_num_threads())}, rows)


if __name__ == "__main__":
    main()
