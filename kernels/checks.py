"""What every ``launch`` asks of its operands, with errors that say what was expected and what came."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_COLUMNS = 16384  # one program holds a row in registers
MAX_HEAD_DIM = 128
MAX_GROUP_CHANNELS = 128  # of the positional convolution, all of whose outputs a program accumulates


def check_devices(**tensors: torch.Tensor | None) -> None:
    """Raise ``ValueError`` unless all operands that there are share a device."""
    if len({tensor.device for tensor in tensors.values() if tensor is not None}) > 1:
        given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
        raise ValueError(
            f"{' and '.join(given)} must share a device, but are on {', '.join(str(device) for device in given.values())}"
        )


def check_dtypes(**tensors: torch.Tensor | None) -> None:
    """Raise ``ValueError`` for an operand of a dtype that kernels do not take."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, float16 or bfloat16, but is {tensor.dtype}")


def check_shape(name: str, tensor: torch.Tensor | None, shape: tuple[int, ...], beside: str) -> None:
    """Raise ``ValueError`` unless a tensor, if there is one, has this shape, which ``beside`` explains."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)} for {beside}, but is {list(tensor.shape)}")


def check_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``x`` ``[..., C]`` can be normalised by ``weight`` and ``bias`` ``[C]``."""
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
    """Return ``x`` ``[..., C]`` as rows ``[N, C]`` of adjacent values: a view where its strides allow."""
    rows = x.reshape(-1, x.shape[-1])
    # a last axis of one may have any stride; rows that repeat (stride 0) are read as they are
    return rows if rows.stride(1) == 1 else rows.contiguous()


def precision_of(dtype: torch.dtype) -> str:
    """Return how tensor cores multiply float32: three tf32 products, near float32's accuracy, or one where PyTorch may too."""
    return "tf32x3" if dtype == torch.float32 and not tf32_allowed() else "tf32"


def tf32_allowed() -> bool:
    """Whether PyTorch's own float32 products may be rounded to tf32, by either of the ways to say so."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # before 2.9
        return matmul.allow_tf32
    own = matmul.fp32_precision  # beside it the older getter raises, once the newer setter was used
    return (torch.backends.fp32_precision if own == "none" else own) == "tf32"
