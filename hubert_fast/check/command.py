"""Run `hubert-fast check`: compare every kernel with its definition on this machine, and print a table."""

from __future__ import annotations

import argparse
import sys
import time

import torch
from tqdm import tqdm

from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError
from ..devices import DTYPES, resolve_device
from ..dispatch import interpreting, why_not, why_too_old
from ..interrupts import keyboard_interrupts
from . import verdicts
from .models import MODELS
from .parallel import checked_in_parallel, process_count
from .process import FAIL, NOT_CHECKED, PASS, Row, tasks

LIMIT_SECONDS = 1800.0  # enough to compile some hundred kernels


def run(options: argparse.Namespace) -> int:
    """Check the dtypes in the options, print a line for each op, store the verdicts for `auto`, and return the exit status."""
    device, dtypes = _device(options.device), _dtypes(options.dtype)
    processes = process_count(device, len(dtypes))
    total = processes * len(dtypes)
    chip, torch_version, triton, _ = verdicts.combination(device).values()
    print(f"{chip}, torch {torch_version}, triton {triton}, {', '.join(dtypes)}", flush=True)
    start = time.monotonic()
    rows: list[Row] = []
    # a model is one task, but gives two rows
    count = sum(len(tasks(torch.device("meta"), DTYPES[dtype], options.short)) + len(MODELS) for dtype in dtypes)
    bar = tqdm(total=count, unit=" checks", file=sys.stderr, disable=not sys.stderr.isatty())
    with keyboard_interrupts(), bar:
        for row in checked_in_parallel(device, dtypes, options.short, LIMIT_SECONDS, processes):
            rows.append(row)
            bar.update(1)
    _print_table(rows, dtypes)
    for dtype in dtypes:
        verdicts.keep(device, dtype, [row for row in rows if row["dtype"] == dtype])
    not_passed = [row for row in rows if row["status"] != PASS]
    for row in not_passed:
        print(verdicts.described(row))
    seconds = time.monotonic() - start
    print(f"{len(rows)} checks, {len(not_passed)} not passed, in {seconds:.0f} s on {total} process{'es' * (total > 1)}")
    return EXIT_SOME_FAILED if not_passed else EXIT_OK


def _device(name: str) -> torch.device:
    try:
        device = resolve_device(name)
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    if device.type == "cpu" and not interpreting():
        raise CannotRunError(
            "kernels need a CUDA device, but the device is cpu: set TRITON_INTERPRET=1 to interpret them there, at small shapes"
        )
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if (reason := why_not("triton") or why_too_old(device)) is not None:
        raise CannotRunError(f"kernels cannot run here: {reason}")
    return device


def _dtypes(option: str) -> list[str]:
    supported = [name for name in DTYPES if not (interpreting() and name == "bfloat16")]
    selected = supported if option == "all" else list(dict.fromkeys(name.strip() for name in option.split(",")))
    if unknown := [name for name in selected if name not in DTYPES]:
        raise CannotRunError(f"dtype must be all, or some of {', '.join(DTYPES)} with commas between, but is {unknown[0]!r}")
    if not set(selected) <= set(supported):
        raise CannotRunError("triton's interpreter multiplies bfloat16 incorrectly: check bfloat16 on a GPU")
    return selected


def _print_table(rows: list[Row], dtypes: list[str]) -> None:
    """Print a line for each op: the largest relative error in each dtype, or the number of checks that did not pass."""
    print(f"{'':20s} {'checks':>6s}  " + "  ".join(f"{dtype:>14s}" for dtype in dtypes))
    for op in dict.fromkeys(row["op"] for row in rows):
        cells, count = [], 0
        for dtype in dtypes:
            selected = [row for row in rows if (row["op"], row["dtype"]) == (op, dtype)]
            count += len(selected)
            failed, unchecked = (sum(row["status"].startswith(kind) for row in selected) for kind in (FAIL, NOT_CHECKED))
            errors = [row["relative_error"] for row in selected if "relative_error" in row]
            cell = f"{max(errors):.1e}" if errors else "-"
            cells.append(f"{failed} FAIL" if failed else f"{unchecked} not checked" if unchecked else cell)
        print(f"{op:20s} {count:6d}  " + "  ".join(f"{cell:>14s}" for cell in cells))
