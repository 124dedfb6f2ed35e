"""The packed graph on kernels, interpreted: every configuration, packed and padded, against the same graph in plain PyTorch."""

import logging

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch, true_frames
from small_models import ALL, model_of

from hubert_fast import HubertForCTC, HubertForSequenceClassification, HubertModel, PackedAudio
from hubert_fast.ctc import greedy_decode
from hubert_fast.dispatch import BACKEND_VARIABLE

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

ON_KERNELS = {name: values for name, values in ALL.items() if values.get("hidden_act", "gelu") == "gelu"}
ON_KERNELS |= {"post-LN, eps 1e-3": dict(POST_LN, layer_norm_eps=1e-3), "pre-LN, eps 1e-3": dict(PRE_LN, layer_norm_eps=1e-3)}
LETTERS = ["<pad>", *(chr(65 + index) for index in range(31))]
LENGTHS = (2400, 0, 401, 1, 1039, 720)
architectures = pytest.mark.parametrize("values", ON_KERNELS.values(), ids=ON_KERNELS)
both = pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])


def on(backend, monkeypatch, function, *arguments, **named):
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    with torch.no_grad():
        return function(*arguments, **named)


def packed(model, lengths=LENGTHS, **options):
    hop = model.config.inputs_to_logits_ratio
    return PackedAudio.from_waveforms([torch.randn(length) for length in lengths], hop_samples=hop, **options)


def check(model, monkeypatch, *arguments, tolerance="other graph", **named):
    call = model.forward_packed if isinstance(arguments[0], PackedAudio) else model
    expected = on("eager", monkeypatch, call, *arguments, output_hidden_states=True, **named)
    found = on("triton", monkeypatch, call, *arguments, output_hidden_states=True, **named)
    assert_close(found[0], expected[0], tolerance)
    assert found[0].dtype == expected[0].dtype
    for index, (state, other) in enumerate(zip(found.hidden_states, expected.hidden_states, strict=True)):
        assert state.dtype == other.dtype
        assert_close(state, other, tolerance, f"state {index}")
    return found


@architectures
def test_packed(values, monkeypatch):
    model = model_of(HubertModel, values)
    found = check(model, monkeypatch, packed(model, normalize=True))
    assert len({state.data_ptr() for state in found.hidden_states}) == len(found.hidden_states)


@architectures
def test_padded(values, monkeypatch):
    model = model_of(HubertModel, values)
    waveforms, mask = masked_batch((2400, 1700, 400, 100))
    check(model, monkeypatch, waveforms + 0.1, attention_mask=mask)


@pytest.mark.parametrize("cls", [HubertForCTC, HubertForSequenceClassification])
@both
def test_heads(cls, values, monkeypatch):
    model = model_of(cls, values)
    check(model, monkeypatch, packed(model))


@pytest.mark.parametrize("cls", [HubertModel, HubertForCTC, HubertForSequenceClassification])
@both
def test_nothing_is_read_back_from_the_device(cls, values, monkeypatch):
    model = model_of(cls, values)
    audio = packed(model, normalize=True)
    expected = on("eager", monkeypatch, model.forward_packed, audio)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", None)
        found = on("triton", monkeypatch, model.forward_packed, audio)
    assert_close(found[0], expected[0], "other graph")
    assert found.cu_seqlens.tolist() == [0, 7, 7, 8, 8, 10, 12]


@both
def test_half_precision(values, monkeypatch):
    model = model_of(HubertModel, values, hidden_size=64, num_conv_pos_embedding_groups=4).half()
    audio = packed(model, (2400, 1039, 720))
    found = check(model, monkeypatch, audio, tolerance="half-precision model")
    exact = on("eager", monkeypatch, model.double().forward_packed, audio)[0]
    assert_close(found[0], exact, "half-precision model")


@both
def test_int16_and_slices_of_time(values, monkeypatch):
    from hubert_fast.packed import kernel_graph

    model = model_of(HubertModel, values)
    waveforms = [(3000 * torch.randn(length)).short() for length in (6000, 401)]
    audio = PackedAudio.from_waveforms(waveforms, normalize=True)
    monkeypatch.setattr(kernel_graph, "SLICE_BYTES_GPU", 1)
    check(model, monkeypatch, audio)


def test_products_with_the_residual_add_inside(monkeypatch):
    from hubert_fast.kernels import tuning

    model = model_of(HubertModel)
    monkeypatch.setattr(tuning, "linear_add_by_library", lambda *shape: False)
    monkeypatch.setattr(tuning, "linear_gelu_by_library", lambda *shape: False)
    check(model, monkeypatch, packed(model))


@pytest.mark.parametrize("lengths", [(), (399, 0)], ids=["no utterance", "no frame"])
def test_batches_without_frames(lengths, monkeypatch):
    model = model_of(HubertModel)
    found = on("triton", monkeypatch, model.forward_packed, packed(model, lengths), output_hidden_states=True)
    assert found.cu_seqlens.tolist() == [0] * (len(lengths) + 1)
    assert all(state.shape == (0, 48) for state in found.hidden_states) and len(found.hidden_states) == 4


def test_nan_stays_in_its_utterance(monkeypatch):
    model = model_of(HubertModel, POST_LN)
    waveforms = [torch.randn(length) for length in (800, 900, 1000)]
    expected = on("triton", monkeypatch, model.forward_packed, PackedAudio.from_waveforms(waveforms)).unpack()
    waveforms[1][500] = torch.nan
    found = on("triton", monkeypatch, model.forward_packed, PackedAudio.from_waveforms(waveforms)).unpack()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2]) and found[1].isnan().all()


