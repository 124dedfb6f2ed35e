"""Compare oneDNN's operators with float64, and check when the packed graph uses them and packs weights for them."""

import logging

import pytest
import torch
import torch.nn.functional as F
from conftest import POST_LN, PRE_LN, assert_close, perturb

from hubert_fast import HubertConfig, HubertForCTC
from hubert_fast.cli import main
from hubert_fast.packed import cpu_kernels, onednn, weights
from hubert_fast.tolerances import OP_TOLERANCES, largest_error

ADAPTERS = dict(PRE_LN, adapter_attn_dim=8)
WAVEFORMS = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
REASONS = {dtype: onednn.why_not(dtype) for dtype in (torch.float32, torch.bfloat16)}
dtypes = pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, marks=pytest.mark.skipif(bool(why), reason=str(why))) for dtype, why in REASONS.items()],
    ids=str,
)
needs_onednn = pytest.mark.skipif(bool(REASONS[torch.float32]), reason=str(REASONS[torch.float32]))


def check(actual, expected):
    assert actual.is_contiguous()
    assert largest_error(actual, expected) <= OP_TOLERANCES[actual.dtype].value


@dtypes
@pytest.mark.parametrize("gelu", [False, True], ids=["", "gelu"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows, inner, outer", [(1, 1, 1), (1, 64, 48), (7, 31, 3), (64, 96, 64), (257, 80, 130)])
def test_linear(dtype, gelu, with_bias, rows, inner, outer):
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((rows, inner), (outer, inner), (outer,)))
    bias = bias if with_bias else None
    expected = F.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    for layout in (weight, onednn.packed_linear(weight)):
        check(onednn.linear(x, layout, bias, gelu), F.gelu(expected) if gelu else expected)


@dtypes
def test_strides(dtype):
    """The operators are right with any strides, but a thousand times slower: they must get contiguous tensors."""
    x, weight = torch.randn(31, 40).to(dtype)[:, ::2], torch.randn(20, 48).to(dtype).t()
    expected = F.linear(x.double(), weight.double())
    with torch.profiler.profile(record_shapes=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for layout in (weight, onednn.packed_linear(weight)):
            check(onednn.linear(x, layout, None), expected)
    called = [event for event in profiler.events() if event.name == "aten::contiguous" or event.name == "aten::clone"]
    assert len(called) >= 4  # x twice, weight twice


@dtypes
@pytest.mark.parametrize("gelu", [False, True], ids=["", "gelu"])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (10, 5), (4, 3)])
@pytest.mark.parametrize("frames, inner, outer", [(10, 1, 16), (11, 24, 31), (67, 64, 32), (1201, 32, 64)])
def test_convolution(dtype, gelu, kernel, stride, frames, inner, outer):
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((frames, inner), (outer, inner, kernel), (outer,)))
    expected = F.conv1d(x.double().t()[None], weight.double(), bias.double(), stride=stride)[0].t()
    actual = onednn.convolution(x, onednn.packed_convolution(weight, stride), bias, kernel, stride, gelu)
    check(actual, F.gelu(expected) if gelu else expected)


@dtypes
def test_convolution_of_too_few_frames(dtype):
    weight = onednn.packed_convolution(torch.randn(4, 8, 3).to(dtype), 2)
    with pytest.raises(ValueError, match="3 taps needs as many frames, but got 2"):
        onednn.convolution(torch.randn(2, 8).to(dtype), weight, None, 3, 2)


def test_operators_that_compute_something_else_are_not_used(monkeypatch):
    onednn._why_not.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(onednn.platform, "machine", lambda: "aarch64")
        assert onednn.why_not(torch.float32) == "this is aarch64, where F.linear is fast"
    onednn._why_not.cache_clear()
    if REASONS[torch.float32] is None:
        with monkeypatch.context() as patch:
            patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
            assert "this CPU has no AVX-512" in onednn.why_not(torch.float32)
        onednn._why_not.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(onednn, "_epilogue", lambda gelu: ("gelu" if gelu else "none", [], "tanh"))  # the other GELU
            assert "differ from float64 by" in onednn.why_not(torch.float32)
        onednn._why_not.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(onednn, "_epilogue", lambda gelu: ())
            assert "are not the expected ones" in onednn.why_not(torch.float32)
        onednn._why_not.cache_clear()
        assert onednn.why_not(torch.float64) == "oneDNN does not multiply torch.float64 on this CPU"


def model_of(values):
    return perturb(HubertForCTC(HubertConfig(**values))).eval()


def laid_out(model, dtype=torch.float32):
    return model.hubert.fast_path.weights.weights_of(model.hubert, dtype)


@torch.no_grad()
def logits(model):
    assert model.explain_path() == "packed"
    return model(WAVEFORMS.to(model.dtype)).logits


