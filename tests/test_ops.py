"""Check every op with a kernel, interpreted: values against the definition in float64, strides, errors, registration."""

import subprocess
import sys

import pytest
import torch
from conftest import assert_close

from hubert_fast import ops

triton = pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16], ids=str
)  # the interpreter's bfloat16 product is wrong
# utterances of no, one and many frames; the last one is empty
CU_SEQLENS = torch.tensor([0, 0, 5, 6, 71, 100, 100], dtype=torch.int32)


def randn(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def float64(arguments):
    return [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments]


def check(name, *arguments, tolerance=None, **options):
    """Compare a kernel with its definition in float64. Fresh memory is NaN, so that elements left unwritten fail."""
    with filled_with_nan():
        actual = getattr(ops, name)(*arguments, **options, backend="triton")
    expected = getattr(ops, f"{name}_eager")(*float64(arguments), **options)
    for output, reference in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (actual, expected)), strict=True):
        assert output.shape == reference.shape
        if not output.numel():
            continue
        if output.is_floating_point():
            assert_close(output, reference, tolerance or output.dtype, name)
        else:
            assert torch.equal(output, reference)
    return actual


class filled_with_nan:
    """Make `torch.empty` return NaN, so that elements a kernel leaves unwritten are seen."""

    def __enter__(self):
        self.saved = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert torch.empty(3).isnan().all()

    def __exit__(self, *error):
        torch.use_deterministic_algorithms(self.saved[0])
        torch.utils.deterministic.fill_uninitialized_memory = self.saved[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 48), (4, 193), (0, 16), (2, 768)], ids=str)
def test_layer_norm(shape, dtype):
    x, weight, bias = 3 * randn(*shape) + 5, randn(shape[-1], dtype=dtype), randn(shape[-1], dtype=dtype)
    assert check("layer_norm", x.to(dtype), weight, bias).dtype == dtype
    if len(shape) > 1:
        check("layer_norm", x.to(dtype).transpose(-1, -2).contiguous().transpose(-1, -2), weight, bias)


def test_layer_norm_of_expanded_and_strided_rows():
    weight, bias = randn(2, 33)
    expanded, inside = (3 * randn(1, 33) + 5).expand(5, 33), torch.full((5, 64), float("nan"))
    inside[:, :33] = expanded
    for rows in (expanded, inside[:, :33]):
        check("layer_norm", rows, weight, bias)


@DTYPES
@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 48), (17, 193), (0, 16), (3, 1024)], ids=str)
def test_add_layer_norm(shape, post, dtype):
    x, delta, vectors = randn(*shape), randn(*shape, dtype=dtype), randn(3, shape[-1], dtype=dtype)
    stream, normed = check("add_layer_norm", x, delta, *vectors, dtype=dtype, post=post)
    assert stream.dtype == torch.float32 and normed.dtype == dtype
    check("add_layer_norm", x, delta, None, *vectors[1:], post=post)


def test_add_layer_norm_of_expanded_and_strided_rows():
    vectors = randn(3, 33)
    apart = torch.full((9, 64), float("nan"))
    apart[:, :33] = randn(9, 33)
    check("add_layer_norm", randn(1, 33).expand(9, 33), apart[:, :33], *vectors)
    check("add_layer_norm", randn(33, 9).t(), apart[:, :33], *vectors)


def test_add_layer_norm_in_place():
    from hubert_fast.kernels import add_layer_norm

    x, delta, (bias, scale, shift) = randn(5, 48), randn(5, 48), randn(3, 48)
    for post in (False, True):
        stream = x.clone()
        expected = ops.add_layer_norm_eager(x, delta, bias, scale, shift, post=post)
        actual = add_layer_norm.launch(stream, delta, bias, scale, shift, 1e-5, torch.float32, post, in_place=True)
        assert actual[0] is stream and (actual[1] is stream) == post
        for output, reference in zip(actual, expected, strict=True):
            assert_close(output, reference, torch.float32)


@DTYPES
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(1, 16, 8), (67, 48, 130), (130, 100, 300), (0, 16, 16)], ids=str)
def test_linear_gelu_and_add(rows, n_in, n_out, dtype):
    x, weight, bias = randn(rows, n_in, dtype=dtype), randn(n_out, n_in, dtype=dtype), randn(n_out, dtype=dtype)
    check("linear_gelu", x, weight, bias)
    check("linear_gelu", x, weight, None)
    check("linear_add", x, weight, bias, randn(rows, n_out))
    check("linear_add", x, weight, None, randn(rows, n_out, dtype=dtype))


