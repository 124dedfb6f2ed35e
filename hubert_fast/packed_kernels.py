"""The fast graph on kernels: the steps of :mod:`hubert_fast.packed`, each on what :mod:`hubert_fast.kernels` has for it.

Products that nothing is gained by fusing are the library's; :mod:`hubert_fast.kernels.tuning` says which. Nothing is kept
between calls: what kernels want laid out otherwise (convolutions as matrices, the positional weight without its norm) is laid
out anew, which moves some 50 MB of a large model. So no change of a weight can go unseen, and nothing waits for the GPU.
Axes: B batch, S samples, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized

from .devices import joined, views_of
from .grid import Grid
from .kernels.checks import MAX_GROUP_CHANNELS, MAX_HEAD_DIM, tf32_allowed
from .layers import EncoderLayer
from .ops.waveforms import window_moments
from .packed import dtype_of_states, kept, normalized_positions
from .packed_features import SLICE_BYTES_GPU, SampleSpans, fold
from .packed_layers import activate, cast, linear
from .packed_positions import convolve, spectrum
from .packed_tables import Tables, bucket_of, tables_on_host
from .packed_weights import matrix_of, wide
from .untouched import walk

States = tuple[Tensor, tuple[Tensor, ...] | None]  # the last hidden state and, if asked for, all of them


def why_not_on_kernels(model: nn.Module, dtype: torch.dtype) -> str | None:
    """Say what about a model the kernels were not made for, ``None`` when nothing."""
    config = model.config
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the model computes in {dtype}, but kernels in float32, float16 and bfloat16"
    blocks = [(layer.feed_forward, "hidden_act") for layer in model.encoder.layers[:1]]
    for module, name in ((model.feature_extractor.conv_layers[0], "feat_extract_activation"), *blocks):
        if module.activation is not F.gelu:
            return f"{name} is {getattr(config, name)!r}, but kernels have 'gelu'"
    head_dim = config.hidden_size // config.num_attention_heads
    if head_dim > MAX_HEAD_DIM:
        return f"heads have {head_dim} channels, but kernels take up to {MAX_HEAD_DIM}"
    per_group = config.hidden_size // config.num_conv_pos_embedding_groups
    if per_group > MAX_GROUP_CHANNELS:
        return f"positional groups have {per_group} channels, but kernels take up to {MAX_GROUP_CHANNELS}"
    return None


def encode_on_kernels(
    model: nn.Module, dtype: torch.dtype, waveform: Tensor, grid: Grid, spans: SampleSpans, output_hidden_states: bool
) -> States:
    """Run a ``HubertModel`` over a packed batch in ``dtype``: the last hidden state ``[N, C]`` and, if asked for, all of them.

    waveform: flat, ``[S]``, laid out as ``grid`` says. spans: what the statistics of a GroupNorm are taken over.
    """
    device = waveform.device
    out_dtype = dtype_of_states(dtype, device)
    with torch.autocast(device.type, enabled=False):  # dtype is autocast's already
        if not grid.frames:
            return _nothing(model, out_dtype, device, output_hidden_states)
        # statistics of a GroupNorm may be taken of other samples, padded rows
        apart = model.feature_extractor.conv_layers[0].norm == "group" and spans.samples is not waveform
        samples = (waveform, spans.samples) if apart else (waveform,)
        how = dtype, out_dtype, output_hidden_states
        replayed = _replay(model, *how, grid, spans, samples)
        if replayed is not None:
            return replayed
        return _run(model, *how, grid, Tables.of(model, dtype, grid, spans, device), *samples)


def _replay(
    model: nn.Module,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    output_hidden_states: bool,
    grid: Grid,
    spans: SampleSpans,
    samples: tuple[Tensor, ...],
) -> States | None:
    """Return what :func:`_run` gives for a short batch, by the graph of its bucket; ``None`` where there is no such graph.

    The graph computes as many frames as its bucket has. Those beyond the batch's own hold whatever memory held: every row of a
    product or a norm is its own, and the tables let no utterance see them.
    """
    graphs, device, hop = model.fast_path.cuda_graphs, samples[0].device, model.config.inputs_to_logits_ratio
    # all hidden states of all sizes would be kept: 3 GB of an xlarge model
    if output_hidden_states or not (graphs.limit and graphs_can_run(device)) or _copies_within(model, grid):
        return None
    bucket = bucket_of(-(-max(map(len, samples)) // hop), len(grid.counts))
    if bucket is None:
        return None
    arrays, most = tables_on_host(model, dtype, grid, spans, device, bucket)
    tables = joined(arrays, device)

    def call(tables: Tensor, *samples: Tensor) -> States:
        parts = Tables.from_parts(views_of(tables, arrays), most)
        return _run(model, dtype, out_dtype, output_hidden_states, Grid((0,), (bucket,)), parts, *samples)

    def prepare() -> tuple[Callable[..., States], list[Tensor]]:
        size = bucket * hop + model.config.receptive_field
        static = [torch.zeros(size, dtype=given.dtype, device=device) for given in samples]
        return call, [torch.zeros(len(tables), dtype=tables.dtype, device=device), *static]

    key = bucket, *(given.dtype for given in samples), dtype, out_dtype, *_settings()
    return graphs.run(key, _places(model), device, prepare, (tables, *samples), grid.frames)


def _settings() -> tuple:
    """What decides which kernels PyTorch takes for a product."""
    matmul = torch.backends.cuda.matmul
    return (
        tf32_allowed(), matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(), str(torch.backends.cuda.preferred_blas_library()),
    )  # fmt: skip


def _places(model: nn.Module) -> bytes:
    """Where all weights lie, for captured kernels read them there."""
    modules = (model, *walk(model))
    own = (tensors for module in modules for tensors in (module._parameters, module._buffers) if tensors)
    return array("Q", [tensor.data_ptr() for tensors in own for tensor in tensors.values() if tensor is not None]).tobytes()


def _copies_within(model: nn.Module, grid: Grid) -> bool:
    """Whether tables are copied to the GPU in the midst of a call: by :func:`convolve`."""
    return grid.padded is not None and hasattr(model.encoder.pos_conv_embed, "batch_norm")


def graphs_can_run(device: torch.device) -> bool:
    """Whether a device has CUDA graphs."""
    return device.type == "cuda"


def _run(
    model: nn.Module,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    output_hidden_states: bool,
    grid: Grid,
    tables: Tables,
    waveform: Tensor,
    statistics: Tensor | None = None,
) -> States:
    """All that happens on the GPU. statistics: the samples that those of a GroupNorm are taken of, if they are others."""
    projection = model.feature_projection
    x = _features(model, dtype, waveform, grid, waveform if statistics is None else statistics, tables)
    if tables.true_frames is not None:
        x = x.index_select(0, tables.true_frames)
    if hasattr(projection, "layer_norm"):
        x = _norm(x, projection.layer_norm)
    x = linear(x, projection.projection, dtype)
    x = _positions(model.encoder.pos_conv_embed, x, grid, tables)
    return _transform(model.encoder, x, tables, output_hidden_states, dtype, out_dtype)


def _nothing(model: nn.Module, dtype: torch.dtype, device: torch.device, output_hidden_states: bool) -> States:
    states = [
        torch.empty(0, model.config.hidden_size, dtype=dtype, device=device) for _ in range(len(model.encoder.layers) + 1)
    ]
    return states[-1], tuple(states) if output_hidden_states else None


def positional_weight(conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return a grouped convolution's weight ``[C, C/G, kernel]`` as kernels read it: ``[G, kernel, C/G (in), C/G (out)]``.

    Weight norm over all but the taps is computed here, in float32: PyTorch's own kernel for it takes 0.6 ms on an H200, a third
    of what one utterance takes.
    """
    norms = conv.parametrizations.weight if is_parametrized(conv, "weight") else []
    if len(norms) == 1 and isinstance(norms[0], _WeightNorm) and norms[0].dim == 2:
        gain, direction = norms.original0.detach().float(), norms.original1.detach().float()
        weight = direction * (gain / direction.square().sum((0, 1), keepdim=True).sqrt())
    else:
        weight = conv.weight.detach()
    return weight.to(dtype).unflatten(0, (conv.groups, -1)).permute(0, 3, 2, 1).contiguous()


