"""Run the packed graph on Triton kernels: the steps of `torch_graph`, fused where a kernel fuses them.

Products that gain nothing from fusing go to cuBLAS; `kernels.tuning` decides which. No weights are kept between calls: those
that kernels read in another layout (convolutions as matrices, the positional weight with its norm applied) are laid out in
every call, which moves about 50 MB for a large model. So a changed weight always takes effect, and nothing waits for the GPU.
Axes: B utterances, S samples, N packed frames, C channels, H heads, D head dim, G groups.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized

from ..devices import joined, views_of
from ..hidden_states import StateSelection
from ..kernels.checks import tf32_allowed
from ..layers import EncoderLayer, PositionalConvEmbedding
from ..ops.window_statistics import window_moments
from .grid import Grid
from .positions import bias_of, convolve, normalize_positions
from .tables import Tables, bucket_of, tables_on_host
from .torch_graph import SLICE_BYTES_GPU, SampleSpans, States, activate, dtype_of_states, fold, linear, transform
from .untouched import walk
from .weights import matrix_of, spectrum_of, stream_dtype

if TYPE_CHECKING:
    from ..modeling import HubertModel


def encode_on_kernels(
    model: HubertModel,
    dtype: torch.dtype,
    waveform: Tensor,
    grid: Grid,
    statistics_spans: SampleSpans,
    selection: StateSelection,
) -> States:
    """Run the encoder over a packed batch in `dtype` and return hidden states `[N, C]`.

    Args:
        dtype: The dtype of matrix products.
        waveform: The packed samples, `[S]`, laid out by `grid`.
        statistics_spans: The samples for the statistics of a GroupNorm; not read if there is none.
        selection: The hidden states to return.
    """
    device = waveform.device
    out_dtype = dtype_of_states(dtype, device)
    with torch.autocast(device.type, enabled=False):  # `dtype` is already autocast's
        if not grid.frames:
            return _no_frames(model, out_dtype, device, selection)
        # in a padded batch GroupNorm takes its statistics from the padded rows
        has_own_samples = model.feature_extractor.conv_layers[0].norm == "group" and statistics_spans.samples is not waveform
        samples = (waveform, statistics_spans.samples) if has_own_samples else (waveform,)
        options = dtype, out_dtype, selection
        replayed = _replay(model, *options, grid, statistics_spans, samples)
        if replayed is not None:
            return replayed
        return _run(model, *options, grid, Tables.of(model, dtype, grid, statistics_spans, device), *samples)


def _replay(
    model: HubertModel,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    selection: StateSelection,
    grid: Grid,
    statistics_spans: SampleSpans,
    samples: tuple[Tensor, ...],
) -> States | None:
    """Compute the result of `_run` for a short batch by replaying a CUDA graph; return `None` when there is no graph for it.

    A graph is captured for a bucket of batch sizes and computes as many frames as the bucket has. Rows beyond the batch's own
    frames hold arbitrary values. They do no harm: no product or norm mixes rows, and the tables let no utterance read them.
    """
    graphs, device, hop = model.fast_path.cuda_graphs, samples[0].device, model.config.inputs_to_logits_ratio
    # graphs with all hidden states, of every size of batch, would hold 3 GB for an xlarge model
    if len(selection.states) > 1 or not (graphs.limit and graphs_can_run(device)) or _copies_during_run(model, grid):
        return None
    bucket = bucket_of(-(-max(map(len, samples)) // hop), len(grid.counts))
    if bucket is None:
        return None
    arrays, chunk_limit = tables_on_host(model, dtype, grid, statistics_spans, device, bucket)
    tables = joined(arrays, device)

    def call(tables: Tensor, *samples: Tensor) -> States:
        parts = Tables.from_parts(views_of(tables, arrays), chunk_limit)
        return _run(model, dtype, out_dtype, selection, Grid((0,), (bucket,)), parts, *samples)

    def prepare() -> tuple[Callable[..., States], list[Tensor]]:
        size = bucket * hop + model.config.receptive_field
        static = [torch.zeros(size, dtype=each.dtype, device=device) for each in samples]
        return call, [torch.zeros(len(tables), dtype=tables.dtype, device=device), *static]

    key = bucket, *(each.dtype for each in samples), dtype, out_dtype, selection, *_product_settings()
    return graphs.run(key, _weight_addresses(model), device, prepare, (tables, *samples), grid.frames)


def _product_settings() -> tuple:
    """Return the settings from which PyTorch chooses the kernel of a product."""
    matmul = torch.backends.cuda.matmul
    return (
        tf32_allowed(), matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(), str(torch.backends.cuda.preferred_blas_library()),
    )  # fmt: skip


def _weight_addresses(model: nn.Module) -> bytes:
    """Return the addresses of all weights, from which captured kernels read."""
    modules = (model, *walk(model))
    own = (tensors for module in modules for tensors in (module._parameters, module._buffers) if tensors)
    return array("Q", [tensor.data_ptr() for tensors in own for tensor in tensors.values() if tensor is not None]).tobytes()


def _copies_during_run(model: HubertModel, grid: Grid) -> bool:
    """Return whether `_run` copies tables to the GPU (in `convolve`), which cannot be captured."""
    return grid.padded is not None and hasattr(model.encoder.pos_conv_embed, "batch_norm")


def graphs_can_run(device: torch.device) -> bool:
    """Return whether a device supports CUDA graphs."""
    return device.type == "cuda"


def _run(
    model: HubertModel,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    selection: StateSelection,
    grid: Grid,
    tables: Tables,
    waveform: Tensor,
    statistics: Tensor | None = None,
) -> States:
    """Run the part of the graph that a CUDA graph can capture: all work on the GPU.

    A GroupNorm takes its statistics from the samples `statistics`, by default from the waveform.
    """
    projection = model.feature_projection
    x = _features(model, dtype, waveform, grid, waveform if statistics is None else statistics, tables)
    if tables.true_frames is not None:
        x = x.index_select(0, tables.true_frames)
    if hasattr(projection, "layer_norm"):
        x = _norm(x, projection.layer_norm, dtype)
    x = linear(x, projection.projection, dtype)
    x = _add_positions(model.encoder.pos_conv_embed, x, grid, tables)
    run_layer = partial(_run_layer, tables, dtype)
    return transform(model.encoder, x, run_layer, _norm, selection, dtype, out_dtype)


def _no_frames(model: HubertModel, dtype: torch.dtype, device: torch.device, selection: StateSelection) -> States:
    empty = torch.empty(0, model.config.hidden_size, dtype=dtype, device=device)
    return empty if selection.with_last else None, tuple(empty.clone() for _ in selection.states) or None


def positional_weight(conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return a grouped convolution's weight `[C, C/G, kernel]` in the kernel's layout `[G, kernel, C/G (in), C/G (out)]`.

    Weight norm with one gain for each tap is applied here, in float32. PyTorch's own kernel for it takes 0.6 ms on an H200: a
    third of the time of a whole utterance.
    """
    norms: Any = conv.parametrizations.weight if is_parametrized(conv, "weight") else []  # type: ignore[union-attr]
    if len(norms) == 1 and isinstance(norms[0], _WeightNorm) and norms[0].dim == 2:
        gain, direction = norms.original0.detach().float(), norms.original1.detach().float()
        weight = direction * (gain / direction.square().sum((0, 1), keepdim=True).sqrt())
    else:
        weight = conv.weight.detach()
    return weight.to(dtype).unflatten(0, (conv.groups, -1)).permute(0, 3, 2, 1).contiguous()


