"""Find the control groups of this process, whose files limit its CPU time and memory, as in a container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield the version, 1 or 2, and the folder of this process's control group and of each group above it.

    Groups may exist in both versions. In a container, groups above the container's own are not visible.

    Args:
        controller: The controller of groups of version 1, such as `"cpu"` or `"memory"`.
        root: The folder that holds `proc` and `sys`.
    """
    groups = _groups(read(root / "proc/self/cgroup"), controller)
    for kind, mount_root, mount_point in _mounts(read(root / "proc/self/mountinfo"), controller):
        if kind in groups:
            for folder in _folders(root / mount_point.lstrip("/"), mount_root, groups[kind]):
                yield 2 if kind == "cgroup2" else 1, folder


def _groups(text: str, controller: str) -> dict[str, str]:
    """Return the paths of the control groups in the lines `ID:CONTROLLERS:PATH`, by the file system type of their version."""
    groups = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = path
        elif controller in controllers.split(","):
            groups["cgroup"] = path
    return groups


def _mounts(text: str, controller: str) -> Iterator[tuple[str, str, str]]:
    """Yield the file system type, the root and the mount point of each hierarchy of control groups with a controller.

    A line is `ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`, see proc(5). The root is the
    group that appears at the mount point.
    """
    for line in text.split("\n"):
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        kind, controllers = right.partition(" ")[0], right.rpartition(" ")[2].split(",")
        if len(fields) >= 5 and (kind == "cgroup2" or (kind == "cgroup" and controller in controllers)):
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


def read(path: Path) -> str:
    """Return the text of a file, which is empty if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
