"""Hold the CPU kernels in C++ to definitions in float64, at odd sizes and with extreme numbers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from hubert_fast.packed import cpu_kernels

REASON = cpu_kernels.why_not(torch.float32)
runs = pytest.mark.skipif(REASON is not None, reason=f"the CPU kernels cannot run: {REASON}")
DTYPES = [torch.float32, torch.bfloat16]
# float32: products of up to 128 numbers and sums over keys, of numbers of about 1; bfloat16: half an ulp of the output
ATTENTION_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4.2e-3}


@pytest.fixture(params=[1, 2, 3], ids=lambda threads: f"{threads} threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[False, True], ids=["convert", "dot"])
def bfloat16_dot(request, monkeypatch):
    """Multiply bfloat16 with the instruction for it, or after a conversion to float32, as CPUs without it do."""
    if REASON is None and request.param and not cpu_kernels._has_bfloat16_dot():
        pytest.skip("this CPU has no AVX512_BF16")
    monkeypatch.setattr(cpu_kernels, "_has_bfloat16_dot", lambda: request.param)


def attention_in_double(q, k, v, counts, num_heads):
    parts = []
    for query, key, value in zip(*(x.double().split(counts) for x in (q, k, v))):
        query, key, value = (x.unflatten(1, (num_heads, -1)).transpose(0, 1) for x in (query, key, value))
        parts.append(F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def check_attention(q, k, v, counts, num_heads):
    actual = cpu_kernels.attention(q, k, v, counts, num_heads)
    expected = attention_in_double(q, k, v, counts, num_heads)
    assert actual.dtype == q.dtype and actual.is_contiguous() and actual.shape == expected.shape
    error = ((actual.double() - expected).abs() / expected.abs().clamp(min=1)).max().item() if len(q) else 0
    assert error <= ATTENTION_TOLERANCE[q.dtype], f"error {error:.1e}"


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 112, 128])
def test_attention_at_odd_sizes(dtype, head_dim, bfloat16_dot, threads):
    counts = (1, 0, 2, 17, 6, 97, 16, 257, 0, 5)
    q, k, v = torch.randn(sum(counts), 3 * 3 * head_dim).to(dtype).split(3 * head_dim, 1)
    check_attention(q, k, v, counts, 3)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frames", [252, 253, 256, 513, 1031])
def test_attention_over_several_blocks(dtype, frames, threads):
    q, k, v = torch.randn(frames, 3 * 128).to(dtype).split(128, 1)
    check_attention(q, k, v, (frames,), 2)


@runs
@pytest.mark.parametrize("counts", [(), (0,), (0, 0)])
def test_attention_of_nothing(counts):
    nothing = torch.zeros(0, 32)
    assert cpu_kernels.attention(nothing, nothing, nothing, counts, 2).shape == (0, 32)


def normed(x, layer):
    return F.layer_norm(x.double(), x.shape[1:], layer.weight.double(), layer.bias.double(), layer.eps)


def layer_norm(channels, dtype):
    layer = torch.nn.LayerNorm(channels, eps=1e-5).to(dtype).requires_grad_(False)
    layer.weight.copy_(1 + 0.3 * torch.randn(channels))
    layer.bias.copy_(0.3 * torch.randn(channels))
    return layer


def check_rows(actual, expected):
    error = (actual.double() - expected).abs() / expected.abs().clamp(min=1)
    limit = {torch.float32: 1e-6, torch.bfloat16: 4e-3}[actual.dtype]
    assert not len(actual) or error.max().item() <= limit, f"error {error.max().item():.1e}"


SIZES = list(itertools.product([0, 1, 7, 300], [1, 15, 16, 17, 512, 1023]))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows, channels", SIZES)
def test_layer_norm_gelu(dtype, weight_dtype, rows, channels, threads):
    layer, x = layer_norm(channels, weight_dtype), (3 * torch.randn(rows, channels) + 1).to(dtype)
    expected = F.gelu(normed(x, layer))
    assert cpu_kernels.layer_norm_gelu_(x, layer) is x
    check_rows(x, expected)
