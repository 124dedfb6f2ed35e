"""Normalise the names of weights: the spellings of weight norm, and the prefixes that wrappers of a model add."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

Array = TypeVar("Array")  # of PyTorch or NumPy

# PyTorch's names for the parameters of weight norm: before 2.0 -> since 2.0.
WEIGHT_NORM_KEYS = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
# torch.compile, FSDP and checkpoint_wrapper insert these wherever they wrap a module.
INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
ANCHOR = "feature_extractor.conv_layers.0.conv.weight"  # end of the name of this weight in every HuBERT


def current_spelling(key: str) -> str:
    """Return a weight's key with the parameters of weight norm named as in current PyTorch."""
    for old, new in WEIGHT_NORM_KEYS.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def without_wrappers(state: dict[str, Array], base_prefix: str) -> tuple[dict[str, Array], str | None]:
    """Remove from the names of weights what DataParallel, torch.compile, FSDP or an enclosing module added.

    The weights of several models in one file are left unchanged, as it is not known which model is wanted.

    Args:
        state: The weights.
        base_prefix: The prefix of the encoder in a model with a head, such as `"hubert."`. It is kept.

    Returns:
        The weights, and the part that was removed from their names (`None` if nothing was).
    """
    plain = {INSERTED.sub("", key): tensor for key, tensor in state.items()}
    removed = None
    if len(plain) < len(state):  # two names became equal
        return state, None
    if plain.keys() != state.keys():
        removed = next(match[0] for key in state if (match := INSERTED.search(key)))
    anchors = [key.removesuffix(ANCHOR) for key in plain if key.endswith(ANCHOR)]
    if len(anchors) != 1:
        return plain, removed
    outer = anchors[0].removesuffix(base_prefix)
    if not outer.endswith("."):
        return plain, removed
    bare = {key.removeprefix(outer): tensor for key, tensor in plain.items()}
    if len(bare) < len(plain):
        return plain, removed
    return bare, outer if removed is None else outer + removed


def fit_prefix(state: dict[str, Array], expected: Iterable[str], prefix: str) -> dict[str, Array]:
    """Add or remove `prefix`, so that the weights of a bare encoder fit a model with a head, and vice versa."""
    expected = set(expected)
    model_has = any(key.startswith(prefix) for key in expected)
    state_has = any(key.startswith(prefix) for key in state)
    if model_has and not state_has:
        return {key if key in expected else prefix + key: tensor for key, tensor in state.items()}
    if state_has and not model_has:
        return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
