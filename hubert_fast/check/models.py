"""Small models on kernels, packed and padded, against the plain graph in float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..benchmark.measure import SAME
from ..benchmark.subject import CONFIGS
from ..config import HubertConfig
from ..dispatch import BACKEND_VARIABLE
from ..modeling import HubertForCTC
from ..packed_audio import PackedAudio

MODELS = ("tiny", "tiny-large")  # post-LN with a GroupNorm, as base models; pre-LN with LayerNorms, as large ones
SAMPLES = (16_000, 399, 23_456, 400)
FEW_SAMPLES = (1200, 399, 2000, 400)  # what interpreted kernels can do in seconds
REASON = "two layers in float32 by other sums, or with roundings to 2^-11 and 2^-8"


def checked_model(name: str, dtype: torch.dtype, device: torch.device, small: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the row of a packed batch, then that of the same batch padded: shape, relative_error, max_error, tolerance, status.

    name: of :data:`MODELS`. relative_error: the largest error of a logit, as a share of the largest logit.
    """
    torch.manual_seed(0)
    with torch.device(device):
        exact = HubertForCTC(HubertConfig(**CONFIGS[name])).eval().requires_grad_(False)
        for parameter in exact.parameters():
            if parameter.dim() == 1:  # norms and biases, which begin as ones and zeros
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        waveforms = [torch.randn(count) for count in (FEW_SAMPLES if small else SAMPLES)]
    model = HubertForCTC(exact.config).to(device, dtype).eval().requires_grad_(False)
    model.load_state_dict(exact.state_dict())
    for layout, logits in (("packed", _packed), ("padded", _padded)):
        found, expected = _on("triton", model, logits, waveforms), _on("eager", exact, logits, waveforms)
        error = (found - expected).abs().max().item()
        relative, tolerance = error / expected.abs().max().item(), SAME[dtype]
        yield {
            "shape": f"{name}, {layout}", "relative_error": relative, "max_error": error, "tolerance": tolerance,
            "reason": REASON, "status": "pass" if relative <= tolerance else "fail",
        }  # fmt: skip


@torch.inference_mode()
def _on(backend: str, model: HubertForCTC, logits: Callable[..., Tensor], waveforms: list[Tensor]) -> Tensor:
    with chosen(backend):
        return logits(model, waveforms).double()


@contextmanager
def chosen(backend: str) -> Iterator[None]:
    """Run on a backend, whatever the environment asks for."""
    before = os.environ.get(BACKEND_VARIABLE)
    os.environ[BACKEND_VARIABLE] = backend
    try:
        yield
    finally:
        os.environ.pop(BACKEND_VARIABLE)
        if before is not None:
            os.environ[BACKEND_VARIABLE] = before


def _packed(model: HubertForCTC, waveforms: list[Tensor]) -> Tensor:
    """Return the logits of all frames, ``[N, V]``."""
    audio = PackedAudio.from_waveforms(waveforms, normalize=True).to(model.device)
    return model.forward_packed(audio).logits


def _padded(model: HubertForCTC, waveforms: list[Tensor]) -> Tensor:
    """Return the logits of the frames that are no padding, ``[N, V]``."""
    rows = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(model.dtype)
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=rows.device)
    mask = (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]).long()
    logits = model(rows, attention_mask=mask).logits
    frames = torch.arange(logits.shape[1], device=rows.device) < model.frame_counts(lengths)[:, None]
    return logits[frames]
