"""Store the outcome of checks for each combination of chip, torch, triton and kernels, in the user's cache folder.

The first time `auto` would use kernels on a combination in a dtype, the short check runs in separate processes, and a line on
the log says so: it takes seconds, most of them to compile kernels that the model needs anyway. If it fails or cannot run, plain
PyTorch runs instead of the kernels, and a warning says so once. Only definite outcomes are stored, in a file for each
combination and dtype. A change to the source of a kernel makes a new combination.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..devices import DTYPES
from ..dispatch import BACKEND_VARIABLE, CHECK_VARIABLE, cache_folder, triton_version
from .parallel import checked_in_parallel, process_count
from .process import FAIL, NOT_CHECKED, PASS, Row

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 300.0  # the check takes half a minute, but compilers may be slow
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_known: dict[tuple[torch.device, torch.dtype], str | None] = {}
_lock = threading.Lock()


def why_not_proven(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """Return why kernels must not be used on a device in a dtype, or `None` if a check has passed. Run the check if needed.

    The reason is also issued as a `RuntimeWarning`, once.

    Args:
        device: The device.
        dtype: The dtype; `None` for kernels that process waveforms, which are part of the check in every dtype.
    """
    if dtype is None:
        passed = (other for other in NAMES if _known.get((device, other), "unknown") is None)
        return why_not_proven(device, next(passed, torch.bfloat16))
    key = device, dtype
    if key not in _known:
        with _lock:  # several threads may use the device
            if key not in _known:
                reason = _load_or_check(device, NAMES[dtype])
                _known[key] = reason  # before the warning, which a filter may turn into an error
                if reason is not None:
                    warnings.warn(_warning(device, reason), RuntimeWarning, stacklevel=2)
    return _known[key]


def _load_or_check(device: torch.device, dtype: str) -> str | None:
    file = _file(device, dtype)
    with _locked(file):
        outcome = _read(file)
        if outcome is None:
            processes = process_count(device, 1)
            logger.warning(  # shown even where nothing configures logging: the first call seems to hang otherwise
                "compiling and checking kernels in %s on %s, which takes 10 to 60 seconds, once per chip, torch and triton",
                dtype,
                combination(device)["chip"],
            )
            outcome = verdict(checked_in_parallel(device, [dtype], True, LIMIT_SECONDS, processes))
            _store(file, device, dtype, outcome)
    return None if outcome == PASS else outcome


def verdict(rows: Iterable[Row]) -> str:
    """Return `"pass"`, or a description of the first row that failed or, if none did, of the first that was not checked."""
    rows = list(rows)
    for kind in (FAIL, NOT_CHECKED):
        for row in rows:
            if row["status"].startswith(kind):
                return described(row)
    return PASS if rows else f"{NOT_CHECKED}: the check returned nothing"


def described(row: Row) -> str:
    """Return the status of a row in one line, with the op."""
    subject = ", ".join(filter(None, (row["op"], row["shape"], row["dtype"])))
    error, detail = row.get("relative_error"), ""
    if error is not None and row["status"] == FAIL:
        detail = f": relative error {error:.1e}, but {row['tolerance']:g} is allowed"
    return f"{row['status']}{detail} ({subject})"


def keep(device: torch.device, dtype: str, rows: Iterable[Row]) -> None:
    """Store the outcome of a check and replace an earlier one."""
    _store(_file(device, dtype), device, dtype, verdict(rows))


def known(device: torch.device, dtype: str) -> str | None:
    """Return the stored outcome for a device in a dtype: `"pass"` or the failure; `None` if it was never checked."""
    return _read(_file(device, dtype))


def _store(file: Path | None, device: torch.device, dtype: str, outcome: str) -> None:
    if file is None or outcome.startswith(NOT_CHECKED):
        return
    text = json.dumps({**combination(device), "dtype": dtype, "verdict": outcome}, indent=1)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):  # without a writable cache the check runs in every process
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(file)


def _read(file: Path | None) -> str | None:
    try:
        outcome = json.loads(file.read_text(encoding="utf-8"))["verdict"] if file is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return outcome if isinstance(outcome, str) else None


def combination(device: torch.device) -> dict[str, Any]:
    """Return everything that determines the results of kernels: the chip, versions, and a hash of the kernels."""
    chip = "interpreter"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        chip = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    return {"chip": chip, "torch": torch.__version__, "triton": triton_version(), "kernels": _sources()}


@cache
def _sources() -> str:
    """Return a hash of the sources of all kernels."""
    from ..kernels import tuning

    digest = hashlib.sha256()
    for file in sorted(Path(tuning.__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _file(device: torch.device, dtype: str) -> Path | None:
    folder = cache_folder()
    name = " ".join([*combination(device).values(), dtype])
    return None if folder is None else folder / "checks" / f"{re.sub('[^A-Za-z0-9._+-]+', '-', name)}.json"


@contextlib.contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    """Let only one process of a machine check at a time, while the others wait for its outcome."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):  # without locks, each process runs its own check
            import fcntl

            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(file.with_suffix(".lock"), "w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _warning(device: torch.device, reason: str) -> str:
    chip, torch_version, triton, _ = combination(device).values()
    problem = "could not be checked" if reason.startswith(NOT_CHECKED) else "failed their check"
    return (
        f"kernels {problem} on {chip} with torch {torch_version} and triton {triton}, so the slower plain PyTorch runs "
        f"instead: {reason}. Run `hubert-fast check` for details; set {CHECK_VARIABLE}=0 or {BACKEND_VARIABLE}=triton to use "
        "kernels regardless."
    )
