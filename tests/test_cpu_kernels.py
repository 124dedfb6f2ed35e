"""Hold the CPU kernels in C++ to definitions in float64, at odd sizes and with extreme numbers."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TOLERANCES

from hubert_fast.packed import cpu_kernels
from hubert_fast.packed.grid import Grid
from hubert_fast.packed.weights import spectrum_of

REASON = cpu_kernels.why_not(torch.float32)
runs = pytest.mark.skipif(REASON is not None, reason=f"the CPU kernels cannot run: {REASON}")
DTYPES = [torch.float32, torch.bfloat16]
FLOAT32, BFLOAT16 = DTYPES
INF, NAN = math.inf, math.nan


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


def check(actual, expected, tolerance):
    """Compare number by number. The results of these kernels have magnitudes of about 1."""
    assert actual.shape == expected.shape
    tolerance = "rounding to bfloat16" if actual.dtype == BFLOAT16 else tolerance
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    error = torch.where(same, 0, (actual.double() - expected).abs() / expected.abs().clamp(min=1))
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= TOLERANCES[tolerance], f"{tolerance}: error {worst:.1e}"  # fails for NaN, too


# Attention


def attention_in_double(q, k, v, counts, num_heads):
    parts = [torch.empty(0, q.shape[1], dtype=torch.double)]
    for query, key, value in zip(*(x.double().split(counts) for x in (q, k, v))):
        query, key, value = (x.unflatten(1, (num_heads, -1)).transpose(0, 1) for x in (query, key, value))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(1, 2)).softmax(-1)
        parts.append((weights @ value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def check_attention(q, k, v, counts, num_heads):
    actual = cpu_kernels.attention(q, k, v, counts, num_heads)
    assert actual.dtype == q.dtype and actual.is_contiguous()
    check(actual, attention_in_double(q, k, v, counts, num_heads), "CPU attention")


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


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 30, 1e4, 1e18])
def test_attention_with_scores_of_any_magnitude(dtype, scale, bfloat16_dot):
    """Keys grow with time: the maximum moves from block to block, and from 30 on each query attends to few keys or one."""
    q, k, v = torch.randn(3, 600, 32).to(dtype)
    q, k = q.abs() + 0.1, k * torch.linspace(0.1, 1, 600)[:, None].to(dtype)
    k[:, 1:] = 0  # one product per score, so that a large score has no rounding error that decides between keys
    check_attention(q * (scale > 0), k * scale, v, (600,), 2)


@runs
def test_attention_of_one_distant_key_is_that_keys_value():
    q, k, v = torch.randn(3, 700, 16)
    q[:, 0], k[:, 0] = 1, 0
    for key in (0, 255, 256, 699):
        k[:, 0] = 0
        k[key, 0] = 1e6
        assert torch.equal(cpu_kernels.attention(q, k, v, (700,), 1), v[key].expand(700, 16))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_passes_nan_and_infinity_on_within_the_utterance(dtype, bfloat16_dot):
    counts = (10, 300, 20)
    for operand, row, number in itertools.product(range(3), (12, 309), (NAN, INF)):
        operands = list(torch.randn(3, 330, 32).to(dtype))
        operands[operand][row, 3] = number
        expected = attention_in_double(*operands, counts, 2)
        check_attention(*operands, counts, 2)
        assert not expected.isfinite().all() and expected[:10].isfinite().all() and expected[310:].isfinite().all()


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_the_same_alone_and_in_a_batch(dtype, threads):
    counts = (249, 3, 700, 31)
    q, k, v = torch.randn(3, sum(counts), 128).to(dtype)
    together = cpu_kernels.attention(q, k, v, counts, 2)
    alone = [cpu_kernels.attention(*parts, (len(parts[0]),), 2) for parts in zip(*(x.split(counts) for x in (q, k, v)))]
    assert torch.equal(together, torch.cat(alone))


@runs
def test_attention_reads_and_writes_only_its_rows():
    """The views lie in a buffer of NaN, and the numbers around the result stay what they are."""
    buffer = torch.full((70, 200), NAN)
    q, k, v = buffer[3:60, 5:37], buffer[4:61, 60:92], buffer[5:62, 150:182]
    for x in (q, k, v):
        x.copy_(torch.randn(57, 32))
    before = buffer.clone()
    check_attention(q, k, v, (50, 7), 2)
    assert torch.equal(buffer.nan_to_num(7), before.nan_to_num(7))


@runs
def test_attention_rejects_what_it_cannot_compute():
    x = torch.randn(10, 64)
    for arguments, message in [
        ((x, x, x, (9,), 2), r"must be \[9, multiple of 2\], but are \[10, 64\]"),
        ((x, x[:, :32], x, (10,), 2), r"\[10, 64\], \[10, 32\]"),
        ((x, x, x, (10,), 3), "multiple of 3"),
        ((x, x, x, (10,), 8), "head dim must be a multiple of 16 up to 128, but is 8"),
        ((x, x, x, (11, -1), 2), "must not be negative"),
        ((x, x, x.bfloat16(), (10,), 2), "v must be torch.float32"),
        ((x.double(), x.double(), x.double(), (10,), 2), "float32 and bfloat16, not torch.float64"),
        ((x, x.t().contiguous().t(), x, (10,), 2), "k must be .* with adjacent channels"),
        ((x, x, torch.empty(10, 64, device="meta"), (10,), 2), "must be on the CPU, but one is on meta"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            cpu_kernels.attention(*arguments)
    with pytest.raises(RuntimeError, match="no gradients"):
        cpu_kernels.attention(x.requires_grad_(), x, x, (10,), 2)


# Rows and convolutions


def layer_norm(channels, dtype=FLOAT32, eps=1e-5):
    layer = torch.nn.LayerNorm(channels, eps=eps).requires_grad_(False)
    layer.weight.copy_(1 + 0.3 * torch.randn(channels))
    layer.bias.copy_(0.3 * torch.randn(channels))
    return layer.to(dtype)


def normed(x, layer):
    return F.layer_norm(x.double(), x.shape[1:], layer.weight.double(), layer.bias.double(), layer.eps)


SIZES = list(itertools.product([0, 1, 7, 300], [1, 15, 16, 17, 512, 1023]))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows, channels", SIZES)
def test_layer_norm_gelu(dtype, weight_dtype, rows, channels, threads):
    layer, x = layer_norm(channels, weight_dtype), (3 * torch.randn(rows, channels) + 1).to(dtype)
    expected = F.gelu(normed(x, layer))
    assert cpu_kernels.layer_norm_gelu_(x, layer) is x
    check(x, expected, "CPU norm")


@runs
@pytest.mark.parametrize("y_dtype", [None, *DTYPES], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
@pytest.mark.parametrize("rows, channels", SIZES)
def test_add_layer_norm(y_dtype, dtype, post, rows, channels):
    layer, x = layer_norm(channels, eps=1e-3), torch.randn(rows, channels)
    y = None if y_dtype is None else torch.randn(rows, channels).to(y_dtype)
    total = x.clone() if y is None else x + y
    out = cpu_kernels.add_layer_norm(x, y, layer, dtype, post=post)
    check(out, normed(total, layer), "CPU norm")
    assert out.dtype == dtype and (out is x) == (post and dtype == FLOAT32)
    if post:
        check(x, normed(total, layer), "CPU norm")
    else:
        assert torch.equal(x, total)


@runs
@pytest.mark.parametrize("number", [0.0, 0.1, -1000.1, 30000.1])
def test_norm_of_constant_rows_is_the_bias(number):
    layer, x = layer_norm(511), torch.full((3, 511), number)
    check(cpu_kernels.add_layer_norm(x, None, layer, FLOAT32), layer.bias.double().expand(3, 511), "CPU norm")


@runs
def test_norm_of_numbers_far_from_zero():
    """A variance computed from squares would lose all digits here."""
    layer, x = layer_norm(768), 10000 + torch.randn(5, 768)
    check(cpu_kernels.add_layer_norm(x, None, layer, FLOAT32), normed(x, layer), "CPU norm")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_norm_passes_nan_and_infinity_on_within_the_row(dtype, number):
    layer, x = layer_norm(100), torch.randn(3, 100).to(dtype)
    x[1, 77] = number
    expected = F.gelu(normed(x, layer))
    check(cpu_kernels.layer_norm_gelu_(x, layer), expected, "CPU norm")
    assert x[1].isnan().all() and x[::2].isfinite().all()


@runs
def test_gelu_is_accurate_everywhere(threads):
    x = torch.cat([torch.linspace(-9, 9, 400001), torch.logspace(-40, 38, 4001), -torch.logspace(-40, 38, 4001)])
    actual, expected = cpu_kernels.gelu_(x[None].clone())[0], F.gelu(x.double())
    check(actual, expected, "CPU GELU")
    tail = (x < -1) & (x > -7)  # results in the tail are small, but not rounding errors of larger numbers
    assert (actual[tail] / expected[tail] - 1).abs().max() < 1e-3


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu_of_extreme_numbers(dtype):
    x = torch.tensor([[100, -100, 3e38, -3e38, 0.0, -0.0, 1e-40, -1e-40, 3e-39]], dtype=dtype)
    expected = F.gelu(x.double()).to(dtype)
    torch.testing.assert_close(cpu_kernels.gelu_(x), expected, rtol=1e-6, atol=0)
    x = torch.tensor([[INF, NAN, -INF]], dtype=dtype)
    expected = torch.tensor([[INF, NAN, 0]], dtype=dtype)  # PyTorch's GELU of minus infinity is NaN
    torch.testing.assert_close(cpu_kernels.gelu_(x), expected, rtol=0, atol=0, equal_nan=True)


@runs
def test_bfloat16_results_are_rounded_to_the_nearest():
    x = torch.arange(0x3F80_0000, 0x4180_0000, 4099, dtype=torch.int32).view(FLOAT32)[None].contiguous()
    one = torch.nn.LayerNorm(x.shape[1]).requires_grad_(False)
    both = [cpu_kernels.add_layer_norm(x, None, one, dtype) for dtype in DTYPES]
    assert torch.equal(both[0].bfloat16(), both[1])


@runs
def test_rows_reject_what_they_cannot_compute():
    layer, x = layer_norm(8), torch.randn(4, 8)
    for call, message in [
        (lambda: cpu_kernels.gelu_(x.t()), "contiguous rows"),
        (lambda: cpu_kernels.gelu_(x[0]), r"rows of one shape \[N, C\]"),
        (lambda: cpu_kernels.gelu_(x.half()), "not torch.float16"),
        (lambda: cpu_kernels.gelu_(x.to("meta")), "on the CPU, but one is on meta"),
        (lambda: cpu_kernels.layer_norm_gelu_(torch.randn(4, 9), layer), r"over 9 channels, but is over \[8\]"),
        (lambda: cpu_kernels.layer_norm_gelu_(x, torch.nn.LayerNorm(8, elementwise_affine=False)), "a weight and a bias"),
        (lambda: cpu_kernels.add_layer_norm(x.bfloat16(), None, layer, FLOAT32), "residual stream must be float32"),
        (lambda: cpu_kernels.add_layer_norm(x, x[:2], layer, FLOAT32), r"\[2, 8\]"),
        (lambda: cpu_kernels.add_layer_norm(x, x.double(), layer, FLOAT32), "float64"),
        (lambda: cpu_kernels.add_layer_norm(x, None, layer, torch.float64), "float64"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            call()


def first_convolution_in_double(windows, mean, weight, bias, layer):
    x = windows.double() if mean is None else windows.double() - mean.double()
    x = F.linear(x, weight.double(), None if bias is None else bias.double())
    return F.gelu(x if layer is None else normed(x, layer))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_norm", [False, True], ids=["alone", "norm"])
@pytest.mark.parametrize("frames", [0, 1, 4, 63, 64, 1001])
@pytest.mark.parametrize("channels, kernel, stride", [(16, 1, 1), (48, 3, 7), (512, 10, 5), (544, 32, 2), (1024, 10, 5)])
def test_first_convolution(dtype, with_norm, frames, channels, kernel, stride, threads):
    windows = torch.randn(max(frames - 1, 0) * stride + kernel).unfold(0, kernel, stride)[:frames]
    weight, bias, mean = torch.randn(channels, kernel) / kernel**0.5, torch.randn(channels), torch.randn(kernel)
    layer = layer_norm(channels) if with_norm else None
    for subtracted, added in itertools.product((None, mean), (None, bias)):
        actual = cpu_kernels.first_convolution(windows, subtracted, weight, added, layer, dtype)
        assert actual.dtype == dtype and actual.is_contiguous()
        check(actual, first_convolution_in_double(windows, subtracted, weight, added, layer), "CPU convolution")


@runs
def test_first_convolution_reads_only_its_windows():
    """The samples lie in a buffer of NaN."""
    buffer = torch.full((400,), NAN)
    buffer[101:297] = torch.randn(196)
    windows, weight = buffer[101:297].unfold(0, 10, 6), torch.randn(32, 10)
    assert windows.shape == (32, 10)
    actual = cpu_kernels.first_convolution(windows, None, weight, None, None, FLOAT32)
    check(actual, first_convolution_in_double(windows, None, weight, None, None), "CPU convolution")


@runs
@pytest.mark.parametrize("number", [NAN, INF])
def test_first_convolution_passes_nan_and_infinity_on_within_its_windows(number):
    samples, weight = torch.randn(300), torch.randn(16, 10).abs()
    samples[150] = number
    windows = samples.unfold(0, 10, 5)
    actual = cpu_kernels.first_convolution(windows, None, weight, None, None, FLOAT32)
    assert torch.equal(actual.isfinite().all(1), windows.isfinite().all(1)) and not actual.isfinite().all()


@runs
def test_first_convolution_rejects_what_it_cannot_compute():
    windows, weight, bias, mean = torch.randn(100).unfold(0, 10, 5), torch.randn(32, 10), torch.randn(32), torch.randn(10)
    for arguments, message in [
        ((windows.double(), mean, weight, bias, None, FLOAT32), "windows must be torch.float32"),
        ((torch.randn(200)[::2].unfold(0, 10, 5), mean, weight, bias, None, FLOAT32), "adjacent"),
        ((windows, mean[:9], weight, bias, None, FLOAT32), r"mean must be contiguous float32 \[10\], but is .* \[9\]"),
        ((windows, mean, weight.double(), bias, None, FLOAT32), "weight .* torch.float64"),
        ((windows, mean, weight.t().contiguous().t(), bias, None, FLOAT32), r"weight .* strides \(1, 32\)"),
        ((windows, mean, weight, bias.to("meta"), None, FLOAT32), "on the CPU, but one is on meta"),
        ((windows, mean, weight, bias, layer_norm(16), FLOAT32), "over 32 channels"),
        ((windows, mean, weight, bias, None, torch.float16), "not torch.float16"),
        ((windows, mean, weight[:20], bias[:20], None, FLOAT32), "a multiple of 16 channels, up to 1024, but there are 20"),
        ((torch.randn(100).unfold(0, 33, 5), None, torch.randn(32, 33), bias, None, FLOAT32), "up to 32 taps"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            cpu_kernels.first_convolution(*arguments)


# The positional convolution


def positions_in_double(x, padding, weight, bias, grid):
    """Convolve utterance by utterance, as the definition does: frames beyond `grid.padded` are zeros."""
    kernel, parts = weight.shape[2], [torch.empty(0, x.shape[1], dtype=torch.double)]
    for utterance in x.double().split(grid.counts):
        count = len(utterance)
        if grid.padded is not None:
            utterance = torch.cat([utterance, padding.double().expand(grid.padded - count, -1)])
        if count:
            out = F.conv1d(utterance.t()[None], weight.double(), bias.double(), padding=kernel // 2, groups=groups_of(weight))
            parts.append(out[0].t()[:count])
    return torch.cat(parts)


def groups_of(weight):
    return weight.shape[0] // weight.shape[1]


def positional(channels, groups, kernel, counts, padded=None):
    x, padding, bias = torch.randn(sum(counts), channels), torch.randn(channels), torch.randn(channels)
    weight = torch.randn(channels, channels // groups, kernel) / (kernel * channels / groups) ** 0.5
    spectrum = cpu_kernels.position_spectrum(spectrum_of(weight, groups))
    return x, padding, spectrum, bias, kernel, Grid((0,) * len(counts), tuple(counts), padded), weight


@runs
@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 112, 128])
@pytest.mark.parametrize("kernel", [1, 2, 7, 128, 255])
@pytest.mark.parametrize("counts", [(), (0,), (1,), (2, 0, 700, 131, 1), (249,), (1, 5300)], ids=str)
def test_positions(width, kernel, counts, threads):
    """5,300 frames are more than the pairs of blocks that are transformed at once."""
    x, padding, spectrum, bias, kernel, grid, weight = positional(3 * width, 3, kernel, counts)
    expected = positions_in_double(x, padding, weight, bias, grid)
    check(cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid), expected, "CPU convolution")
    stream = torch.randn_like(x)
    added = cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid, stream)
    check(added, stream + F.gelu(expected), "CPU convolution")
    check(cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid, x), x + F.gelu(expected), "CPU convolution")


@runs
@pytest.mark.parametrize("padded", [300, 310, 500])
def test_positions_of_padded_utterances(padded):
    x, padding, spectrum, bias, kernel, grid, weight = positional(96, 2, 128, (300, 0, 7, 250), padded)
    expected = positions_in_double(x, padding, weight, bias, grid)
    check(cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid), expected, "CPU convolution")


@runs
def test_positions_are_the_same_alone_and_in_a_batch(threads):
    counts = (249, 1, 3000, 129, 130)
    x, padding, spectrum, bias, kernel, grid, _ = positional(64, 4, 128, counts)
    together = cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid, x)
    for part, result in zip(x.split(counts), together.split(counts)):
        alone = cpu_kernels.positions(part, padding, spectrum, bias, kernel, Grid((0,), (len(part),)), part)
        assert torch.equal(alone, result)


@runs
@pytest.mark.parametrize("number", [NAN, INF])
def test_positions_pass_nan_and_infinity_on_within_the_utterance(number):
    x, padding, spectrum, bias, kernel, grid, _ = positional(32, 2, 128, (100, 140, 90))
    x[120, 5] = number
    out = cpu_kernels.positions(x, padding, spectrum, bias, kernel, grid, x)
    assert out[:100].isfinite().all() and out[240:].isfinite().all()
    assert not out[120, :16].isfinite().any() and out[100:240, 16:].isfinite().all()


@runs
def test_positions_reject_what_they_cannot_compute():
    x, padding, spectrum, bias, kernel, grid, _ = positional(32, 2, 7, (5, 4))
    for arguments, message in [
        ((x[:8], padding, spectrum, bias, kernel, grid), r"x must be contiguous float32 \[9, 32\], but is .* \[8, 32\]"),
        ((x, padding[:5], spectrum, bias, kernel, grid), r"padding .* \[32\]"),
        ((x, padding, spectrum.double(), bias, kernel, grid), "spectrum .* torch.float64"),
        ((x, padding, spectrum, bias[::2], kernel, grid), r"bias .* \[16\]"),
        ((x, padding, spectrum, bias, 17, grid), "1 to 16 taps, but there are 17"),
        ((x, padding, spectrum, bias, kernel, grid, x[:1]), "stream"),
        ((x.to("meta"), padding, spectrum, bias, kernel, grid), "on the CPU"),
        ((x, padding, spectrum[:, :, :8, :, :8], bias, kernel, grid), "multiple of 16 channels, up to 128, but have 8"),
        ((x, padding, torch.zeros(513, 2, 16, 2, 16), bias, kernel, grid), "up to 512 points, but have 1024"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            cpu_kernels.positions(*arguments)