def _features(
    model: HubertModel, dtype: torch.dtype, waveform: Tensor, grid: Grid, statistics: Tensor, tables: Tables
) -> Tensor:
    """Compute all frames of the grid up to its end, `[grid.end, C_conv]`, in slices of time that bound memory."""
    from ..kernels import conv_first, tuning
    from ..kernels import linear as products

    layers, config = model.feature_extractor.conv_layers, model.config
    first, hop = layers[0], config.inputs_to_logits_ratio
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    weight, means, bias = matrix_of(first.conv, torch.float32), None, first.conv.bias
    norm_weight, norm_bias, eps = None, None, 0.0
    if tables.windows is not None:
        weight, means, bias = fold(first, weight, *window_moments(statistics, tables.windows, kernel, stride))
        weight, means = weight.transpose(1, 2).contiguous(), means.contiguous()
    else:
        weight = weight.t().contiguous()
    if first.norm == "layer":
        norm_weight, norm_bias, eps = first.layer_norm.weight, first.layer_norm.bias, first.layer_norm.eps
    matrices = [matrix_of(layer.conv, dtype).contiguous() for layer in layers[1:]]

    per_hop = hop // stride
    taps = conv_first.prepared(weight, bias, norm_weight is not None, per_hop, dtype)
    step = max(8, SLICE_BYTES_GPU // (per_hop * len(first.conv.weight) * dtype.itemsize) // 8 * 8)
    # in multiples of this many frames, every multiprocessor gets a whole number of 128 x 256 tiles
    together = 64 * tuning.multiprocessors_of(waveform.device)
    step = step // together * together or step
    parts = []
    for begin in range(0, grid.end, step):
        end = min(begin + step, grid.end)
        samples = waveform[begin * hop : (end - 1) * hop + config.receptive_field]
        x = conv_first.launch(
            samples, weight, bias, norm_weight, norm_bias, means, tables.utterances[begin:], per_hop, stride, eps, dtype, taps
        )
        for layer, matrix in zip(layers[1:], matrices):
            norm = layer.layer_norm if layer.norm == "layer" else None
            x = products.launch_convolution(
                x, matrix, layer.conv.bias, *((None, None) if norm is None else (norm.weight, norm.bias)), layer.conv.stride[0],
                0.0 if norm is None else norm.eps,
            )  # fmt: skip
        parts.append(x)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _add_positions(embedding: PositionalConvEmbedding, x: Tensor, grid: Grid, tables: Tables) -> Tensor:
    """Add the positional convolution to projected frames `[N, C]`. The sum starts the residual stream."""
    from ..kernels import conv_positional

    conv = embedding.conv
    weight = positional_weight(conv, x.dtype)
    if not hasattr(embedding, "batch_norm"):
        return conv_positional.launch(x, weight, conv.bias, tables.positional_work, residual=x, dtype=stream_dtype(x.dtype))
    full = x.to(stream_dtype(x.dtype))
    normed, padding = normalize_positions(embedding, full)
    if grid.padded is None:
        return conv_positional.launch(normed.to(x.dtype), weight, conv.bias, tables.positional_work, residual=full)
    # the batch norm turns the zeros that pad an utterance into other numbers, which the kernel does not support
    spectrum = spectrum_of(conv.weight.detach().to(full.dtype), conv.groups)
    return full + activate(convolve(normed, padding, spectrum, bias_of(conv, full.dtype), conv.kernel_size[0], grid), F.gelu)


def _run_layer(
    tables: Tables,
    dtype: torch.dtype,
    layer: EncoderLayer,
    x: Tensor,
    normed: Tensor,
    next_norm: nn.LayerNorm | None,
    next_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Run a layer on kernels: a `torch_graph.RunLayer`. Each residual add is fused with the norm that follows it."""
    from ..kernels import attention

    block = layer.attention
    post = next_norm is None
    before_next = layer.final_layer_norm if next_norm is None else next_norm
    q, k, v = _joint(normed, (block.q_proj, block.k_proj, block.v_proj), dtype).unflatten(1, (3, block.num_heads, -1)).unbind(1)
    attended = attention.launch(q, k, v, tables.work).flatten(1)
    x, normed = _linear_add_norm(
        x, attended, block.out_proj, layer.layer_norm if post else layer.final_layer_norm, dtype, dtype, post
    )
    hidden = _linear_gelu(normed, layer.feed_forward.intermediate_dense, dtype)
    if not hasattr(layer, "adapter_layer"):
        return _linear_add_norm(x, hidden, layer.feed_forward.output_dense, before_next, dtype, next_dtype, post)
    adapter = layer.adapter_layer
    x, normed = _linear_add_norm(x, hidden, layer.feed_forward.output_dense, adapter.norm, dtype, dtype, post)
    x += linear(F.relu(linear(normed, adapter.linear_1, dtype)), adapter.linear_2, dtype)
    return x, _norm(x, before_next, next_dtype)


def _joint(x: Tensor, layers: tuple[nn.Linear, ...], dtype: torch.dtype) -> Tensor:
    """Apply linear layers of the same input as one product with their weights joined: `[N, 3 C]`.

    Joining moves 12 MB per layer of a large model, 3 us on an H200; with 60,000 rows one product saves 30 us of 529.
    """
    weight = torch.cat([layer.weight for layer in layers]).to(dtype)
    if any(layer.bias is None for layer in layers):  # then no layer has one: the model was checked against its blueprint
        return F.linear(x, weight)
    return F.linear(x, weight, torch.cat([layer.bias for layer in layers]).to(dtype))


def _norm(x: Tensor, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Apply a layer norm and return the result in `dtype`."""
    from ..kernels import layer_norm

    return layer_norm.launch(x, norm.weight, norm.bias, norm.eps, dtype)


def _linear_gelu(x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Apply a linear layer and GELU."""
    from ..kernels import linear as products
    from ..kernels import tuning

    shape = layer.in_features, layer.out_features, dtype.itemsize
    if tuning.linear_gelu_by_library(*shape, tuning.capability_of(x.device)):
        return activate(linear(x, layer, dtype), F.gelu)
    return products.launch_gelu(x, layer.weight.to(dtype), layer.bias)


def _linear_add_norm(
    x: Tensor, hidden: Tensor, layer: nn.Linear, norm: nn.LayerNorm, dtype: torch.dtype, norm_dtype: torch.dtype, post: bool
) -> tuple[Tensor, Tensor]:
    """Add `layer(hidden)` to the residual stream `x`. Return the stream and its norm; with `post` the stream is the norm."""
    from ..kernels import add_layer_norm, tuning
    from ..kernels import linear as products

    shape = layer.in_features, layer.out_features, dtype.itemsize
    if not post and not tuning.linear_add_by_library(*shape, tuning.capability_of(x.device)):
        x = products.launch_add(hidden, layer.weight.to(dtype), layer.bias, x)
        return x, _norm(x, norm, norm_dtype)
    delta = F.linear(hidden, layer.weight.to(dtype))  # the bias is added in float32, with the rest
    return add_layer_norm.launch(x, delta, layer.bias, norm.weight, norm.bias, norm.eps, norm_dtype, post, in_place=True)