def test_linear_of_batches_and_strides():
    weight, bias = randn(40, 24), randn(40)
    check("linear_gelu", randn(2, 3, 24), weight, bias)
    check("linear_gelu", randn(24, 7).t(), weight, bias)
    check("linear_gelu", randn(1, 24).expand(5, 24), randn(24, 40).t(), bias)
    check("linear_add", randn(5, 48)[:, ::2], weight, bias, randn(1, 40).expand(5, 40))


@DTYPES
@pytest.mark.parametrize("normed", [False, True], ids=["gelu", "layer norm"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("frames", [0, 1, 4, 57])
def test_conv_gelu(frames, kernel, stride, normed, dtype):
    x, weight = randn(frames, 24, dtype=dtype), randn(40, kernel * 24, dtype=dtype)
    check("conv_gelu", x, weight, *randn(3 if normed else 1, 40, dtype=dtype), stride=stride)
    check("conv_gelu", x, weight, None, *randn(2 if normed else 0, 40, dtype=dtype), stride=stride)


@DTYPES
@pytest.mark.parametrize("channels", [24, 40, 512])
def test_conv_gelu_normalises_in_its_epilogue_or_afterwards(channels, dtype, monkeypatch):
    from hubert_fast.kernels import tuning

    x, weight, vectors = randn(31, 16, dtype=dtype), randn(channels, 48, dtype=dtype), randn(3, channels, dtype=dtype)
    for inside in (False, True):
        monkeypatch.setattr(tuning, "norm_in_convolution", lambda *shape, inside=inside: inside)
        check("conv_gelu", x, weight, *vectors)


@DTYPES
@pytest.mark.parametrize("head_dim", [12, 32, 48, 64, 80, 96, 128])
def test_attention(head_dim, dtype):
    q, k, v = (x.unflatten(1, (3, head_dim)) for x in randn(100, 9 * head_dim, dtype=dtype).chunk(3, dim=1))
    assert not q.is_contiguous()
    check("attention", q, k, v, CU_SEQLENS, tolerance="attention" if dtype == torch.float32 else None)


def test_attention_of_many_query_blocks_and_of_other_strides():
    cu_seqlens = torch.tensor([0, 300, 300, 301, 460])
    q, k, v = randn(3, 2, 460, 32).transpose(1, 2)  # [H, N, D] in memory
    check("attention", q, k, v, cu_seqlens, tolerance="attention")
    check("attention", q, k[:1].expand(460, 2, 32), randn(460, 32, 2).transpose(1, 2), cu_seqlens, tolerance="attention")
    check("attention", *randn(3, 0, 2, 16), torch.tensor([0]))
    check("attention", *randn(3, 0, 2, 16), torch.tensor([0, 0, 0]))


def test_attention_with_large_scores():
    q, k, v = 30 * randn(3, 40, 1, 16)
    check("attention", q, k, v, torch.tensor([0, 40]), tolerance="attention")


@DTYPES
@pytest.mark.parametrize("head_dim", [16, 80])
def test_attention_padded(head_dim, dtype):
    q, k, v = randn(3, 5, 70, 2, head_dim, dtype=dtype)
    mask = torch.arange(70) < torch.tensor([70, 1, 0, 33, 64])[:, None]
    scattered = mask & (torch.rand(5, 70) < 0.5)
    assert not scattered[2].any()
    for key_mask in (None, mask, scattered, mask.flip(1)):
        check("attention_padded", q, k, v, key_mask, tolerance="attention" if dtype == torch.float32 else None)


def test_attention_keeps_nan_in_its_utterance():
    q, k, v = randn(3, 100, 2, 16)
    expected = ops.attention(q, k, v, CU_SEQLENS, backend="triton")
    q[80], k[80], v[80] = torch.nan, torch.nan, torch.inf
    actual = ops.attention(q, k, v, CU_SEQLENS, backend="triton")
    assert torch.equal(actual[:71], expected[:71]) and actual[71:].isnan().all()


@DTYPES
@pytest.mark.parametrize("kernel", [1, 2, 7, 16])
@pytest.mark.parametrize("channels", [16, 48, 64, 80])
def test_conv_positional(channels, kernel, dtype):
    x, weight = randn(100, 2 * channels, dtype=dtype), randn(2, kernel, channels, channels, dtype=dtype) / channels
    bias, residual = randn(2 * channels, dtype=dtype), randn(100, 2 * channels)
    assert check("conv_positional", x, weight, bias, CU_SEQLENS, residual).dtype == torch.float32
    check("conv_positional", x, weight, bias, CU_SEQLENS, gelu=False)


def test_conv_positional_of_128_taps_over_many_frames_and_over_none():
    weight, bias = randn(2, 128, 16, 16) / 16, randn(32)
    apart = torch.full((600, 64), float("nan"))
    apart[:, :32] = randn(600, 32)
    check("conv_positional", apart[:, :32], weight, bias, torch.tensor([0, 1, 501, 600]), randn(32, 600).t())
    check("conv_positional", randn(1, 32).expand(9, 32), weight, bias, torch.tensor([0, 9]))
    check("conv_positional", randn(0, 32), weight, bias, torch.tensor([0, 0]))
    check("conv_positional", randn(0, 32), weight, bias, torch.tensor([0]))


def test_conv_positional_matches_the_model():
    from conftest import PRE_LN

    from hubert_fast import HubertConfig, HubertModel
    from hubert_fast.packed.kernel_graph import positional_weight

    embedding = HubertModel(HubertConfig(**PRE_LN)).eval().encoder.pos_conv_embed
    x = randn(30, 48)
    with torch.no_grad():
        expected = embedding(x[None])[0]
        weight = positional_weight(embedding.conv, torch.float32)
        actual = ops.conv_positional(x, weight, embedding.conv.bias, torch.tensor([0, 30]), backend="triton")
    assert_close(actual, expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [5, 48])
@pytest.mark.parametrize("samples", [0, 9, 10, 999])
def test_conv_first(samples, channels, dtype):
    waveform, weight, vectors = randn(samples), randn(10, channels), randn(3, channels)
    check("conv_first", waveform, weight, dtype=dtype)
    check("conv_first", waveform, weight, *vectors, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("frames_per_hop", [1, 4, 24, 64, 128])
def test_conv_first_by_utterance(frames_per_hop, dtype):
    waveform, weight, means = randn(1300), randn(3, 10, 24), randn(3, 10)
    hops = -(-259 // frames_per_hop)
    utterances = torch.sort(torch.randint(3, (hops,), dtype=torch.int32)).values
    check("conv_first", waveform, weight, randn(24), None, None, means, utterances, frames_per_hop, dtype=dtype)


@pytest.mark.parametrize("has_norm", [False, True], ids=["none", "layer norm"])
def test_conv_first_with_split_operands_is_more_precise_than_16_bits(has_norm):
    """Splitting operands into two parts leaves an error of 2^-16, even far from zero and with very different channels."""
    from hubert_fast.kernels import conv_first_product

    waveform, weight, vectors = 20 + 5 * randn(4001), 3 * randn(10, 48) + 8, randn(3, 48)
    bias, norm = vectors[0], vectors[1:] if has_norm else (None, None)
    expected = ops.conv_first_eager(*float64((waveform, weight, bias, *norm)))
    actual = torch.full_like(expected, float("nan"), dtype=torch.float32)
    taps = conv_first_product.taps_of(weight, bias, has_norm)
    conv_first_product.launch(waveform, taps, *norm, None, None, 1, 10, 5, 1e-5, actual)
    error = (actual - expected).norm() / expected.norm()
    assert error < 2**-14 and expected.norm() > 1, error


def test_conv_first_with_split_operands_stays_precise_under_cancellation():
    """The filters pass only frequencies that the waveform lacks: with operands of 16 bits, no digit would be correct."""
    from hubert_fast.kernels import conv_first_product

    waveform = randn(8000, dtype=torch.float64).cumsum(0).cumsum(0)
    waveform = (waveform / waveform.std()).float()
    difference = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0])
    weight = torch.stack([torch.nn.functional.pad(difference, (shift, 5 - shift)) for shift in range(6)] * 3, dim=1)
    windows = waveform.unfold(0, 10, 5).double()
    means = windows.mean(0)
    weight = (weight / ((windows - means) @ weight.double()).std(0)).float()

    def convolved(windows, means, weight):
        return (windows - means) @ weight

    exact = torch.nn.functional.gelu(convolved(windows, means, weight.double()))
    rounded = (x.bfloat16().double() for x in (windows - means, weight))
    rounded = torch.nn.functional.gelu(convolved(next(rounded), 0, next(rounded)))
    actual = torch.full_like(exact, float("nan"), dtype=torch.float32)
    taps = conv_first_product.taps_of(weight[None], None, False)
    utterances = torch.zeros(len(windows) // 64 + 1, dtype=torch.int32)
    conv_first_product.launch(waveform, taps, None, None, means.float()[None], utterances, 64, 10, 5, 0.0, actual)
    errors = [((x - exact).norm() / exact.norm()).item() for x in (actual, rounded)]
    assert errors[1] > 1 and errors[0] < errors[1] / 100, errors


@DTYPES
@pytest.mark.parametrize("gelu", [False, True], ids=["none", "gelu"])
@pytest.mark.parametrize("rows", [1, 16, 67, 300])
def test_linear_persistent(rows, gelu, dtype, monkeypatch):
    """There are more tiles than programs, rows overlap, and the last tile is partial."""
    from hubert_fast.kernels import linear_persistent, tuning

    blocks = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 16, "GROUP_M": 2, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(tuning, "linear_persistent", lambda *shape: blocks)
    monkeypatch.setattr(tuning, "multiprocessors_of", lambda device: 3)
    x, weight, bias = randn(rows * 32 + 17, dtype=dtype), randn(64, 48, dtype=dtype), randn(64, dtype=dtype)
    windows = x.as_strided((rows, 48), (32, 1))
    assert linear_persistent.takes(windows, weight) and not linear_persistent.takes(x[1:].as_strided((rows, 48), (32, 1)))
    for bias_or_none in (bias, None):
        out = torch.full((rows, 64), float("nan"), dtype=dtype)
        linear_persistent.launch(windows, weight, bias_or_none, out, gelu)
        double_bias = None if bias_or_none is None else bias_or_none.double()
        product = torch.nn.functional.linear(*float64((windows, weight)), double_bias)
        assert_close(out, torch.nn.functional.gelu(product) if gelu else product, dtype)


def test_persistent_products_are_large_aligned_16_bit_and_on_sm_90():
    from hubert_fast.kernels import tuning

    assert tuning.is_persistent(4096, 1024, 4096, 2, (9, 0)) and tuning.is_persistent(60_000, 1536, 512, 2, (9, 0))
    for arguments in ((4095, 1024, 4096, 2, (9, 0)), (4096, 1000, 4096, 2, (9, 0)), (4096, 1024, 4000, 2, (9, 0)),
                  (4096, 1024, 4096, 4, (9, 0)), (4096, 1024, 4096, 2, (8, 0)), (4096, 1024, 4096, 2, (10, 0))):  # fmt: skip
        assert not tuning.is_persistent(*arguments), arguments


def test_operands_that_tma_cannot_read_use_the_plain_kernel(monkeypatch):
    from hubert_fast.kernels import linear_persistent, tuning

    rows_launched, launch = [], linear_persistent.launch
    blocks = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 16, "GROUP_M": 2, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(tuning, "linear_persistent", lambda *shape: blocks)
    monkeypatch.setattr(tuning, "is_persistent", lambda *shape: True)
    monkeypatch.setattr(
        linear_persistent, "launch", lambda *operands: (rows_launched.append(len(operands[0])), launch(*operands))
    )
    weight, bias, rows = randn(64, 32, dtype=torch.float16), randn(64, dtype=torch.float16), randn(50, 40, dtype=torch.float16)
    check("linear_gelu", rows[:, :32], weight, bias)
    assert rows_launched == [50]
    check("linear_gelu", rows[:, 1:33], weight, bias)  # at an unaligned address
    check("linear_gelu", randn(50, 33, dtype=torch.float16)[:, :32], weight, bias)  # with rows at unaligned addresses
    check("linear_add", rows[:, :32], weight, bias, randn(50, 64))
    assert rows_launched == [50]


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.float16], ids=str)
def test_normalize_waveforms(dtype):
    starts, lengths = [0, 320, 640, 1280], [0, 1, 500, 70000]
    samples = (3000 * randn(72000) + 500).to(dtype) if dtype == torch.int16 else (3 * randn(72000) + 5).to(dtype)
    samples[320 + 1 : 640] = 777  # between utterances
    actual = ops.normalize_waveforms(samples, starts, lengths, backend="triton")
    exact = samples if dtype == torch.int16 else samples.double()
    expected = ops.normalize_waveforms_eager(exact, starts, lengths)
    assert actual.dtype == torch.float32 and not actual[321:640].any() and not actual[1140:1280].any()
    # for int16, the definition itself computes in float32: the deviation is rounded twice
    assert_close(actual, expected, "other graph")
    check("normalize_waveforms", samples[:0], [], [])


def test_window_statistics():
    samples = torch.cumsum(randn(40000), 0)  # strongly low-passed
    starts, lengths = [0, 320, 640, 2560, 3200], [0, 9, 10, 500, 36000]
    actual = ops.window_statistics(samples, starts, lengths, 10, 5, backend="triton")
    expected = ops.window_statistics_eager(samples.double(), starts, lengths, 10, 5)
    for output, reference in zip(actual, expected, strict=True):
        assert output.dtype == torch.float64 and output[:2].isnan().all() and reference[:2].isnan().all()
        # float64 sums differ with their order, and subtracting the mean's square makes the difference 1e4 times as large
        assert ((output - reference)[2:].abs() <= 1e-11 * reference[2:].abs().max()).all()
    assert all(len(part) == 0 for part in ops.window_statistics(samples, [], [], 10, 5, backend="triton"))


@DTYPES
@pytest.mark.parametrize("vocabulary", [1, 5, 32, 300])
def test_ctc_argmax(vocabulary, dtype):
    x, weight, bias = randn(67, 48, dtype=dtype), randn(vocabulary, 48, dtype=dtype), randn(vocabulary, dtype=dtype)
    check("ctc_argmax", x, weight, bias, tolerance=torch.float16)
    ids, log_probs = check("ctc_argmax", x.view(1, 67, 48), weight, None, tolerance=torch.float16)
    assert ids.shape == (1, 67) and ids.dtype == torch.int32 and log_probs.dtype == torch.float32
    check("ctc_argmax", x[:0], weight, bias)


def test_ctc_argmax_of_equal_logits_is_the_first():
    # sums of whole numbers are exact in any order
    weight = torch.randint(-9, 9, (1, 16)).float().expand(300, 16).contiguous()
    ids, log_probs = ops.ctc_argmax(torch.randint(-9, 9, (20, 16)).float(), weight, None, backend="triton")
    assert not ids.any()
    assert_close(log_probs, torch.full((20,), 300.0).log().neg(), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 13, 48, 256])
