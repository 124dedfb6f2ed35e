"""Count the files that one call of a model runs through, and how often it crosses from one to another.

A reader who follows a call changes files as often as the call does. Run from the top of a checkout:

    python tests/reading_route.py

Each route is called twice and the second call traced, so that what happens once is left out. The bodies of kernels are left
out too, because a reader sees a launch as one step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from hubert_fast import HubertConfig, HubertModel, PackedAudio  # noqa: E402

SIZES = dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, intermediate_size=64, num_conv_pos_embeddings=16)
CONFIGS = {
    "base": HubertConfig(**SIZES, conv_dim=(32,) * 7),
    "large": HubertConfig(**SIZES, conv_dim=(32,) * 7, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
}


@cache
def file_of(filename: str) -> str | None:
    """Return the path of a file of the package within the checkout; `None` for any other file."""
    path = Path(filename)
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in ("hubert_fast", "kernels"):
        return None
    return str(path.relative_to(ROOT))


class Route:
    """The files that a call runs through: use as a context, then read `files` and `crossings`."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.crossings = 0
        self._stack = ["outside"]
        self._running_kernels = 0

    def __enter__(self) -> Route:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        name = file_of(frame.f_code.co_filename)
        if name is None or event not in ("call", "return"):
            return
        if frame.f_code.co_name.endswith("_kernel"):
            self._running_kernels += 1 if event == "call" else -1
        elif self._running_kernels:
            return
        elif event == "call":
            self._cross(self._stack[-1], name)
            self._stack.append(name)
            self.files.add(name)
        elif len(self._stack) > 1:
            self._cross(self._stack.pop(), self._stack[-1])

    def _cross(self, origin: str, target: str) -> None:
        self.crossings += origin != target


def routes() -> dict[str, Callable[[], Any]]:
    """Return the calls to trace, by name."""
    torch.manual_seed(0)
    calls: dict[str, Callable[[], Any]] = {}
    for size, config in CONFIGS.items():
        model = HubertModel(config).eval()
        rows, mask = torch.randn(2, 4000), torch.ones(2, 4000, dtype=torch.long)
        mask[1, 3000:] = 0
        audio = PackedAudio.from_waveforms([rows[0], rows[1, :3000]])
        calls[f"{size}: forward, the definition"] = lambda model=model, rows=rows: model(rows, output_attentions=True)
        calls[f"{size}: forward, plain PyTorch"] = lambda model=model, rows=rows, mask=mask: model(rows, mask)
        calls[f"{size}: forward_packed, plain PyTorch"] = lambda model=model, audio=audio: model.forward_packed(audio)
        calls[f"{size}: forward_packed, kernels"] = lambda model=model, audio=audio: model.forward_packed(audio)
    return calls


def trace(name: str, call: Callable[[], Any]) -> Route:
    """Return the route of the second of two calls."""
    os.environ["HUBERT_FAST_BACKEND"] = "triton" if name.endswith("kernels") else "eager"
    with torch.no_grad():
        call()
        with Route() as route:
            call()
    return route


if __name__ == "__main__":
    show_files = "--files" in sys.argv
    for name, call in routes().items():
        route = trace(name, call)
        print(f"{name:<40} {len(route.files):>3} files {route.crossings:>4} crossings")
        if show_files:
            print("    " + ", ".join(sorted(route.files)))
