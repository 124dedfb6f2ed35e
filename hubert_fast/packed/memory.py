"""Find how much memory this process may still take."""

from __future__ import annotations

import re
from pathlib import Path

from .. import control_groups


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that Linux would give this process without swapping; `None` if that is unknown.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    line = re.search(r"^MemAvailable: +(\d+) kB$", control_groups.read(root / "proc/meminfo"), re.MULTILINE)
    if line is None:
        return None
    left = (_bytes_left(version, folder) for version, folder in control_groups.folders("memory", root))
    return min([1024 * int(line[1]), *(each for each in left if each is not None)])


def _bytes_left(version: int, folder: Path) -> int | None:
    """Return the bytes that a control group may still take; `None` if it has no limit."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        limit, usage = (int(control_groups.read(folder / name)) for name in names)
    except ValueError:  # "max", or a file that is missing
        return None
    return max(limit - usage, 0)