@pytest.mark.parametrize("centroids", [1, 5, 64, 131])
def test_unit_argmin(centroids, channels, dtype):
    x, rows = randn(2, 37, channels, dtype=dtype), randn(centroids, channels)
    units = check("unit_argmin", x, rows)
    assert units.shape == (2, 37) and units.dtype == torch.int32
    check("unit_argmin", x[0, 0], rows)
    check("unit_argmin", x[:, :0], rows)
    check("unit_argmin", x, rows.to(dtype))


@pytest.mark.parametrize("channels", [64, 768, 1024, 1280])
def test_unit_argmin_of_wide_frames(channels):
    check("unit_argmin", randn(3, channels), randn(100, channels))


def test_unit_argmin_of_strided_operands():
    rows = randn(77, 24)
    check("unit_argmin", randn(24, 70).t(), randn(24, 77).t())
    check("unit_argmin", randn(1, 24).expand(70, 24), rows)
    check("unit_argmin", randn(7, 5, 24).transpose(0, 1), rows)
    check("unit_argmin", randn(70, 1).expand(70, 24), randn(77, 1).expand(77, 24))
    check("unit_argmin", randn(70, 48)[:, ::2], randn(154, 24)[::2])
    check("unit_argmin", randn(70, 24).half().t().contiguous().t(), rows)


