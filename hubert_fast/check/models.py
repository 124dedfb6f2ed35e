"""Compare small models on kernels, packed and padded, with the plain graph in float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..benchmark.subject import CONFIGS
from ..config import HubertConfig
from ..dispatch import BACKEND_VARIABLE
from ..modeling import HubertForCTC
from ..packed import PackedAudio
from ..tolerances import MODEL_TOLERANCES

MODELS = ("tiny", "tiny-large")  # post-LN with a GroupNorm, like base models; pre-LN with LayerNorms, like large ones
SAMPLES = (16_000, 399, 23_456, 400)
FEW_SAMPLES = (1200, 399, 2000, 400)  # seconds of work for interpreted kernels


def checked_model(name: str, dtype: torch.dtype, device: torch.device, small: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a row for a packed batch, then one for the same batch padded.

    The columns are `shape`, `relative_error` (the largest error of a logit, as a share of the largest logit), `max_error`,
    `tolerance`, `reason` and `status`.

    Args:
        name: One of `MODELS`.
        dtype: The dtype of the model on kernels.
        device: The device.
        small: Use a batch that interpreted kernels can process in seconds.
    """
    torch.manual_seed(0)
    with torch.device(device):
        exact = HubertForCTC(HubertConfig(**CONFIGS[name])).eval().requires_grad_(False)
        for parameter in exact.parameters():
            if parameter.dim() == 1:  # norms and biases, which are initialised to ones and zeros
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        waveforms = [torch.randn(count) for count in (FEW_SAMPLES if small else SAMPLES)]
    model = HubertForCTC(exact.config).to(device, dtype).eval().requires_grad_(False)
    model.load_state_dict(exact.state_dict())
    for layout, logits in (("packed", _packed), ("padded", _padded)):
        actual, expected = _run_on("triton", model, logits, waveforms), _run_on("eager", exact, logits, waveforms)
        error = (actual - expected).abs().max().item()
        relative, tolerance = error / expected.abs().max().item(), MODEL_TOLERANCES[dtype]
        yield {
            "shape": f"{name}, {layout}", "relative_error": relative, "max_error": error, "tolerance": tolerance.value,
            "reason": tolerance.reason, "status": "pass" if relative <= tolerance.value else "fail",
        }  # fmt: skip


@torch.inference_mode()
def _run_on(backend: str, model: HubertForCTC, logits: Callable[..., Tensor], waveforms: list[Tensor]) -> Tensor:
    with chosen(backend):
        return logits(model, waveforms).double()


@contextmanager
def chosen(backend: str) -> Iterator[None]:
    """Use a backend, whatever the environment requests."""
    before = os.environ.get(BACKEND_VARIABLE)
    os.environ[BACKEND_VARIABLE] = backend
    try:
        yield
    finally:
        os.environ.pop(BACKEND_VARIABLE)
        if before is not None:
            os.environ[BACKEND_VARIABLE] = before


def _packed(model: HubertForCTC, waveforms: list[Tensor]) -> Tensor:
    """Return the logits of all frames, `[N, V]`."""
    audio = PackedAudio.from_waveforms(waveforms, normalize=True).to(model.device)
    return model.forward_packed(audio).logits


def _padded(model: HubertForCTC, waveforms: list[Tensor]) -> Tensor:
    """Return the logits of all frames that are not padding, `[N, V]`."""
    rows = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(model.dtype)
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=rows.device)
    mask = (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]).long()
    logits = model(rows, attention_mask=mask).logits
    frames = torch.arange(logits.shape[1], device=rows.device) < model.frame_counts(lengths)[:, None]
    return logits[frames]
