"""Measure the peak memory and the energy of a run."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import torch

from ..devices import give_back_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5)


class Memory:
    """Measure how far memory rises above its level at `start`: memory of CUDA's allocator, or of the process on Linux."""

    def __init__(self, device: torch.device):
        self.device = device
        self._before: int | None = None

    def start(self) -> None:
        """Begin a measurement."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return
        if not sys.platform.startswith("linux"):
            return
        give_back_memory()
        try:
            CLEAR.write_text(RESET_PEAK)
            self._before = resident_bytes()
        except OSError:  # a sandbox may not have the file
            self._before = None

    def peak_bytes(self) -> int | None:
        """Return the bytes at the peak since `start`, minus those at `start`; `None` if they cannot be measured."""
        if self._before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        return max(_status_bytes("VmHWM") - self._before, 0)


def resident_bytes() -> int:
    """Return the resident memory of this process on Linux."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    return 1024 * int(STATUS.read_text().split(f"{field}:")[1].split()[0])


class Energy:
    """Read a GPU's energy counter through NVML (`pip install nvidia-ml-py`). `missing` is the reason if there is none."""

    def __init__(self, device: torch.device):
        self._nvml: Any = None
        self._handle: Any = None
        self.missing: str | None = None
        if device.type != "cuda":
            self.missing = "energy is measured only on NVIDIA GPUs"
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            # NVML numbers all GPUs of the machine; CUDA may see only some of them, in another order
            identity: Any = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            self._nvml = pynvml
        except ImportError:
            self.missing = "pynvml is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # no driver, or an old GPU
            self.missing = f"NVML: {error}"

    def joules(self) -> float | None:
        """Return the joules since the driver was loaded; `None` if there is no counter."""
        if self._nvml is None:
            return None
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
