"""Choose a device and a dtype, copy small arrays to the device, and recognise out-of-memory errors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TORCH_DTYPES = {np.dtype(name): getattr(torch, name) for name in ("int32", "int64", "float64")}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def resolve_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises `ValueError` for other names and missing devices."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, but is {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, but is {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            reason = "none is usable" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
            available = f"there are {count} CUDA devices, numbered from 0" if count else f"there is no CUDA device ({reason})"
            raise ValueError(f"device {name} was requested, but {available}")
    return device


def resolve_devices(names: str) -> list[torch.device]:
    """Return the devices for a name as in `resolve_device`, or for several GPUs as in `"cuda:0,1"`.

    Raises:
        ValueError: If a device is unknown, missing or named twice, or if several are not GPUs.
    """
    first, *more = names.split(",")
    devices = [resolve_device(first), *(resolve_device(f"cuda:{index.removeprefix('cuda:')}") for index in more)]
    if more and (devices[0].index is None or len(set(devices)) < len(devices)):
        raise ValueError(f"several devices must be different GPUs, such as cuda:0,1, but are {names!r}")
    return devices


def resolve_device_map(device_map: str | int | torch.device | dict | None) -> torch.device | None:
    """Return the single device on which transformers' `device_map` puts a model, or `None` for `None`.

    Raises `ValueError` for a map that distributes a model over several devices, and for a missing device.
    """
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ValueError(f"device_map must put the whole model on one device, as {{'': 'cuda:0'}}, but is {device_map!r}")
        device_map = device_map[""]
    if device_map is None:
        return None
    if type(device_map) is int:
        device_map = f"cuda:{device_map}"
    name = str(device_map)
    return resolve_device("auto" if name in ("balanced", "balanced_low_0", "sequential") else name)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small host tensor to a device. Unlike `.to`, this does not wait for the work that is queued there.

    The copy may run after this function returns. PyTorch does not reuse the pinned memory before then.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def upload_together(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Copy small host arrays to a device in a single copy, without waiting for the work that is queued there.

    The returned tensors are views of one buffer. They start at multiples of 16 bytes, since kernels are compiled for the
    alignment of their operands.
    """
    return views_of(upload(joined(arrays, device), device), arrays)


def joined(arrays: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Return the bytes of small arrays in one host buffer, which is pinned if `device` is CUDA, so that copies do not wait."""
    begins, total = _layout(arrays)
    host = torch.empty(total, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
    raw = host.numpy()
    for begin, array in zip(begins, arrays):
        raw[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
    return host


def views_of(flat: torch.Tensor, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Return views of `flat`, a copy of the buffer that `joined` returned, with the shapes and dtypes of `arrays`."""
    begins, _ = _layout(arrays)
    return [
        flat[begin : begin + array.nbytes].view(TORCH_DTYPES[array.dtype]).view(array.shape)
        for begin, array in zip(begins, arrays)
    ]


def _layout(arrays: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Return the offset of each array in a joint buffer and the size of the buffer, both in bytes."""
    *begins, total = accumulate((-(-array.nbytes // 16) * 16 for array in arrays), initial=0)
    return begins, total


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is an out-of-memory error, so that a smaller batch may succeed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in OUT_OF_MEMORY)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return None


def give_back_memory() -> None:
    """Make glibc return free memory to the system, including free blocks between blocks in use.

    By default glibc keeps those. Long-lived results between large buffers would then make a process grow for hours.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def cpu_has(feature: str) -> bool:
    """Return whether this CPU has a feature such as `amx_tile` or `avx512_bf16`, both of which multiply bfloat16."""
    return getattr(torch.cpu, f"_is_{feature}_supported", lambda: False)()


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a name, or the fastest one on `device` for `"auto"`.

    That is bfloat16 on GPUs from sm_80 on and on CPUs with AMX or AVX512-BF16, which multiply it at least twice as fast as
    float32. On other GPUs it is float16, on other CPUs float32.
    """
    if name == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if cpu_has("amx_tile") or cpu_has("avx512_bf16") else torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if name not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, but is {name!r}")
    return DTYPES[name]
