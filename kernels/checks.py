"""Check the operands of every `launch`. Errors say what was expected and what was passed."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_COLUMNS = 16384  # one program holds a row in registers
MAX_HEAD_DIM = 128
MAX_GROUP_CHANNELS = 128  # in the positional convolution, where a program accumulates all outputs of a group


def check_devices(**tensors: torch.Tensor | None) -> None:
    """Raise `ValueError` unless all operands that are not `None` share a device."""
    if len({tensor.device for tensor in tensors.values() if tensor is not None}) > 1:
        devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
        raise ValueError(
            f"{' and '.join(devices)} must share a device, but are on {', '.join(str(device) for device in devices.values())}"
        )


def check_dtypes(**tensors: torch.Tensor | None) -> None:
    """Raise `ValueError` if kernels do not support the dtype of an operand."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, float16 or bfloat16, but is {tensor.dtype}")


def check_shape(name: str, tensor: torch.Tensor | None, shape: tuple[int, ...], context: str) -> None:
    """Raise `ValueError` unless a tensor that is not `None` has this shape, which `context` implies."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)} for {context}, but is {list(tensor.shape)}")


def check_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Raise `ValueError` unless `x` `[..., C]` can be normalised by `weight` and `bias` `[C]`."""
    columns = x.shape[-1]
    if weight.shape != (columns,) or bias.shape != (columns,):
        raise ValueError(
            f"weight and bias must be [{columns}] for x {list(x.shape)}, but are {list(weight.shape)} and {list(bias.shape)}"
        )
    check_devices(x=x, weight=weight, bias=bias)
    if not 1 <= columns <= MAX_COLUMNS:
        raise ValueError(f"the last axis must have 1 to {MAX_COLUMNS} columns, but has {columns}")
    check_dtypes(x=x)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """Return `x` `[..., C]` as rows `[N, C]` of adjacent values, as a view if possible."""
    rows = x.reshape(-1, x.shape[-1])
    # a last axis of size 1 may have any stride; repeated rows (stride 0) are not copied
    return rows if rows.stride(1) == 1 else rows.contiguous()


def precision_of(dtype: torch.dtype) -> str:
    """Return the precision of `tl.dot` for float32: three tf32 products, nearly as exact, or one if PyTorch allows tf32."""
    return "tf32x3" if dtype == torch.float32 and not tf32_allowed() else "tf32"


def tf32_allowed() -> bool:
    """Return whether PyTorch allows tf32 for its own float32 products, by its old or its new setting."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # before 2.9
        return matmul.allow_tf32
    own = matmul.fp32_precision  # once this has been set, the older getter raises
    return (torch.backends.fp32_precision if own == "none" else own) == "tf32"
