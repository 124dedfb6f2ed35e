"""Check in several processes at once: compilation takes most of the time of a check, and each process compiles one kernel."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence

import torch

from ..cpus import available
from .process import Row, checked, not_run

MAX_PROCESSES = 12
PROCESS_BYTES = 3 << 30  # of GPU memory: half a gigabyte for CUDA, and the tensors of the largest case in float64


def process_count(device: torch.device, dtypes: int) -> int:
    """Return how many processes check each of `dtypes` dtypes, given the CPUs and the free memory of the GPU."""
    if device.type != "cuda":
        return 1
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(1, min(MAX_PROCESSES, available() - 2, free_bytes // PROCESS_BYTES) // dtypes)


def checked_in_parallel(
    device: torch.device, dtypes: Sequence[str], few: bool, limit_seconds: float, processes: int
) -> Iterator[Row]:
    """Run a check in child processes and yield rows as they arrive. If a child dies or takes too long, a row says so.

    Args:
        device: The device.
        dtypes: The dtypes, by their names.
        few: Run only the checks that take seconds.
        limit_seconds: Children are killed after this time.
        processes: The number of processes for each dtype.
    """
    rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
    children: list[subprocess.Popen] = []

    def read(dtype: str, shard: int) -> None:
        try:
            for row in checked(device, dtype, few, limit_seconds, (shard, processes), children):
                rows.put(row)
        except Exception as error:
            rows.put(not_run(dtype, str(error)))
        finally:
            rows.put(None)

    threads = [
        threading.Thread(target=read, args=(dtype, shard), daemon=True) for dtype in dtypes for shard in range(processes)
    ]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            row = rows.get()
            if row is None:
                running -= 1
            else:
                yield row
    finally:  # also if the caller stops reading
        for child in children:
            child.kill()
        for thread in threads:
            thread.join()
