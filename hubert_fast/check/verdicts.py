"""What a check found about kernels on a chip, with a torch and a triton: kept in the user's cache folder.

The first time ``auto`` would take kernels on a combination and in a dtype, the short check runs, a few seconds, in a process of
its own. A combination that fails, or that could not be checked, takes plain PyTorch, with one warning. Only what is certain is
kept, in a file for each combination and dtype; with other sources of the kernels it counts no more.
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
from .process import FAIL, NOT_CHECKED, PASS, Row, checked

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 300.0  # for what takes a few, with room for slow compilers
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_known: dict[tuple[torch.device, torch.dtype], str | None] = {}
_lock = threading.Lock()


def why_not_proven(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """Return why kernels may not be trusted on a device in a dtype, ``None`` when a check has passed; check if need be.

    dtype: ``None`` for kernels of waveforms, which a check in any dtype holds to float64.

    Warns once, with ``RuntimeWarning``, where they may not.
    """
    if dtype is None:
        passed = (other for other in NAMES if _known.get((device, other), "not known") is None)
        return why_not_proven(device, next(passed, torch.bfloat16))
    key = device, dtype
    if key not in _known:
        with _lock:  # lanes are threads
            if key not in _known:
                reason = _find_out(device, NAMES[dtype])
                _known[key] = reason  # before the warning, which a filter may raise
                if reason is not None:
                    warnings.warn(_warning(device, reason), RuntimeWarning, stacklevel=2)
    return _known[key]


def _find_out(device: torch.device, dtype: str) -> str | None:
    file = _file(device, dtype)
    with _alone(file):
        kept = _read(file)
        if kept is None:
            logger.info("checking the kernels on %s in %s: once for this chip, torch and triton, some seconds", device, dtype)
            kept = verdict(checked(device, dtype, few=True, limit_seconds=LIMIT_SECONDS))
            _keep(file, device, dtype, kept)
    return None if kept == PASS else kept


def verdict(rows: Iterable[Row]) -> str:
    """Return ``"pass"``, or what the first failing row says, or else the first that could not be checked."""
    rows = list(rows)
    for kind in (FAIL, NOT_CHECKED):
        for row in rows:
            if row["status"].startswith(kind):
                return described(row)
    return PASS if rows else f"{NOT_CHECKED}: nothing came back"


def described(row: Row) -> str:
    """Return what a row says, in one line that names the op."""
    where = ", ".join(filter(None, (row["op"], row["shape"], row["dtype"])))
    error, more = row.get("relative_error"), ""
    if error is not None and row["status"] == FAIL:
        more = f": relative error {error:.1e}, but {row['tolerance']:g} is allowed"
    return f"{row['status']}{more} ({where})"


def keep(device: torch.device, dtype: str, rows: Iterable[Row]) -> None:
    """Keep what a check of a device in a dtype found, instead of what was known before."""
    _keep(_file(device, dtype), device, dtype, verdict(rows))


def known(device: torch.device, dtype: str) -> str | None:
    """Return ``"pass"`` or the failure that is kept for a device in a dtype; ``None`` when it was never checked."""
    return _read(_file(device, dtype))


def _keep(file: Path | None, device: torch.device, dtype: str, found: str) -> None:
    if file is None or found.startswith(NOT_CHECKED):
        return
    text = json.dumps({**combination(device), "dtype": dtype, "verdict": found}, indent=1)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(file)


def _read(file: Path | None) -> str | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["verdict"] if file is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def combination(device: torch.device) -> dict[str, Any]:
    """Return what the answers of kernels depend on: the chip, versions, and the kernels themselves."""
    chip = "interpreter"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        chip = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    return {"chip": chip, "torch": torch.__version__, "triton": triton_version(), "kernels": _sources()}


@cache
def _sources() -> str:
    """Return a hash of the sources of all kernels."""
    from ..kernels import tuning

    found = hashlib.sha256()
    for file in sorted(Path(tuning.__file__).parent.glob("*.py")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:12]


def _file(device: torch.device, dtype: str) -> Path | None:
    folder = cache_folder()
    name = " ".join([*combination(device).values(), dtype])
    return None if folder is None else folder / "checks" / f"{re.sub('[^A-Za-z0-9._+-]+', '-', name)}.json"


@contextlib.contextmanager
def _alone(file: Path | None) -> Iterator[None]:
    """Have one process of a machine check, while the others wait for what it finds."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):  # without locks each checks for itself
            import fcntl

            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(file.with_suffix(".lock"), "w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _warning(device: torch.device, reason: str) -> str:
    chip, torch_version, triton, _ = combination(device).values()
    found = "could not be checked" if reason.startswith(NOT_CHECKED) else "failed their check"
    return (
        f"kernels {found} on {chip} with torch {torch_version} and triton {triton}, and plain PyTorch takes their place, "
        f"slower: {reason}. See all with `hubert-fast check`; {CHECK_VARIABLE}=0 or {BACKEND_VARIABLE}=triton takes kernels "
        "all the same."
    )
