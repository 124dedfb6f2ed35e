"""Define every op as a case, with library calls that compute the same.

Axes: B utterances, N packed frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.cases import Call, Case, Provider, counts_and_starts, packed, padded, plain, ruled
from hubert_fast import ops
from hubert_fast.check import cases
from hubert_fast.check.cases import STREAM, Size, Where, frame_mask, sample_spans


def linear_gelu(size: Size, lengths: list[int], at: Where) -> Case:
    ours = partial(ops.linear_gelu, backend="triton")
    by_erf = ruled(ruled(ours, "linear", "form_of", "erf"), "linear_persistent", "form_of", "erf")  # for both kernels of the op
    return Case.of(
        cases.linear_gelu(size, lengths, at),
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
    return Case.of(
        cases.linear_add(size, lengths, at),
        {"library: linear, add": plain(lambda x, weight, bias, residual: F.linear(x, weight, bias) + residual)},
    )  # fmt: skip


def layer_norm(size: Size, lengths: list[int], at: Where) -> Case:
    c = size.hidden
    return Case.of(
        cases.layer_norm(size, lengths, at),
        {"library: layer_norm": plain(lambda x, weight, bias: F.layer_norm(x, (c,), weight, bias))},
    )  # fmt: skip


def add_layer_norm(size: Size, lengths: list[int], at: Where) -> Case:
    c, post = size.hidden, not size.pre_norm

    def library(x: Tensor, delta: Tensor, delta_bias: Tensor, weight: Tensor, bias: Tensor) -> Call:
        weight, bias = weight.to(STREAM), bias.to(STREAM)

        def call() -> tuple[Tensor, Tensor]:
            total = x + (delta + delta_bias)
            normed = F.layer_norm(total, (c,), weight, bias)
            return normed if post else total, normed.to(at.dtype)

        return call

    return Case.of(cases.add_layer_norm(size, lengths, at), {"library: add, layer_norm": Provider(library)})


def attention(size: Size, lengths: list[int], at: Where) -> Case:
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

        q, k, v, max_length = q.contiguous(), k.contiguous(), v.contiguous(), max(lengths)
        return lambda: varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_length, max_length)

    return Case.of(
        cases.attention(size, lengths, at),
        {
            "library: varlen_attn": Provider(varlen),
            "library: sdpa, jagged": Provider(jagged, lambda out: out.transpose(1, 2).values()),
            "library: sdpa, padded": Provider(masked, lambda out: packed(out.transpose(1, 2), lengths)),
        },
        launcher=Provider(launcher),
    )  # fmt: skip


def attention_padded(size: Size, lengths: list[int], at: Where) -> Case:
    def library(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor) -> Call:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask[:, None, None])

    return Case.of(
        cases.attention_padded(size, lengths, at), {"library: sdpa": Provider(library, lambda out: out.transpose(1, 2))}
    )


def conv_positional(size: Size, lengths: list[int], at: Where) -> Case:
    per_group = size.hidden // size.groups

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

    return Case.of(
        cases.conv_positional(size, lengths, at),
        {"library: conv1d, padded": Provider(library, lambda out: packed(out.transpose(1, 2), lengths))},
        launcher=Provider(launcher),
    )  # fmt: skip


def conv_first(size: Size, lengths: list[int], at: Where) -> Case:
    c = size.conv

    def library(samples: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Call:
        x, taps, bias = samples[None, None].to(at.dtype), weight.t()[:, None].to(at.dtype), bias.to(at.dtype)
        norm_weight, norm_bias = norm_weight.to(at.dtype), norm_bias.to(at.dtype)
        return lambda: F.gelu(F.layer_norm(F.conv1d(x, taps, bias, stride=5).transpose(1, 2), (c,), norm_weight, norm_bias))

    return Case.of(
        cases.conv_first(size, lengths, at),
        {
            "library: conv1d, layer_norm, gelu": Provider(library, lambda out: out[0]),
            "candidate: without tensor cores": plain(
                ruled(partial(ops.conv_first, dtype=at.dtype, backend="triton"), "conv_first_product", "takes", False)
            ),
        },
    )  # fmt: skip


def conv_first_by_utterance(size: Size, lengths: list[int], at: Where) -> Case:
    return Case.of(cases.conv_first_by_utterance(size, lengths, at))


def conv_gelu(size: Size, lengths: list[int], at: Where, kernel: int = 3, norm: bool | None = None) -> Case:
    case, c = cases.conv_gelu(size, lengths, at, kernel, norm), size.conv

    def convolution(x: Tensor, weight: Tensor, *vectors: Tensor | None, two_d: bool) -> Call:
        bias, norm_weight, norm_bias = vectors
        taps = weight.unflatten(1, (kernel, c)).transpose(1, 2).contiguous()
        rows = x.t()[None]
        if two_d:  # channels last: cuDNN takes it without a copy
            rows, taps = rows[:, :, None], taps[:, :, None].contiguous(memory_format=torch.channels_last)
        else:
            rows = rows.contiguous()

        def call() -> Tensor:
            out = F.conv2d(rows, taps, bias, stride=(1, 2)) if two_d else F.conv1d(rows, taps, bias, stride=2)
            out = out.movedim(1, -1)
            return F.gelu(out if norm_weight is None else F.layer_norm(out, (c,), norm_weight, norm_bias))

        return call

    return Case.of(
        case,
        {
            "library: conv1d": Provider(lambda *given: convolution(*given, two_d=False), lambda out: out.reshape(-1, c)),
            "library: conv2d, channels last": Provider(
                lambda *given: convolution(*given, two_d=True), lambda out: out.reshape(-1, c)
            ),
            "candidate: a program a tile": plain(
                ruled(partial(ops.conv_gelu, backend="triton"), "tuning", "is_persistent", False)
            ),
        },
    )  # fmt: skip


def ctc_argmax(size: Size, lengths: list[int], at: Where) -> Case:
    return Case.of(
        cases.ctc_argmax(size, lengths, at),
        {
            "library: linear, log_softmax, max": Provider(
                plain(lambda *arguments: F.linear(*arguments).float().log_softmax(-1).max(-1)).prepare, lambda out: out[0]
            )
        },
        finish=lambda out: out[1],
    )  # fmt: skip


def unit_argmin(size: Size, lengths: list[int], at: Where) -> Case:
    def library(x: Tensor, centroids: Tensor) -> Call:
        norms, columns = centroids.square().sum(1), centroids.t()
        return lambda: torch.addmm(norms, x.float(), columns, alpha=-2).argmin(1)

    return Case.of(
        cases.unit_argmin(size, lengths, at),
        {
            "library: addmm, argmin": Provider(library),
            "library: cdist, argmin": plain(lambda x, centroids: torch.cdist(x.float(), centroids).argmin(1)),
        },
        compare=lambda units, x, centroids: (x.float() - centroids[units.long()]).square().sum(-1),
    )  # fmt: skip


def normalize_waveforms(size: Size, lengths: list[int], at: Where, pcm: bool = False) -> Case:
    starts, samples, total = sample_spans(lengths)

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

    case = cases.normalize_waveforms(size, lengths, at, pcm)
    return Case.of(case, {} if pcm else {"library: sums, padded": Provider(library, unpack)})


def window_statistics(size: Size, lengths: list[int], at: Where) -> Case:
    def library(x: Tensor, starts: list[int], samples: list[int], kernel: int, stride: int) -> Call:
        parts = [x[start : start + count] for start, count in zip(starts, samples)]

        def call() -> tuple[Tensor, Tensor]:
            windows = [part.unfold(0, kernel, stride).double() for part in parts]
            return torch.stack([one.mean(0) for one in windows]), torch.stack([one.t().cov(correction=0) for one in windows])

        return call

    return Case.of(cases.window_statistics(size, lengths, at), {"library: mean, cov, float64": Provider(library)})


BUILDERS = (
    linear_gelu, linear_add, attention, conv_gelu, conv_positional, add_layer_norm, conv_first, layer_norm, ctc_argmax,
    unit_argmin, normalize_waveforms, window_statistics, attention_padded,
)  # fmt: skip