def test_a_change_of_any_weight_is_seen(monkeypatch):
    model = model_of(HubertModel, PRE_LN)
    audio = packed(model, (1000,))
    before = on("triton", monkeypatch, model.forward_packed, audio)[0]
    for parameter in (
        model.feature_extractor.conv_layers[2].conv.weight,
        model.encoder.pos_conv_embed.conv.bias,
        model.encoder.layers[1].attention.k_proj.weight,
    ):
        parameter.data[0] += 1  # which no version counter sees
        after = on("triton", monkeypatch, model.forward_packed, audio)[0]
        assert not torch.equal(before, after)
        before = after


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        (dict(hidden_act="relu"), torch.float32, "hidden_act is 'relu', but kernels support only 'gelu'"),
        (
            dict(feat_extract_activation="silu"),
            torch.float32,
            "feat_extract_activation is 'silu', but kernels support only 'gelu'",
        ),
        (
            dict(hidden_size=288, num_attention_heads=6, num_conv_pos_embedding_groups=2),
            torch.float32,
            "positional groups have 144",
        ),
        (dict(hidden_size=192, num_attention_heads=1), torch.float32, "heads have 192 channels, but kernels take up to 128"),
        ({}, torch.float64, "float64"),
    ],
    ids=["activation", "convolutions' activation", "positional groups", "head dim", "float64"],
)
def test_what_kernels_were_not_made_for(values, dtype, reason, monkeypatch):
    model = model_of(HubertModel, PRE_LN, **values).to(dtype)
    with pytest.raises(RuntimeError, match=f"backend triton was requested, but cannot run: .*{reason}"):
        on("triton", monkeypatch, model.forward_packed, packed(model))
    assert on("auto", monkeypatch, model.forward_packed, packed(model))[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("feat_extract_activation", "feature_extractor.conv_layers.4"),
        ("feat_extract_activation", "encoder.pos_conv_embed"),
        ("hidden_act", "encoder.layers.2.feed_forward"),
    ],
)
@both
def test_a_replaced_activation_is_not_left_to_kernels(values, name, module, monkeypatch):
    model = model_of(HubertModel, values)
    audio = packed(model)
    on("triton", monkeypatch, model.forward_packed, audio)
    model.get_submodule(module).activation = torch.relu
    reason = f"{name} is replaced in a module, but kernels support only 'gelu'"
    with pytest.raises(RuntimeError, match=f"backend triton was requested, but cannot run: .*{reason}"):
        on("triton", monkeypatch, model.forward_packed, audio)
    waveform = torch.randn(1, 2400)
    expected = on("eager", monkeypatch, model, waveform, output_attentions=True)[0]  # with attentions, modules run
    assert_close(on("auto", monkeypatch, model, waveform)[0], expected, "other graph")


def test_which_form_ran_is_told(monkeypatch, caplog):
    model = model_of(HubertModel)
    for backend, told in (("triton", "packed, on kernels"), ("eager", "packed, in plain PyTorch")):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "hubert_fast"):
            on(backend, monkeypatch, model.forward_packed, packed(model, (400,)))
        assert told in caplog.text


@pytest.mark.parametrize("backend", ["eager", "triton"])
@both
def test_argmax_packed_is_that_of_the_logits(backend, values, monkeypatch):
    model = model_of(HubertForCTC, values)
    audio = packed(model)
    logits = on("eager", monkeypatch, model.forward_packed, audio).logits
    found = on(backend, monkeypatch, model.argmax_packed, audio)
    assert found.ids.dtype == torch.int32 and torch.equal(found.ids, logits.argmax(-1).int())
    assert_close(found.log_probs, logits.log_softmax(-1).amax(-1), "other graph")
    by_ids = greedy_decode(found.ids, found.cu_seqlens, LETTERS, blank_id=0, log_probs=found.log_probs, timestamps="word")
    by_logits = greedy_decode(logits, found.cu_seqlens, LETTERS, blank_id=0, timestamps="word")
    assert [one.text for one in by_ids] == [one.text for one in by_logits] and len(found.unpack()) == len(LENGTHS)


def test_windows_of_many_hops(monkeypatch):
    model = model_of(HubertModel, POST_LN, conv_dim=(8, 16, 24), conv_kernel=(10, 3, 9), conv_stride=(5, 2, 2))
    check(model, monkeypatch, packed(model, (900, 100, 333)))


def test_argmax_packed_with_a_head_that_learns(monkeypatch):
    model = model_of(HubertForCTC).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    assert model.argmax_packed(packed(model, (900,))).log_probs.requires_grad


def test_argmax_packed_of_a_head_that_is_more_than_a_linear_layer(monkeypatch):
    model = model_of(HubertForCTC)
    audio = packed(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: -output)
    found = on("triton", monkeypatch, model.argmax_packed, audio)
    assert torch.equal(found.ids, on("eager", monkeypatch, model.forward_packed, audio).logits.argmax(-1).int())
    assert model.argmax_packed(audio).log_probs.requires_grad


@both
def test_accelerated_models_of_transformers(values, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from hubert_fast import accelerate

    model = transformers.HubertForCTC(transformers.HubertConfig(**values)).eval()
    waveforms, mask = masked_batch((2400, 1700, 401))
    expected = on("eager", monkeypatch, model, waveforms, attention_mask=mask).logits
    found = on("triton", monkeypatch, accelerate(model), waveforms, attention_mask=mask).logits
    assert_close(true_frames(found, mask), true_frames(expected, mask), "other graph")
