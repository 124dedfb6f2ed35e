"""Compare the packed graph on interpreted kernels with the same graph in plain PyTorch, packed and padded."""

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


def run_on(backend, monkeypatch, function, *arguments, **options):
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    with torch.no_grad():
        return function(*arguments, **options)


def packed(model, lengths=LENGTHS, **options):
    hop = model.config.inputs_to_logits_ratio
    return PackedAudio.from_waveforms([torch.randn(length) for length in lengths], hop_samples=hop, **options)


def check(model, monkeypatch, *arguments, tolerance="other graph", **options):
    call = model.forward_packed if isinstance(arguments[0], PackedAudio) else model
    expected = run_on("eager", monkeypatch, call, *arguments, output_hidden_states=True, **options)
    actual = run_on("triton", monkeypatch, call, *arguments, output_hidden_states=True, **options)
    assert_close(actual[0], expected[0], tolerance)
    assert actual[0].dtype == expected[0].dtype
    for index, (state, reference) in enumerate(zip(actual.hidden_states, expected.hidden_states, strict=True)):
        assert state.dtype == reference.dtype
        assert_close(state, reference, tolerance, f"state {index}")
    return actual


@architectures
def test_packed_calls(values, monkeypatch):
    model = model_of(HubertModel, values)
    actual = check(model, monkeypatch, packed(model, normalize=True))
    assert len({state.data_ptr() for state in actual.hidden_states}) == len(actual.hidden_states)


@architectures
def test_padded_calls(values, monkeypatch):
    model = model_of(HubertModel, values)
    waveforms, mask = masked_batch((2400, 1700, 400, 100))
    check(model, monkeypatch, waveforms + 0.1, attention_mask=mask)


@pytest.mark.parametrize("cls", [HubertForCTC, HubertForSequenceClassification])
@both
def test_calls_of_models_with_heads(cls, values, monkeypatch):
    model = model_of(cls, values)
    check(model, monkeypatch, packed(model))


@pytest.mark.parametrize("cls", [HubertModel, HubertForCTC, HubertForSequenceClassification])
@both
def test_calls_read_nothing_back_from_the_device(cls, values, monkeypatch):
    model = model_of(cls, values)
    audio = packed(model, normalize=True)
    expected = run_on("eager", monkeypatch, model.forward_packed, audio)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", None)
        actual = run_on("triton", monkeypatch, model.forward_packed, audio)
    assert_close(actual[0], expected[0], "other graph")
    assert actual.cu_seqlens.tolist() == [0, 7, 7, 8, 8, 10, 12]


@both
def test_half_precision(values, monkeypatch):
    model = model_of(HubertModel, values, hidden_size=64, num_conv_pos_embedding_groups=4).half()
    audio = packed(model, (2400, 1039, 720))
    actual = check(model, monkeypatch, audio, tolerance="half-precision model")
    exact = run_on("eager", monkeypatch, model.double().forward_packed, audio)[0]
    assert_close(actual[0], exact, "half-precision model")


@both
def test_int16_and_slices_of_time(values, monkeypatch):
    from hubert_fast.packed import kernel_graph

    model = model_of(HubertModel, values)
    waveforms = [(3000 * torch.randn(length)).short() for length in (6000, 401)]
    audio = PackedAudio.from_waveforms(waveforms, normalize=True)
    monkeypatch.setattr(kernel_graph, "SLICE_BYTES_GPU", 1)
    check(model, monkeypatch, audio)


def test_feed_forward_on_kernels_instead_of_the_library(monkeypatch):
    from hubert_fast.kernels import tuning

    model = model_of(HubertModel)
    monkeypatch.setattr(tuning, "linear_add_by_library", lambda *shape: False)
    monkeypatch.setattr(tuning, "linear_gelu_by_library", lambda *shape: False)
    check(model, monkeypatch, packed(model))


@pytest.mark.parametrize("lengths", [(), (399, 0)], ids=["no utterance", "no frame"])
def test_batches_without_frames(lengths, monkeypatch):
    model = model_of(HubertModel)
    actual = run_on("triton", monkeypatch, model.forward_packed, packed(model, lengths), output_hidden_states=True)
    assert actual.cu_seqlens.tolist() == [0] * (len(lengths) + 1)
    assert all(state.shape == (0, 48) for state in actual.hidden_states) and len(actual.hidden_states) == 4


def test_nan_stays_in_its_utterance(monkeypatch):
    model = model_of(HubertModel, POST_LN)
    waveforms = [torch.randn(length) for length in (800, 900, 1000)]
    expected = run_on("triton", monkeypatch, model.forward_packed, PackedAudio.from_waveforms(waveforms)).unpack()
    waveforms[1][500] = torch.nan
    actual = run_on("triton", monkeypatch, model.forward_packed, PackedAudio.from_waveforms(waveforms)).unpack()
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[2], expected[2]) and actual[1].isnan().all()


