"""Every op as a case, with the library calls that do the same.

Axes: B utterances, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from gpu_cases import (
    STREAM,
    Call,
    Case,
    Provider,
    Size,
    Where,
    bounds,
    counts_and_starts,
    frame_mask,
    packed,
    padded,
    plain,
    ruled,
    sample_spans,
)
from torch import Tensor

from hubert_fast import ops


def linear_gelu(size: Size, lengths: list[int], at: Where) -> Case:
    n, c, inner = sum(lengths), size.hidden, size.inner
    ours = partial(ops.linear_gelu, backend="triton")
    by_erf = ruled(ruled(ours, "linear", "form_of", "erf"), "linear_persistent", "form_of", "erf")  # whichever kernel serves
    return Case(
        "linear_gelu", f"{size.name} [{n}, {c}] to {inner}", at.dtype,
        lambda: (at.normal(n, c), at.normal(inner, c, scale=c**-0.5), at.normal(inner)),
        2.0 * n * c * inner,
        {
            "library: linear, gelu_": plain(lambda *arguments: torch.ops.aten.gelu_(F.linear(*arguments))),
            "library: gelu inside, by tanh": plain(
                lambda x, weight, bias: torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
            ),
            "candidate: erf": plain(by_erf),
            "candidate: a program a tile": plain(ruled(ours, "tuning", "is_persistent", False)),
        },
    )  # fmt: skip


def linear_add(size: Size, lengths: list[int], at: Where) -> Case:
    n, c, inner = sum(lengths), size.hidden, size.inner
    return Case(
        "linear_add", f"{size.name} [{n}, {inner}] to {c}", at.dtype,
        lambda: (at.normal(n, inner), at.normal(c, inner, scale=inner**-0.5), at.normal(c), at.normal(n, c, dtype=STREAM)),
        2.0 * n * c * inner,
        {"library: linear, add": plain(lambda x, weight, bias, residual: F.linear(x, weight, bias) + residual)},
    )  # fmt: skip


def layer_norm(size: Size, lengths: list[int], at: Where) -> Case:
    n, c = sum(lengths), size.hidden
    return Case(
        "layer_norm", f"{size.name} [{n}, {c}]", at.dtype, lambda: (at.normal(n, c), at.normal(c), at.normal(c)), 8.0 * n * c,
        {"library: layer_norm": plain(lambda x, weight, bias: F.layer_norm(x, (c,), weight, bias))},
    )  # fmt: skip


def add_layer_norm(size: Size, lengths: list[int], at: Where) -> Case:
    n, c, post = sum(lengths), size.hidden, not size.pre_norm

    def library(x: Tensor, delta: Tensor, delta_bias: Tensor, weight: Tensor, bias: Tensor) -> Call:
        weight, bias = weight.to(STREAM), bias.to(STREAM)

        def call() -> tuple[Tensor, Tensor]:
            total = x + (delta + delta_bias)
            normed = F.layer_norm(total, (c,), weight, bias)
            return normed if post else total, normed.to(at.dtype)

        return call

    return Case(
        "add_layer_norm", f"{size.name} [{n}, {c}] {'post' if post else 'pre'}-LN", at.dtype,
        lambda: (at.normal(n, c, dtype=STREAM), at.normal(n, c), at.normal(c), at.normal(c), at.normal(c)), 10.0 * n * c,
        {"library: add, layer_norm": Provider(library)}, {"dtype": at.dtype, "post": post},
    )  # fmt: skip


def attention(size: Size, lengths: list[int], at: Where) -> Case:
    n, c = sum(lengths), size.hidden

    def make() -> tuple:
        return *at.normal(n, 3 * c).unflatten(1, (3, size.heads, -1)).unbind(1), bounds(lengths, at)

    def launcher(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Call:
        from hubert_fast.kernels import attention as kernel

        counts, starts = counts_and_starts(cu_seqlens)
        block = kernel.block_of(q.shape[2], q.dtype, q.device)
        work = kernel.work_of(counts, starts, counts, block, int((-(-counts // block)).sum())).to(q.device)
        return lambda: kernel.launch(q, k, v, work)

    def jagged(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Call:
        span = dict(min_seqlen=min(lengths), max_seqlen=max(lengths))
        nested = torch.nested.nested_tensor_from_jagged
        q, k, v = (nested(x.contiguous(), cu_seqlens.long(), **span).transpose(1, 2) for x in (q, k, v))
        return lambda: F.scaled_dot_product_attention(q, k, v)

    def masked(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Call:
        q, k, v = (padded(x, lengths).transpose(1, 2) for x in (q, k, v))
        mask = frame_mask(lengths, q.device)[:, None, None]
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Call:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v, most = q.contiguous(), k.contiguous(), v.contiguous(), max(lengths)
        return lambda: varlen_attn(q, k, v, cu_seqlens, cu_seqlens, most, most)

    return Case(
        "attention", f"{size.name} [{n}, {size.heads}, {c // size.heads}] of {len(lengths)}", at.dtype, make,
        4.0 * c * sum(length**2 for length in lengths),
        {
            "library: varlen_attn": Provider(varlen),
            "library: sdpa, jagged": Provider(jagged, lambda out: out.transpose(1, 2).values()),
            "library: sdpa, padded": Provider(masked, lambda out: packed(out.transpose(1, 2), lengths)),
        },
        launcher=Provider(launcher),
    )  # fmt: skip


def attention_padded(size: Size, lengths: list[int], at: Where) -> Case:
    batch, frames, c = len(lengths), max(lengths), size.hidden

    def make() -> tuple:
        q, k, v = at.normal(batch, frames, 3 * c).unflatten(2, (3, size.heads, -1)).unbind(2)
        return q, k, v, frame_mask(lengths, at.device)

    def library(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor) -> Call:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask[:, None, None])

    return Case(
        "attention_padded", f"{size.name} [{batch}, {frames}, {size.heads}, {c // size.heads}]", at.dtype, make,
        4.0 * c * frames * sum(lengths), {"library: sdpa": Provider(library, lambda out: out.transpose(1, 2))},
    )  # fmt: skip


def conv_positional(size: Size, lengths: list[int], at: Where) -> Case:
    n, c, per_group = sum(lengths), size.hidden, size.hidden // size.groups

    def make() -> tuple:
        weight = at.normal(size.groups, size.kernel, per_group, per_group, scale=(size.kernel * per_group) ** -0.5)
        return at.normal(n, c), weight, at.normal(c), bounds(lengths, at), at.normal(n, c, dtype=STREAM)

    def launcher(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor) -> Call:
        from hubert_fast.kernels import conv_positional as kernel

        counts, starts = counts_and_starts(cu_seqlens)
        frames = kernel.frames_of(per_group, size.kernel, x.dtype, x.device)
        spans = kernel.spans_of(counts, starts, frames, int((-(-counts // frames)).sum())).to(x.device)
        return lambda: kernel.launch(x, weight, bias, spans, residual)

    def library(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, residual: Tensor) -> Call:
        rows, taps = padded(x, lengths).transpose(1, 2).contiguous(), weight.permute(0, 3, 2, 1).flatten(0, 1).contiguous()
        added = padded(residual, lengths).transpose(1, 2).contiguous()

        def call() -> Tensor:
            out = F.conv1d(rows, taps, bias, padding=size.kernel // 2, groups=size.groups)
            return F.gelu(out[..., : added.shape[2]]) + added

        return call

    return Case(
        "conv_positional", f"{size.name} [{n}, {c}] {size.groups} groups, kernel {size.kernel}, of {len(lengths)}", at.dtype,
        make, 2.0 * n * c * per_group * size.kernel,
        {"library: conv1d, padded": Provider(library, lambda out: packed(out.transpose(1, 2), lengths))},
        launcher=Provider(launcher),
    )  # fmt: skip


def conv_first(size: Size, lengths: list[int], at: Where) -> Case:
    """With a LayerNorm, as large models have it."""
    samples, c = sample_spans(lengths)[2], size.conv
    wide = torch.float32

    def library(samples: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Call:
        x, taps, bias = samples[None, None].to(at.dtype), weight.t()[:, None].to(at.dtype), bias.to(at.dtype)
        norm_weight, norm_bias = norm_weight.to(at.dtype), norm_bias.to(at.dtype)
        return lambda: F.gelu(F.layer_norm(F.conv1d(x, taps, bias, stride=5).transpose(1, 2), (c,), norm_weight, norm_bias))

    return Case(
        "conv_first", f"{size.name} [{samples}] to {c}, LayerNorm", at.dtype,
        lambda: (at.normal(samples, dtype=wide), at.normal(10, c, scale=0.3, dtype=wide), *(at.normal(c) for _ in range(3))),
        20.0 * c * ((samples - 10) // 5 + 1),
        {
            "library: conv1d, layer_norm, gelu": Provider(library, lambda out: out[0]),
            "candidate: without tensor cores": plain(
                ruled(partial(ops.conv_first, dtype=at.dtype, backend="triton"), "conv_first_product", "takes", False)
            ),
        },
        {"dtype": at.dtype},
    )  # fmt: skip


def conv_first_by_utterance(size: Size, lengths: list[int], at: Where) -> Case:
    """With a GroupNorm folded in, as base models have it."""
    starts, _, samples = sample_spans(lengths)
    c, wide = size.conv, torch.float32

    def make() -> tuple:
        weight, means = at.normal(len(lengths), 10, c, scale=0.3, dtype=wide), at.normal(len(lengths), 10, dtype=wide)
        begins = torch.tensor(starts)
        utterances = torch.searchsorted(begins, torch.arange(samples // 320 + 1) * 320, right=True) - 1
        return at.normal(samples, dtype=wide), weight, at.normal(c), None, None, means, at.indices(utterances.tolist()), 64

    return Case(
        "conv_first", f"{size.name} [{samples}] to {c}, by utterance", at.dtype, make, 20.0 * c * (samples // 5),
        options={"dtype": at.dtype},
    )  # fmt: skip


def conv_gelu(size: Size, lengths: list[int], at: Where, kernel: int = 3, norm: bool | None = None) -> Case:
    """One of the four layers of kernel 3, or the two of kernel 2. norm: whether with LayerNorm, as pre-LN models have it."""
    norm = size.pre_norm if norm is None else norm
    n, c = sum(lengths) * (8 if kernel == 3 else 2), size.conv
    frames = (n - kernel) // 2 + 1

    def make() -> tuple:
        weight = at.normal(c, kernel * c, scale=(kernel * c) ** -0.5)
        return at.normal(n, c), weight, *((at.normal(c), at.normal(c), at.normal(c)) if norm else (None, None, None))

    def convolution(x: Tensor, weight: Tensor, *vectors: Tensor | None, two_d: bool) -> Call:
        bias, norm_weight, norm_bias = vectors
        taps = weight.unflatten(1, (kernel, c)).transpose(1, 2).contiguous()
        rows = x.t()[None]
        if two_d:  # channels last, which cuDNN takes as it is
            rows, taps = rows[:, :, None], taps[:, :, None].contiguous(memory_format=torch.channels_last)
        else:
            rows = rows.contiguous()

        def call() -> Tensor:
            out = F.conv2d(rows, taps, bias, stride=(1, 2)) if two_d else F.conv1d(rows, taps, bias, stride=2)
            out = out.movedim(1, -1)
            return F.gelu(out if norm_weight is None else F.layer_norm(out, (c,), norm_weight, norm_bias))

        return call

    return Case(
        "conv_gelu", f"{size.name} [{n}, {c}] kernel {kernel}{', LayerNorm' if norm else ''}", at.dtype, make,
        2.0 * frames * kernel * c * c,
        {
            "library: conv1d": Provider(lambda *given: convolution(*given, two_d=False), lambda out: out.reshape(frames, c)),
            "library: conv2d, channels last": Provider(
                lambda *given: convolution(*given, two_d=True), lambda out: out.reshape(frames, c)
            ),
            "candidate: a program a tile": plain(
                ruled(partial(ops.conv_gelu, backend="triton"), "tuning", "is_persistent", False)
            ),
        },
    )  # fmt: skip


def ctc_argmax(size: Size, lengths: list[int], at: Where) -> Case:
    n, c, vocabulary = sum(lengths), size.hidden, size.vocabulary

    def settle(out: tuple[Tensor, Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Judge a token by its log-probability: of near ties any will do."""
        log_probs = F.linear(x, weight, bias).log_softmax(-1)
        return log_probs.gather(-1, out[0].long()[:, None])[:, 0].float(), out[1]

    return Case(
        "ctc_argmax", f"{size.name} [{n}, {c}] to {vocabulary}", at.dtype,
        lambda: (at.normal(n, c), at.normal(vocabulary, c, scale=c**-0.5), at.normal(vocabulary)),
        2.0 * n * c * vocabulary,
        {
            "library: linear, log_softmax, max": Provider(
                plain(lambda *arguments: F.linear(*arguments).float().log_softmax(-1).max(-1)).prepare, lambda out: out[0]
            )
        },
        settle=settle, finish=lambda out: out[1],
    )  # fmt: skip