OPERANDS = {
    "layer_norm": lambda: (randn(3, 8), *randn(2, 8), 1e-5),
    "add_layer_norm": lambda: (randn(3, 8), randn(3, 8), *randn(3, 8), 1e-5, torch.float32, True),
    "linear_gelu": lambda: (randn(3, 16), randn(8, 16), randn(8)),
    "linear_add": lambda: (randn(3, 16), randn(8, 16), None, randn(3, 8)),
    "conv_gelu": lambda: (randn(9, 8), randn(8, 24), *randn(3, 8), 2, 1e-5),
    "attention": lambda: (*randn(3, 100, 2, 16), CU_SEQLENS),
    "attention_padded": lambda: (*randn(3, 2, 5, 2, 16), torch.ones(2, 5, dtype=torch.bool)),
    "conv_positional": lambda: (randn(100, 16), randn(1, 3, 16, 16), randn(16), CU_SEQLENS, randn(100, 16), True),
    "conv_first": lambda: (randn(99), randn(10, 8), randn(8), None, None, None, None, 1, 5, 1e-5, torch.float16),
    "normalize_waveforms": lambda: (randn(99), [0], [98]),
    "window_statistics": lambda: (randn(99), [0], [98], 10, 5),
    "ctc_argmax": lambda: (randn(3, 16), randn(8, 16), randn(8)),
    "unit_argmin": lambda: (randn(3, 16), randn(8, 16)),
}
KEYWORDS = {  # keywords of the public function that the registered op takes by position
    "layer_norm": (),
    "add_layer_norm": ("dtype", "post"),
    "conv_gelu": ("stride", "eps"),
    "conv_positional": ("gelu",),
    "conv_first": ("stride", "eps", "dtype"),
}


