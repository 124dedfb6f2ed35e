"""Whatever changes a model's weights reaches the packed graph at its next call, and nothing is kept that need not be."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, perturb
from torch import nn

from hubert_fast import HubertConfig, HubertForCTC, HubertModel
from hubert_fast.packed.weights import PackedWeights, _Source

WAVEFORM = torch.randn(1, 6000, generator=torch.Generator().manual_seed(1))
both = pytest.mark.parametrize("values", [POST_LN, dict(PRE_LN, conv_pos_batch_norm=True)], ids=["weight norm", "batch norm"])


def fresh(values=POST_LN):
    return perturb(HubertForCTC(HubertConfig(**values))).eval()


def packed(model):
    with torch.no_grad():
        assert model.explain_path() == "packed"
        return model(WAVEFORM.to(model.dtype)).logits


def defined(model):
    with torch.no_grad():
        return model(WAVEFORM.to(model.dtype), output_attentions=True).logits


def everything(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def in_place(model):
    for parameter in everything(model):
        parameter.mul_(1.01)


def through_data(model):
    for parameter in everything(model):
        parameter.data.mul_(1.01)


def new_data(model):
    for parameter in everything(model):
        parameter.data = parameter.data * 1.01


@torch.no_grad()
def one_element(model):
    """Small enough to escape any sample: the version counter must see it."""
    model.hubert.feature_extractor.conv_layers[3].conv.weight[5, 7, 1] += 3
    model.hubert.encoder.pos_conv_embed.conv.bias[3] += 1


@torch.inference_mode()
def in_inference_mode(model):
    for parameter in everything(model):
        parameter.mul_(1.01)


def load(model, **options):
    state = {key: 1.01 * value if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.load_state_dict(state, **options)


def load_by_assignment(model):
    load(model, assign=True)


def step(model, kind=torch.optim.AdamW, **options):
    model.train()
    optimizer = kind(model.parameters(), lr=1e-3, **options)
    model(WAVEFORM, labels=torch.tensor([[1, 2]])).loss.backward()
    optimizer.step()
    model.eval()


def step_fused(model):
    step(model, fused=True)


def step_one_by_one(model):
    step(model, torch.optim.SGD, foreach=False)


def new_parameters(model):
    for layer in model.hubert.feature_extractor.conv_layers:
        layer.conv.weight = nn.Parameter(1.5 * layer.conv.weight.detach())


def new_convolution(model):
    layer = model.hubert.feature_extractor.conv_layers[2]
    layer.conv = copy.deepcopy(layer.conv)
    with torch.no_grad():
        layer.conv.weight.mul_(1.5)


def swap(model):
    layers = model.hubert.feature_extractor.conv_layers
    first, second = layers[1].conv.weight.detach().clone(), layers[4].conv.weight.detach().clone()
    torch.utils.swap_tensors(layers[1].conv.weight, nn.Parameter(1.5 * first))
    torch.utils.swap_tensors(layers[4].conv.weight, nn.Parameter(0.5 * second))


@both
@pytest.mark.parametrize(
    "edit",
    [
        *(in_place, through_data, new_data, one_element, in_inference_mode, load, load_by_assignment),
        *(step, step_fused, step_one_by_one, new_parameters, new_convolution, swap),
    ],
    ids=lambda edit: edit.__name__,
)
def test_an_edit_is_seen(values, edit):
    model = fresh(dict(values, conv_dim=(16, 24, 24, 16, 16, 24, 32)))
    before = packed(model)
    edit(model)
    after = packed(model)
    assert_close(after, defined(model), "other graph")
    assert (after - before).abs().max() > 1e-4  # it did change something


@both
def test_casting_is_seen(values):
    model = fresh(values)
    expected = packed(model)
    for cast in (model.double, model.half, model.bfloat16, model.float):
        cast()
        found = packed(model)
        assert found.dtype == model.dtype
        assert_close(found, defined(model), "half-precision model" if model.dtype.itemsize == 2 else "other graph")
    assert not torch.equal(found, expected)  # what was lost in half precision stays lost
    assert_close(model.to("cpu", torch.float64)(WAVEFORM.double()).logits, defined(model), "other graph")


@both
def test_copies_are_on_their_own(values):
    model = fresh(values)
    expected = packed(model)
    copies = [copy.deepcopy(model)]
    if values.get("conv_pos_batch_norm"):  # PyTorch pickles no module with weight norm, of transformers either
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies += [pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
        size = len(pickle.dumps(fresh(values)))
        assert len(pickle.dumps(model)) == pytest.approx(size, rel=0.01), "what was laid out is pickled too"
    in_place(model)
    for other in copies:
        assert torch.equal(packed(other), expected)
        in_place(other)
        assert_close(packed(other), packed(model), "same graph")


def test_the_sample_alone_sees_every_tap_and_channel_of_real_sizes():
    """Where no version counter tells: neither a step of the sample nor a size may hide a part of the tensor."""
    convolution, positions = torch.randn(512, 512, 3), torch.randn(1024, 64, 128)
    for tensor in (convolution, positions):
        for axis, size in enumerate(tensor.shape):
            for index in range(0, size, 7):
                source = _Source([tensor.data])
                tensor.select(axis, index).data.mul_(2)
                assert not torch.equal(source.sample, _Source._sample([tensor.data])), f"{index} of axis {axis}"
    with_nan = torch.full((100_000,), torch.nan)
    assert _Source([with_nan]).is_still([with_nan])


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = fresh()
        before = packed(model)
        model.hubert.feature_extractor.conv_layers[2].conv.weight.mul_(1.5)  # of tensors that count no versions
        assert not torch.allclose(packed(model), before)
        assert_close(packed(model), defined(model), "other graph")
    assert_close(packed(model), defined(model), "other graph")


def test_nothing_is_made_twice():
    model = fresh()
    weights = [model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32) for _ in range(2)]
    assert weights[0] is weights[1]
    other = model.hubert.fast_path.weights.weights_of(model.hubert, torch.bfloat16)
    assert model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32) is weights[0]
    assert other.convolutions[1].dtype == torch.bfloat16 and other.convolutions[0].dtype == torch.float32
    in_place(model)
    again = model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32)
    assert again is not weights[0] and len(model.hubert.fast_path.weights._entries) == 1  # the stale one went too


def test_what_it_costs():
    """As its docstring says: the convolutions and the spectrum, and no linear layer."""
    model = HubertModel(HubertConfig())
    weights = model.fast_path.weights.weights_of(model, torch.float32)
    assert isinstance(weights, PackedWeights)
    sizes = [sum(matrix.nbytes for matrix in weights.convolutions[1:]), weights.positions.nbytes]
    assert sizes == [4 * (4 * 3 + 2 * 2) * 512 * 512, 8 * 129 * 16 * 48 * 48]
    first = model.feature_extractor.conv_layers[0].conv.weight
    assert weights.convolutions[0].data_ptr() == first.data_ptr()  # a view


def test_stale_weights_are_freed_and_models_too():
    model = HubertModel(HubertConfig(**POST_LN)).eval()
    with torch.no_grad():
        model(WAVEFORM)
    old = weakref.ref(model.fast_path.weights._entries[torch.float32][1].positions)
    in_place(model)
    with torch.no_grad():
        model(WAVEFORM)
    assert old() is None
    kept, parameter = weakref.ref(model), weakref.ref(model.encoder.layer_norm.weight)
    del model
    gc.collect()
    assert kept() is None and parameter() is None
