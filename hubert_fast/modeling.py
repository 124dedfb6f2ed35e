"""HuBERT, the definition: what the model *is*, in plain PyTorch.

Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units"
(https://arxiv.org/abs/2106.07447), with the parameter names and the arithmetic of ``transformers.models.hubert``.

    waveform [B, S] -> FeatureEncoder [B, C_conv, T] -> FeatureProjection [B, T, C] -> Encoder [B, T, C] -> head

Two architectures share these modules. ``do_stable_layer_norm=False`` with ``feat_extract_norm="group"`` (base) normalises
after each residual add; ``do_stable_layer_norm=True`` with ``feat_extract_norm="layer"`` (large, xlarge) before each
block and once at the end. Axes: B batch, S samples, T frames, C channels, H heads, D head dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .checkpoints import PreTrainedMixin
from .config import HubertConfig
from .initialization import initialize
from .outputs import BaseModelOutput, CausalLMOutput, ModelOutput, SequenceClassifierOutput
from .spec_augment import sample_mask

ACTIVATIONS = {
    "gelu": F.gelu,  # the exact one, with erf
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str):
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but the configuration says {name!r}")
    return ACTIVATIONS[name]


class ConvLayer(nn.Module):
    """One strided convolution of the feature encoder, ``[B, C_in, T_in] -> [B, C_out, T_out]``, no padding.

    ``norm`` is ``"group"`` (one group per channel, statistics over time), ``"layer"`` (over channels) or ``None``.
    """

    def __init__(self, config: HubertConfig, index: int, norm: str | None):
        super().__init__()
        channels = config.conv_dim[index]
        self.conv = nn.Conv1d(
            config.conv_dim[index - 1] if index else 1,
            channels,
            config.conv_kernel[index],
            stride=config.conv_stride[index],
            bias=config.conv_bias,
        )
        self.norm = norm
        if norm == "group":
            self.layer_norm = nn.GroupNorm(channels, channels)
        elif norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)
        self.activation = activation(config.feat_extract_activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm == "group":
            x = self.layer_norm(x)
        elif self.norm == "layer":
            # contiguous: the activation and its gradient run several times faster than on strided memory
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2).contiguous()
        return self.activation(x)


class FeatureEncoder(nn.Module):
    """Seven convolutions from the waveform ``[B, S]`` to one feature vector per 20 ms, ``[B, C_conv, T]``."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        layers = len(config.conv_dim)
        norms = ["layer"] * layers if config.feat_extract_norm == "layer" else ["group"] + [None] * (layers - 1)
        self.conv_layers = nn.ModuleList(ConvLayer(config, index, norm) for index, norm in enumerate(norms))

    def forward(self, input_values: Tensor) -> Tensor:
        x = input_values[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """``[B, T, C_conv] -> [B, T, C]``."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        if config.feat_proj_layer_norm:
            self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "layer_norm"):
            x = self.layer_norm(x)
        return self.dropout(self.projection(x))


class PositionalConvEmbedding(nn.Module):
    """Relative positions by a wide grouped convolution over time, ``[B, T, C] -> [B, T, C]``.

    The weight is normalised over (out, in) for each tap (``dim=2``), or the input is batch-normalised instead.
    An even kernel yields one frame too many; the last is dropped.
    """

    def __init__(self, config: HubertConfig):
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        self.conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel,
            padding=kernel // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        if config.conv_pos_batch_norm:
            self.batch_norm = nn.BatchNorm1d(config.hidden_size)
        else:
            weight_norm(self.conv, dim=2)
        self.activation = activation(config.feat_extract_activation)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        x = x.transpose(1, 2)
        if hasattr(self, "batch_norm"):
            x = self.batch_norm(x)
        x = self.activation(self.conv(x)[..., :frames])
        return x.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, ``[B, T, C] -> [B, T, C]`` and, when asked for, the probabilities ``[B, H, T, T]``."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, key_mask: Tensor | None, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, T, D]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        probabilities = None
        if output_attentions:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask, torch.finfo(scores.dtype).min)
            probabilities = scores.softmax(dim=-1)
            context = F.dropout(probabilities, dropout) @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2)), probabilities


class FeedForward(nn.Module):
    """Two linear layers with an activation between, ``[..., C] -> [..., C]``."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)
        self.activation = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(self.activation(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class AttentionAdapter(nn.Module):
    """Bottleneck added to each pre-LN layer when ``adapter_attn_dim`` is set (Pratap et al. 2023, MMS)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_1 = nn.Linear(config.hidden_size, config.adapter_attn_dim)
        self.linear_2 = nn.Linear(config.adapter_attn_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.relu(self.linear_1(self.norm(x))))


class EncoderLayer(nn.Module):
    """One Transformer layer, ``[B, T, C] -> [B, T, C]``, normalising before its blocks or after their residual adds."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.normalize_before = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if self.normalize_before and config.adapter_attn_dim is not None:
            self.adapter_layer = AttentionAdapter(config)

    def forward(self, x: Tensor, key_mask: Tensor | None, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        if self.normalize_before:
            attended, probabilities = self.attention(self.layer_norm(x), key_mask, output_attentions)
            x = x + self.dropout(attended)
            x = x + self.feed_forward(self.final_layer_norm(x))
            if hasattr(self, "adapter_layer"):
                x = x + self.adapter_layer(x)
        else:
            attended, probabilities = self.attention(x, key_mask, output_attentions)
            x = self.layer_norm(x + self.dropout(attended))
            x = self.final_layer_norm(x + self.feed_forward(x))
        return x, probabilities


class Encoder(nn.Module):
    """Positional convolution and Transformer layers over projected frames ``[B, T, C]``."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.normalize_before = config.do_stable_layer_norm
        self.layerdrop = config.layerdrop
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, x: Tensor, frame_mask: Tensor | None, output_attentions: bool, output_hidden_states: bool
    ) -> BaseModelOutput:
        """``frame_mask`` is bool ``[B, T]``, True where a frame is real; frames of padding enter as zeros."""
        key_mask = None
        if frame_mask is not None:
            x = x.masked_fill(~frame_mask[..., None], 0)
            # A row without a single real frame may attend anywhere: what it yields is padding, but must be finite.
            key_mask = (frame_mask | ~frame_mask.any(-1, keepdim=True))[:, None, None, :]
        x = x + self.pos_conv_embed(x)
        if not self.normalize_before:
            x = self.layer_norm(x)
        x = self.dropout(x)

        hidden_states = [x]
        attentions = []
        for layer in self.layers:
            probabilities = None
            if not (self.training and torch.rand(()) < self.layerdrop):
                x, probabilities = layer(x, key_mask, output_attentions)
            hidden_states.append(x)
            attentions.append(probabilities)
        if self.normalize_before:
            hidden_states[-1] = x = self.layer_norm(x)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class HubertPreTrainedModel(PreTrainedMixin, nn.Module):
    """Base of the three models: configuration, initialisation, and (from the mixin) loading and saving."""

    config_class = HubertConfig
    base_model_prefix = "hubert"
    main_input_name = "input_values"

    def __init__(self, config: HubertConfig):
        super().__init__()
        if not hasattr(config, "conv_dim"):
            raise TypeError(f"{type(self).__name__} takes a HubertConfig, but got a {type(config).__name__}")
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def freeze_feature_encoder(self) -> None:
        """Exclude the convolutional feature encoder from training."""
        model = getattr(self, self.base_model_prefix, self)
        model.feature_extractor.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Exclude everything but the head from training."""
        getattr(self, self.base_model_prefix, self).requires_grad_(False)

    def frame_counts(self, sample_counts: Tensor) -> Tensor:
        """Return how many frames that many samples give: integers of any shape; 0 below the receptive field (400)."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride):
            sample_counts = torch.div(sample_counts - kernel, stride, rounding_mode="floor") + 1
        return sample_counts.clamp(min=0)

    def frame_mask(self, attention_mask: Tensor, frames: int) -> Tensor:
        """Reduce a sample mask ``[B, S]`` to a frame mask, bool ``[B, frames]``. Only the mask's row sums count."""
        counts = self.frame_counts(attention_mask.sum(-1).long())
        return torch.arange(frames, device=counts.device) < counts[:, None]

    def _as_asked(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


class HubertModel(HubertPreTrainedModel):
    """The encoder without a head: waveforms to one vector per 20 ms."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Encoder(config)
        initialize(self)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple:
        """Encode waveforms.

        input_values: float ``[B, S]``, 16 kHz, normalised as the checkpoint's preprocessor says.
        attention_mask: ``[B, S]``, 1 for samples and 0 for the padding after them. A row with fewer samples than the
            receptive field (400) has no frames and never disturbs its neighbours.
        mask_time_indices: bool ``[B, T]``, frames to replace by the mask embedding. Sampled in training when left out.

        Raises ``ValueError`` when the shapes do not fit or the waveform is too short for a single frame.
        """
        self._check_inputs(input_values, attention_mask)
        features = self.feature_extractor(input_values).transpose(1, 2)
        frame_mask = None if attention_mask is None else self.frame_mask(attention_mask, features.shape[1])
        x = self.feature_projection(features)
        x = self._mask_features(x, mask_time_indices)
        config = self.config
        output = self.encoder(
            x,
            frame_mask,
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        return self._as_asked(output, return_dict)

    def _check_inputs(self, input_values: Tensor, attention_mask: Tensor | None) -> None:
        if input_values.dim() != 2:
            raise ValueError(f"input_values must be [batch, samples], but has shape {list(input_values.shape)}")
        if not input_values.is_floating_point():
            raise ValueError(f"input_values must be floating point, but is {input_values.dtype}: use a processor first")
        if input_values.shape[1] < self.config.receptive_field:
            raise ValueError(
                f"input_values needs at least {self.config.receptive_field} samples for one frame, "
                f"but has shape {list(input_values.shape)}"
            )
        if attention_mask is not None and attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_values, {list(input_values.shape)}, "
                f"but has {list(attention_mask.shape)}"
            )

    def _mask_features(self, x: Tensor, mask_time_indices: Tensor | None) -> Tensor:
        """SpecAugment (Park et al. 2019) on projected frames: spans of time, then spans of channels."""
        config = self.config
        if not config.apply_spec_augment:
            return x
        batch, frames, channels = x.shape
        if mask_time_indices is None and self.training and config.mask_time_prob > 0:
            mask_time_indices = sample_mask(
                (batch, frames), config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
            ).to(x.device)
        if mask_time_indices is not None:
            x = torch.where(mask_time_indices.bool()[..., None], self.masked_spec_embed.to(x.dtype), x)
        if self.training and config.mask_feature_prob > 0:
            mask = sample_mask(
                (batch, channels), config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
            ).to(x.device)
            x = x.masked_fill(mask[:, None], 0)
        return x


class HubertForCTC(HubertPreTrainedModel):
    """HuBERT with a linear layer over the vocabulary, for connectionist temporal classification."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        self.hubert = HubertModel(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        initialize(self.lm_head, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput | tuple:
        """Return logits ``[B, T, V]`` and, with labels, the CTC loss (Graves et al. 2006).

        labels: int ``[B, L]``, negative values are padding. The blank is ``config.pad_token_id``. Without
        an ``attention_mask`` every frame counts. Other arguments as in :meth:`HubertModel.forward`.

        Raises ``ValueError`` when a label is not in the vocabulary.
        """
        if labels is not None and labels.numel() and labels.max() >= self.config.vocab_size:
            raise ValueError(f"labels must be below vocab_size ({self.config.vocab_size}), but reach {int(labels.max())}")
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            mask = torch.ones_like(input_values) if attention_mask is None else attention_mask
            loss = self._ctc_loss(logits, self.frame_counts(mask.sum(-1).long()), labels)
        output = CausalLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions)
        return self._as_asked(output, return_dict)

    def _ctc_loss(self, logits: Tensor, frame_counts: Tensor, labels: Tensor) -> Tensor:
        is_label = labels >= 0
        # cuDNN's CTC takes only blank 0 and short labels, so it is kept out
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                logits.log_softmax(dim=-1, dtype=torch.float32).transpose(0, 1),
                labels[is_label],
                frame_counts,
                is_label.sum(-1),
                blank=self.config.pad_token_id,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )


class HubertForSequenceClassification(HubertPreTrainedModel):
    """HuBERT with a classifier over the mean of the projected frames (SUPERB's recipe)."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        self.hubert = HubertModel(config)
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = nn.Parameter(torch.full((states,), 1 / states))
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        initialize(self.projector, config)
        initialize(self.classifier, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits ``[B, num_labels]`` and, with labels ``[B]``, the cross entropy.

        The mean is over all frames, or over the real ones with an ``attention_mask``.
        Other arguments as in :meth:`HubertModel.forward`.
        """
        weighted = self.config.use_weighted_layer_sum
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True if weighted else output_hidden_states,
            return_dict=True,
        )
        if weighted:
            weights = self.layer_weights.softmax(dim=0)
            x = torch.einsum("l,lbtc->btc", weights, torch.stack(encoded.hidden_states))
        else:
            x = encoded.last_hidden_state
        x = self.projector(x)
        if attention_mask is None:
            pooled = x.mean(dim=1)
        else:
            frame_mask = self.frame_mask(attention_mask, x.shape[1])
            pooled = x.masked_fill(~frame_mask[..., None], 0).sum(dim=1)
            pooled = pooled / frame_mask.sum(-1, keepdim=True).clamp(min=1)
        logits = self.classifier(pooled)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._as_asked(output, return_dict)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.view(-1))


MODEL_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (HubertModel, HubertForCTC, HubertForSequenceClassification)}
