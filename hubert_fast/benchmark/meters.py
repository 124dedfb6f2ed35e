"""What a run costs besides time: memory above what was held, and energy."""

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
    """Peak memory above what is held when :meth:`start` is called: of the allocator on CUDA, of the process on Linux."""

    def __init__(self, device: torch.device):
        self.device = device
        self._before: int | None = None

    def start(self) -> None:
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
            self._before = _status_bytes("VmRSS")
        except OSError:  # a sandbox without it
            self._before = None

    def peak_bytes(self) -> int | None:
        """Bytes at the peak since :meth:`start`, less those held then; ``None`` where nothing tells."""
        if self._before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        return max(_status_bytes("VmHWM") - self._before, 0)


def _status_bytes(field: str) -> int:
    return 1024 * int(STATUS.read_text().split(f"{field}:")[1].split()[0])


class Energy:
    """A GPU's own count of joules, by NVML (``pip install nvidia-ml-py``)."""

    def __init__(self, device: torch.device):
        self._nvml, self._handle = None, None
        self.missing: str | None = None
        if device.type != "cuda":
            self.missing = "energy is counted on NVIDIA GPUs alone"
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            # NVML numbers the machine's GPUs; CUDA may see some of them in another order
            identity: Any = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            self._nvml = pynvml
        except ImportError:
            self.missing = "pynvml is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # no driver, an old GPU
            self.missing = f"NVML: {error}"

    def joules(self) -> float | None:
        """Joules since the driver was loaded, ``None`` where nothing tells."""
        if self._nvml is None:
            return None
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
