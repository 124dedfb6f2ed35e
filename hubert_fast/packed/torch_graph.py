"""Run the packed graph in plain PyTorch, from a flat waveform to hidden states, for inference.

    waveform [S] -> features [N, C_conv] -> projection [N, C] -> positional convolution and Transformer layers [N, C]

`hubert_fast.modeling` defines HuBERT. This file computes the same results with the same modules, several times faster, because
it computes no padding: a batch is N frames side by side. Everything is row-wise except the positional convolution and
attention, which stay within each utterance. With weights in half precision, products are computed in half precision, while the
residual stream, norms and softmax stay float32.

The file is meant to be read from top to bottom: `encode`, the feature encoder, the positional convolution, the layers.
On CPUs with AVX-512, oneDNN computes the products, and C++ kernels most of the rest.
Axes: B utterances, S samples, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import upload
from ..hidden_states import StateSelection
from ..layers import Attention, ConvLayer, Encoder, EncoderLayer, FeatureProjection, PositionalConvEmbedding
from ..ops.window_statistics import window_statistics_eager
from . import cpu_kernels, onednn
from .grid import Grid
from .positions import bias_of, convolve, normalize_positions
from .weights import PackedWeights, stream_dtype

if TYPE_CHECKING:
    from ..modeling import HubertModel

SLICE_BYTES_CPU = 1 << 24  # of the first convolution's output, the largest activation: a compromise of cache and efficiency
SLICE_BYTES_GPU = 9 << 26  # enough frames to keep a GPU busy, and a small part of its memory
# Rows that run through the second half of a layer at once on a CPU: their activations then stay in cache. A GPU takes all rows.
ROWS_AT_ONCE_CPU = 1024

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor | None, tuple[Tensor, ...] | None]  # the last hidden state, and other ones: each `None` unless selected


class SampleSpans(NamedTuple):
    """The samples from which a GroupNorm takes its statistics: a span of the buffer `samples` `[S]` for each utterance."""

    samples: Tensor
    starts: list[int]
    lengths: list[int]


def encode(
    model: HubertModel,
    weights: PackedWeights,
    waveform: Tensor,
    grid: Grid,
    statistics_spans: SampleSpans,
    selection: StateSelection,
) -> States:
    """Run the encoder over a packed batch and return hidden states `[N, C]`.

    Args:
        weights: The weights of the model, laid out for this graph, in the dtype of matrix products.
        waveform: The packed samples, `[S]`, laid out by `grid`.
        statistics_spans: The samples for the statistics of a GroupNorm; not read if there is none.
        selection: The hidden states to return.
    """
    dtype = weights.dtype
    out_dtype = dtype_of_states(dtype, waveform.device)
    with torch.autocast(waveform.device.type, enabled=False):  # `dtype` is already autocast's
        x = encode_features(model, weights, waveform, grid, statistics_spans)
        true_frames = grid.true_frames(waveform.device)
        if true_frames is not None:
            x = x[true_frames]
        x = _project(model.feature_projection, x, weights)
        x = _add_positions(model.encoder.pos_conv_embed, x, grid, weights)
        run_layer = partial(_run_layer, grid.counts, weights)
        return transform(model.encoder, x, run_layer, _norm_to, selection, dtype, out_dtype)


def dtype_of_states(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of hidden states: that of the products, except that CUDA autocast has norms return float32."""
    return stream_dtype(dtype) if device.type == "cuda" and torch.is_autocast_enabled("cuda") else dtype


def _project(projection: FeatureProjection, x: Tensor, weights: PackedWeights) -> Tensor:
    """Project features `[N, C_conv]` to the residual stream `[N, C]`."""
    if hasattr(projection, "layer_norm"):
        x = norm(x, projection.layer_norm)
    return _product(x, projection.projection, weights).to(stream_dtype(weights.dtype))


# The feature encoder, as matrix products over slices of time.
#
# In channels-last form, frame t of a convolution is a product of `kernel * C_in` adjacent numbers with the weight. Convolutions
# are local, so a slice of frames needs only its own samples: memory does not grow with the audio, and activations stay in
# cache.
#
# A GroupNorm with one group per channel is folded into the convolution before it. With windows x_t of the samples, m = mean x_t
# and G = mean x_t x_t^T - m m^T, channel c has mean w_c . m and variance w_c^T G w_c: m is subtracted from the windows, and the
# scale goes into the convolution's weight. Sums are float64: speech makes G nearly singular, and a high-pass filter w cancels
# most of it.


