"""Find how much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

NO_LIMIT = 1 << 62


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that Linux would give this process without swapping; `None` if that is unknown.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return min([available, *_left_in_cgroups(root)])


def _left_in_cgroups(root: Path) -> list[int]:
    """Return the bytes left to each control group with a memory limit that this process is in, as in a container."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit_name, usage_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit_name, usage_name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        # inside a container the path may be that of the host, while the container's own group is mounted at the base
        for group in (folder, *folder.parents) if folder.exists() else (base,):
            limit, usage = (_number(group / name) for name in (limit_name, usage_name))
            if limit is not None and usage is not None and limit < NO_LIMIT:
                left.append(max(limit - usage, 0))
            if group == base:
                break
    return left


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
