"""Test that equal seeds give the weights of transformers, in new models and in a new head over a loaded encoder."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN
from torch import nn

from hubert_fast import (
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    HubertPreTrainedModel,
    checkpoints,
    initialization,
    modeling,
    pretrained,
)
from hubert_fast.initialization import NEWEST, ORDERS, draw_order

CLASSES = [HubertModel, HubertForCTC, HubertForSequenceClassification]
DRAWN = json.loads((Path(__file__).parent / "golden/drawn_weights.json").read_text())


def seeded(function, *args, **kwargs):
    torch.manual_seed(7)
    return function(*args, **kwargs)


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    actual, expected = ours.state_dict(), theirs.state_dict()
    assert actual.keys() == expected.keys()
    assert [key for key in actual if not torch.equal(actual[key], expected[key])] == []


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("cls", CLASSES)
def test_new_models_have_the_weights_of_transformers(cls, values):
    transformers = pytest.importorskip("transformers")
    options = dict(values, use_weighted_layer_sum=True)
    ours = seeded(cls, HubertConfig(**options))
    state = torch.random.get_rng_state()
    theirs = seeded(getattr(transformers, cls.__name__), transformers.HubertConfig(**options))
    assert_same_weights(ours, theirs)
    assert torch.equal(state, torch.random.get_rng_state())  # so that what the script draws next is equal, too


@pytest.mark.parametrize("cls", CLASSES)
def test_a_new_head_over_a_loaded_encoder_has_the_weights_of_transformers(cls, tmp_path, caplog):
    transformers = pytest.importorskip("transformers")
    HubertModel(HubertConfig(**PRE_LN)).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        ours = seeded(cls.from_pretrained, tmp_path)
    state = torch.random.get_rng_state()
    theirs = seeded(getattr(transformers, cls.__name__).from_pretrained, tmp_path)
    assert_same_weights(ours, theirs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert ("newly initialised" in caplog.text) is (cls is not HubertModel)


def test_a_head_of_another_size_has_the_weights_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    if not draw_order().loads_without_defaults:
        pytest.skip("transformers 4.34 takes such a head for loaded and keeps PyTorch's default weights")
    HubertForCTC(HubertConfig(**PRE_LN)).save_pretrained(tmp_path)
    options = dict(vocab_size=40, ignore_mismatched_sizes=True)
    ours = seeded(HubertForCTC.from_pretrained, tmp_path, **options)
    theirs = seeded(transformers.HubertForCTC.from_pretrained, tmp_path, **options)
    assert_same_weights(ours, theirs)
    assert ours.lm_head.weight.shape == (40, 48)


@pytest.mark.parametrize("version", DRAWN)
def test_the_orders_of_other_versions(version, tmp_path, monkeypatch):
    """`golden/drawn_weights.json` was computed by these versions of transformers."""
    number = tuple(map(int, version.split(".")[:2]))
    order = next(order for first, order in ORDERS if number >= first)
    for module in (modeling, pretrained, checkpoints):
        monkeypatch.setattr(module, "draw_order", lambda: order)
    new = seeded(HubertForCTC, HubertConfig(**POST_LN))
    seeded(HubertModel, HubertConfig(**POST_LN)).save_pretrained(tmp_path)
    loaded = seeded(HubertForCTC.from_pretrained, tmp_path)
    actual = {
        "first convolution": new.hubert.feature_extractor.conv_layers[0].conv.weight,
        "mask embedding": new.hubert.masked_spec_embed,
        "output layer": new.lm_head.weight,
        "new output layer": loaded.lm_head.weight,
    }
    for name, expected in DRAWN[version].items():
        assert actual[name].flatten()[:3].tolist() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("installed", [*DRAWN, "6.0.0.dev0", "unreadable", None])
def test_the_installed_version_decides(installed, monkeypatch):
    def version(name):
        if installed is None:
            raise initialization.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(initialization.metadata, "version", version)
    expected = {"4.34.1": ORDERS[-1], "4.48.0": ORDERS[-2], "5.17.0": ORDERS[1]}.get(installed, ORDERS[0])
    assert draw_order.__wrapped__() == expected[1]


class Everything(HubertPreTrainedModel):
    """A head of every kind of layer that draws, some drawn in the constructor itself."""

    def __init__(self, config):
        super().__init__(config)
        self.hubert = HubertModel(config)
        self.recurrent = nn.LSTM(48, 8)
        self.attention = nn.MultiheadAttention(48, 4)
        self.norm = nn.BatchNorm1d(48)
        self.table = nn.Embedding(5, 48, padding_idx=0)
        self.picture = nn.Conv2d(1, 3, 3)
        self.own = nn.Parameter(torch.full((4,), 0.25))
        self.drawn = nn.Parameter(nn.init.normal_(torch.empty(1000), mean=3.0))
        self.register_buffer("constant", torch.arange(3.0), persistent=False)
        self.bilinear = nn.Bilinear(4, 4, 2)
        self.post_init()


def test_every_weight_of_an_own_head_is_initialised_over_a_loaded_encoder(tmp_path, monkeypatch):
    for module in (modeling, pretrained, checkpoints):
        monkeypatch.setattr(module, "draw_order", lambda: NEWEST)
    HubertModel(HubertConfig(**PRE_LN)).save_pretrained(tmp_path)
    model = Everything.from_pretrained(tmp_path)
    assert model.constant.tolist() == [0, 1, 2] and model.own.tolist() == [0.25] * 4
    assert model.drawn.mean().item() == pytest.approx(3, abs=0.2) and model.drawn.std().item() == pytest.approx(1, abs=0.1)
    assert model.table.weight[0].tolist() == [0.0] * 48 and model.table.weight[1:].std().item() == pytest.approx(0.02, rel=0.2)
    assert (model.norm.weight == 1).all() and (model.norm.running_var == 1).all() and not model.norm.running_mean.any()
    assert model.picture.weight.std().item() == pytest.approx(0.02, rel=0.5)
    assert 0 < model.bilinear.weight.abs().max() <= 0.5
    assert not model.attention.in_proj_bias.any() and 0 < model.attention.in_proj_weight.abs().max() < 0.3
    assert 0 < model.recurrent.weight_ih_l0.abs().max() < 0.4
    model.save_pretrained(tmp_path / "whole")
    loaded, info = Everything.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert_same_weights(loaded, model)
    assert not any(info.values())


def test_weights_that_a_module_does_have_survive(tmp_path):
    model = HubertForCTC(HubertConfig(**PRE_LN))
    nn.init.normal_(model.lm_head.bias)
    state = model.state_dict()
    del state["lm_head.weight"], state["hubert.encoder.pos_conv_embed.conv.bias"]
    loaded = HubertForCTC.from_pretrained(None, config=model.config, state_dict=state)
    assert torch.equal(loaded.lm_head.bias, model.lm_head.bias) and loaded.lm_head.weight.std() > 0
    for key, tensor in state.items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert not loaded.hubert.encoder.pos_conv_embed.conv.bias.any()


def test_a_positional_convolution_that_the_checkpoint_lacks(tmp_path):
    model = HubertForCTC(HubertConfig(**PRE_LN))
    state = {key: tensor for key, tensor in model.state_dict().items() if "pos_conv" not in key}
    loaded = HubertForCTC.from_pretrained(None, config=model.config, state_dict=state)
    conv = loaded.hubert.encoder.pos_conv_embed.conv
    bound = (3 / (3 * 16 * 16)) ** 0.5  # of PyTorch's default, uniform weights: sqrt(6 / (1 + 5) / fan_in), fan_in = 16 * 16
    assert 0.9 * bound < conv.weight.abs().max() <= bound * 1.001 and not conv.bias.any()


def test_initialised_weights_are_not_drawn_again():
    model = HubertForCTC(HubertConfig(**PRE_LN))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.post_init()
    model.init_weights()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    model.apply(model._init_weights)
    assert not torch.equal(before["lm_head.weight"], model.lm_head.weight)


DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop")


@pytest.mark.parametrize("on", [None, *DROPOUTS])
def test_equal_seeds_drop_the_same_in_training(on):
    transformers = pytest.importorskip("transformers")
    values = {**PRE_LN, **dict.fromkeys(DROPOUTS, 0.0), **({on: 0.3} if on else {}), "mask_time_prob": 0.2}
    outcomes = []
    for library, config in ((transformers, transformers.HubertConfig), (None, HubertConfig)):
        model = seeded(library.HubertForCTC if library else HubertForCTC, config(**values)).train()
        np.random.seed(0)
        loss = model(torch.randn(2, 8000), labels=torch.tensor([[1, 2], [3, 4]])).loss
        outcomes.append((loss.item(), torch.random.get_rng_state()))
    (expected, their_state), (actual, our_state) = outcomes
    assert actual == pytest.approx(expected, rel=1e-5)
    assert torch.equal(our_state, their_state)
