"""Translate the configuration of a fairseq or s3prl checkpoint into fields of `HubertConfig`.

Sizes are read from the tensors, everything else from the configuration in the checkpoint.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from torch import Tensor

from .hub import CheckpointError

PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16}  # attention heads by hidden size: base, large, xlarge
PUBLISHED_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def architecture(state: dict[str, Tensor], cfg: dict[str, Any], convolutions_key: str) -> dict[str, Any]:
    """Return the fields of `HubertConfig` that determine the model's output.

    Args:
        state: The weights by fairseq's names, without prefixes.
        cfg: The configuration of the encoder.
        convolutions_key: The entry of `cfg` that lists the convolutions.

    Raises:
        CheckpointError: A weight or an entry is missing, or the two contradict each other.
    """
    convolutions = _convolutions(state, str(cfg.get(convolutions_key, PUBLISHED_CONVOLUTIONS)))
    batch_norm = "encoder.pos_conv.0.running_mean" in state
    # [C, C / groups, kernel]
    taps = required_weight(state, f"encoder.pos_conv.{'1.weight' if batch_norm else '0.weight_v'}", 3)
    width = taps.shape[0]
    heads = cfg.get("encoder_attention_heads", PUBLISHED_HEADS.get(width))
    if heads is None:
        raise CheckpointError(
            f"encoder_attention_heads is missing from the checkpoint's configuration, and cannot be inferred from the hidden "
            f"size {width}, which no published model has"
        )
    has_layer_norms = "feature_extractor.conv_layers.1.2.1.weight" in state or cfg.get("extractor_mode") == "layer_norm"
    return {
        "hidden_size": width,
        "num_hidden_layers": _count_layers(state),
        "num_attention_heads": heads,
        "intermediate_size": len(required_weight(state, "encoder.layers.0.fc1.weight", 2)),
        "hidden_act": cfg.get("activation_fn", "gelu"),
        "do_stable_layer_norm": bool(cfg.get("layer_norm_first", has_layer_norms)),
        "feat_extract_norm": "layer" if has_layer_norms else "group",
        "conv_dim": tuple(channels for channels, _, _ in convolutions),
        "conv_kernel": tuple(kernel for _, kernel, _ in convolutions),
        "conv_stride": tuple(stride for _, _, stride in convolutions),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in state,
        "num_conv_pos_embeddings": taps.shape[2],
        "num_conv_pos_embedding_groups": width // taps.shape[1],
        "conv_pos_batch_norm": batch_norm,
    }


def _convolutions(state: dict[str, Tensor], text: str) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) of each convolution, and check the first two against the tensors."""
    convolutions = _evaluate(text)
    for index, (channels, kernel, _) in enumerate(convolutions):
        name = f"feature_extractor.conv_layers.{index}.0.weight"
        shape = list(required_weight(state, name, 3).shape)
        if (shape[0], shape[2]) != (channels, kernel):
            raise CheckpointError(f"{name} has shape {shape}, but the configured convolutions are {text}")
    return convolutions


def _evaluate(text: str) -> list[tuple[int, int, int]]:
    """Evaluate a list such as `[(512,10,5)] + [(512,3,2)] * 4`: only lists, tuples, integers, + and * are allowed."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Tuple(elts=parts):
                return tuple(map(value, parts))
            case ast.List(elts=parts):
                return list(map(value, parts))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if times < 100:
                return value(left) * times
        raise ValueError

    try:
        convolutions = value(ast.parse(text[:1000], mode="eval").body)
        if convolutions and all(len(entry) == 3 and all(type(size) is int for size in entry) for entry in convolutions):
            return convolutions
    except (SyntaxError, TypeError, ValueError):
        pass
    raise CheckpointError(f"the convolutions must be a list of (channels, kernel, stride), but are {text!r}")


def _count_layers(state: dict[str, Tensor]) -> int:
    numbers = [int(match[1]) for key in state if (match := re.match(r"encoder\.layers\.(\d+)\.", key))]
    return max(numbers, default=-1) + 1


def required_weight(state: dict[str, Tensor], key: str, dimensions: int) -> Tensor:
    """Return a weight. Raises `CheckpointError` if it is missing, empty or has another number of dimensions."""
    if key not in state:
        raise CheckpointError(f"the weight {key} is missing")
    if state[key].dim() != dimensions or 0 in state[key].shape:
        raise CheckpointError(f"the weight {key} must have {dimensions} dimensions, but has shape {list(state[key].shape)}")
    return state[key]


def training_options(options: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """Return the fields of `HubertConfig` for dropout and, if the model is fine-tuned, SpecAugment.

    The masking of pre-training is ignored, as it does not apply to fine-tuning.
    """
    names = {
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "dropout_input": "feat_proj_dropout",
        "final_dropout": "final_dropout",
        "layerdrop" if tuned else "encoder_layerdrop": "layerdrop",
    }
    if tuned:
        names |= {
            "apply_mask": "apply_spec_augment",
            "mask_prob": "mask_time_prob",
            "mask_length": "mask_time_length",
            "mask_channel_prob": "mask_feature_prob",
            "mask_channel_length": "mask_feature_length",
        }
    return {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None}
