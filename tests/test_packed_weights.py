"""Check that every change to a model's weights reaches the next packed call, and that stale copies are freed."""

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


def by_definition(model):
    with torch.no_grad():
        return model(WAVEFORM.to(model.dtype), output_attentions=True).logits


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def in_place(model):
    for parameter in trainable(model):
        parameter.mul_(1.01)


def through_data(model):
    for parameter in trainable(model):
        parameter.data.mul_(1.01)


def new_data(model):
    for parameter in trainable(model):
        parameter.data = parameter.data * 1.01


@torch.no_grad()
def one_element(model):
    """Small enough to escape any sample: the version counter must see it."""
    model.hubert.feature_extractor.conv_layers[3].conv.weight[5, 7, 1] += 3
    model.hubert.encoder.pos_conv_embed.conv.bias[3] += 1


@torch.inference_mode()
def in_inference_mode(model):
    for parameter in trainable(model):
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


def one_element_of_a_linear_layer(model):
    with torch.no_grad():
        model.hubert.encoder.layers[1].feed_forward.intermediate_dense.weight[5, 7] += 30


def new_linear_layer(model):
    attention = model.hubert.encoder.layers[1].attention
    attention.q_proj = copy.deepcopy(attention.q_proj)
    with torch.no_grad():
        attention.q_proj.weight.mul_(3)


def merged_through_data(model):
    """As adapters are merged, into a weight that is a part of a larger tensor."""
    projection = model.hubert.feature_projection.projection
    wide = torch.zeros(len(projection.weight), 3 * projection.in_features)
    wide[:, ::3] = projection.weight.detach()
    projection.weight.data = wide[:, ::3]
    packed(model)
    projection.weight.data += torch.ones(len(wide), 1) @ torch.ones(1, projection.in_features)


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
        *(one_element_of_a_linear_layer, new_linear_layer, merged_through_data),
    ],
    ids=lambda edit: edit.__name__,
)
def test_weight_edits_are_noticed(values, edit):
    model = fresh(dict(values, conv_dim=(16, 24, 24, 16, 16, 24, 32)))
    before = packed(model)
    edit(model)
    after = packed(model)
    assert_close(after, by_definition(model), "other graph")
    assert (after - before).abs().max() > 1e-4  # the edit changed the output


@both
def test_casts_are_noticed(values):
    model = fresh(values)
    expected = packed(model)
    for cast in (model.double, model.half, model.bfloat16, model.float):
        cast()
        actual = packed(model)
        assert actual.dtype == model.dtype
        assert_close(actual, by_definition(model), "half-precision model" if model.dtype.itemsize == 2 else "other graph")
    assert not torch.equal(actual, expected)  # what was lost in half precision stays lost
    assert_close(model.to("cpu", torch.float64)(WAVEFORM.double()).logits, by_definition(model), "other graph")


@both
def test_copies_are_independent(values):
    model = fresh(values)
    expected = packed(model)
    copies = [copy.deepcopy(model)]
    if values.get("conv_pos_batch_norm"):  # PyTorch cannot pickle modules with weight norm, even those of transformers
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies += [pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
        size = len(pickle.dumps(fresh(values)))
        assert len(pickle.dumps(model)) == pytest.approx(size, rel=0.01), "the packed weights are pickled too"
    in_place(model)
    for twin in copies:
        assert torch.equal(packed(twin), expected)
        in_place(twin)
        assert_close(packed(twin), packed(model), "same graph")


def test_sample_notices_changes_throughout_tensors_of_real_sizes():
    """Without a version counter, only the sample can notice an edit, so its step must not skip a part of the tensor."""
    convolution, positions = torch.randn(512, 512, 3), torch.randn(1024, 64, 128)
    for tensor in (convolution, positions):
        for axis, size in enumerate(tensor.shape):
            for index in range(0, size, 7):
                source = _Source([tensor.data])
                tensor.select(axis, index).data.mul_(2)
                assert not torch.equal(source.sample, _Source._sample([tensor.data])), f"{index} of axis {axis}"
    with_nan = torch.full((100_000,), torch.nan)
    assert _Source([with_nan]).is_still([with_nan])


def test_models_created_in_inference_mode():
    with torch.inference_mode():
        model = fresh()
        before = packed(model)
        model.hubert.feature_extractor.conv_layers[2].conv.weight.mul_(1.5)  # inference tensors have no version counter
        assert not torch.allclose(packed(model), before)
        assert_close(packed(model), by_definition(model), "other graph")
    assert_close(packed(model), by_definition(model), "other graph")


def test_packed_weights_are_cached():
    model = fresh()
    weights = [model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32) for _ in range(2)]
    assert weights[0] is weights[1]
    half = model.hubert.fast_path.weights.weights_of(model.hubert, torch.bfloat16)
    assert model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32) is weights[0]
    assert half.convolutions[1].dtype == torch.bfloat16 and half.convolutions[0].dtype == torch.float32
    in_place(model)
    repacked = model.hubert.fast_path.weights.weights_of(model.hubert, torch.float32)
    assert repacked is not weights[0] and len(model.hubert.fast_path.weights._entries) == 1  # the stale entry is gone too


def test_memory_of_packed_weights():
    """As documented, the convolutions and the positional spectrum are copied, and the first convolution is a view."""
    model = HubertModel(HubertConfig())
    weights = model.fast_path.weights.weights_of(model, torch.float32)
    assert isinstance(weights, PackedWeights)
    sizes = [sum(matrix.nbytes for matrix in weights.convolutions[1:]), weights.positions.nbytes]
    assert sizes == [4 * (4 * 3 + 2 * 2) * 512 * 512, 8 * 129 * 16 * 48 * 48]
    first = model.feature_extractor.conv_layers[0].conv.weight
    assert weights.convolutions[0].data_ptr() == first.data_ptr()  # a view


def test_stale_weights_and_deleted_models_are_freed():
    model = HubertModel(HubertConfig(**POST_LN)).eval()
    with torch.no_grad():
        model(WAVEFORM)
    old = weakref.ref(model.fast_path.weights._entries[torch.float32].weights.positions)
    in_place(model)
    with torch.no_grad():
        model(WAVEFORM)
    assert old() is None
    model_ref, parameter_ref = weakref.ref(model), weakref.ref(model.encoder.layer_norm.weight)
    del model
    gc.collect()
    assert model_ref() is None and parameter_ref() is None
