"""Define the configuration of a HuBERT, in the format of Hugging Face's `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from .config_files import ConfigFiles


@dataclass(init=False, repr=False, eq=False)
class HubertConfig(ConfigFiles):
    """The configuration of a HuBERT, with the fields of `transformers.HubertConfig` (4.34.1).

    The defaults are those of `facebook/hubert-base-ls960`.

    Args:
        values: Any of the attributes below. Other keywords (`tokenizer_class`, `task_specific_params`, ...) become attributes
            and are part of `to_dict`, so that loading and saving a `config.json` preserves them.

    Attributes:
        vocab_size: Tokens that `HubertForCTC` scores, the blank included. Default: 32.
        hidden_size: Channels of the Transformer. Default: 768.
        num_hidden_layers: Layers of the Transformer. Default: 12.
        num_attention_heads: Attention heads in a layer; a divisor of `hidden_size`. Default: 12.
        intermediate_size: Channels between the two products of a feedforward block. Default: 3072.
        hidden_act: Activation of the feedforward blocks. Default: "gelu".
        layer_norm_eps: Epsilon of the layer norms after the feature encoder. Default: 1e-05.
        do_stable_layer_norm: Whether layer norms come before each block (large, xlarge) or after it (base). Default: False.
        adapter_attn_dim: Channels of an adapter in each layer; None means no adapters. Default: None.
        hidden_dropout: Dropout probability of the residual branches, in training. Default: 0.1.
        activation_dropout: Dropout probability within feedforward blocks. Default: 0.1.
        attention_dropout: Dropout probability of attention weights. Default: 0.1.
        feat_proj_dropout: Dropout probability after the feature projection. Default: 0.0.
        final_dropout: Dropout probability before the CTC head. Default: 0.1.
        layerdrop: Probability that training skips a layer. Default: 0.1.
        feat_extract_norm: Norms of the feature encoder: "group" for a group norm after its first convolution, "layer" for
            a layer norm after each. Default: "group".
        feat_extract_activation: Activation of the feature encoder and the positional convolution. Default: "gelu".
        conv_dim: Channels of each convolution of the feature encoder. Default: (512, 512, 512, 512, 512, 512, 512).
        conv_stride: Stride of each convolution of the feature encoder. Default: (5, 2, 2, 2, 2, 2, 2).
        conv_kernel: Kernel size of each convolution of the feature encoder. Default: (10, 3, 3, 3, 3, 2, 2).
        conv_bias: Whether the convolutions of the feature encoder have a bias. Default: False.
        feat_proj_layer_norm: Whether a layer norm precedes the feature projection. Default: True.
        num_conv_pos_embeddings: Kernel size of the positional convolution, in frames. Default: 128.
        num_conv_pos_embedding_groups: Groups of the positional convolution; a divisor of `hidden_size`. Default: 16.
        conv_pos_batch_norm: Whether the positional convolution has a batch norm instead of weight norm. Default: False.
        apply_spec_augment: Whether training masks frames and channels (SpecAugment); see the `mask_` fields. Default: True.
        mask_time_prob: Share of frames to mask, in spans; spans may overlap, and then the share is smaller. Default: 0.05.
        mask_time_length: Frames in a span. Default: 10.
        mask_time_min_masks: Smallest number of spans in an utterance. Default: 2.
        mask_feature_prob: Share of channels to mask, in spans that may also overlap. Default: 0.0.
        mask_feature_length: Channels in a span. Default: 10.
        mask_feature_min_masks: Smallest number of spans of channels in an utterance. Default: 0.
        ctc_loss_reduction: Reduction of the CTC loss over a batch: "sum", "mean" or "none". Default: "sum".
        ctc_zero_infinity: Whether infinite CTC losses, of labels too long for their audio, count as zero. Default: False.
        use_weighted_layer_sum: Whether the classifier averages all hidden states or reads the last one. Default: False.
        classifier_proj_size: Channels of the classifier's projection. Default: 256.
        problem_type: Unused, kept for other programs: the loss of the classifier depends on `num_labels` alone. Default: None.
        initializer_range: Standard deviation of the weights of new linear layers. Default: 0.02.
        pad_token_id: Token of padding, which is also the CTC blank. Default: 0.
        bos_token_id: Token that begins a text; models don't use it. Default: 1.
        eos_token_id: Token or tokens that end a text; models don't use them. Default: 2.
        output_attentions: Whether models return attention weights, unless the call says otherwise. Default: False.
        output_hidden_states: Whether models return all hidden states, unless the call says otherwise. Default: False.
        return_dict: Whether models return an object with named fields or a tuple. Default: True.
        id2label: Names of the classes of `HubertForSequenceClassification` by index; `num_labels=N` names N classes
            "LABEL_0" and so on. There are 2 by default.
        label2id: Indices of the classes by name.

    Raises:
        ValueError: A field has a value of the wrong type, or fields contradict each other. The message names them.
    """

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    do_stable_layer_norm: bool = False
    adapter_attn_dim: int | None = None
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    feat_proj_layer_norm: bool = True
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    problem_type: str | None = None
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True

    model_type = "hubert"
    # pipelines of transformers read these
    is_encoder_decoder = False
    task_specific_params = None
    _commit_hash = None

    def __init__(self, **values: Any):
        num_labels = values.pop("num_labels", None)
        id2label = values.pop("id2label", None)
        label2id = values.pop("label2id", None)
        for derived in ("model_type", "num_feat_extract_layers"):
            values.pop(derived, None)
        if "use_return_dict" in values:  # its name in some old configurations
            values.setdefault("return_dict", values.pop("use_return_dict"))
        for field in fields(self):
            setattr(self, field.name, values.pop(field.name, field.default))
        for name, value in values.items():
            setattr(self, name, value)
        for name in ("conv_dim", "conv_stride", "conv_kernel"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))
        self._check_types()
        self._set_labels(num_labels, id2label, label2id)
        self._validate()

    def _check_types(self) -> None:
        for field in fields(self):
            annotation = str(field.type)  # a string: annotations are not evaluated
            value, expected = getattr(self, field.name), annotation.removesuffix(" | None")
            if value is None and annotation.endswith(" | None"):
                continue
            if expected == "tuple[int, ...]":
                is_valid = isinstance(value, tuple) and all(type(entry) is int for entry in value)
            elif expected == "float":
                is_valid = type(value) in (int, float)
            elif expected == "int | list[int]":
                is_valid = all(type(entry) is int for entry in (value if isinstance(value, list) else [value]))
            else:
                is_valid = type(value).__name__ == expected
            if not is_valid:
                raise ValueError(f"{field.name} must be {annotation}, but is {value!r}")

    def _set_labels(self, num_labels: int | None, id2label: dict | None, label2id: dict | None) -> None:
        if id2label is None:
            count = 2 if num_labels is None else num_labels
            id2label = {index: f"LABEL_{index}" for index in range(count)}
        elif num_labels is not None and len(id2label) != num_labels:
            raise ValueError(f"num_labels is {num_labels}, but id2label has {len(id2label)} labels")
        try:
            self.id2label = {int(index): label for index, label in id2label.items()}
        except ValueError:
            raise ValueError(f"id2label must map integers to labels, but is {id2label!r}") from None
        self.label2id = {label: index for index, label in self.id2label.items()} if label2id is None else dict(label2id)

    def _validate(self) -> None:
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel):
            raise ValueError(
                "conv_dim, conv_stride and conv_kernel must have one entry per convolution, but have "
                f"{len(self.conv_dim)}, {len(self.conv_stride)} and {len(self.conv_kernel)}"
            )
        if not self.conv_dim or min(self.conv_dim + self.conv_stride + self.conv_kernel) < 1:
            raise ValueError("conv_dim, conv_stride and conv_kernel must each have at least one entry, and only positive ones")
        if self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers must not be negative, but is {self.num_hidden_layers}")
        for width, count in (
            ("hidden_size", "num_attention_heads"),
            ("hidden_size", "num_conv_pos_embedding_groups"),
        ):
            if getattr(self, count) < 1 or getattr(self, width) % getattr(self, count):
                raise ValueError(f"{width} ({getattr(self, width)}) must be divisible by {count} ({getattr(self, count)})")
        for name, allowed in (
            ("feat_extract_norm", ("group", "layer")),
            ("ctc_loss_reduction", ("sum", "mean", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(self, name)!r}")

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != self.num_labels:
            self._set_labels(count, None, None)

    @property
    def use_return_dict(self) -> bool:
        """The name of `return_dict` in the code of transformers 4."""
        return self.return_dict

    @property
    def name_or_path(self) -> str:
        """The name under which a trainer recorded the checkpoint; empty without one."""
        return getattr(self, "_name_or_path", "")

    @property
    def num_feat_extract_layers(self) -> int:
        """The number of convolutions in the feature encoder."""
        return len(self.conv_dim)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from the start of one frame to that of the next: 320 (20 ms at 16 kHz) in every published HuBERT."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that a frame depends on, and so the shortest input: 400 (25 ms at 16 kHz) in every published HuBERT."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride)):
            samples = (samples - 1) * stride + kernel
        return samples


def as_hubert_config(config: Any) -> HubertConfig:
    """Return `config` if it is ours, or convert it from transformers' `HubertConfig`. Raises `TypeError` for other types."""
    if isinstance(config, HubertConfig):
        return config
    if getattr(config, "model_type", None) != HubertConfig.model_type or not hasattr(config, "to_dict"):
        raise TypeError(f"expected a HubertConfig, but got a {type(config).__name__}")
    return HubertConfig.from_dict(config.to_dict())
