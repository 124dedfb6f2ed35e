"""Count the CPUs that this process may use: those of its affinity mask, or fewer if its control groups have a CPU quota.

A quota limits CPU time, as `docker run --cpus 1.5` and the CPU limits of Kubernetes do. A process with a quota still sees all
CPUs of the machine. If it ran a thread on each of them, threads that spin while they wait for each other would use up the
quota, and the kernel would stop the process until the next period.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import torch

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
    groups = _groups(_read(root / "proc/self/cgroup"))
    limits: list[float | None] = []
    for kind, mount_root, mount_point in _mounts(_read(root / "proc/self/mountinfo")):
        if kind in groups:
            read = _quota_of_version_2 if kind == "cgroup2" else _quota_of_version_1
            top = root / mount_point.lstrip("/")
            limits += [read(folder) for folder in _folders(top, mount_root, groups[kind])]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(text: str) -> dict[str, str]:
    """Return the paths of the control groups in the lines `ID:CONTROLLERS:PATH`, by the file system type of their version."""
    groups = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = path
    return groups


def _mounts(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the file system type, the root and the mount point of each hierarchy of control groups that may limit CPU time.

    A line is `ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`, see proc(5). The root is the
    group that appears at the mount point.
    """
    for line in text.split("\n"):
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        kind, controllers = right.partition(" ")[0], right.rpartition(" ")[2].split(",")
        if len(fields) >= 5 and (kind == "cgroup2" or (kind == "cgroup" and "cpu" in controllers)):
            yield kind, _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(text: str) -> str:
    """Replace the octal escapes of spaces, tabs, line breaks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _folders(top: Path, mount_root: str, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of the groups above it, up to the mount point `top`.

    In a container the mount point often is the container's own group, while the path of the group is the one on the host, or
    leads out of the namespace by `..`: then the mount point alone is yielded.
    """
    path, start = PurePosixPath(group), PurePosixPath(mount_root)
    if ".." not in path.parts and path.is_relative_to(start):
        relative = path.relative_to(start)
        yield from (top / each for each in (relative, *relative.parents))
    else:
        yield top


def _quota_of_version_2(folder: Path) -> float | None:
    """Return the quota in `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD` without a quota."""
    quota_us, _, period_us = _read(folder / "cpu.max").strip().partition(" ")
    return _ratio(quota_us, period_us)


def _quota_of_version_1(folder: Path) -> float | None:
    """Return the quota in `cpu.cfs_quota_us`, which is -1 without a quota, and `cpu.cfs_period_us`."""
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota_us: str, period_us: str) -> float | None:
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:  # including "max", and an empty text for a file that is missing
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
