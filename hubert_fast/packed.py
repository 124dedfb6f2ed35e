"""The fast graph, for inference: ``modeling.py`` says what HuBERT is, this is how it runs fast, on the same modules.

    flat waveform [S] -> features [N, C_conv] -> projection [N, C] -> positional convolution, layers [N, C]

A batch is N frames side by side, without padding. All is row-wise but the positional convolution and attention, which keep
to the utterance. Weights of half precision compute products in half precision; the residual stream, norms and softmax stay
float32. Axes: B batch, S samples, N packed frames, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grid import Grid
from .layers import EncoderLayer
from .packed_attention import attention
from .packed_features import SampleSpans, encode_features
from .packed_layers import activate, linear, norm
from .packed_positions import convolve
from .packed_weights import PackedWeights, wide

# Rows of the feed-forward block at once: what lies between its two products is then read from cache. No limit on a GPU.
FEED_FORWARD_ROWS_CPU = 1024


def encode(
    model: nn.Module,
    weights: PackedWeights,
    waveform: Tensor,
    grid: Grid,
    spans: SampleSpans,
    output_hidden_states: bool,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Run a ``HubertModel`` over a packed batch: the last hidden state ``[N, C]`` and, if asked for, all of them.

    waveform: flat, ``[S]``, laid out as ``grid`` says. spans: what the statistics of a GroupNorm are
    taken over.
    """
    dtype = weights.convolutions[-1].dtype
    out_dtype = dtype_of_states(dtype, waveform.device)
    with torch.autocast(waveform.device.type, enabled=False):  # dtype is autocast's already
        layers = model.feature_extractor.conv_layers
        features = encode_features(layers, weights.convolutions, waveform, grid, spans, model.config)
        true_frames = grid.true_frames(waveform.device)
        if true_frames is not None:
            features = features[true_frames]
        x = _project(model.feature_projection, features)
        return _transform(model.encoder, x, grid, weights.positions, output_hidden_states, dtype, out_dtype)


def dtype_of_states(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of hidden states: that of products, but on CUDA autocast has norms return float32."""
    return wide(dtype) if device.type == "cuda" and torch.is_autocast_enabled("cuda") else dtype


def _project(projection: nn.Module, features: Tensor) -> Tensor:
    """``[N, C_conv] -> [N, C]``, the start of the residual stream."""
    dtype = features.dtype
    if hasattr(projection, "layer_norm"):
        features = norm(features, projection.layer_norm)
    return linear(features, projection.projection, dtype).to(wide(dtype))


def _transform(
    encoder: nn.Module,
    x: Tensor,
    grid: Grid,
    positions: Tensor,
    output_hidden_states: bool,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    x += _positions(encoder.pos_conv_embed, x, grid, positions)
    if not encoder.normalize_before:
        x = norm(x, encoder.layer_norm)
    states = [kept(x, out_dtype)] if output_hidden_states else []
    for layer in encoder.layers:
        x = _layer(layer, x, grid, dtype)
        if output_hidden_states:
            states.append(kept(x, out_dtype))
    if encoder.normalize_before:
        x = norm(x, encoder.layer_norm)
    x = x.to(out_dtype)
    if output_hidden_states and (not encoder.normalize_before or encoder.final_norm_in_hidden_states):
        states[-1] = x
    return x, tuple(states) if output_hidden_states else None


def kept(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy, since layers work in place."""
    return x.to(dtype, copy=True)


def _positions(embedding: nn.Module, x: Tensor, grid: Grid, spectrum: Tensor) -> Tensor:
    conv = embedding.conv
    x, padding = normalized_positions(embedding, x)
    return activate(convolve(x, padding, spectrum, conv.bias.to(x.dtype), conv.kernel_size[0], grid), embedding.activation)


def normalized_positions(embedding: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the batch norm before a positional convolution, if it has one; return also what it makes of zeros, ``[C]``."""
    if not hasattr(embedding, "batch_norm"):
        return x, x.new_zeros(x.shape[1])
    batch_norm = embedding.batch_norm
    scale = (batch_norm.running_var.to(x.dtype) + batch_norm.eps).rsqrt() * batch_norm.weight.to(x.dtype)
    padding = batch_norm.bias.to(x.dtype) - batch_norm.running_mean.to(x.dtype) * scale
    return torch.addcmul(padding, x, scale), padding


def _layer(layer: EncoderLayer, x: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """One Transformer layer on ``[N, C]``; works in place and returns what ``x`` has become."""
    block = layer.attention
    source = (norm(x, layer.layer_norm) if layer.normalize_before else x).to(dtype)
    q, k, v = (linear(source, projection, dtype) for projection in (block.q_proj, block.k_proj, block.v_proj))
    x += linear(attention(q, k, v, grid.counts, block.num_heads), block.out_proj, dtype)
    if not layer.normalize_before:
        x = norm(x, layer.layer_norm)
    _in_parts(x, lambda rows: _feed_forward(layer, rows, dtype))
    return x


def _in_parts(x: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    for rows in x.split(len(x) if x.is_cuda else FEED_FORWARD_ROWS_CPU) if len(x) else ():
        rows.copy_(function(rows))


def _feed_forward(layer: EncoderLayer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """What follows attention, on some rows of the residual stream."""
    block = layer.feed_forward
    source = norm(x, layer.final_layer_norm) if layer.normalize_before else x
    hidden = activate(linear(source, block.intermediate_dense, dtype), block.activation)
    x = x.add_(linear(hidden, block.output_dense, dtype))
    if not layer.normalize_before:
        return norm(x, layer.final_layer_norm)
    if hasattr(layer, "adapter_layer"):
        adapter = layer.adapter_layer
        x += linear(F.relu(linear(norm(x, adapter.norm), adapter.linear_1, dtype)), adapter.linear_2, dtype)
    return x
