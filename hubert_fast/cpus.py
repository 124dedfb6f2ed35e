"""Count the CPUs that this process may use: those of its affinity mask, or fewer if its control groups have a CPU quota.

A quota limits CPU time, as `docker run --cpus 1.5` and the CPU limits of Kubernetes do. A process with a quota still sees all
CPUs of the machine. If it ran a thread on each of them, threads that spin while they wait for each other would use up the
quota, and the kernel would stop the process until the next period.
"""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

import torch

from . import control_groups

MOST_THREADS = 1024


def available() -> int:
    """Return the number of CPUs that this process may use; a quota of 1.5 CPUs counts as 2. The quota is read only once."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = current_quota()
    return cpus if limit is None else max(1, min(cpus, math.ceil(limit)))


def thread_count(requested: int | None = None) -> int:
    """Return the number of threads with which a command computes on a CPU.

    Args:
        requested: The number in the command's options. The default is `available()`, or PyTorch's own number if that is
            smaller: PyTorch takes a thread for each physical core, or fewer if `OMP_NUM_THREADS` says so.

    Raises:
        ValueError: The requested number is not between 1 and `MOST_THREADS`.
    """
    if requested is None:
        return min(available(), torch.get_num_threads())
    if not 1 <= requested <= MOST_THREADS:
        raise ValueError(f"threads must be an integer from 1 to {MOST_THREADS}, but is {requested!r}")
    return requested


@cache
def current_quota() -> float | None:
    """Return `quota()` as it was at the first call."""
    return quota()


def quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process in CPUs, such as 1.5; `None` if there is none.

    It is the smallest quota among the process's control group and the groups above it, of versions 1 and 2. In a container,
    groups above the container's own are not visible. Files that are missing, unreadable or malformed set no quota.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    limits = (
        _quota_of_version_2(folder) if version == 2 else _quota_of_version_1(folder)
        for version, folder in control_groups.folders("cpu", root)
    )
    return min((limit for limit in limits if limit is not None), default=None)


def _quota_of_version_2(folder: Path) -> float | None:
    """Return the quota in `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD` without a quota."""
    quota_us, _, period_us = control_groups.read(folder / "cpu.max").strip().partition(" ")
    return _ratio(quota_us, period_us)


def _quota_of_version_1(folder: Path) -> float | None:
    """Return the quota in `cpu.cfs_quota_us`, which is -1 without a quota, and `cpu.cfs_period_us`."""
    return _ratio(control_groups.read(folder / "cpu.cfs_quota_us"), control_groups.read(folder / "cpu.cfs_period_us"))


def _ratio(quota_us: str, period_us: str) -> float | None:
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:  # including "max", and an empty text for a file that is missing
        return None
    return quota / period if quota > 0 and period > 0 else None
