"""Run a check in a separate process, so that a kernel that crashes or hangs does no harm.

The child writes a line of JSON when it begins a task and for each row. From these, the parent knows where a child died.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

import torch

from ..benchmark.measure import is_device_lost
from ..devices import DTYPES, is_out_of_memory
from ..dispatch import interpreting
from ..hub import first_line
from .cases import OpCase, Where
from .models import MODELS, checked_model
from .selections import every_case, few_cases, repeated_cases
from .values import differing, held_to_float64

PASS, FAIL, NOT_CHECKED = "pass", "fail", "not checked"  # a status begins with one of them
DEVICE_LOST = 3  # exit status of the child
CALLS, FEW_CALLS, INTERPRETED_CALLS = 40, 10, 1
CODE = (
    "import json, sys; options = json.loads(sys.argv[1]); sys.path[:] = options.pop('path'); "
    "from hubert_fast.check.process import main; sys.exit(main(**options))"
)

Row = dict[str, Any]  # op, shape, dtype and status; also relative_error and tolerance if values were compared


class Task(NamedTuple):
    """Something to check: an op at a shape, or a model.

    Attributes:
        op: The name of the op, or `"model"`.
        shape: A description of the shape, or the name of the model.
        run: Returns the rows, without the columns above.
        kernels: Tasks in which this is equal use the same kernels.
    """

    op: str
    shape: str
    run: Callable[[], list[Row]]
    kernels: str


def tasks(device: torch.device, dtype: torch.dtype, few: bool) -> list[Task]:
    """Return everything to check in a dtype. Interpreted kernels get small shapes.

    Args:
        device: The device.
        dtype: The dtype.
        few: Return only the tasks that take seconds.
    """
    at, small = Where(dtype, device), interpreting()
    cases = (few_cases if few else every_case)(at, small)
    selected = [Task(case.op, case.shape, partial(_compare, case), f"{case.op} {case.shape}") for case in cases]
    calls = INTERPRETED_CALLS if small else FEW_CALLS if few else CALLS
    for case in repeated_cases(at, small):
        shape = f"{case.shape}, {calls + 1} times"
        selected.append(Task(case.op, shape, partial(_repeat, case, calls), f"{case.op} {case.shape}"))
    for name in MODELS:
        selected.append(Task("model", name, partial(_compare_model, name, dtype, device, small), name))
    return selected


def part_of(selected: list[Task], shard: int, shards: int) -> list[Task]:
    """Return the tasks of one of `shards` processes. Tasks that use the same kernels are in the same part."""
    kernels = list(dict.fromkeys(task.kernels for task in selected))[shard::shards]
    return [task for task in selected if task.kernels in kernels]


def _compare(case: OpCase) -> list[Row]:
    return [held_to_float64(case)]


def _repeat(case: OpCase, calls: int) -> list[Row]:
    torch.manual_seed(0)
    arguments = case.make()
    differ = differing(lambda: case.public(*arguments), calls)
    return [{"status": f"{FAIL}: {differ} of {calls} calls returned other bits than the first" if differ else PASS}]


def _compare_model(name: str, dtype: torch.dtype, device: torch.device, small: bool) -> list[Row]:
    return list(checked_model(name, dtype, device, small))


def main(device: str, dtype: str, few: bool, shard: int, shards: int) -> int:
    """Check one of `shards` parts in this process, and write rows to standard output. Return the exit status."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # all other output goes to standard error

        def say(line: Row) -> None:
            print(json.dumps(line), file=out, flush=True)

        torch.zeros(1, device=device)  # fail before the first task if the device is busy or full: no kernel is to blame
        for task in part_of(tasks(torch.device(device), DTYPES[dtype], few), shard, shards):
            row = {"op": task.op, "shape": task.shape, "dtype": dtype}
            say({"begins": row})
            try:
                for columns in task.run():
                    say({**row, **columns})
            except Exception as error:
                kind = NOT_CHECKED if is_out_of_memory(error) else FAIL
                say({**row, "status": f"{kind}: {type(error).__name__}: {first_line(error)}"[:300]})
                if is_device_lost(error):
                    return DEVICE_LOST
            if device.startswith("cuda"):
                torch.cuda.empty_cache()  # other processes may need the memory
    return 0


def checked(
    device: torch.device,
    dtype: str,
    few: bool,
    limit_seconds: float,
    part: tuple[int, int] = (0, 1),
    children: list[subprocess.Popen] | None = None,
) -> Iterator[Row]:
    """Run a check in a child process and yield rows as they arrive. If the child dies or takes too long, a row says so.

    Args:
        device: The device.
        dtype: The dtype, by its name.
        few: Run only the checks that take seconds.
        limit_seconds: The child is killed after this time.
        part: The index of the part to check, and the number of parts.
        children: A list to which the child is appended, so that the caller can kill it.
    """
    options = dict(
        path=[str(entry) for entry in sys.path], device=str(device), dtype=dtype, few=few, shard=part[0], shards=part[1]
    )
    task: Row = {}  # the task that the child is working on
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", CODE, json.dumps(options)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        except (OSError, TypeError, ValueError) as error:  # an embedded interpreter has no executable
            yield not_run(dtype, f"no process could be started: {first_line(error)}")
            return
        if children is not None:
            children.append(child)
        late = threading.Event()

        def kill() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(limit_seconds, kill)
        timer.start()
        assert child.stdout is not None
        try:
            for line in child.stdout:
                row = json.loads(line)
                task = row.get("begins", task)
                if "begins" not in row:
                    yield row
            child.wait()
        finally:  # also if the caller stops reading
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close()
        if child.returncode:
            status = _status(child.returncode, late.is_set(), limit_seconds, bool(task), errors)
            yield {**not_run(dtype, ""), **task, "status": status}


def not_run(dtype: str, reason: str) -> Row:
    """Return the row for a check that did not begin."""
    return {"op": "start", "shape": "", "dtype": dtype, "status": f"{NOT_CHECKED}: {reason}"}


def _status(code: int, late: bool, limit_seconds: float, begun: bool, errors: IO[str]) -> str:
    """Return the status for a child that failed. It counts as failed only if a kernel may be the cause."""
    kind = FAIL if begun else NOT_CHECKED
    if late:
        return f"{kind}: took longer than {limit_seconds:g} s"
    if code == DEVICE_LOST:
        return f"{NOT_CHECKED}: the check stopped here, since the device was lost"
    if code == -signal.SIGKILL:  # the system kills processes when memory runs out
        return f"{NOT_CHECKED}: the process was killed"
    if code < 0:
        return f"{kind}: crashed: {signal.Signals(-code).name}"
    errors.seek(0)
    last = [line.strip() for line in errors if line.strip()][-1:]
    return f"{NOT_CHECKED}: {(last or [f'exit status {code}'])[0][:300]}"
