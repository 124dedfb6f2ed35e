"""layer_norm through the three gates: values (interpreted), compilation (for real chips), registration."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import assert_close

from hubert_fast import ops

triton = pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

SHAPES = [(1, 1), (3, 7), (2, 5, 48), (4, 193), (0, 16), (2, 768)]


def _operands(shape, dtype, strides="contiguous"):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    if strides == "transposed" and len(shape) > 1:
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    weight, bias = torch.randn(2, shape[-1], dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strides", ["contiguous", "transposed"])
def test_values_against_float64(shape, dtype, strides):
    x, weight, bias = _operands(shape, dtype, strides)
    found = ops.layer_norm(x, weight, bias, 1e-5, backend="triton")
    expected = ops.layer_norm_eager(x.double(), weight.double(), bias.double(), 1e-5)
    assert found.dtype == dtype and found.shape == x.shape
    if x.numel():
        assert_close(found, expected, dtype, f"{shape}")


def test_rows_that_are_one_row_expanded_and_rows_inside_a_wider_buffer():
    x, weight, bias = _operands((1, 33), torch.float32)
    expanded = x.expand(5, 33)
    inside = torch.full((5, 64), float("nan"))
    inside[:, :33] = expanded
    expected = ops.layer_norm_eager(expanded, weight, bias)
    for rows in (expanded, inside[:, :33]):
        assert_close(ops.layer_norm(rows, weight, bias, backend="triton"), expected, torch.float32)


def test_gradient_takes_the_definition_or_says_why_not():
    x, weight, bias = _operands((3, 7), torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.layer_norm(x, weight, bias), (x,))
    x = x.detach().float().requires_grad_()
    with pytest.raises(RuntimeError, match="no backward"):
        ops.layer_norm(x, weight.float(), bias.float(), backend="triton")


def test_a_backend_forced_by_the_environment_never_falls_back(monkeypatch):
    x, weight, bias = _operands((3, 7), torch.float32)
    monkeypatch.setenv("HUBERT_FAST_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="no backward"):
        ops.layer_norm(x.requires_grad_(), weight, bias)
    with pytest.raises(RuntimeError, match="float64"):
        ops.layer_norm(x.detach().double(), weight.double(), bias.double())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no CUDA device"):
            ops.layer_norm(x.detach(), weight, bias)
    monkeypatch.setenv("HUBERT_FAST_BACKEND", "metal")
    with pytest.raises(ValueError, match="backend must be auto, eager or triton, but is 'metal'"):
        ops.layer_norm(x, weight, bias)


def test_operands_that_do_not_fit_are_named():
    x, weight, bias = _operands((3, 7), torch.float32)
    with pytest.raises(ValueError, match=r"must be \[7\].*\[6\]"):
        ops.layer_norm(x, weight[:6], bias, backend="triton")
    with pytest.raises(ValueError, match="1 to 16384 columns, but has 0"):
        ops.layer_norm(x[:, :0], weight[:0], bias[:0], backend="triton")


def test_registration():
    arguments = (*_operands((3, 8), torch.float32), 1e-5)
    torch.library.opcheck(torch.ops.hubert_fast.layer_norm.default, arguments)


def test_compiles_whole_and_exports():
    x, weight, bias = _operands((3, 8), torch.float32)

    class Norm(torch.nn.Module):
        def forward(self, x):
            return ops.layer_norm(x, weight, bias, backend="triton") + 1

    expected = Norm()(x)
    assert_close(torch.compile(Norm(), fullgraph=True, backend="aot_eager")(x), expected, torch.float32)
    assert_close(torch.export.export(Norm(), (x,)).module()(x), expected, torch.float32)


# Compilation needs the real compiler, and this process runs the interpreter: hence one process for all targets.
_COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hubert_fast.kernels import layer_norm as module
for arch in (80, 90, 100):
    for pointer in ("*fp32", "*fp16", "*bf16"):
        for columns in (512, 1024, 1280):
            launch = module.blocks(columns)
            signature = {name: pointer for name in ("x_ptr", "weight_ptr", "bias_ptr", "out_ptr")}
            signature |= {"x_stride_row": "i32", "n_columns": "i32", "eps": "fp32", "BLOCK": "constexpr"}
            source = ASTSource(module._layer_norm_kernel, signature, {"BLOCK": launch["BLOCK"]})
            options = {"num_warps": launch["num_warps"]}
            kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
            name = f"sm_{arch}-{pointer[1:]}-{columns}"
            open(f"{sys.argv[1]}/{name}.cubin", "wb").write(kernel.asm["cubin"])
            print(name, kernel.metadata.shared)
"""


def test_compiles_for_real_chips_without_spills():
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": folder}
        command = [sys.executable, "-c", _COMPILE, folder]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        lines = [line.split() for line in run.stdout.splitlines()]
        assert len(lines) == 27
        for name, shared_bytes in lines:
            usage = subprocess.run(
                [cuobjdump, "-res-usage", f"{folder}/{name}.cubin"], check=True, capture_output=True, text=True
            ).stdout
            registers, stack = (int(re.search(rf"{field}:(\d+)", usage).group(1)) for field in ("REG", "STACK"))
            assert stack == 0, f"{name} spills: {usage}"
            assert registers <= 64, f"{name} takes {registers} registers"
            assert int(shared_bytes) <= 48 << 10, f"{name} takes {shared_bytes} bytes of shared memory"
