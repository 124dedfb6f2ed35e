"""Names of weights: spellings of weight norm, and prefixes that wrappers of a model put before them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

# Weight norm as PyTorch spelled it before 2.0 -> as it does now.
WEIGHT_NORM_KEYS = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
# What torch.compile, FSDP and checkpoint_wrapper insert wherever they wrap a module.
INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
ANCHOR = "feature_extractor.conv_layers.0.conv.weight"  # ends the name of this weight in every HuBERT


def current_spelling(key: str) -> str:
    """Return a weight's key with weight norm spelled as PyTorch does now."""
    for old, new in WEIGHT_NORM_KEYS.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def without_wrappers(state: dict[str, Tensor], base_prefix: str) -> tuple[dict[str, Tensor], str | None]:
    """Return weights without what DataParallel, torch.compile, FSDP or a module around the model put before their names.

    base_prefix: such as ``"hubert."``, which belongs to the name. Also returns what was left out, ``None`` if nothing was.
    Weights of several models side by side stay as they are: which one is meant is not known.
    """
    plain = {INSERTED.sub("", key): tensor for key, tensor in state.items()}
    left_out = None
    if len(plain) < len(state):  # two names became one
        return state, None
    if plain.keys() != state.keys():
        left_out = next(found[0] for key in state if (found := INSERTED.search(key)))
    anchors = [key.removesuffix(ANCHOR) for key in plain if key.endswith(ANCHOR)]
    if len(anchors) != 1:
        return plain, left_out
    outer = anchors[0].removesuffix(base_prefix)
    if not outer.endswith("."):
        return plain, left_out
    bare = {key.removeprefix(outer): tensor for key, tensor in plain.items()}
    return (bare, outer if left_out is None else outer + left_out) if len(bare) == len(plain) else (plain, left_out)


def fit_prefix(state: dict[str, Tensor], expected: Iterable[str], prefix: str) -> dict[str, Tensor]:
    """Add or remove ``prefix`` so that a bare encoder's weights fit a model with a head, and the other way round."""
    expected = set(expected)
    model_has = any(key.startswith(prefix) for key in expected)
    state_has = any(key.startswith(prefix) for key in state)
    if model_has and not state_has:
        return {key if key in expected else prefix + key: tensor for key, tensor in state.items()}
    if state_has and not model_has:
        return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
