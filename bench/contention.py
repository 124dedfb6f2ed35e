"""Measure what spinning threads cost where CPUs are shared: `python bench/contention.py`. Rows go to results/contention.csv.

A model runs one utterance at a time: alone, beside a second process that does the same, and under a CPU quota. Waiting threads
of PyTorch's OpenMP library spin GOMP_SPINCOUNT times before they sleep. The library reads that variable only while it is
loaded, so each measurement has its own child processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch

from hubert_fast import control_groups, cpus
from hubert_fast.__main__ import SPIN_COUNT, WAIT_VARIABLES
from hubert_fast.benchmark.measure import OK, Reference
from hubert_fast.benchmark.providers import OURS, provider
from hubert_fast.benchmark.rows import append, origin, version
from hubert_fast.benchmark.subject import CONFIGS, Subject, Unavailable
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES
from hubert_fast.tolerances import MODEL_TOLERANCES

RESULTS = Path(__file__).resolve().parent / "results"
_, TWO, QUOTA = CASES = ("alone", "two at once", "quota of 1.5 CPUs")
QUOTAS = {1: {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"}, 2: {"cpu.max": "150000 100000"}}
NAMES = ("ours", "openvino")
PROVIDERS = (*NAMES, "openvino-static", "onnxruntime")  # without PyTorch's threads, except ours
DEFAULT, *_ = COUNTS = ("default", str(SPIN_COUNT), "0")  # values of GOMP_SPINCOUNT, which by default is not set
WARM_UPS = 3
RESULT = ("threads", "quota", "median_ms", "min_ms", "max_ms", "cpu_ms", "max_error", "status")  # columns


def serve(reply: Callable[..., None]) -> None:
    """Run as a child process: read a job, prepare the model, then read one more message.

    If that message has `repeats`, time this number of calls. Otherwise run the model until another message or the end of input.
    """
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(cpus.thread_count())
    dtype, work = DTYPES[job["dtype"]], Work.of_seconds("", [job["seconds"]])
    subject = Subject.random(job["model"], torch.device("cpu"), dtype)
    try:
        with torch.inference_mode():
            model = provider(job["provider"], subject)
            error = Reference(subject, work).compare(model)[0]
            if not error <= MODEL_TOLERANCES[dtype].value:
                raise Unavailable(f"the output differs from float32 by {error:.1e}")
            run = model.forward(work.waveforms).run
            for _ in range(WARM_UPS):
                run()
            reply(status=OK)
            if repeats := json.loads(sys.stdin.readline()).get("repeats"):
                reply(**timed(run, repeats), threads=torch.get_num_threads(), quota=cpus.quota(), max_error=error, status=OK)
                return
            run()
            reply(status=OK)  # in the loop
            while not select.select([sys.stdin], [], [], 0)[0]:
                run()
            reply(status=OK)
    except Unavailable as reason:
        reply(status=str(reason))


def timed(run: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Return the columns of the times of `repeats` calls. `cpu_ms` is the CPU time of a call, over all threads."""
    wall_ms, cpu_start = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        wall_ms.append(1e3 * (time.perf_counter() - start))
    cpu_ms = 1e3 * (time.process_time() - cpu_start) / repeats
    return {"median_ms": statistics.median(wall_ms), "min_ms": min(wall_ms), "max_ms": max(wall_ms), "cpu_ms": cpu_ms}


class Child:
    """A child process, which exchanges lines of JSON with this one. It ends by itself if this process ends."""

    def __init__(self, spin_count: str):
        environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
        if spin_count not in ("", DEFAULT):
            environment["GOMP_SPINCOUNT"] = spin_count
        command = [sys.executable, str(Path(__file__).resolve()), "--child"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self.process: Any = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)

    def close(self) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()

    def send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # `receive` then raises
            self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises `RuntimeError` if the process ends, and `Unavailable` if it cannot run the model."""
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"a child process ended early with status {self.process.wait()}")
        message = json.loads(line)
        if message["status"] != OK:
            raise Unavailable(message["status"])
        return message


@contextlib.contextmanager
def group_with_quota() -> Iterator[Path]:
    """Create a control group with a CPU quota, and remove it at the end. Raises `Unavailable` if that is not allowed here."""
    for number, folder in control_groups.folders("cpu"):
        group = folder / f"hubert_fast_contention_{os.getpid()}"
        if number == 2 and "cpu" not in control_groups.read(folder / "cgroup.subtree_control").split():
            continue  # groups in it cannot have a quota
        with contextlib.suppress(OSError):
            group.mkdir()
            break
    else:
        raise Unavailable("no control group with a CPU quota can be created here")
    try:
        for name, text in QUOTAS[number].items():
            (group / name).write_text(text)
        yield group
    except OSError as error:
        raise Unavailable(f"the control group {group} cannot be used: {error.strerror}") from None
    finally:
        group.rmdir()  # its processes have ended


def measure(job: dict[str, Any], case: str, spin_count: str, repeats: int) -> dict[str, Any]:
    """Run a case in child processes, and return the columns `RESULT`."""
    try:
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(group_with_quota()) if case == QUOTA else None
            children = [stack.enter_context(contextlib.closing(Child(spin_count))) for _ in range(2 if case == TWO else 1)]
            for child in children:
                if group:
                    (group / "cgroup.procs").write_text(str(child.process.pid))
                child.send(**job)
            for child in children:
                child.receive()  # it is ready
            measured, *others = children
            for other in others:
                other.send()
                other.receive()  # it is in its loop, until the next message
            measured.send(repeats=repeats)
            result = measured.receive()
            for other in others:
                other.send()
                other.receive()  # it has run until now
    except Unavailable as reason:
        result = {"status": f"cannot run: {reason}"}
    return dict.fromkeys(RESULT) | result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", choices=CONFIGS, help="model, with random weights (default: base)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="dtype of the model (default: float32)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of audio in the utterance (default: 5)")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each measurement (default: 20)")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES, help="cases to measure (default: all)")
    parser.add_argument("--providers", nargs="+", default=NAMES, choices=PROVIDERS, help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--spin-counts", nargs="+", default=COUNTS, help=f"for ours (default: {' '.join(COUNTS)})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of contention.csv (default: bench/results)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but is {options.repeats}")
    columns = origin(**{name: version(name) for name in ("torch", "transformers", "openvino")})
    job = {"model": options.size, "dtype": options.dtype, "seconds": options.seconds}
    for case in options.cases:
        for name in options.providers:
            for spin_count in options.spin_counts if name.startswith(OURS) else [""]:
                result = measure(job | {"provider": name}, case, spin_count, options.repeats)
                row = job | {"case": case, "provider": name, "spin_count": spin_count, "repeats": options.repeats}
                append(options.out / "contention.csv", columns, [row | result])
                text = result["status"] if result["median_ms"] is None else f"{result['median_ms']:.1f} ms"
                print(f"{case}: {name}{spin_count and f', spin count {spin_count}'}: {text}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no reply
        serve(lambda **message: print(json.dumps(message), file=replies, flush=True))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children and groups are cleaned up
        main()