def _features(model: nn.Module, dtype: torch.dtype, waveform: Tensor, grid: Grid, statistics: Tensor, tables: Tables) -> Tensor:
    """All frames of the grid up to its end, ``[grid.end, C_conv]``, in slices of time that bound the memory they take."""
    from .kernels import conv_first, tuning
    from .kernels import linear as products

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
    # tiles of 128 x 256 of 512 channels are then a whole number for each multiprocessor, in the last convolution and the others
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


def _positions(embedding: nn.Module, x: Tensor, grid: Grid, tables: Tables) -> Tensor:
    """Add the positional convolution to projected frames ``[N, C]``: the start of the residual stream."""
    from .kernels import conv_positional

    conv = embedding.conv
    weight = positional_weight(conv, x.dtype)
    if not hasattr(embedding, "batch_norm"):
        return conv_positional.launch(x, weight, conv.bias, tables.spans, residual=x, dtype=wide(x.dtype))
    full = x.to(wide(x.dtype))
    normed, padding = normalized_positions(embedding, full)
    if grid.padded is None:
        return conv_positional.launch(normed.to(x.dtype), weight, conv.bias, tables.spans, residual=full)
    # utterances see what the norm makes of the zeros after them: none of the kernel's business
    taps = spectrum(conv.weight.detach().to(full.dtype), conv.groups)
    return full + activate(convolve(normed, padding, taps, cast(conv.bias, full.dtype), conv.kernel_size[0], grid), F.gelu)