def call_arguments(name):
    """Return the arguments of the public function: by position and by keyword."""
    arguments, keywords = OPERANDS[name](), KEYWORDS.get(name, ())
    split = len(arguments) - len(keywords)
    return list(arguments[:split]), dict(zip(keywords, arguments[split:]))


every_op = pytest.mark.parametrize("name", OPERANDS)


def test_every_op_is_tested():
    assert set(OPERANDS) == {name for name in ops.__all__ if not name.endswith("_eager")}
    assert set(ops.__all__) == {name for op in OPERANDS for name in (op, f"{op}_eager")}


@every_op
def test_ops_pass_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.hubert_fast, name).default, OPERANDS[name]())


@every_op
def test_ops_compile_without_graph_breaks_and_export(name):
    positional, options = call_arguments(name)

    class Call(torch.nn.Module):
        def forward(self, *tensors):
            remaining = iter(tensors)
            return getattr(ops, name)(
                *(next(remaining) if isinstance(x, torch.Tensor) else x for x in positional), **options, backend="triton"
            )

    tensors = tuple(x for x in positional if isinstance(x, torch.Tensor))
    expected = Call()(*tensors)
    results = [torch.export.export(Call(), tensors).module()(*tensors)]
    for dynamic in (False, True):
        torch.compiler.reset()
        results.append(torch.compile(Call(), fullgraph=True, dynamic=dynamic, backend="aot_eager")(*tensors))
    for actual in results:
        for output, reference in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (actual, expected)), strict=True):
            assert torch.equal(output, reference)


