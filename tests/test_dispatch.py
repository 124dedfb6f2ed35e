"""Test how ops choose a backend: by the argument, by the environment variable, or by what can run on this machine."""

import subprocess
import sys

import pytest
import torch
from conftest import assert_close

from hubert_fast import dispatch, ops

triton = pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")


def _operands(shape, dtype):
    """Return operands of `layer_norm`, an op that has a kernel."""
    x, (weight, bias) = torch.randn(shape, dtype=torch.float64) * 3 + 5, torch.randn(2, shape[-1], dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def test_gradients_use_the_definition_and_triton_refuses_them():
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


def test_errors_give_the_shapes_of_wrong_operands():
    x, weight, bias = _operands((3, 7), torch.float32)
    with pytest.raises(ValueError, match=r"must be \[7\].*\[6\]"):
        ops.layer_norm(x, weight[:6], bias, backend="triton")
    with pytest.raises(ValueError, match="1 to 16384 columns, but has 0"):
        ops.layer_norm(x[:, :0], weight[:0], bias[:0], backend="triton")


def test_errors_name_what_triton_lacks_to_start_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dispatch.why_not("triton") == "triton needs a C compiler to start kernels, but neither gcc nor clang was found"
    (tmp_path / "gcc").write_text("#!/bin/sh")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:")
    monkeypatch.setattr(dispatch.os.path, "exists", lambda path: "Python.h" not in str(path))
    assert dispatch.why_not("triton").startswith(
        "triton needs the headers of Python to start kernels, but there is no Python.h in /"
    )
    monkeypatch.setenv("CC", "no-such-compiler")
    assert dispatch.why_not("triton") == "triton needs a C compiler to start kernels, but there is no no-such-compiler"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert dispatch.why_not("triton") == "kernels need an NVIDIA GPU, but this torch is built for AMD GPUs"


def test_kernels_are_not_used_on_old_gpus(monkeypatch):
    class OnCuda:
        is_cuda, dtype, device, requires_grad = True, torch.float32, torch.device("cuda:0"), False

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch, "_missing_build_tool", lambda compiler, path: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not dispatch.use_triton(OnCuda())
    with pytest.raises(RuntimeError, match=r"GPU of compute capability \(8, 0\) or higher, but cuda:0 has \(7, 5\)"):
        dispatch.use_triton(OnCuda(), backend="triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert dispatch.use_triton(OnCuda(), backend="triton")


def test_torch_compile_does_not_trace_the_choice_of_backend(monkeypatch):
    x, weight, bias = _operands((3, 8), torch.float32)
    expected = ops.layer_norm(x, weight, bias)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    caller = "hubert_fast.dispatch"  # PyTorch itself must not see a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sys._getframe(1).f_globals["__name__"] == caller)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: ops.layer_norm(x, weight, bias), fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), expected, torch.float32)
    assert_close(compiled(2 * x), expected, "other graph")


def test_import_loads_neither_triton_nor_the_compiler():
    code = "import sys, hubert_fast.ops, hubert_fast.modeling; print({'triton', 'torch._dynamo'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "set()"
