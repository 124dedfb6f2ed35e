"""Convert fairseq's HuBERT and s3prl's DistilHuBERT checkpoints to Hugging Face folders, without either library.

Only the names of the weights differ: the tensors are copied as float32. `fairseq_config` translates the configuration:
fairseq's `cfg` or `args`, s3prl's `Config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import write_checkpoint
from .config import HubertConfig
from .fairseq_config import architecture, required_weight, training_options
from .feature_extractor import HubertFeatureExtractor
from .hub import CheckpointError, listed
from .inert_pickle import entries, plain
from .modeling import HubertForCTC, HubertModel
from .tokenizer import CTCTokenizer
from .weight_files import read_pickle
from .weight_names import ANCHOR, current_spelling

CTC_PREFIX = "w2v_encoder."
# fairseq's names -> transformers'. The first match wins. BATCH_NORM_NAMES come first where pos_conv.0 is a batch norm.
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
# Weights that the model may lack: heads used only in pre-training, and the mask embedding if the model never masks.
UNUSED = r"final_proj\.|label_embs_concat$|target_glu\.|output_layer\.|task_embedding\.|masked_spec_embed$"

# The pre-training head. HubertModel has none, neither here nor in transformers; a subclass of transformers' class with a
# `final_proj` loads it.
PRETRAINING_HEAD = r"final_proj\.|label_embs_concat$|target_glu\."


@dataclass
class Converted:
    """A converted model, with the feature extractor and tokenizer that belong to it.

    Attributes:
        model: The model.
        feature_extractor: Its feature extractor.
        tokenizer: Its tokenizer; `None` for a pre-trained model, or if the vocabulary is unknown.
        left_out: The names of the checkpoint's weights that were dropped because the model does not use them.
        kept: Weights that the model does not use either, but that `save_pretrained` writes along with the model's own.
    """

    model: HubertModel | HubertForCTC
    feature_extractor: HubertFeatureExtractor
    tokenizer: CTCTokenizer | None
    left_out: list[str]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` of this package and of transformers can load."""
        if self.kept:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_checkpoint(self.model, self.model.state_dict() | self.kept, Path(folder))
        else:
            self.model.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def keep_final_proj(self, weights: dict[str, Tensor]) -> None:
        """Move the pre-training head, which is in `weights`, from `left_out` to `kept`.

        Set `classifier_proj_size` of the configuration to its width, as a subclass of transformers' `HubertModel` with
        `nn.Linear(hidden_size, classifier_proj_size)` expects. Raises `CheckpointError` if there is no such head.
        """
        kept = {key: tensor for key, tensor in weights.items() if re.match(PRETRAINING_HEAD, key)}
        if "final_proj.weight" not in kept:
            raise CheckpointError("there is no final_proj to keep: only a pre-trained HuBERT has one, so leave this option out")
        if kept["final_proj.weight"].dim() != 2:
            shape = list(kept["final_proj.weight"].shape)
            raise CheckpointError(f"the weight final_proj.weight must have 2 dimensions, but has shape {shape}")
        self.kept = {key: tensor.float().contiguous() for key, tensor in kept.items()}
        self.left_out = [name for name in self.left_out if not re.match(PRETRAINING_HEAD, name.removeprefix("hubert."))]
        self.model.config.classifier_proj_size = len(kept["final_proj.weight"])


