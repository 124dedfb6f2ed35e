"""Test that the CPU kernels run on PyTorch's threads, and say why where they cannot run."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from hubert_fast.packed import cpu_kernels

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
REASON = cpu_kernels.why_not(FLOAT32)
runs = pytest.mark.skipif(REASON is not None, reason=f"the CPU kernels cannot run: {REASON}")


@runs
def test_kernels_add_no_threads_to_those_of_pytorch():
    """Counted in a process of its own, where nothing else starts threads."""
    code = """
import os, torch
from hubert_fast.packed import cpu_kernels
x = torch.randn(3000, 128)
def threads_after(run):
    run()
    return len(os.listdir("/proc/self/task"))
for number in (3, 5):
    torch.set_num_threads(number)
    counts = [threads_after(run) for run in (
        lambda: x.exp(),
        lambda: cpu_kernels.attention(x, x, x, (3000,), 2),
        lambda: cpu_kernels.gelu_(x.clone()),
        lambda: x.exp(),
    )]
    print(*counts)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    three, five = (list(map(int, line.split())) for line in run.stdout.splitlines())
    assert set(three) == {three[0]} and set(five) == {five[0]} and five[0] == three[0] + 2


@runs
def test_kernels_serve_several_python_threads_at_once():
    q, layer = torch.randn(500, 128), torch.nn.LayerNorm(128).requires_grad_(False)
    attended, activated = cpu_kernels.attention(q, q, q, (500,), 2), cpu_kernels.layer_norm_gelu_(q.clone(), layer)
    wrong = []

    def call():
        torch.set_num_threads(2)
        for _ in range(20):
            if not torch.equal(cpu_kernels.attention(q, q, q, (500,), 2), attended):
                wrong.append("attention")
            if not torch.equal(cpu_kernels.layer_norm_gelu_(q.clone(), layer), activated):
                wrong.append("layer_norm_gelu_")

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.fixture
def fresh():
    """Forget what was found out about this machine, before the test and after it."""
    cached = [value for value in vars(cpu_kernels).values() if hasattr(value, "cache_clear")]
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


class Extension:
    """Stand in for the extension on another machine."""

    def __init__(self, unsupported="", tiles=False, interface=cpu_kernels.INTERFACE):
        self.interface = interface
        self.unsupported, self.has_bfloat16_tiles = lambda: unsupported, lambda: tiles
        self.addresses = []
        self.set_parallel = self.addresses.append


def test_why_not_names_dtype_and_head_dim():
    assert "not torch.float16" in cpu_kernels.why_not(torch.float16)
    assert "head dim must be a multiple of 16 up to 128, but is 72" in cpu_kernels.why_not_attention(FLOAT32, 72)
    assert "but is 144" in cpu_kernels.why_not_attention(BFLOAT16, 144)


def test_why_not_says_that_the_extension_is_not_built(monkeypatch, fresh):
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda name: None)
    assert "hubert_fast._cpu is not built" in cpu_kernels.why_not(FLOAT32)
    with pytest.raises(RuntimeError, match="is not built"):
        cpu_kernels.gelu_(torch.zeros(1, 1))


def test_why_not_passes_on_what_the_cpu_lacks(monkeypatch, fresh):
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda name: name)
    monkeypatch.setattr("hubert_fast._cpu", Extension("this CPU lacks AVX-512"), raising=False)
    assert cpu_kernels.why_not(FLOAT32) == cpu_kernels.why_not_attention(FLOAT32, 64) == "this CPU lacks AVX-512"


def test_why_not_says_that_the_extension_is_of_another_version(monkeypatch, fresh):
    """As after `git pull` in a checkout that was installed with `pip install -e`."""
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda name: name)
    monkeypatch.setattr("hubert_fast._cpu", Extension(interface=0), raising=False)
    assert "was built from other sources: install hubert_fast again" in cpu_kernels.why_not(FLOAT32)


def test_why_not_says_that_openmp_is_missing(monkeypatch, fresh):
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda name: name)
    monkeypatch.setattr("hubert_fast._cpu", Extension(), raising=False)
    monkeypatch.setattr(torch, "__file__", "/nonexistent/torch/__init__.py")
    assert "OpenMP runtime has no entry point" in cpu_kernels.why_not(FLOAT32)


def test_attention_in_bfloat16_is_left_to_pytorch_on_a_cpu_with_amx(monkeypatch, fresh):
    extension = Extension(tiles=True)
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda name: name)
    monkeypatch.setattr("hubert_fast._cpu", extension, raising=False)
    assert "AMX" in cpu_kernels.why_not_attention(BFLOAT16, 64)
    assert cpu_kernels.why_not(BFLOAT16) is None and cpu_kernels.why_not_attention(FLOAT32, 64) is None
    assert len(extension.addresses) == 1 and extension.addresses[0] > 0