@pytest.mark.parametrize("values", [POST_LN, PRE_LN, ADAPTERS], ids=["post-LN", "pre-LN", "adapters"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_the_graph_with_and_without_onednn(values, activation):
    model = model_of(dict(values, feat_extract_activation=activation, hidden_act=activation))
    with torch.no_grad():
        expected = model(WAVEFORMS, output_attentions=True).logits  # the definition
    for pack in (True, False):
        model.hubert.fast_path.weights.pack = pack
        model.hubert.fast_path.weights.clear()
        assert_close(logits(model), expected, "other graph")
        with torch.backends.mkldnn.flags(enabled=False):
            assert_close(logits(model), expected, "other graph")
            assert not laid_out(model).by_onednn and not laid_out(model).linears
    if REASONS[torch.float32] is None:
        assert laid_out(model).by_onednn


IN_CPP = dict(
    hidden_size=32, num_attention_heads=2, intermediate_size=48, num_hidden_layers=2, conv_dim=(16, 32), conv_kernel=(10, 3),
    conv_stride=(5, 2), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, vocab_size=8,
)  # fmt: skip
STABLE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)


@pytest.mark.parametrize("values", [{}, STABLE, {"conv_pos_batch_norm": True}], ids=["post-LN", "pre-LN", "batch norm"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_graph_with_convolutions_in_cpp(values, activation, monkeypatch):
    """Kernels in C++ need 16 channels, which the other small models lack. An activation may change after the layout."""
    model = model_of({**IN_CPP, **values, "feat_extract_activation": activation})
    for replacement in (None, F.silu):
        if replacement:
            for module in (model.hubert.encoder.pos_conv_embed, *model.hubert.feature_extractor.conv_layers):
                module.activation = replacement
        with torch.no_grad():
            expected = model(WAVEFORMS, output_attentions=True).logits  # the definition
        assert_close(logits(model), expected, "other graph")
    weights = laid_out(model)
    assert weights.positions_in_cpp == weights.first_in_cpp == (cpu_kernels.why_not(torch.float32) is None)
    with torch.backends.mkldnn.flags(enabled=False):
        assert_close(logits(model), expected, "other graph")
    for name in ("why_not", "why_not_positions", "why_not_first_convolution"):
        monkeypatch.setattr(cpu_kernels, name, lambda *arguments: "there is no extension")
    model.hubert.fast_path.weights.clear()
    assert_close(logits(model), expected, "other graph")
    assert not any(getattr(laid_out(model), name) for name in ("rows_in_cpp", "positions_in_cpp", "first_in_cpp"))


@needs_onednn
def test_when_linear_layers_are_packed(monkeypatch, caplog):
    model = model_of(ADAPTERS)
    size = sum(weight.numel() for name, weight in model.hubert.encoder.layers.named_parameters() if weight.dim() == 2) * 4
    size += model.hubert.feature_projection.projection.weight.nbytes

    def is_packed():
        model.hubert.fast_path.weights.clear()
        layouts = laid_out(model).linears
        assert len(layouts) in (0, 1 + 6 * len(model.hubert.encoder.layers))
        return bool(layouts)

    monkeypatch.delenv("HUBERT_FAST_PACK", raising=False)
    for available, expected in ((None, True), (4 * size + 1, True), (4 * size, False), (0, False)):
        monkeypatch.setattr(weights, "available_bytes", lambda: available)  # noqa: B023
        assert is_packed() is expected
    model.hubert.fast_path.weights.pack = True
    assert is_packed()
    monkeypatch.setenv("HUBERT_FAST_PACK", "0")
    assert not is_packed()
    monkeypatch.setenv("HUBERT_FAST_PACK", "1")
    model.hubert.fast_path.weights.pack = False
    assert is_packed()
    monkeypatch.setenv("HUBERT_FAST_PACK", "yes")
    with pytest.raises(ValueError, match="HUBERT_FAST_PACK must be 0 or 1, but is 'yes'"):
        is_packed()


@pytest.mark.parametrize("command", [["demo"], ["bench", "--config", "tiny", "--device", "cpu"]], ids=["demo", "bench"])
def test_commands_reject_an_invalid_setting(command, monkeypatch, capsys):
    monkeypatch.setenv("HUBERT_FAST_PACK", "yes")
    assert main(command) == 2
    assert "hubert-fast: HUBERT_FAST_PACK must be 0 or 1, but is 'yes'" in capsys.readouterr().err


@needs_onednn
def test_packing_that_runs_out_of_memory(monkeypatch, caplog):
    model = model_of(POST_LN)
    expected = logits(model)
    model.hubert.fast_path.weights.clear()

    def fail(weight):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(onednn, "packed_linear", fail)
    with caplog.at_level(logging.WARNING, "hubert_fast"):
        assert_close(logits(model), expected, "same graph")
    assert "linear layers are not packed, since memory does not suffice" in caplog.text


@needs_onednn
def test_autocast_packs_for_its_own_dtype():
    if REASONS[torch.bfloat16]:
        pytest.skip(REASONS[torch.bfloat16])
    model = model_of(PRE_LN)
    expected = logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(logits(model).float(), expected, "half-precision model")
    assert set(model.hubert.fast_path.weights._entries) == {torch.float32, torch.bfloat16}