def _transform(
    encoder: nn.Module, x: Tensor, tables: Tables, output_hidden_states: bool, dtype: torch.dtype, out_dtype: torch.dtype
) -> States:
    """All layers on the residual stream ``[N, C]``. Each ends with the norm that the next one begins with, pre-LN."""
    layers, pre = encoder.layers, encoder.normalize_before
    norms = [*(layer.layer_norm for layer in layers), encoder.layer_norm] if pre else [encoder.layer_norm]
    if pre:
        normed = _norm(x, norms[0], dtype if len(layers) else out_dtype)
    else:
        x = _norm(x, norms[0])
        normed = x.to(dtype)
    states = [kept(x, out_dtype)] if output_hidden_states else []
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1
        x, normed = _layer(layer, x, normed, tables, norms[index + 1] if pre else None, dtype, out_dtype if last else dtype)
        if output_hidden_states:
            states.append(kept(x, out_dtype))
    out = normed if pre else x.to(out_dtype)
    if output_hidden_states and (not pre or encoder.final_norm_in_hidden_states):
        states[-1] = out
    return out, tuple(states) if output_hidden_states else None


def _layer(
    layer: EncoderLayer,
    x: Tensor,
    normed: Tensor,
    tables: Tables,
    next_norm: nn.LayerNorm | None,
    dtype: torch.dtype,
    next_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """One Transformer layer: of the residual stream and its norm, the next ones. Works in place on the stream.

    next_norm: that of the layer after it, pre-LN; ``None`` for post-LN, where both norms are the layer's own.
    """
    from .kernels import attention

    block, post = layer.attention, next_norm is None
    q, k, v = _joint(normed, (block.q_proj, block.k_proj, block.v_proj), dtype).unflatten(1, (3, block.num_heads, -1)).unbind(1)
    attended = attention.launch(q, k, v, tables.work).flatten(1)
    x, normed = _add(x, attended, block.out_proj, layer.layer_norm if post else layer.final_layer_norm, dtype, dtype, post)
    hidden = _gelu(normed, layer.feed_forward.intermediate_dense, dtype)
    if not hasattr(layer, "adapter_layer"):
        following = layer.final_layer_norm if post else next_norm
        return _add(x, hidden, layer.feed_forward.output_dense, following, dtype, next_dtype, post)
    adapter = layer.adapter_layer
    x, normed = _add(x, hidden, layer.feed_forward.output_dense, adapter.norm, dtype, dtype, post)
    x += linear(F.relu(linear(normed, adapter.linear_1, dtype)), adapter.linear_2, dtype)
    return x, _norm(x, next_norm, next_dtype)


def _joint(x: Tensor, layers: tuple[nn.Linear, ...], dtype: torch.dtype) -> Tensor:
    """Apply linear layers of one width side by side, as one product of their weights joined: ``[N, 3 C]``.

    Joining moves 12 MB a layer of a large model, 3 microseconds of an H200; with 60,000 rows one product saves 30 of 529.
    """
    weight = torch.cat([layer.weight for layer in layers]).to(dtype)
    if any(layer.bias is None for layer in layers):  # none has one: the blueprint of the model says so
        return F.linear(x, weight)
    return F.linear(x, weight, torch.cat([layer.bias for layer in layers]).to(dtype))


def _norm(x: Tensor, norm: nn.LayerNorm, dtype: torch.dtype | None = None) -> Tensor:
    """Apply a layer norm, with the result in ``dtype``."""
    from .kernels import layer_norm

    return layer_norm.launch(x, norm.weight, norm.bias, norm.eps, dtype)


def _gelu(x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    from .kernels import linear as products
    from .kernels import tuning

    shape = layer.in_features, layer.out_features, dtype.itemsize
    if tuning.linear_gelu_by_library(*shape, tuning.capability_of(x.device)):
        return activate(linear(x, layer, dtype), F.gelu)
    return products.launch_gelu(x, layer.weight.to(dtype), layer.bias)


def _add(
    x: Tensor, block: Tensor, layer: nn.Linear, norm: nn.LayerNorm, dtype: torch.dtype, norm_dtype: torch.dtype, post: bool
) -> tuple[Tensor, Tensor]:
    """Add ``layer(block)`` to the residual stream, in place; return it and its norm."""
    from .kernels import add_layer_norm, tuning
    from .kernels import linear as products

    shape = layer.in_features, layer.out_features, dtype.itemsize
    if not post and not tuning.linear_add_by_library(*shape, tuning.capability_of(x.device)):
        x = products.launch_add(block, layer.weight.to(dtype), layer.bias, x)
        return x, _norm(x, norm, norm_dtype)
    delta = F.linear(block, layer.weight.to(dtype))  # the bias is added in float32, with the rest
    return add_layer_norm.launch(x, delta, layer.bias, norm.weight, norm.bias, norm.eps, norm_dtype, post, in_place=True)