def convert(checkpoint: str | Path, dictionary: str | Path | None = None, keep_final_proj: bool = False) -> Converted:
    """Read a fairseq HuBERT (pre-trained or fine-tuned with CTC) or an s3prl DistilHuBERT checkpoint.

    No class or function that the file names is imported or called.

    Args:
        checkpoint: The file.
        dictionary: fairseq's `dict.ltr.txt` of a fine-tuned model. Needed only when the checkpoint does not contain it.
        keep_final_proj: Keep the pre-training head (`final_proj`, `label_embs_concat`, `target_glu`) along with the model's
            weights. The model classes do not use it.

    Returns:
        The model, with its feature extractor and tokenizer.

    Raises:
        CheckpointError: The file is not such a checkpoint, or a weight is missing, unknown, or of a shape that contradicts the
            others.
    """
    content = read_pickle(checkpoint)
    content = content if isinstance(content, dict) else {}
    try:
        if "Distiller" in content:
            converted, weights = _from_s3prl(content, dictionary), {}
        elif "model" in content or "model_weight" in content:
            converted, weights = _from_fairseq(content, dictionary), _weights(content, _model_key(content))
        else:
            raise CheckpointError(
                f"expected a fairseq ('model') or s3prl ('Distiller') checkpoint, but it holds {_describe(content)}"
            )
        if keep_final_proj:
            converted.keep_final_proj({key.removeprefix(CTC_PREFIX + "w2v_model."): tensor for key, tensor in weights.items()})
        return converted
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def _from_fairseq(content: dict[str, Any], dictionary: str | Path | None) -> Converted:
    weights = _weights(content, _model_key(content))
    tuned = any(key.startswith(CTC_PREFIX) for key in weights)
    cfg = entries(content.get("cfg")) or entries(content.get("args"))  # in older files, one flat namespace
    outer = entries(cfg.get("model")) or cfg or entries(content.get("model_cfg"))
    task = entries(cfg.get("task")) or cfg or entries(content.get("task_cfg"))
    inner = entries(outer.get("w2v_args"))  # the configuration of pre-training, inside that of fine-tuning
    inner = entries(inner.get("model")) or inner or outer
    state = {key.removeprefix(CTC_PREFIX + "w2v_model."): tensor for key, tensor in weights.items()}
    values = architecture(state, {key: plain(value) for key, value in inner.items()}, "conv_feature_layers")
    options = {key: plain(value) for key, value in outer.items()}
    values |= training_options(options, tuned)
    tokenizer = None
    if tuned:
        tokenizer = _tokenizer(content, dictionary)
        outputs = required_weight(weights, CTC_PREFIX + "proj.weight", 2)
        values |= {"vocab_size": len(outputs), "pad_token_id": 0, "bos_token_id": 1}
        if tokenizer is not None and len(tokenizer.vocabulary) != values["vocab_size"]:
            raise CheckpointError(
                f"the dictionary has {len(tokenizer.vocabulary)} symbols, special ones included, "
                f"but the model has {values['vocab_size']} outputs"
            )
    elif dictionary is not None:
        raise CheckpointError("a dictionary was given, but this model is not fine-tuned, so it has no output layer")
    has_layer_norms = values["feat_extract_norm"] == "layer"
    normalize = plain(task.get("normalize", has_layer_norms))
    extractor = HubertFeatureExtractor(do_normalize=bool(normalize), return_attention_mask=has_layer_norms)
    model, left_out = _build(HubertForCTC if tuned else HubertModel, HubertConfig(**values), state)
    return Converted(model, extractor, tokenizer, left_out)


def _from_s3prl(content: dict[str, Any], dictionary: str | Path | None) -> Converted:
    if dictionary is not None:
        raise CheckpointError("a dictionary was given, but a DistilHuBERT has no output layer")
    state = _weights(content, "Distiller")
    cfg = {key: plain(value) for key, value in entries(entries(content.get("Config")).get("distiller")).items()}
    for name, supported in (("attention_type", ("original",)), ("task_emb_type", ("expand-last", "self-hidden", "none"))):
        if cfg.get(name, supported[0]) not in supported:
            raise CheckpointError(f"{name} must be one of {', '.join(supported)}, but is {cfg[name]!r}")
    values = architecture(state, cfg, "extractor_conv_feature_layers")
    values |= {"feat_proj_layer_norm": False, "mask_time_prob": 0.0, "apply_spec_augment": False}
    values |= training_options({**cfg, "dropout_input": 0.0, "final_dropout": 0.0}, tuned=False)
    model, left_out = _build(HubertModel, HubertConfig(**values), state)
    return Converted(model, HubertFeatureExtractor(do_normalize=False, return_attention_mask=True), None, left_out)