@pytest.mark.parametrize("name", [name for name in OPERANDS if name != "unit_argmin"])  # an index has no gradient
def test_gradients_use_the_definition(name):
    positional, options = call_arguments(name)
    first = positional[0].requires_grad_()
    with pytest.raises(RuntimeError, match="backend triton was requested, but cannot run: a gradient is required"):
        getattr(ops, name)(*positional, **options, backend="triton")
    actual = getattr(ops, name)(*positional, **options)
    sum(x.double().sum() for x in ((actual,) if isinstance(actual, torch.Tensor) else actual)).backward()
    assert first.grad is not None and first.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("linear_gelu", {1: randn(8, 15)}, r"weight must be \[8, 16\] for rows of 16, but is \[8, 15\]"),
        ("linear_gelu", {1: randn(8, 16).half()}, "weight must be torch.float32, like x, but is torch.float16"),
        ("linear_gelu", {2: randn(7)}, r"bias must be \[8\] for 8 outputs, but is \[7\]"),
        ("linear_add", {3: randn(3, 7)}, r"residual must be \[3, 8\].*but is \[3, 7\]"),
        ("conv_gelu", {1: randn(8, 25)}, r"weight must be \[C_out, kernel \* 8\].*\[8, 25\] and 2"),
        ("add_layer_norm", {1: randn(3, 7)}, r"delta must be \[3, 8\] for x \[3, 8\], but is \[3, 7\]"),
        ("add_layer_norm", {3: randn(7)}, r"weight and bias must be \[8\].*\[7\] and \[8\]"),
        ("attention", {1: randn(100, 2, 15)}, r"k must be \[100, 2, 16\].*\[100, 2, 15\]"),
        ("attention", {0: randn(100, 2, 16).half()}, "q, k and v must have one dtype, but have torch.float16, torch.float32"),
        ("attention", {3: torch.zeros(2, 2)}, r"cu_seqlens must be integers \[B \+ 1\]"),
        ("attention_padded", {3: torch.ones(2, 4)}, r"key_mask must be \[2, 5\].*\[2, 4\]"),
        ("conv_positional", {1: randn(1, 3, 16, 15)}, r"weight \[G, kernel, C/G, C/G\].*\[1, 3, 16, 15\]"),
        ("conv_positional", {2: randn(15)}, r"bias must be \[16\].*\[15\]"),
        ("conv_first", {1: randn(10, 8).half()}, r"weight float32 \[kernel, C\].*torch.float16 \[10, 8\]"),
        (
            "conv_first",
            {3: randn(8)},
            "norm_weight and norm_bias must be given together, but got norm_weight without norm_bias",
        ),
        ("conv_gelu", {3: None}, "norm_weight and norm_bias must be given together, but got norm_bias without norm_weight"),
        ("conv_positional", {3: torch.zeros(2, 2)}, r"cu_seqlens must be integers \[B \+ 1\]"),
        ("normalize_waveforms", {2: [100]}, r"within \[99\] samples, but are \[0\] and \[100\]"),
        ("window_statistics", {1: [0, 0]}, r"within \[99\] samples, but are \[0, 0\] and \[98\]"),
        ("ctc_argmax", {1: randn(8, 15)}, r"x must be \[3, 15\].*\[3, 16\]"),
        ("unit_argmin", {1: randn(8, 15)}, r"x must be \[3, 15\] for centroids \[8, 15\], but is \[3, 16\]"),
        ("unit_argmin", {1: randn(0, 16)}, r"centroids must be \[K, C\] and not empty, but are \[0, 16\]"),
        ("unit_argmin", {1: randn(16)}, r"centroids must be \[K, C\] and not empty, but are \[16\]"),
    ],
)
def test_errors_describe_operands_that_do_not_fit(name, change, message):
    positional, options = call_arguments(name)
    positional = [change.get(index, argument) for index, argument in enumerate(positional)]
    with pytest.raises(ValueError, match=message):
        getattr(ops, name)(*positional, **options, backend="triton")