def normalize_waveforms(size: Size, lengths: list[int], at: Where, pcm: bool = False) -> Case:
    starts, samples, total = sample_spans(lengths)

    def make() -> tuple:
        x = at.normal(total) if not pcm else at.normal(total, scale=3000, dtype=torch.float32).to(torch.int16)
        return x, starts, samples

    def library(x: Tensor, starts: list[int], samples: list[int]) -> Call:
        rows = torch.nn.utils.rnn.pad_sequence([x[at_ : at_ + n] for at_, n in zip(starts, samples)], batch_first=True).float()
        mask = frame_mask(samples, x.device)
        counts = mask.sum(1, keepdim=True)

        def call() -> Tensor:
            centred = torch.where(mask, rows - rows.sum(1, keepdim=True) / counts, 0)
            return centred * (centred.square().sum(1, keepdim=True) / counts + 1e-7).rsqrt()

        return call

    def unpack(out: Tensor) -> Tensor:
        flat = out.new_zeros(total)
        for row, start, count in zip(out, starts, samples):
            flat[start : start + count] = row[:count]
        return flat

    return Case(
        "normalize_waveforms", f"{size.name} [{total}] of {len(lengths)}{', int16' if pcm else ''}", at.dtype, make,
        6.0 * total, {} if pcm else {"library: sums, padded": Provider(library, unpack)},
    )  # fmt: skip


def window_statistics(size: Size, lengths: list[int], at: Where) -> Case:
    starts, samples, total = sample_spans(lengths)

    def library(x: Tensor, starts: list[int], samples: list[int], kernel: int, stride: int) -> Call:
        parts = [x[start : start + count] for start, count in zip(starts, samples)]

        def call() -> tuple[Tensor, Tensor]:
            windows = [part.unfold(0, kernel, stride).double() for part in parts]
            return torch.stack([one.mean(0) for one in windows]), torch.stack([one.t().cov(correction=0) for one in windows])

        return call

    return Case(
        "window_statistics", f"{size.name} [{total}] of {len(lengths)}", at.dtype,
        lambda: (at.normal(total), starts, samples, 10, 5), 110.0 * total / 5,
        {"library: mean, cov, float64": Provider(library)},
    )  # fmt: skip


BUILDERS = (
    linear_gelu, linear_add, attention, conv_gelu, conv_positional, add_layer_norm, conv_first, layer_norm, ctc_argmax,
    normalize_waveforms, window_statistics, attention_padded,
)  # fmt: skip
