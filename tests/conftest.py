"""Provide the tolerance table, small configurations and waveforms that all tests share.

The environment is set before anything imports triton, so that kernels run interpreted, on the CPU.
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a hub
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: with two threads each, they would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

import hubert_fast
from hubert_fast import HubertConfig
from hubert_fast.tolerances import OP_TOLERANCES, TEST_TOLERANCES

pytest_plugins = ("bench_programs", "cuda_graph_stand_ins")


def pytest_addoption(parser):
    parser.addoption("--ctc-extension", help="a build of csrc/ctc_collapse.cpp to test instead of the installed one")
    parser.addoption("--cpu-extension", help="a build of csrc/cpu.cpp and its parts to test instead of the installed one")


def pytest_configure(config):
    # A shell's background jobs ignore SIGINT, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("ctc", "cpu"):
        path = config.getoption(f"--{name}-extension")
        if path:
            _load_extension(f"_{name}", path)


def _load_extension(name: str, path: str) -> None:
    """Import a build of a C++ extension in place of the installed one."""
    spec = importlib.util.spec_from_file_location(f"hubert_fast.{name}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    setattr(hubert_fast, name, module)
    spec.loader.exec_module(module)


def pytest_make_parametrize_id(val, argname):
    """Name binary data after its argument: gzip writes the time, and all workers must collect the same test names."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


TOLERANCES = {name: tolerance.value for name, tolerance in {**OP_TOLERANCES, **TEST_TOLERANCES}.items()}
TOLERANCES[torch.float32] = TOLERANCES["small op"]

TINY = dict(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    conv_dim=(16, 24, 24, 16, 16, 24, 32),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=3,
    vocab_size=32,
    classifier_proj_size=20,
)
POST_LN = dict(TINY, do_stable_layer_norm=False, feat_extract_norm="group")
PRE_LN = dict(TINY, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)

ARCHITECTURES = {
    "post-LN": POST_LN,
    "pre-LN": PRE_LN,
    "post-LN, conv bias": dict(POST_LN, conv_bias=True),
    "pre-LN, no conv bias": dict(PRE_LN, conv_bias=False),
    "odd positional kernel": dict(PRE_LN, num_conv_pos_embeddings=7),
    "no projection norm": dict(POST_LN, feat_proj_layer_norm=False),
    "relu, eps 1e-3": dict(PRE_LN, hidden_act="relu", layer_norm_eps=1e-3),
}
NEWER_ARCHITECTURES = {  # not in transformers 4.34.1
    "positional batch norm": dict(POST_LN, conv_pos_batch_norm=True),
    "adapters": dict(PRE_LN, adapter_attn_dim=8),
}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} instead of {list(expected.shape)}"
    difference = (actual.double() - expected.double()).abs().max().item()
    return difference / max(expected.double().abs().max().item(), 1e-30)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: str | torch.dtype, label: str = "") -> None:
    error = relative_error(actual, expected)
    assert error <= TOLERANCES[tolerance], (
        f"{label}: relative error {error:.2e} above {TOLERANCES[tolerance]:.0e} ({tolerance})"
    )


def small_config(**overrides) -> HubertConfig:
    return HubertConfig(**{**PRE_LN, **overrides})


def perturb(model: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter away from zero and one, so that each affects the outputs."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def masked_batch(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of these lengths, zero-padded, and its mask: [B, S] each."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(mask.shape) * mask, mask


def true_frames(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Drop the frames of padding: `[B, T, C]` becomes `[N, C]`. Without a mask or a frame axis, return `x` itself."""
    if mask is None or x.dim() != 3:
        return x
    counts = ((mask.sum(-1) - 400) // 320 + 1).clamp(min=0)
    return x[torch.arange(x.shape[1]) < counts[:, None]]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until another thread or process makes the condition true; fail after the time limit."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:.0f} s"
        time.sleep(0.002)


@pytest.fixture
def speech() -> np.ndarray:
    """Return two seconds of sound with the spectrum and the pauses of speech, [S] float32 at 16 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(32000) / 16000
    pitch = np.cumsum(110 + 20 * np.sin(2 * np.pi * 0.7 * time)) / 16000
    voice = sum(np.sin(2 * np.pi * harmonic * pitch) / harmonic for harmonic in range(1, 25))
    return (0.1 * voice * (np.sin(2 * np.pi * 1.5 * time) > -0.5) + 0.003 * rng.standard_normal(32000)).astype(np.float32)


@pytest.fixture
def batch():
    return masked_batch((8000, 5000, 401, 6399))


@pytest.fixture(scope="module")
def two_threads():
    """Let PyTorch use two threads, here and in the processes that a test starts: a CPU then transcribes in two lanes."""
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(2)
    os.environ["OMP_NUM_THREADS"] = "2"
    yield
    torch.set_num_threads(threads)
    if variable is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = variable


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


def hub_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a child process with a hub of its own: huggingface_hub reads its settings once, at import."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    return values | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"} | more


def refuse_folder(monkeypatch, name: str) -> None:
    """Make folders of this name unreadable. Permissions would not do it for root, who can enter every folder."""
    real = os.scandir

    def scandir(path):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
