"""fairseq's HuBERT and s3prl's DistilHuBERT checkpoints to Hugging Face folders, without either library.

What differs is names: the tensors are taken over as they are, in float32. Sizes are read from the tensors, everything else
from the configuration in the checkpoint: fairseq's ``cfg`` or ``args``, s3prl's ``Config``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import HubertConfig
from .converted import Converted
from .hub import CheckpointError, listed
from .inert_pickle import entries, load_inert, plain
from .modeling import HubertForCTC, HubertModel
from .processing import FeatureExtractor
from .tokenizer import CTCTokenizer
from .weight_names import ANCHOR, current_spelling

CTC_PREFIX = "w2v_encoder."
# fairseq's names -> transformers', first match wins. The positional convolution is [batch norm,] convolution, ...
NAMES = [
    (r"w2v_encoder\.proj\.", r"lm_head."),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"post_extract_proj\.", r"feature_projection.projection."),
    (r"layer_norm\.", r"feature_projection.layer_norm."),
    (r"mask_emb$", r"masked_spec_embed"),
    (r"encoder\.pos_conv\.0\.(weight_[gv]|bias)$", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
]
BATCH_NORM_NAMES = [
    (r"encoder\.pos_conv\.0\.", r"encoder.pos_conv_embed.batch_norm."),
    (r"encoder\.pos_conv\.1\.", r"encoder.pos_conv_embed.conv."),
]
# Heads that only pre-training uses, and the mask embedding, for which a model that never masks has no place.
LEFT_OUT = r"final_proj\.|label_embs_concat$|target_glu\.|output_layer\.|task_embedding\.|masked_spec_embed$"
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16}  # by width: base, large, xlarge
PUBLISHED_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def convert(checkpoint: str | Path, dictionary: str | Path | None = None, keep_final_proj: bool = False) -> Converted:
    """Read a fairseq HuBERT (pre-trained or CTC-fine-tuned) or an s3prl DistilHuBERT checkpoint.

    dictionary: fairseq's ``dict.ltr.txt`` of a fine-tuned model; needed only when the checkpoint does not hold it.
    keep_final_proj: keep the pre-training's head (``final_proj``, ``label_embs_concat``, ``target_glu``) beside the model's
        weights; a model that is loaded from there does not use it.

    No class or function that the file names is imported or called. Raises :class:`CheckpointError` when the file is no
    such checkpoint, and when a weight is missing, unknown or of a shape that the others do not lead to.
    """
    content = load_inert(checkpoint)
    content = content if isinstance(content, dict) else {}
    try:
        if "Distiller" in content:
            converted, weights = _from_s3prl(content, dictionary), {}
        elif "model" in content or "model_weight" in content:
            converted, weights = _from_fairseq(content, dictionary), _weights(content, _key_of(content))
        else:
            raise CheckpointError(
                f"expected a fairseq ('model') or s3prl ('Distiller') checkpoint, but it holds {_held(content)}"
            )
        if keep_final_proj:
            converted.keep_final_proj({key.removeprefix(CTC_PREFIX + "w2v_model."): tensor for key, tensor in weights.items()})
        return converted
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def _from_fairseq(content: dict[str, Any], dictionary: str | Path | None) -> Converted:
    weights = _weights(content, _key_of(content))
    tuned = any(key.startswith(CTC_PREFIX) for key in weights)
    cfg = entries(content.get("cfg")) or entries(content.get("args"))  # nested by part, or flat in older files
    outer = entries(cfg.get("model")) or cfg or entries(content.get("model_cfg"))
    task = entries(cfg.get("task")) or cfg or entries(content.get("task_cfg"))
    inner = entries(outer.get("w2v_args"))  # the pre-training's configuration inside the fine-tuning's
    inner = entries(inner.get("model")) or inner or outer
    state = {key.removeprefix(CTC_PREFIX + "w2v_model."): tensor for key, tensor in weights.items()}
    values = _architecture(state, {key: plain(value) for key, value in inner.items()}, "conv_feature_layers")
    options = {key: plain(value) for key, value in outer.items()}
    values |= _training_options(options, tuned)
    tokenizer = None
    if tuned:
        tokenizer = _tokenizer(content, dictionary)
        values |= {"vocab_size": len(_needed(weights, CTC_PREFIX + "proj.weight", 2)), "pad_token_id": 0, "bos_token_id": 1}
        if tokenizer is not None and len(tokenizer.vocabulary) != values["vocab_size"]:
            raise CheckpointError(
                f"the dictionary has {len(tokenizer.vocabulary)} symbols with the special ones, "
                f"but the model {values['vocab_size']} outputs"
            )
    elif dictionary is not None:
        raise CheckpointError("a dictionary was given, but this model is not fine-tuned: it has no outputs to name")
    by_layer = values["feat_extract_norm"] == "layer"
    normalize = plain(task.get("normalize", by_layer))
    extractor = FeatureExtractor(do_normalize=bool(normalize), return_attention_mask=by_layer)
    model, left_out = _filled(HubertForCTC if tuned else HubertModel, HubertConfig(**values), state)
    return Converted(model, extractor, tokenizer, left_out)


def _from_s3prl(content: dict[str, Any], dictionary: str | Path | None) -> Converted:
    if dictionary is not None:
        raise CheckpointError("a dictionary was given, but a DistilHuBERT has no outputs to name")
    state = _weights(content, "Distiller")
    cfg = {key: plain(value) for key, value in entries(entries(content.get("Config")).get("distiller")).items()}
    for name, served in (("attention_type", ("original",)), ("task_emb_type", ("expand-last", "self-hidden", "none"))):
        if cfg.get(name, served[0]) not in served:
            raise CheckpointError(f"{name} must be one of {', '.join(served)}, but is {cfg[name]!r}")
    values = _architecture(state, cfg, "extractor_conv_feature_layers")
    values |= {"feat_proj_layer_norm": False, "mask_time_prob": 0.0, "apply_spec_augment": False}
    values |= _training_options({**cfg, "dropout_input": 0.0, "final_dropout": 0.0}, tuned=False)
    model, left_out = _filled(HubertModel, HubertConfig(**values), state)
    return Converted(model, FeatureExtractor(do_normalize=False, return_attention_mask=True), None, left_out)


def _key_of(content: dict[str, Any]) -> str:
    return "model" if "model" in content else "model_weight"


def _held(content: dict[str, Any]) -> str:
    """Return what a dictionary holds that is no checkpoint of fairseq or s3prl, and what to do where that is known."""
    names = [str(key) for key in content]
    if any(name.endswith(ANCHOR) for name in names):
        return (
            "weights by Hugging Face's names, which need no conversion: name the file pytorch_model.bin, in a folder with its "
            "config.json"
        )
    return listed(names) or "no dictionary"


def _weights(content: dict[str, Any], key: str) -> dict[str, Tensor]:
    weights = content[key]
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{key!r} must hold a dictionary of tensors, and holds something else")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not (tensor.is_floating_point() or name.endswith(".num_batches_tracked")):
            raise CheckpointError(f"{key!r} must hold floating-point weights by name, but holds {name!r}, {tensor.dtype}")
    return {name: tensor.detach() for name, tensor in weights.items()}


def _architecture(state: dict[str, Tensor], cfg: dict[str, Any], convolutions_key: str) -> dict[str, Any]:
    """Return what of :class:`HubertConfig` decides the answers: sizes from the tensors, the rest as configured."""
    convolutions = _convolutions(state, str(cfg.get(convolutions_key, PUBLISHED_CONVOLUTIONS)))
    batch_norm = "encoder.pos_conv.0.running_mean" in state
    taps = _needed(state, f"encoder.pos_conv.{'1.weight' if batch_norm else '0.weight_v'}", 3)  # [C, C / groups, kernel]
    width = taps.shape[0]
    heads = cfg.get("encoder_attention_heads", PUBLISHED_HEADS.get(width))
    if heads is None:
        raise CheckpointError(
            f"encoder_attention_heads is not in the checkpoint's configuration, and {width} is no usual width"
        )
    by_layer = "feature_extractor.conv_layers.1.2.1.weight" in state or cfg.get("extractor_mode") == "layer_norm"
    return {
        "hidden_size": width,
        "num_hidden_layers": _layers(state),
        "num_attention_heads": heads,
        "intermediate_size": len(_needed(state, "encoder.layers.0.fc1.weight", 2)),
        "hidden_act": cfg.get("activation_fn", "gelu"),
        "do_stable_layer_norm": bool(cfg.get("layer_norm_first", by_layer)),
        "feat_extract_norm": "layer" if by_layer else "group",
        "conv_dim": tuple(channels for channels, _, _ in convolutions),
        "conv_kernel": tuple(kernel for _, kernel, _ in convolutions),
        "conv_stride": tuple(stride for _, _, stride in convolutions),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in state,
        "num_conv_pos_embeddings": taps.shape[2],
        "num_conv_pos_embedding_groups": width // taps.shape[1],
        "conv_pos_batch_norm": batch_norm,
    }


def _convolutions(state: dict[str, Tensor], text: str) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) of each convolution; the first two must be those of the tensors."""
    convolutions = _evaluate(text)
    for index, (channels, kernel, _) in enumerate(convolutions):
        name = f"feature_extractor.conv_layers.{index}.0.weight"
        shape = list(_needed(state, name, 3).shape)
        if (shape[0], shape[2]) != (channels, kernel):
            raise CheckpointError(f"{name} has shape {shape}, but the configured convolutions are {text}")
    return convolutions