def test_weight_changes_are_noticed(monkeypatch):
    model = model_of(HubertModel, PRE_LN)
    audio = packed(model, (1000,))
    before = run_on("triton", monkeypatch, model.forward_packed, audio)[0]
    for parameter in (
        model.feature_extractor.conv_layers[2].conv.weight,
        model.encoder.pos_conv_embed.conv.bias,
        model.encoder.layers[1].attention.k_proj.weight,
    ):
        parameter.data[0] += 1  # an edit that no version counter sees
        after = run_on("triton", monkeypatch, model.forward_packed, audio)[0]
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
    ids=["activation", "convolution activation", "positional groups", "head dim", "float64"],
)
def test_unsupported_models_give_a_reason_and_run_without_kernels(values, dtype, reason, monkeypatch):
    model = model_of(HubertModel, PRE_LN, **values).to(dtype)
    with pytest.raises(RuntimeError, match=f"backend triton was requested, but cannot run: .*{reason}"):
        run_on("triton", monkeypatch, model.forward_packed, packed(model))
    assert run_on("auto", monkeypatch, model.forward_packed, packed(model))[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("feat_extract_activation", "feature_extractor.conv_layers.4"),
        ("feat_extract_activation", "encoder.pos_conv_embed"),
        ("hidden_act", "encoder.layers.2.feed_forward"),
    ],
)
@both
def test_models_with_replaced_activations_do_not_run_on_kernels(values, name, module, monkeypatch):
    model = model_of(HubertModel, values)
    audio = packed(model)
    run_on("triton", monkeypatch, model.forward_packed, audio)
    attribute = "intermediate_act_fn" if name == "hidden_act" else "activation"
    setattr(model.get_submodule(module), attribute, torch.relu)
    reason = f"{name} is replaced in a module, but kernels support only 'gelu'"
    with pytest.raises(RuntimeError, match=f"backend triton was requested, but cannot run: .*{reason}"):
        run_on("triton", monkeypatch, model.forward_packed, audio)
    waveform = torch.randn(1, 2400)
    expected = run_on("eager", monkeypatch, model, waveform, output_attentions=True)[
        0
    ]  # requesting attentions runs the modules
    assert_close(run_on("auto", monkeypatch, model, waveform)[0], expected, "other graph")


def test_log_says_whether_kernels_ran(monkeypatch, caplog):
    model = model_of(HubertModel)
    for backend, message in (("triton", "packed, on kernels"), ("eager", "packed, in plain PyTorch")):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "hubert_fast"):
            run_on(backend, monkeypatch, model.forward_packed, packed(model, (400,)))
        assert message in caplog.text


@pytest.mark.parametrize("backend", ["eager", "triton"])
@both
def test_argmax_packed_matches_the_logits(backend, values, monkeypatch):
    model = model_of(HubertForCTC, values)
    audio = packed(model)
    logits = run_on("eager", monkeypatch, model.forward_packed, audio).logits
    actual = run_on(backend, monkeypatch, model.argmax_packed, audio)
    assert actual.ids.dtype == torch.int32 and torch.equal(actual.ids, logits.argmax(-1).int())
    assert_close(actual.log_probs, logits.log_softmax(-1).amax(-1), "other graph")
    by_ids = greedy_decode(actual.ids, actual.cu_seqlens, LETTERS, blank_id=0, log_probs=actual.log_probs, timestamps="word")
    by_logits = greedy_decode(logits, actual.cu_seqlens, LETTERS, blank_id=0, timestamps="word")
    assert [transcript.text for transcript in by_ids] == [transcript.text for transcript in by_logits] and len(
        actual.unpack()
    ) == len(LENGTHS)


def test_windows_of_many_hops(monkeypatch):
    model = model_of(HubertModel, POST_LN, conv_dim=(8, 16, 24), conv_kernel=(10, 3, 9), conv_stride=(5, 2, 2))
    check(model, monkeypatch, packed(model, (900, 100, 333)))


def test_argmax_packed_of_a_trainable_head_requires_grad(monkeypatch):
    model = model_of(HubertForCTC).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    assert model.argmax_packed(packed(model, (900,))).log_probs.requires_grad


def test_argmax_packed_runs_hooks_of_the_head(monkeypatch):
    model = model_of(HubertForCTC)
    audio = packed(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: -output)
    actual = run_on("triton", monkeypatch, model.argmax_packed, audio)
    assert torch.equal(actual.ids, run_on("eager", monkeypatch, model.forward_packed, audio).logits.argmax(-1).int())
    assert model.argmax_packed(audio).log_probs.requires_grad


@both
def test_accelerated_transformers_models(values, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from hubert_fast import accelerate

    model = transformers.HubertForCTC(transformers.HubertConfig(**values)).eval()
    waveforms, mask = masked_batch((2400, 1700, 401))
    expected = run_on("eager", monkeypatch, model, waveforms, attention_mask=mask).logits
    actual = run_on("triton", monkeypatch, accelerate(model), waveforms, attention_mask=mask).logits
    assert_close(true_frames(actual, mask), true_frames(expected, mask), "other graph")
