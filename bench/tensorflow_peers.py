"""Compare the TensorFlow models with transformers' in one run, in turn: `python bench/tensorflow_peers.py --theirs PYTHON`.

transformers 4.34.1's TensorFlow classes need TensorFlow 2.15 and Keras 2, ours TensorFlow 2.16 or newer and Keras 3. So each
runs in a process of its own, with an interpreter of its own, and the processes take turns. Answers are compared before times
are taken. Rows go to results/tensorflow.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

from hubert_fast import HubertConfig, HubertForCTC
from hubert_fast.benchmark.rows import append, origin, percentiles
from hubert_fast.benchmark.subject import CONFIGS
from hubert_fast.tolerances import MODEL_TOLERANCES, largest_error

HERE = Path(__file__).resolve().parent
RATE = 16_000
FIVE_UTTERANCES = [float(line) for line in (HERE / "five_utterances.txt").read_text().split()]
WORK = {"5 s": [5.0], "five utterances": FIVE_UTTERANCES}
MODES = ("eager", "graph", "xla")


class Worker:
    """A process that computes with one library."""

    def __init__(self, python: str, provider: str, folder: Path):
        command = [python, str(HERE / "tensorflow_worker.py"), provider, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.versions = self._answer()

    def ask(self, **request: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}: run it by hand to see why")
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=sys.executable, metavar="PYTHON", help="interpreter with TensorFlow 2.16 or newer")
    parser.add_argument("--theirs", required=True, metavar="PYTHON", help="interpreter with transformers 4.34.1 and TensorFlow")
    parser.add_argument("--sizes", default="base,large", help="configurations to run (default: base,large)")
    parser.add_argument("--modes", default=",".join(MODES), help=f"modes to run (default: {','.join(MODES)})")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each case, after two untimed ones (default: 7)")
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "tensorflow.csv", help="file for the rows")
    options = parser.parse_args()
    for size in options.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows, versions = compare(size, Path(folder), options)
        append(options.csv, origin(**versions) | {"threads": str(torch.get_num_threads())}, rows)


def compare(size: str, folder: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    torch.manual_seed(0)
    HubertForCTC(HubertConfig(**CONFIGS[size])).save_pretrained(folder / "model")
    workers = {
        name: Worker(python, name, folder / "model")
        for name, python in (("transformers", options.theirs), ("ours", options.ours))
    }
    rows = []
    for work, seconds in WORK.items():
        inputs = folder / "inputs.npz"
        write_inputs(inputs, seconds, with_mask=len(seconds) > 1)
        for mode in options.modes.split(","):
            rows += time_in_turn(workers, {"model": size, "work": work, "mode": mode}, inputs, sum(seconds), options.rounds)
    versions = {
        "tensorflow": workers["ours"].versions["tensorflow"],
        "their_tensorflow": workers["transformers"].versions["tensorflow"],
        "transformers": workers["transformers"].versions["transformers"],
    }
    for worker in workers.values():
        worker.process.kill()
    return rows, versions


def write_inputs(path: Path, seconds: list[float], with_mask: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = [round(length * RATE) for length in seconds]
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    waveforms = rng.standard_normal(mask.shape).astype(np.float32) * mask
    np.savez(path, waveforms=waveforms, **({"mask": mask} if with_mask else {}))


def time_in_turn(
    workers: dict[str, Worker], case: dict[str, str], inputs: Path, audio_seconds: float, rounds: int
) -> list[dict[str, Any]]:
    logits = {}
    for name, worker in workers.items():
        worker.ask(mode=case["mode"], inputs=str(inputs), outputs=str(inputs.with_name(name)))
        worker.ask(mode=case["mode"], inputs=str(inputs))
        logits[name] = torch.from_numpy(np.load(f"{inputs.with_name(name)}.npy"))
    error = largest_error(*(true_frames(values, inputs) for values in (logits["ours"], logits["transformers"])))
    if error > MODEL_TOLERANCES[torch.float32].value:
        raise RuntimeError(f"{case}: the logits differ by {error:.1e} of the largest: no times are taken")
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            times[name].append(worker.ask(mode=case["mode"], inputs=str(inputs))["seconds"])
    rows = []
    for name, seconds in times.items():
        p20, p50, p80 = percentiles(seconds)
        rows.append(
            case
            | {"provider": name, "audio_seconds": audio_seconds, "min": min(seconds), "p20": p20, "p50": p50, "p80": p80}
            | {"rtfx": audio_seconds / p50, "max_error": error}
        )
        print(
            f"{case['model']:6} {case['work']:16} {case['mode']:6} {name:13} {p50:8.3f} s (fastest {min(seconds):.3f})",
            flush=True,
        )
    return rows


def true_frames(logits: torch.Tensor, inputs: Path) -> torch.Tensor:
    arrays = np.load(inputs)
    if "mask" not in arrays:
        return logits
    return torch.cat([row[: (samples - 400) // 320 + 1] for row, samples in zip(logits, arrays["mask"].sum(-1))])


if __name__ == "__main__":
    main()