class FirstConvolution(NamedTuple):
    """The first convolution with a GroupNorm folded in, for each utterance: `weight (x - mean) + bias`.

    Attributes:
        weights: `[B, C, kernel]`.
        means: The mean window of each utterance, `[B, kernel]`.
        bias: `[C]`.
    """

    weights: Tensor
    means: Tensor
    bias: Tensor


def encode_features(
    model: HubertModel, weights: PackedWeights, waveform: Tensor, grid: Grid, statistics_spans: SampleSpans
) -> Tensor:
    """Compute the frames of the grid up to its end, `[grid.end, C_conv]`, from a flat waveform `[S]`.

    Frames that belong to no utterance have arbitrary values. `statistics_spans` are the samples for the statistics of a
    GroupNorm; they are not read if there is none.
    """
    layers, config = model.feature_extractor.conv_layers, model.config
    first, *others = layers
    matrix, *packed = weights.convolutions
    hop = config.inputs_to_logits_ratio
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    folded = None
    if first.norm == "group":
        folded = fold(first, matrix, *window_statistics_eager(*statistics_spans, kernel, stride))
    out = waveform.new_empty(grid.end, config.conv_dim[-1], dtype=weights.dtype)
    per_frame = hop // stride  # frames of the first convolution for each frame of the last one
    budget = SLICE_BYTES_GPU if waveform.is_cuda else SLICE_BYTES_CPU
    step = max(8, budget // (per_frame * len(matrix) * weights.dtype.itemsize))
    spans = [(0, grid.end)]
    if folded is not None and weights.by_onednn:
        # oneDNN is fast with small slices, too. With one utterance in each, nothing after the first convolution must be joined.
        spans = [(start, start + count) for start, count in zip(grid.starts, grid.counts)]
    for begin, end in _slices(spans, step):
        samples = waveform[begin * hop : (end - 1) * hop + config.receptive_field].to(matrix.dtype).contiguous()
        windows = samples.unfold(0, kernel, stride)
        if folded is None:
            x = _convolve_windows(windows, None, first, matrix, cast(first.conv.bias, matrix.dtype), weights)
        else:
            starts = [(start - begin) * per_frame for start in grid.starts]
            x = _convolve_by_utterance(windows, first, folded, starts, weights)
        for layer, weight in zip(others, packed):
            x = _convolve(x, layer, weight, weights)
        out[begin:end] = x
    return out


def _slices(spans: list[tuple[int, int]], step: int) -> Iterator[tuple[int, int]]:
    """Divide each span into slices of similar lengths, at most `step`."""
    for first, last in spans:
        count = -(-(last - first) // step)
        edges = [first + (last - first) * index // count for index in range(count)]
        yield from pairwise([*edges, last])


def _convolve(x: Tensor, layer: ConvLayer, weight: Tensor, weights: PackedWeights) -> Tensor:
    """Run a convolution, its norm and its activation, `[T_in, C_in] -> [T, C]`."""
    (kernel,), (stride,), bias = layer.conv.kernel_size, layer.conv.stride, cast(layer.conv.bias, x.dtype)
    if not weights.by_onednn:
        return _norm_and_activate(F.linear(_windows(x, layer.conv), weight, bias), layer, weights)
    gelu = _is_gelu_alone(layer)
    x = onednn.convolution(x, weight, bias, kernel, stride, gelu)
    return x if gelu else _norm_and_activate(x, layer, weights)


def _is_gelu_alone(layer: ConvLayer) -> bool:
    """Return whether a convolution is followed by GELU, without a LayerNorm between them."""
    return layer.norm != "layer" and layer.activation is F.gelu


def _norm_and_activate(x: Tensor, layer: ConvLayer, weights: PackedWeights) -> Tensor:
    """Apply the LayerNorm after a convolution, if there is one, and the activation."""
    if layer.norm == "layer" and layer.activation is F.gelu and weights.rows_in_cpp:
        return cpu_kernels.layer_norm_gelu_(x, layer.layer_norm)
    return activate(norm(x, layer.layer_norm) if layer.norm == "layer" else x, layer.activation)


def _windows(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Return the input of each output frame, `[T_in, C] -> [T, kernel * C]`, as a view unless windows overlap."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    frames, channels = (len(x) - kernel) // stride + 1, x.shape[1]
    windows = x.as_strided((frames, kernel * channels), (stride * channels, 1))
    return windows.contiguous() if kernel > stride else windows  # BLAS does not accept overlapping rows


def _convolve_windows(
    windows: Tensor, mean: Tensor | None, layer: ConvLayer, matrix: Tensor, bias: Tensor | None, weights: PackedWeights
) -> Tensor:
    """Run the first convolution, its LayerNorm if it has one, and its activation, on windows `[T, kernel]`."""
    if weights.first_in_cpp and layer.activation is F.gelu:
        layer_norm = layer.layer_norm if layer.norm == "layer" else None
        return cpu_kernels.first_convolution(windows, mean, matrix, bias, layer_norm, weights.dtype)
    if mean is not None:
        windows = windows - mean
    gelu = weights.by_onednn and _is_gelu_alone(layer)
    x = onednn.linear(windows, matrix, bias, gelu) if weights.by_onednn else F.linear(windows, matrix, bias)
    return (x if gelu else _norm_and_activate(x, layer, weights)).to(weights.dtype)


def _convolve_by_utterance(
    windows: Tensor, layer: ConvLayer, folded: FirstConvolution, starts: list[int], weights: PackedWeights
) -> Tensor:
    """Convolve windows `[T, kernel]`, each with the weight of its utterance. Utterances begin at the windows `starts`."""
    parts = []
    ends = [*starts[1:], len(windows)]
    for weight, mean, start, end in zip(folded.weights, folded.means, starts, ends):
        start, end = max(start, 0), min(end, len(windows))
        if start < end:
            parts.append(_convolve_windows(windows[start:end], mean, layer, weight, folded.bias, weights))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def fold(layer: ConvLayer, matrix: Tensor, means: Tensor, covariances: Tensor) -> FirstConvolution:
    """Fold the GroupNorm of a layer into the convolution before it, whose weight is `matrix`, `[C, kernel]`.

    Means `[B, kernel]` and covariances `[B, kernel, kernel]` are those of the windows of each utterance.
    """
    weight = matrix.double()
    variance = torch.einsum("ck,bkj,cj->bc", weight, covariances, weight).clamp(min=0)
    scale = (variance + layer.layer_norm.eps).rsqrt() * layer.layer_norm.weight.double()
    scaled = (scale[..., None] * weight).to(matrix.dtype).contiguous()
    # the convolution's own bias is part of the mean that GroupNorm subtracts, so it has no effect
    return FirstConvolution(scaled, means.to(matrix.dtype), layer.layer_norm.bias.to(matrix.dtype))


def _add_positions(embedding: PositionalConvEmbedding, x: Tensor, grid: Grid, weights: PackedWeights) -> Tensor:
    """Add the positional embedding to projected frames, `[N, C] -> [N, C]`."""
    (kernel,), bias = embedding.conv.kernel_size, bias_of(embedding.conv, x.dtype)
    normed, padding = normalize_positions(embedding, x)
    if not weights.positions_in_cpp:
        return x.add_(activate(convolve(normed, padding, weights.positions, bias, kernel, grid), embedding.activation))
    if embedding.activation is F.gelu:
        return cpu_kernels.positions(normed, padding, weights.positions, bias, kernel, grid, x)
    return x.add_(embedding.activation(cpu_kernels.positions(normed, padding, weights.positions, bias, kernel, grid)))


# The Transformer layers.


class RunLayer(Protocol):
    """Compute one Transformer layer: take the residual stream and its norm, return the next stream and its norm.

    The stream may be changed in place.

    Args:
        x: The residual stream, `[N, C]`.
        normed: The input of the layer: the norm of `x` in a pre-LN encoder; in a post-LN encoder `x` itself in the dtype of
            products, which may be the same tensor.
        next_norm: The norm that follows the layer in a pre-LN encoder; `None` in a post-LN encoder, whose layers normalise
            their own output.
        next_dtype: The dtype of the returned norm.
    """

    def __call__(
        self, layer: EncoderLayer, x: Tensor, normed: Tensor, next_norm: nn.LayerNorm | None, next_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]: ...


def transform(
    encoder: Encoder,
    x: Tensor,
    run_layer: RunLayer,
    run_norm: Callable[[Tensor, nn.LayerNorm, torch.dtype], Tensor],
    selection: StateSelection,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> States:
    """Run the layers of an encoder as far as the selected states need them, for both packed graphs.

    Each layer passes on the residual stream and the input of the next layer: the norm of the stream in a pre-LN encoder, the
    stream itself in the dtype of products in a post-LN encoder. After the last layer that runs, this is the output.

    Args:
        x: The residual stream, `[N, C]`: the projected frames plus the positional convolution.
        run_layer: Runs one layer.
        run_norm: Applies a layer norm and returns the result in a dtype.
        selection: The hidden states to return.
        dtype: The dtype of matrix products.
        out_dtype: The dtype of the returned hidden states.
    """
    layers, pre, depth = [*encoder.layers][: selection.depth], encoder.normalize_before, selection.depth
    norms = [*(layer.layer_norm for layer in layers), encoder.layer_norm]  # pre-LN: before each layer, and after the last
    first_dtype = dtype if layers else out_dtype
    if pre:
        normed = run_norm(x, norms[0], first_dtype)
    else:
        x = run_norm(x, encoder.layer_norm, x.dtype)
        normed = x.to(first_dtype)
    states: dict[int, Tensor] = {}

    def keep(number: int) -> None:
        if number not in selection.states:
            return
        if number == depth and (not pre or number in selection.normed):
            states[number] = normed
        elif number in selection.normed:
            states[number] = run_norm(x, encoder.layer_norm, out_dtype)
        else:
            states[number] = x.to(out_dtype, copy=True)  # layers change the stream in place

    keep(0)
    for number, layer in enumerate(layers, 1):
        x, normed = run_layer(layer, x, normed, norms[number] if pre else None, out_dtype if number == depth else dtype)
        keep(number)
    return normed if selection.with_last else None, tuple(states[number] for number in selection.states) or None


def _run_layer(
    counts: tuple[int, ...],
    weights: PackedWeights,
    layer: EncoderLayer,
    x: Tensor,
    normed: Tensor,
    next_norm: nn.LayerNorm | None,
    next_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Run a layer in plain PyTorch, on utterances of `counts` frames. See `RunLayer` for the other arguments."""
    block = layer.attention
    q, k, v = _queries_keys_values(normed, block, weights)
    attended = attention(q, k, v, counts, block.num_heads, weights.attention_in_cpp)
    chunks = 1 if x.is_cuda else max(-(-len(x) // ROWS_AT_ONCE_CPU), 1)
    parts = [
        _finish_layer(layer, *rows, weights, next_norm, next_dtype) for rows in zip(x.chunk(chunks), attended.chunk(chunks))
    ]
    if next_norm is None and next_dtype == x.dtype:
        return x, x
    return x, parts[0] if len(parts) == 1 else torch.cat(parts)


def _queries_keys_values(x: Tensor, block: Attention, weights: PackedWeights) -> tuple[Tensor, ...]:
    """Apply the three projections of attention, `[N, C] -> 3 * [N, C]`: one product if their weights are packed together."""
    projections = block.q_proj, block.k_proj, block.v_proj
    if not weights.linears or not len(x):
        return tuple(_product(x, projection, weights) for projection in projections)
    biases: list[Any] = [projection.bias for projection in projections]
    bias = None if any(each is None for each in biases) else torch.cat(biases).to(weights.dtype)  # all are None, or none is
    return onednn.linear(x, weights.linears[block], bias).chunk(3, 1)


def _finish_layer(
    layer: EncoderLayer,
    x: Tensor,
    attended: Tensor,
    weights: PackedWeights,
    next_norm: nn.LayerNorm | None,
    next_dtype: torch.dtype,
) -> Tensor:
    """Compute the rest of a layer after attention, on some rows. Change the stream `x` in place and return its norm."""
    block, dtype, post = layer.feed_forward, weights.dtype, next_norm is None
    delta = _product(attended, layer.attention.out_proj, weights)
    normed = _add_norm(x, delta, layer.layer_norm if post else layer.final_layer_norm, dtype, post, weights)
    hidden = _product(normed, block.intermediate_dense, weights, block.intermediate_act_fn)
    delta = _product(hidden, block.output_dense, weights)
    if hasattr(layer, "adapter_layer"):  # only in pre-LN encoders
        adapter = layer.adapter_layer
        normed = _add_norm(x, delta, adapter.norm, dtype, post, weights)
        delta = _product(_product(normed, adapter.linear_1, weights, F.relu), adapter.linear_2, weights)
    return _add_norm(x, delta, layer.final_layer_norm if next_norm is None else next_norm, next_dtype, post, weights)


def _add_norm(x: Tensor, delta: Tensor, layer: nn.LayerNorm, dtype: torch.dtype, post: bool, weights: PackedWeights) -> Tensor:
    """Add to the residual stream `x` in place and return its norm in `dtype`. With `post` the norm replaces the stream."""
    if weights.rows_in_cpp:
        return cpu_kernels.add_layer_norm(x, delta, layer, dtype, post=post)
    x += delta
    if post:
        x.copy_(norm(x, layer))
        return x.to(dtype)
    return _norm_to(x, layer, dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...], num_heads: int, in_cpp: bool = False) -> Tensor:
    """Attend within utterances of `counts` frames, scaled by `D ** -0.5`. All tensors are `[N, C]`.

    No `[T, T]` matrix is stored. On CUDA and with our kernel for CPUs, one call serves all utterances. PyTorch's kernel for
    CPUs takes no ragged batches, so one call serves each run of adjacent utterances of equal length.
    """
    if q.is_cuda:
        return _attention_jagged(q, k, v, counts, num_heads)
    if in_cpp:
        return cpu_kernels.attention(q, k, v, counts, num_heads)
    out, start = [], 0
    for frames, run in groupby(counts):
        utterances = len(list(run))
        end = start + utterances * frames
        if end > start:
            query, key, value = (
                x[start:end].view(utterances, frames, num_heads, -1).transpose(1, 2)  # [utterances, H, frames, D]
                for x in (q, k, v)
            )
            out.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(end - start, -1))
        start = end
    if not out:
        return torch.empty_like(v)
    return out[0] if len(out) == 1 else torch.cat(out)


def _attention_jagged(q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...], num_heads: int) -> Tensor:
    counts = tuple(count for count in counts if count)
    if not counts:
        return torch.empty_like(v)
    offsets = upload(torch.tensor([0, *counts], device="cpu").cumsum(0), q.device)
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            x.unflatten(-1, (num_heads, -1)), offsets, min_seqlen=min(counts), max_seqlen=max(counts)
        ).transpose(1, 2)
        for x in (q, k, v)
    )
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).values().flatten(1)


# Single operations, in the dtype that the graph chooses, and in place where that saves a pass over memory.


def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a parameter in `dtype`, or `None` if the layer does not have it."""
    return None if tensor is None else tensor.to(dtype)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Apply a layer norm in the dtype of `x`."""
    return F.layer_norm(x, layer.normalized_shape, cast(layer.weight, x.dtype), cast(layer.bias, x.dtype), layer.eps)


def _norm_to(x: Tensor, layer: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Apply a layer norm in the dtype of `x` and return the result in `dtype`."""
    return norm(x, layer).to(dtype)


def linear(x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Apply a linear layer in `dtype`."""
    return F.linear(x.to(dtype), layer.weight.to(dtype), cast(layer.bias, dtype))


def _product(x: Tensor, layer: nn.Linear, weights: PackedWeights, function: Activation | None = None) -> Tensor:
    """Apply a linear layer in the dtype of products, then an activation."""
    if not weights.by_onednn or not len(x):
        x = linear(x, layer, weights.dtype)
        return x if function is None else activate(x, function)
    weight = weights.linears[layer] if weights.linears else layer.weight.to(weights.dtype)
    is_gelu = function is F.gelu
    x = onednn.linear(x.to(weights.dtype), weight, cast(layer.bias, weights.dtype), is_gelu)
    return x if function is None or is_gelu else function(x)


def activate(x: Tensor, function: Activation) -> Tensor:
    """Apply an activation, in place if it is GELU."""
    return torch.ops.aten.gelu_(x) if function is F.gelu else function(x)
