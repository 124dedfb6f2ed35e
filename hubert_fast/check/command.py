"""``hubert-fast check``: hold every kernel to its definition on this machine, and print a table."""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import torch
from tqdm import tqdm

from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError
from ..devices import DTYPES, resolve_device
from ..dispatch import interpreting, why_not, why_too_old
from ..interrupts import raised_in_here
from . import verdicts
from .models import MODELS  # of which each gives two rows
from .process import FAIL, NOT_CHECKED, PASS, Row, checked, not_run, tasks

LIMIT_SECONDS = 1800.0  # for compiling some hundred kernels
MOST_PROCESSES = 12  # on one GPU, half a gigabyte of its memory each


def run(options: argparse.Namespace) -> int:
    """Check the dtypes that were asked for, print a line for each op and dtype, and keep the verdicts for ``auto``."""
    device, dtypes = _device(options.device), _dtypes(options.dtype)
    processes = max(1, min(MOST_PROCESSES, (os.cpu_count() or 1) - 2) // len(dtypes)) if device.type == "cuda" else 1
    total = processes * len(dtypes)
    chip, torch_version, triton, _ = verdicts.combination(device).values()
    print(f"{chip}, torch {torch_version}, triton {triton}, {', '.join(dtypes)}", flush=True)
    start, rows = time.monotonic(), []
    count = sum(len(tasks(torch.device("meta"), DTYPES[dtype], options.short)) + len(MODELS) for dtype in dtypes)
    with tqdm(total=count, unit=" checks", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for row in _together(device, dtypes, options.short, processes):
            rows.append(row)
            bar.update(1)
    _print_table(rows, dtypes)
    for dtype in dtypes:
        found = [row for row in rows if row["dtype"] == dtype]
        verdicts.keep(device, dtype, found)
    bad = [row for row in rows if row["status"] != PASS]
    for row in bad:
        print(verdicts.described(row))
    seconds = time.monotonic() - start
    print(f"{len(rows)} checks, {len(bad)} not passed, in {seconds:.0f} s on {total} process{'es' * (total > 1)}")
    return EXIT_SOME_FAILED if bad else EXIT_OK


def _device(name: str) -> torch.device:
    try:
        device = resolve_device(name)
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    if device.type == "cpu" and not interpreting():
        raise CannotRunError(
            "kernels run on CUDA devices, but the device is cpu: TRITON_INTERPRET=1 interprets them there, at small shapes"
        )
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if (reason := why_not("triton") or why_too_old(device)) is not None:
        raise CannotRunError(f"kernels cannot run here: {reason}")
    return device


def _dtypes(asked: str) -> list[str]:
    can = [name for name in DTYPES if not (interpreting() and name == "bfloat16")]
    found = can if asked == "all" else list(dict.fromkeys(name.strip() for name in asked.split(",")))
    if unknown := [name for name in found if name not in DTYPES]:
        raise CannotRunError(f"dtype must be all, or some of {', '.join(DTYPES)} with commas between, but is {unknown[0]!r}")
    if not set(found) <= set(can):
        raise CannotRunError("triton's interpreter multiplies bfloat16 wrongly: check bfloat16 on a GPU")
    return found


def _together(device: torch.device, dtypes: list[str], few: bool, shards: int) -> Iterator[Row]:
    """Check in several processes at once, since most of the time is compilation; yield rows as they come."""
    rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
    children: list[subprocess.Popen] = []

    def read(dtype: str, shard: int) -> None:
        try:
            for row in checked(device, dtype, few, LIMIT_SECONDS, (shard, shards), children):
                rows.put(row)
        except Exception as error:
            rows.put(not_run(dtype, str(error)))
        finally:
            rows.put(None)

    threads = [threading.Thread(target=read, args=(dtype, shard), daemon=True) for dtype in dtypes for shard in range(shards)]
    with raised_in_here():
        for thread in threads:
            thread.start()
        try:
            ended = 0
            while ended < len(threads):
                row = rows.get()
                if row is None:
                    ended += 1
                else:
                    yield row
        finally:
            for child in children:
                child.kill()
            for thread in threads:
                thread.join()


def _print_table(rows: list[Row], dtypes: list[str]) -> None:
    """Print a line for each op: the largest relative error in each dtype, or how many checks did not pass."""
    print(f"{'':20s} {'checks':>6s}  " + "  ".join(f"{dtype:>14s}" for dtype in dtypes))
    for op in dict.fromkeys(row["op"] for row in rows):
        cells, count = [], 0
        for dtype in dtypes:
            found = [row for row in rows if (row["op"], row["dtype"]) == (op, dtype)]
            count += len(found)
            failed, open_ = (sum(row["status"].startswith(kind) for row in found) for kind in (FAIL, NOT_CHECKED))
            errors = [row["relative_error"] for row in found if "relative_error" in row]
            cell = f"{max(errors):.1e}" if errors else "-"
            cells.append(f"{failed} FAIL" if failed else f"{open_} not checked" if open_ else cell)
        print(f"{op:20s} {count:6d}  " + "  ".join(f"{cell:>14s}" for cell in cells))