def test_attention_starts_with_the_longest_utterances():
    from hubert_fast.kernels import attention

    counts = torch.tensor([3, 0, 40, 17])
    starts = counts.cumsum(0) - counts
    work = attention.work_of(counts, starts, counts, 16, 8)
    longest = [[3, first, 40, 40] for first in (0, 16, 32)]
    assert work[:6].tolist() == [*longest, [43, 0, 17, 17], [43, 16, 17, 17], [0, 0, 3, 3]]
    assert not work[6:, 2:].any()  # unused entries


def far_apart(rows, columns, dtype=torch.float16):
    """Return rows that are 2^30 elements apart, so that offsets pass 2^31. The memory in between is never touched."""
    storage = torch.empty((rows - 1) * 2**30 + columns, dtype=dtype)
    return storage.as_strided((rows, columns), (2**30, 1)).copy_(randn(rows, columns))


def test_offsets_beyond_2_to_the_31():
    x, vectors = far_apart(4, 32), randn(2, 32).half()
    weight, square = randn(16, 32).half(), randn(32, 32).half()
    check("layer_norm", x, *vectors, 1e-5)
    check("add_layer_norm", x, x, None, *vectors)
    check("linear_gelu", x, weight, None)
    check("linear_add", x, square, None, x)
    check("ctc_argmax", x, weight, None, tolerance=torch.float16)
    check("unit_argmin", far_apart(3, 32, torch.float32), weight.float())
    check("conv_positional", x, randn(2, 3, 16, 16).half(), randn(32).half(), torch.tensor([0, 4]), x)
    heads = x.unflatten(1, (2, 16))
    check("attention", heads, heads, heads, torch.tensor([0, 4]))
    many_heads = far_apart(3, 16)[None].expand(5, 3, 16)  # [N, H, D] whose heads lie apart
    check("attention", many_heads, many_heads, many_heads, torch.tensor([0, 5]))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ["linear_gelu", "linear_add", "conv_gelu", "attention", "conv_positional", "ctc_argmax"])
def test_block_sizes_of_large_gpus(name, capability, monkeypatch):
    from hubert_fast.kernels import tuning

    monkeypatch.setattr(tuning, "capability_of", lambda device: capability)
    half = torch.float16
    if name.startswith("linear"):
        operands = randn(4200, 24, dtype=half), randn(300, 24, dtype=half), randn(300, dtype=half)
        operands = (*operands, randn(4200, 300)) if name == "linear_add" else operands
        assert tuning.linear(4200, 24, 300, 2, capability)["BLOCK_N"] == 256
    elif name == "attention":
        operands = *randn(3, 300, 1, 80, dtype=half), torch.tensor([0, 130, 131, 300])
    elif name == "conv_positional":
        weight = randn(1, 9, 48, 48, dtype=half) / 20
        operands = randn(700, 48, dtype=half), weight, randn(48, dtype=half), torch.tensor([0, 1, 651, 700]), randn(700, 48)
        assert tuning.conv_positional(48, 9, 2, capability)["BLOCK_N"] == 256
    elif name == "conv_gelu":
        operands = randn(300, 16, dtype=half), randn(512, 48, dtype=half), *randn(3, 512, dtype=half)
        monkeypatch.setattr(tuning, "norm_in_convolution", lambda *shape: True)
    else:
        operands = randn(130, 70, dtype=half), randn(300, 70, dtype=half), randn(300, dtype=half)
    check(name, *operands, tolerance=half if name == "ctc_argmax" else None)


def test_unknown_gpus_get_blocks_for_the_least_shared_memory():
    from hubert_fast.kernels import tuning

    for capability in ((12, 0), (12, 1), (11, 0), (13, 0), (8, 9)):
        assert tuning.shared_bytes(capability) == tuning.LEAST_SHARED_BYTES
        for blocks in (tuning.linear(15000, 1024, 4096, 2, capability), tuning.conv_positional(64, 128, 2, capability)):
            needed = (blocks["BLOCK_M"] + blocks["BLOCK_N"]) * blocks["BLOCK_K"] * 2 * blocks["num_stages"]
            assert needed <= tuning.LEAST_SHARED_BYTES


def test_tuned_blocks_of_the_nearest_row_count_are_preferred(monkeypatch):
    from hubert_fast.kernels import tuning

    few, many = {"BLOCK_M": 1}, {"BLOCK_M": 2}
    tuned = {("linear", (9, 0), 512, 7, 5, 2): few, ("linear", (9, 0), 16384, 7, 5, 2): many}
    monkeypatch.setattr(tuning, "TUNED", tuned)
    tuning.linear.cache_clear()
    actual = [tuning.linear(rows, 7, 5, 2, (9, 0)) for rows in (1, 300, 2000, 6000, 100_000)]
    assert actual == [few, few, few, many, many]
    assert tuning.linear(300, 7, 5, 2, (8, 0)) not in (few, many)
    tuning.linear.cache_clear()


