"""Return the hidden states of chosen layers: those of a whole pass, with no layer above the highest of them computed."""

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from small_models import ALL, model_of

from hubert_fast import HubertForCTC, HubertModel, PackedAudio

architectures = pytest.mark.parametrize("values", ALL.values(), ids=ALL)
LENGTHS = (8000, 401, 0, 399, 6399)


def packed(model, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(5)
    waveforms = [torch.randn(length, generator=generator) for length in lengths]
    return PackedAudio.from_waveforms(waveforms, hop_samples=model.config.inputs_to_logits_ratio)


def layers_run(model):
    """Record which layers of a model run, whichever graph runs them."""
    ran = []
    for number, layer in enumerate(model.encoder.layers, 1):
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    return ran


@architectures
@torch.no_grad()
def test_states_are_those_of_a_whole_pass(values):
    model = model_of(HubertModel, values)
    deepest = model.config.num_hidden_layers
    waveforms, mask = masked_batch((8000, 401, 6399))
    audio = packed(model)
    whole, whole_packed = model(waveforms, mask, output_hidden_states=True), model.forward_packed(audio, True)
    for layers in {(0,), (deepest,), (deepest // 2,), (deepest, 0), (0, deepest // 2), (-1, -1), (deepest // 2, deepest // 2)}:
        output, output_packed = model(waveforms, mask, layers=layers), model.forward_packed(audio, layers=list(layers))
        assert model.explain_path() == "packed"
        assert list(output) == ["hidden_states"] and list(output_packed) == ["hidden_states", "cu_seqlens"]
        assert len(output.hidden_states) == len(output_packed.hidden_states) == len(layers)
        for position, layer in enumerate(layers):
            assert_close(output.hidden_states[position], whole.hidden_states[layer], "same graph", f"{layers}")
            assert_close(output_packed.hidden_states[position], whole_packed.hidden_states[layer], "same graph", f"{layers}")
        for utterance, expected in zip(output_packed.unpack(), whole_packed.unpack("hidden_states"), strict=True):
            for position, layer in enumerate(layers):
                assert len(utterance[position]) == len(expected[layer])
                if len(expected[layer]):
                    assert_close(utterance[position], expected[layer], "same graph")


@pytest.mark.parametrize("values", [PRE_LN, POST_LN], ids=["pre-LN", "post-LN"])
@torch.no_grad()
def test_definition_gives_the_same_states(values):
    model = model_of(HubertModel, values).double()
    waveforms, mask = masked_batch((8000, 6399))
    waveforms = waveforms.double()
    fast, defined = (model(waveforms, mask, layers=[1, 0], output_attentions=flag) for flag in (False, True))
    assert len(defined.attentions) == 1  # of the one layer that ran
    frames = model.frame_counts(mask.sum(-1)).tolist()
    for actual, expected in zip(fast.hidden_states, defined.hidden_states, strict=True):
        for row, count in enumerate(frames):
            assert_close(actual[row, :count], expected[row, :count], "other graph")


@pytest.mark.parametrize("values", [PRE_LN, POST_LN], ids=["pre-LN", "post-LN"])
@pytest.mark.parametrize("layers", [[1], [0], [2, 1]], ids=str)
def test_layers_above_the_highest_do_not_run(values, layers, monkeypatch):
    model = model_of(HubertModel, {**values, "num_hidden_layers": 4})
    audio = packed(model)
    ran = []
    from hubert_fast.packed import torch_graph

    run_layer = torch_graph._run_layer
    monkeypatch.setattr(torch_graph, "_run_layer", lambda *arguments: ran.append(arguments[2]) or run_layer(*arguments))
    with torch.no_grad():
        model.forward_packed(audio, layers=layers)
    assert ran == list(model.encoder.layers[: max(layers)])
    hooked = layers_run(model)  # hooks, and gradients, are for the definition
    model(torch.randn(1, 2000), layers=layers)
    model.forward_packed(packed(model, (2000,)), layers=layers)
    assert hooked == 2 * list(range(1, max(layers) + 1))


@torch.no_grad()
def test_weights_above_the_highest_layer_are_not_read():
    model = model_of(HubertModel, {**PRE_LN, "num_hidden_layers": 3})
    audio = packed(model)
    expected = model.forward_packed(audio, layers=[2])
    for weight in (*model.encoder.layers[2].parameters(), *model.encoder.layer_norm.parameters()):
        weight.fill_(torch.nan)
    assert_close(model.forward_packed(audio, layers=[2]).hidden_states[0], expected.hidden_states[0], "same graph")
    assert model.forward_packed(audio)[0].isnan().all()


@torch.no_grad()
def test_final_norm_can_be_chosen():
    model = model_of(HubertModel, PRE_LN)
    audio, deepest = packed(model), model.config.num_hidden_layers
    last, waveforms = model.forward_packed(audio).last_hidden_state, torch.randn(2, 4000)
    for call in (lambda **options: model.forward_packed(audio, **options), lambda **options: model(waveforms, **options)):
        before = call(layers=[1, deepest], final_norm=False).hidden_states
        after = call(layers=[1, deepest], final_norm=True).hidden_states
        usual = call(layers=[1, deepest]).hidden_states
        for raw, normed in zip(before, after):
            assert_close(normed, model.encoder.layer_norm(raw), "other graph")
        assert_close(usual[0], before[0], "same graph")
        assert_close(usual[1], after[1], "same graph")
        assert not torch.allclose(usual[1], before[1], atol=1e-2)
    assert_close(model.forward_packed(audio, layers=[deepest], final_norm=True).hidden_states[0], last, "same graph")


@torch.no_grad()
def test_configuration_that_returns_all_states_does_not_interfere():
    model = model_of(HubertModel, {**POST_LN, "output_hidden_states": True})
    assert len(model.forward_packed(packed(model), layers=[1]).hidden_states) == 1
    assert len(model(torch.randn(1, 2000), layers=[1], return_dict=False)) == 1


@pytest.mark.parametrize("values", [PRE_LN, POST_LN], ids=["pre-LN", "post-LN"])
def test_gradients_reach_the_layers_below_alone(values):
    model = model_of(HubertModel, values)
    model(torch.randn(1, 4000), layers=[1]).hidden_states[0].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.encoder.layers[0].parameters())
    assert all(weight.grad is None for weight in model.encoder.layers[1].parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision(dtype):
    model = model_of(HubertModel, PRE_LN).to(dtype)
    audio = packed(model)
    whole = model.forward_packed(audio, output_hidden_states=True).hidden_states
    for actual, expected in zip(model.forward_packed(audio, layers=[0, 1, -1]).hidden_states, (*whole[:2], whole[-1])):
        assert actual.dtype == expected.dtype == dtype
        assert torch.equal(actual, expected)


@torch.no_grad()
def test_batches_without_frames():
    model = model_of(HubertModel, PRE_LN)
    for audio in (packed(model, ()), packed(model, (399, 0))):
        output = model.forward_packed(audio, layers=[0, 2])
        assert [list(state.shape) for state in output.hidden_states] == [[0, model.config.hidden_size]] * 2
        assert output.unpack() == [] or all(len(state) == 0 for states in output.unpack() for state in states)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(layers=9), TypeError, "sequence of layer numbers"),
        (dict(layers="9"), TypeError, "sequence of layer numbers"),
        (dict(layers=[1.0]), TypeError, "one is 1.0"),
        (dict(layers=[True]), TypeError, "one is True"),
        (dict(layers=[]), ValueError, "empty"),
        (dict(layers=[4]), ValueError, r"0 \(the input of the first layer\) to 3, but one is 4"),
        (dict(layers=[-5]), ValueError, "one is -5"),
        (dict(layers=[1], final_norm=True), ValueError, "no final norm"),
        (dict(final_norm=True), ValueError, "layers is None"),
        (dict(layers=[1], output_hidden_states=True), ValueError, "not both"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(options, error, message):
    model = model_of(HubertModel, POST_LN)
    with pytest.raises(error, match=message):
        model.forward_packed(packed(model), **options)
    with pytest.raises(error, match=message):
        model(torch.randn(1, 2000), **options)


def test_heads_have_no_layers():
    with pytest.raises(TypeError, match="layers"):
        model_of(HubertForCTC, POST_LN)(torch.randn(1, 2000), layers=[1])
