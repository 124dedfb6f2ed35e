"""Measure this package on a GPU with one command: `python bench/gpu --out DIR --seconds 315`.

ceilings  the machine and its versions (environment.csv), and the rates of matrix products and a copy on it (ceilings.csv)
values    every op on kernels against its definition in float64, in many processes (values.csv)
repeat    whether ops give the same bits when they are called again (repeat.csv)
whole     whole models against transformers in float32, untimed, a process for each (whole.csv)
headline  times of whole models, ours and transformers' (models.csv)
ops       times of every op, ours and library calls (ops.csv)
profile   the kernels that a batch spends its time in (profile.csv)
compile   times of transformers under torch.compile (also models.csv)

Each stage runs in its own process with a time limit, so that a crash or a hang costs only that stage. Rows are written as soon
as they are known. stages.csv records how each process ended. summary.txt, which is also printed, summarises all files. The
program needs no network, and no packages besides torch, triton, transformers and NumPy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

BENCH = Path(__file__).resolve().parent.parent
STAGES = {  # name -> time limit in seconds, the stage's file
    "ceilings": (25, "ceilings.csv"),
    "values": (80, "values.csv"),
    "repeat": (15, "repeat.csv"),
    "whole": (60, "whole.csv"),
    "headline": (90, "models.csv"),
    "ops": (60, "ops.csv"),
    "profile": (30, "profile.csv"),
    "compile": (200, "models.csv"),
}
SHARDS = {"values": 14, "whole": 9}  # largest number of processes of the stages that time nothing
LEAST_SECONDS = 6.0  # a stage with less time left is skipped: importing torch takes most of it
LAST_SECONDS = 3.0  # at the end of its limit a stage starts nothing new
ERROR_LINES = 12  # printed when a process fails
COLUMNS = "stage process seconds limit_seconds status exit_code reason"


class Child(NamedTuple):
    """A process of a stage, with its standard output and standard error."""

    process: subprocess.Popen
    progress: IO[str]
    errors: IO[str]


def run_stage(commands: list[list[str]], seconds: float) -> list[dict[str, Any]]:
    """Run the processes of a stage in parallel, kill those that exceed the limit, and return a row for each."""
    begin, rows = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        children = []
        for command in commands:
            files = [stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in range(2)]
            process = subprocess.Popen(command, stdout=files[0], stderr=files[1])
            children.append(Child(process, *files))
            stack.callback(_kill, process)  # also when this program is interrupted
        for number, child in enumerate(children, 1):
            try:
                child.process.wait(max(begin + seconds - time.monotonic(), 0))
                late = False
            except subprocess.TimeoutExpired:
                late = _kill(child.process)
            row = {"process": f"{number} of {len(children)}", "seconds": time.monotonic() - begin, "limit_seconds": seconds}
            rows.append({**row, **ending(child, late)})
            if child.process.returncode:
                print("\n".join(_lines(child.errors)[-ERROR_LINES:]), flush=True)
    return rows


def _kill(process: subprocess.Popen) -> bool:
    """Kill a process if it is still running. Return whether it was."""
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def ending(child: Child, late: bool) -> dict[str, Any]:
    """Return how a process ended and why: its last line on standard error, and the last case that it measured."""
    code = child.process.returncode
    if code == 0:
        return {"status": "ok", "exit_code": code, "reason": ""}
    case = (_lines(child.progress) or ["nothing yet"])[-1]
    error = (_lines(child.errors) or [""])[-1]
    case = f"while measuring {case[:200]}"
    if late:
        return {"status": "killed: took longer than its limit", "exit_code": code, "reason": case}
    status = f"crashed: {signal.Signals(-code).name}" if code < 0 else "failed"
    reason = ", ".join(filter(None, (error.strip()[:200], case)))
    return {"status": status, "exit_code": code, "reason": reason}


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return [line.rstrip() for line in file if line.strip()]


def commands_of(stage: str, options: argparse.Namespace, until: float) -> list[list[str]]:
    """Return the commands of a stage: several if it times nothing, as then its processes need not have the GPU alone."""
    processes = 2 if options.tiny else max((os.cpu_count() or 1) - 2, 1)
    shards = min(SHARDS.get(stage, 1), processes)
    command = [sys.executable, str(BENCH / "gpu/stage.py"), stage, "--out", str(options.out), "--until", str(until)]
    command += ["--ops", options.ops, "--commit", options.commit, *(["--tiny"] if options.tiny else [])]
    return [[*command, "--shard", str(shard), str(shards)] for shard in range(shards)]


def limit_of(stage: str, left: float, tiny: bool) -> float:
    """Return how many of the remaining seconds a stage may take."""
    return left if tiny else min(STAGES[stage][0], left)  # tiny stages also run on slow machines


def run_stages(options: argparse.Namespace, after: Callable[[], None]) -> bool:
    """Run the stages in turn and call `after` after each. Return whether all succeeded."""
    from gpu.run import LEFT_OUT, Table

    table, end, succeeded = Table(options.out / "stages.csv", COLUMNS), time.monotonic() + options.seconds, True
    for stage in (name for name in STAGES if name in options.stage):
        now = time.monotonic()
        limit = limit_of(stage, end - now, options.tiny)
        if limit < LEAST_SECONDS:
            rows = [{"seconds": 0.0, "limit_seconds": max(limit, 0.0), "status": LEFT_OUT}]
        else:
            rows = run_stage(commands_of(stage, options, now + limit - LAST_SECONDS), limit)
        for row in rows:
            table.add(stage=stage, **row)
            if row["status"] != "ok":
                print(f"{stage} {row.get('process', '')}: {row['status']} {row.get('reason', '')}", flush=True)
        print(f"{stage}: {rows[-1]['seconds']:.1f} s", flush=True)
        succeeded = succeeded and all(row["status"] == "ok" for row in rows)
        after()
    return succeeded


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder into an archive, and replace the archive in one step so that it is never incomplete."""
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w:gz") as file:
        file.add(folder, folder.name)
    part.replace(archive)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument(
        "--seconds", type=float, default=315, help="time limit in seconds, after which every process is killed (default: 315)"
    )
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES, metavar="NAME",
                        help=f"stages to run, always in this order: {', '.join(STAGES)} (default: all)")  # fmt: skip
    parser.add_argument("--ops", default="", metavar="PART", help="time only ops whose name contains PART (default: all ops)")
    parser.add_argument(
        "--commit", default="", metavar="TEXT", help="commit recorded in environment.csv (default: the commit that git names)"
    )
    parser.add_argument("--archive", type=Path, metavar="FILE",
                        help="pack the folder into this .tar.gz after each stage (default: no archive)")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="test this program with tiny shapes, interpreted on the CPU")
    options = parser.parse_args(arguments)
    import torch

    from gpu.summary import write_summary

    if not options.tiny and not torch.cuda.is_available():
        print("there is no CUDA device: use --tiny to test this program on the CPU", file=sys.stderr)
        return 2
    existing = [name for name in {STAGES[stage][1] for stage in options.stage} if (options.out / name).exists()]
    if existing:
        print(f"{options.out} already has a {existing[0]}: name another folder", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)

    def after() -> None:
        write_summary(options.out)
        if options.archive:
            pack(options.out, options.archive)

    succeeded = run_stages(options, after)
    print(write_summary(options.out))
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.path.insert(0, str(BENCH))  # this package and the programs beside it
    sys.path.append(str(BENCH.parent))  # hubert_fast, where it is not installed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit normally, which kills the stage's processes
    sys.exit(main())
