"""Define the parts of HuBERT: feature encoder, projection, positional convolution, attention, feed-forward block, encoder.

Parameter names are those of `transformers.models.hubert`.
Axes: B batch, S samples, T frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from .config import HubertConfig
from .hidden_states import StateSelection, select_layers
from .initialization import draw_order
from .outputs import BaseModelOutput


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # by transformers' names
    "gelu": F.gelu,  # exact, with erf
    "gelu_10": lambda x: F.gelu(x).clip(-10, 10),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function that a configuration names. Raises `ValueError` for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but the configuration has {name!r}")
    return ACTIVATIONS[name]


class CheckpointedLayer(nn.Module):
    """A layer that supports gradient checkpointing: its activations can be recomputed in the backward pass.

    Attributes:
        checkpointing: Keyword arguments for `torch.utils.checkpoint.checkpoint`, or `None` to keep activations.
    """

    def __init__(self, config: HubertConfig):
        super().__init__()
        enabled = getattr(config, "gradient_checkpointing", False)  # a field in configurations from 2021
        self.checkpointing: dict[str, Any] | None = {"use_reentrant": False} if enabled else None

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        if self.checkpointing is None or not (self.training and torch.is_grad_enabled()):
            return super().__call__(*inputs, **kwargs)
        run = partial(super().__call__, **kwargs)
        differentiable = any(isinstance(entry, Tensor) and entry.requires_grad for entry in inputs)
        if self.checkpointing["use_reentrant"] and not differentiable:
            return run(*inputs)  # the first layer: a reentrant checkpoint would give its parameters no gradient
        return checkpoint(run, *inputs, **self.checkpointing)


class ConvLayer(CheckpointedLayer):
    """One strided convolution of the feature encoder, `[B, C_in, T_in] -> [B, C_out, T_out]`, without padding.

    Args:
        config: The configuration of the model.
        index: The index of the convolution.
        norm: `"group"` (one group per channel, statistics over time), `"layer"` (over channels) or `None`.
    """

    conv: nn.Conv1d
    layer_norm: Any  # nn.GroupNorm, nn.LayerNorm or absent, according to `norm`

    def __init__(self, config: HubertConfig, index: int, norm: str | None):
        super().__init__(config)
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
    """Strided convolutions, seven in every published model: `[B, S]` to one feature vector per 20 ms, `[B, C_conv, T]`."""

    conv_layers: Sequence[ConvLayer]

    def __init__(self, config: HubertConfig):
        super().__init__()
        layers = len(config.conv_dim)
        norms: list[str | None] = (
            ["layer"] * layers if config.feat_extract_norm == "layer" else ["group"] + [None] * (layers - 1)
        )
        self.conv_layers = nn.ModuleList(  # type: ignore[assignment]
            ConvLayer(config, index, norm) for index, norm in enumerate(norms)
        )

    def _freeze_parameters(self) -> None:
        """Exclude the feature encoder from training. Published heads call this method of transformers."""
        self.requires_grad_(False)

    def forward(self, input_values: Tensor) -> Tensor:
        x = input_values[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """LayerNorm and linear projection of features, `[B, T, C_conv] -> [B, T, C]`."""

    layer_norm: nn.LayerNorm
    projection: nn.Linear

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
    """Relative positional embedding: a grouped convolution over time with a large kernel, `[B, T, C] -> [B, T, C]`.

    Weight norm is taken over (out, in) for each tap (`dim=2`); or the input is batch-normalised instead. An even kernel yields
    one frame too many, and the last one is dropped.
    """

    conv: nn.Conv1d
    batch_norm: nn.BatchNorm1d

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
    """Multi-head self-attention, `[B, T, C] -> [B, T, C]`, which can also return the probabilities `[B, H, T, T]`.

    Attributes:
        scaling: The factor of the scores, by default `D ** -0.5`. The definition alone serves another one.
    """

    k_proj: nn.Linear
    v_proj: nn.Linear
    q_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
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
            scores = q * self.scaling @ k.transpose(-1, -2)
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask, torch.finfo(scores.dtype).min)
            probabilities = scores.softmax(dim=-1)
            context = F.dropout(probabilities, dropout) @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=dropout, scale=self.scaling)
        return self.out_proj(context.transpose(1, 2).flatten(2)), probabilities


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, `[..., C] -> [..., C]`.

    Attributes:
        intermediate_act_fn: The activation, a function or a module. The packed graph serves functions, the kernels only GELU.
    """

    intermediate_dense: nn.Linear
    output_dense: nn.Linear

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)
        self.intermediate_act_fn = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(self.intermediate_act_fn(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class AttentionAdapter(nn.Module):
    """The bottleneck after each pre-LN layer if `adapter_attn_dim` is set, `[..., C] -> [..., C]` (Pratap et al. 2023, MMS)."""

    norm: nn.LayerNorm
    linear_1: nn.Linear
    linear_2: nn.Linear

    def __init__(self, config: HubertConfig):
        super().__init__()
        assert config.adapter_attn_dim is not None  # adapters exist only when it is set
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_1 = nn.Linear(config.hidden_size, config.adapter_attn_dim)
        self.linear_2 = nn.Linear(config.adapter_attn_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.relu(self.linear_1(self.norm(x))))


class EncoderLayer(CheckpointedLayer):
    """One Transformer layer, `[B, T, C] -> [B, T, C]`, with norms before its blocks or after their residual adds."""

    attention: Attention
    layer_norm: nn.LayerNorm
    feed_forward: FeedForward
    final_layer_norm: nn.LayerNorm
    adapter_layer: AttentionAdapter

    def __init__(self, config: HubertConfig):
        super().__init__(config)
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
    """Positional convolution and Transformer layers over projected frames `[B, T, C]`.

    Attributes:
        final_norm_in_hidden_states: Whether the last hidden state of a pre-LN encoder is taken after its final norm, as in
            transformers 4.34.1, or before it, as in transformers 5.
    """

    final_norm_in_hidden_states = True
    pos_conv_embed: PositionalConvEmbedding
    layer_norm: nn.LayerNorm
    layers: Sequence[EncoderLayer]

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.normalize_before = config.do_stable_layer_norm
        self.config = config  # the whole configuration, since its layerdrop may change later
        self._always_draws = draw_order().draws_without_layerdrop
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(config) for _ in range(config.num_hidden_layers)
        )

    def select(
        self, output_hidden_states: bool | None, layers: Iterable[int] | None = None, final_norm: bool | None = None
    ) -> StateSelection:
        """Return which hidden states a call with these arguments returns; see `HubertModel.forward`.

        Raises:
            TypeError: `layers` are not whole numbers.
            ValueError: There is no such layer, or the arguments contradict each other or the architecture.
        """
        num_layers = len(self.layers)
        normed_last = self.final_norm_in_hidden_states if self.normalize_before else None
        if layers is not None:
            if output_hidden_states:
                raise ValueError("output_hidden_states returns the states of all layers: pass either that or layers, not both")
            return select_layers(layers, final_norm, num_layers, normed_last)
        if final_norm is not None:
            raise ValueError(f"final_norm applies to the states of layers, but it is {final_norm} and layers is None")
        wants_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = tuple(range(num_layers + 1)) if wants_all else ()
        return StateSelection(states, num_layers, True, (num_layers,) if states and normed_last else ())

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool | None = False,
        return_dict: bool = True,
        layers: Iterable[int] | None = None,
        final_norm: bool | None = None,
    ) -> BaseModelOutput | tuple:
        """Encode frames.

        Args:
            hidden_states: Projected frames, `[B, T, C]`.
            attention_mask: bool `[B, T]`, False for padding. Padded frames are set to zero first.
            output_attentions: Whether to return the attention probabilities of each layer.
            output_hidden_states: Whether to return the input of the first layer and the output of each.
            return_dict: Whether to return an output object instead of a tuple.
            layers: The layers whose states to return, see `HubertModel.forward`; none above the highest of them is computed.
            final_norm: Whether these are returned after the final norm.
        """
        selection = self.select(output_hidden_states, layers, final_norm)
        x, key_mask = hidden_states, None
        if attention_mask is not None:
            frame_mask = attention_mask.bool()
            x = x.masked_fill(~frame_mask[..., None], 0)
            # A row that is all padding may attend anywhere: its result is meaningless, but must be finite.
            key_mask = (frame_mask | ~frame_mask.any(-1, keepdim=True))[:, None, None, :]
        x = x + self.pos_conv_embed(x)
        if not self.normalize_before:
            x = self.layer_norm(x)
        x = self.dropout(x)

        states = {0: x}
        attentions = []
        for number, layer in enumerate([*self.layers][: selection.depth], 1):
            probabilities = None
            draws = self.training and (self.config.layerdrop > 0 or self._always_draws)
            if not (draws and torch.rand(()) < self.config.layerdrop):
                x, probabilities = layer(x, key_mask, output_attentions)
            attentions.append(probabilities)
            if number in selection.states:
                states[number] = x
        if self.normalize_before and selection.with_last:
            x = self.layer_norm(x)
        for number in selection.normed:
            states[number] = x if number == len(self.layers) and selection.with_last else self.layer_norm(states[number])
        output = BaseModelOutput(
            last_hidden_state=x if selection.with_last else None,
            hidden_states=tuple(states[number] for number in selection.states) or None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()