def _evaluate(text: str) -> list[tuple[int, int, int]]:
    """Compute a list such as ``[(512,10,5)] + [(512,3,2)] * 4``: lists, tuples, whole numbers, + and * and nothing else."""

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


def _layers(state: dict[str, Tensor]) -> int:
    numbers = [int(found[1]) for key in state if (found := re.match(r"encoder\.layers\.(\d+)\.", key))]
    return max(numbers, default=-1) + 1


def _needed(state: dict[str, Tensor], key: str, dimensions: int) -> Tensor:
    if key not in state:
        raise CheckpointError(f"the weight {key} is missing")
    if state[key].dim() != dimensions or 0 in state[key].shape:
        raise CheckpointError(f"the weight {key} must have {dimensions} dimensions, but has shape {list(state[key].shape)}")
    return state[key]


def _training_options(options: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """Return dropouts and, of a fine-tuned model, SpecAugment; what pre-training masks says nothing about fine-tuning."""
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


def _tokenizer(content: dict[str, Any], dictionary: str | Path | None) -> CTCTokenizer | None:
    symbols = _symbols_of(content) if dictionary is None else _read_dictionary(dictionary)
    if symbols is None:
        return None
    # fairseq's CTC takes id 0, its <s>, for the blank, which Hugging Face calls <pad>
    return CTCTokenizer({symbol: id for id, symbol in enumerate(["<pad>", "<s>", *symbols[2:]])})


def _symbols_of(content: dict[str, Any]) -> list[str] | None:
    task = entries(content.get("task_state"))
    candidates = [task.get("target_dictionary"), *entries(task.get("ft_dictionaries")).values()]
    for candidate in candidates:
        symbols = entries(candidate).get("symbols")
        if isinstance(symbols, list) and symbols[:2] == ["<s>", "<pad>"]:
            return symbols
    return None


def _read_dictionary(path: str | Path) -> list[str]:
    """Read fairseq's text format: a symbol and a count a line, in the order of the ids, which begin after four special ones."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the dictionary {path} cannot be read: {error}") from None
    symbols = ["<s>", "<pad>", "</s>", "<unk>"]
    for number, line in enumerate(lines, 1):
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.isdigit():
            raise CheckpointError(f"line {number} of the dictionary {path} must be a symbol and a count, but is {line!r}")
        symbols.append(symbol)
    return symbols


def _filled(cls: type, config: HubertConfig, state: dict[str, Tensor]) -> tuple[HubertModel | HubertForCTC, list[str]]:
    with torch.device("meta"):
        model = cls(config).eval()
    expected = model.state_dict()
    prefix = "" if cls is HubertModel else model.base_model_prefix + "."
    rules = (BATCH_NORM_NAMES if config.conv_pos_batch_norm else []) + NAMES
    renamed = {}
    for key, tensor in state.items():
        name = _renamed(key, rules)
        name = name if name.startswith("lm_head.") else prefix + name
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    projection = prefix + "feature_projection.projection."
    if projection + "weight" not in renamed:  # left out where it would change no width
        renamed |= {projection + "weight": torch.eye(config.hidden_size), projection + "bias": torch.zeros(config.hidden_size)}
    left_out = sorted(set(renamed) - set(expected))
    strangers = [name for name in left_out if not re.match(LEFT_OUT, name.removeprefix(prefix))]
    _refuse("has no place for", strangers)
    _refuse("lacks", sorted(set(expected) - set(renamed)))
    for name, tensor in expected.items():
        if tensor.shape != renamed[name].shape:
            raise CheckpointError(f"{name} has shape {list(renamed[name].shape)}, but should have {list(tensor.shape)}")
    model.load_state_dict({name: renamed[name].contiguous() for name in expected}, assign=True)
    return model, left_out


def _renamed(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, name in rules:
        if re.match(pattern, key):
            return current_spelling(re.sub(pattern, name, key, count=1))
    return key


def _refuse(what: str, names: list[str]) -> None:
    if names:
        raise CheckpointError(f"this is no HuBERT: the model {what} {listed(names)}")