def _model_key(content: dict[str, Any]) -> str:
    return "model" if "model" in content else "model_weight"


def _describe(content: dict[str, Any]) -> str:
    """Describe a dictionary that is not a checkpoint of fairseq or s3prl, with advice if it has Hugging Face's names."""
    names = [str(key) for key in content]
    if any(name.endswith(ANCHOR) for name in names):
        return (
            "weights with Hugging Face's names, which need no conversion: rename the file to pytorch_model.bin, in a folder "
            "with its config.json"
        )
    return listed(names) or "no dictionary"


def _weights(content: dict[str, Any], key: str) -> dict[str, Tensor]:
    weights = content[key]
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{key!r} must hold a dictionary of tensors, but holds something else")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not (tensor.is_floating_point() or name.endswith(".num_batches_tracked")):
            raise CheckpointError(f"{key!r} must hold floating-point weights by name, but holds {name!r}, {tensor.dtype}")
    return {name: tensor.detach() for name, tensor in weights.items()}


def _tokenizer(content: dict[str, Any], dictionary: str | Path | None) -> CTCTokenizer | None:
    symbols = _find_symbols(content) if dictionary is None else _read_dictionary(dictionary)
    if symbols is None:
        return None
    # in fairseq the CTC blank has id 0 and the name <s>; Hugging Face calls the blank <pad>
    return CTCTokenizer({symbol: id for id, symbol in enumerate(["<pad>", "<s>", *symbols[2:]])})


def _find_symbols(content: dict[str, Any]) -> list[str] | None:
    task = entries(content.get("task_state"))
    candidates = [task.get("target_dictionary"), *entries(task.get("ft_dictionaries")).values()]
    for candidate in candidates:
        symbols = entries(candidate).get("symbols")
        if isinstance(symbols, list) and symbols[:2] == ["<s>", "<pad>"]:
            return symbols
    return None


def _read_dictionary(path: str | Path) -> list[str]:
    """Read fairseq's text format: on each line a symbol and a count, in the order of the ids, starting at 4."""
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


def _build(
    cls: type[HubertModel | HubertForCTC], config: HubertConfig, state: dict[str, Tensor]
) -> tuple[HubertModel | HubertForCTC, list[str]]:
    """Build a model with the weights in `state`. Return it with the names of the weights that it does not use."""
    with torch.device("meta"):
        model = cls(config).eval()
    expected = model.state_dict()
    prefix = "" if cls is HubertModel else model.base_model_prefix + "."
    rules = (BATCH_NORM_NAMES if config.conv_pos_batch_norm else []) + NAMES
    renamed = {}
    for key, tensor in state.items():
        name = _rename(key, rules)
        name = name if name.startswith("lm_head.") else prefix + name
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    projection = prefix + "feature_projection.projection."
    if projection + "weight" not in renamed:  # fairseq omits a projection between equal widths
        renamed |= {projection + "weight": torch.eye(config.hidden_size), projection + "bias": torch.zeros(config.hidden_size)}
    left_out = sorted(set(renamed) - set(expected))
    unknown = [name for name in left_out if not re.match(UNUSED, name.removeprefix(prefix))]
    if unknown:
        raise CheckpointError(f"this is not a HuBERT: it has unknown weights: {listed(unknown)}")
    if missing := sorted(set(expected) - set(renamed)):
        raise CheckpointError(f"this is not a HuBERT: it lacks weights: {listed(missing)}")
    for name, tensor in expected.items():
        if tensor.shape != renamed[name].shape:
            raise CheckpointError(f"{name} has shape {list(renamed[name].shape)}, but should have {list(tensor.shape)}")
    model.load_state_dict({name: renamed[name].contiguous() for name in expected}, assign=True)
    return model, left_out


def _rename(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, name in rules:
        if re.match(pattern, key):
            return current_spelling(re.sub(pattern, name, key, count=1))
    return key
