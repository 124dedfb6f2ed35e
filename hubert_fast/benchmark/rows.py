"""Read and write rows of results, with the machine, versions and commit that produced them."""

from __future__ import annotations

import contextlib
import csv
import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__

CPU_INFO = Path("/proc/cpuinfo")
ROOT = Path(__file__).resolve().parent.parent.parent


def processor() -> str:
    """Return the name of the CPU. A name without a number, as some hypervisors give, is followed by its family and model."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    if not any(map(str.isdigit, name)) and "cpu family" in fields and "model" in fields:
        return f"{name} (family {fields['cpu family']}, model {fields['model']})"
    return name


def first_line_of(*command: str) -> str:
    """Return the first line that a program prints. It is empty if the program does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0].strip()
    except OSError:
        return ""


def version(package: str) -> str:
    """Return the version of a package, or an empty text if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def origin(**versions: str) -> dict[str, str]:
    """Return the columns that say where rows come from. The `versions` of libraries go between the commit and the device."""
    # an installed package may lie inside the repository of another project
    is_checkout = (ROOT / "setup.py").exists() and (ROOT / "csrc").exists()
    return {
        "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "commit": first_line_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") if is_checkout else "",
        "python": platform.python_version(),
        **versions,
        "device": processor(),
    }


def device_columns(device: torch.device) -> dict[str, str]:
    """Return `origin` for a run on `device`, with the versions of torch, triton, transformers and the driver."""
    versions = {"torch": torch.__version__, "triton": version("triton"), "transformers": version("transformers")}
    columns = origin(**versions) | {"threads": str(torch.get_num_threads()), "driver": ""}
    if device.type == "cuda":
        columns["device"] = torch.cuda.get_device_name(device)
        columns["driver"] = first_line_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return columns


def append(path: Path, columns: dict[str, str], rows: list[dict]) -> None:
    """Append rows to a CSV file, and write a header first if the file is new. Several processes may append at once.

    Args:
        path: The file. Its folder is created if it does not exist.
        columns: The first columns, which are equal in all rows.
        rows: The other columns of each row.

    Raises:
        ValueError: The file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = [*columns, *rows[0]]
    with open(path, "a+", newline="", encoding="utf-8") as file:
        with contextlib.suppress(ImportError):  # not all systems have this lock
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        file.seek(0)
        existing = next(csv.reader(file), None)
        if existing not in (None, header):
            raise ValueError(f"{path} has other columns than these rows: name another file")
        file.seek(0, os.SEEK_END)
        writer = csv.DictWriter(file, header)
        if existing is None:
            writer.writeheader()
        writer.writerows({name: written(value) for name, value in {**columns, **row}.items()} for row in rows)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file. The list is empty if the file does not exist."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(value: Any) -> Any:
    """Format floating-point numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else value


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return the 20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(seconds, [20, 50, 80])
    return float(p20), float(p50), float(p80)