@pytest.mark.parametrize("setting", ["legacy", "matmul", "all"])
def test_tf32_is_used_if_pytorch_allows_it(setting):
    """Each setting has its own process, because PyTorch refuses to mix its old and new settings."""
    statements = {
        "legacy": "torch.set_float32_matmul_precision('high')",
        "matmul": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "all": "torch.backends.fp32_precision = 'tf32'",
    }
    if setting != "legacy" and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this PyTorch has only the legacy setting")
    code = f"""
import torch
from hubert_fast.kernels.checks import precision_of
assert precision_of(torch.float32) == "tf32x3"
{statements[setting]}
assert precision_of(torch.float32) == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctc_argmax_ignores_autocast():
    x, weight, bias = randn(67, 48), randn(32, 48), randn(32)
    expected = ops.ctc_argmax(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        for backend in ("eager", "triton"):
            assert_close(ops.ctc_argmax(x, weight, bias, backend=backend)[1], expected[1], "other graph")


def test_frames_after_the_last_utterance_are_zeros():
    q, k, v = randn(3, 9, 1, 16)
    x, weight, bias = randn(9, 16), randn(1, 3, 16, 16), randn(16)
    for backend in ("eager", "triton"):
        assert not ops.attention(q, k, v, torch.tensor([0, 4]), backend=backend)[4:].any()
        assert not ops.conv_positional(x, weight, bias, torch.tensor([0, 4]), x, backend=backend)[4:].any()


def test_attention_with_scores_of_minus_infinity():
    q, k, v = torch.ones(3, 80, 1, 16)
    k[:40] = -torch.inf
    check("attention", q, k, v, torch.tensor([0, 80]), tolerance="attention")


def test_conv_first_with_strided_utterance_indices():
    waveform, weight, means = randn(1300), randn(3, 10, 24), randn(3, 10)
    utterances = torch.tensor([[0, 9], [0, 9], [1, 9], [2, 9], [2, 9]], dtype=torch.int32)[:, 0]
    check("conv_first", waveform, weight, None, None, None, means, utterances, 64)


def test_empty_outputs_under_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        conv_first = ops.conv_first(torch.empty(9), torch.empty(10, 4), backend="triton")
        conv_gelu = ops.conv_gelu(torch.empty(2, 8), torch.empty(4, 24), backend="triton")
    assert conv_first.shape == (0, 4) and conv_gelu.shape == (0, 4)


def test_positional_groups_too_wide_for_the_kernel_use_the_definition():
    operands = randn(5, 160), randn(1, 3, 160, 160), randn(160), torch.tensor([0, 5])
    assert ops.conv_positional(*operands).shape == (5, 160)
    with pytest.raises(RuntimeError, match="groups have 160 channels, but the kernel takes up to 128"):
        ops.conv_positional(*operands, backend="triton")


def test_linear_persistent_compiles_once_for_all_row_counts(monkeypatch):
    """The number of programs is a compile-time constant, so it must not depend on the number of rows."""
    from hubert_fast.kernels import linear_persistent

    launches = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *operands, **constants: launches.append((grid, constants))

    monkeypatch.setattr(linear_persistent, "_linear_persistent_kernel", Recorder())
    weight, bias = torch.empty(512, 64), torch.empty(512)
    for rows in (4096, 4200, 8448, 60_000):
        x = torch.empty(rows, 64)
        linear_persistent.launch(x, weight, bias, torch.empty(rows, 512), True)
    assert [grid for grid, _ in launches] == [(64,), (66,), (132,), (132,)]  # tiles of 128 x 256, at most one a multiprocessor
    assert all(constants == launches[0][1] for _, constants in launches) and launches[0][1]["PROGRAMS"] == 132


@pytest.mark.parametrize("channels", [40, 512], ids=["narrow", "wide"])
def test_eps_reaches_the_kernels(channels):
    """Here eps is about as large as the variance, so that a kernel that ignores it fails."""
    vectors, eps = randn(3, channels), 0.5
    bias, norm = vectors[0], vectors[1:]
    check("layer_norm", 0.7 * randn(5, channels), *norm, eps=eps)
    check("add_layer_norm", randn(5, channels), randn(5, channels), bias, *norm, eps=eps)
    check("conv_gelu", randn(9, 24), 0.1 * randn(channels, 48), bias, *norm, eps=eps)
    check("conv_first", randn(999), 0.2 * randn(10, channels), bias, *norm, eps=eps)
