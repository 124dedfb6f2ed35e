"""Our three models against transformers: golden answers of 4.34.1, and whichever version is installed, live."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, POST_LN, PRE_LN, assert_close, masked_batch, perturb

import hubert_fast

GOLDEN = Path(__file__).parent / "golden"
LIVE = {**ARCHITECTURES, **NEWER_ARCHITECTURES}
CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
LENGTHS = (8000, 5000, 401, 6399)


def _pair(class_name: str, values: dict):
    """The same random weights in transformers' class and in ours."""
    theirs = perturb(getattr(transformers, class_name)(transformers.HubertConfig(**values)).eval())
    ours = getattr(hubert_fast, class_name)(hubert_fast.HubertConfig(**values)).eval()
    if set(theirs.state_dict()) != set(ours.state_dict()):
        pytest.skip(f"transformers {transformers.__version__} does not know this configuration")
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def _assert_same_outputs(found, expected):
    assert list(found.keys()) == list(expected.keys())
    for name in found.keys():
        pairs = zip(found[name], expected[name]) if isinstance(found[name], tuple) else [(found[name], expected[name])]
        for index, (ours, theirs) in enumerate(pairs):
            assert_close(ours, theirs, "same graph", f"{name}[{index}]")


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
@pytest.mark.parametrize("attentions", [False, True], ids=["", "attentions"])
def test_golden_answers_of_4_34_1(name, kind, attentions):
    expected = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name / "expected.npz").items()}
    model, info = hubert_fast.HubertForCTC.from_pretrained(GOLDEN / name, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        output = model(
            expected["waveforms"],
            attention_mask=expected["mask"] if kind == "masked" else None,
            output_hidden_states=True,
            output_attentions=attentions,
        )
    assert_close(output.logits, expected[f"{kind}.logits"], "same graph", "logits")
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    for index, state in enumerate(output.hidden_states):
        assert_close(state, expected[f"{kind}.hidden_states.{index}"], "same graph", f"hidden state {index}")
    for index, attention in enumerate(output.attentions or ()):
        assert_close(attention, expected[f"{kind}.attentions.{index}"], "attention", f"attention {index}")


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_golden_classification_by_a_weighted_sum_of_layers(kind):
    expected = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "weighted" / "expected.npz").items()}
    model = hubert_fast.HubertForSequenceClassification.from_pretrained(GOLDEN / "weighted")
    assert model.layer_weights.std() > 0.01 and model.config.num_labels == 5
    with torch.no_grad():
        logits = model(expected["waveforms"], attention_mask=expected["mask"] if kind == "masked" else None).logits
    assert_close(logits, expected[f"{kind}.logits"], "same graph", "logits")


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("values", LIVE.values(), ids=LIVE.keys())
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_live(class_name, values, masked):
    theirs, ours = _pair(class_name, values)
    waveforms, mask = masked_batch(LENGTHS)
    mask = mask if masked else None
    with torch.no_grad():
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask))


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_live_hidden_states_and_attentions(values):
    theirs, ours = _pair("HubertModel", values)
    if hasattr(theirs, "set_attn_implementation"):  # 5.x, where only this one returns attentions
        theirs.set_attn_implementation("eager")
    waveforms, mask = masked_batch(LENGTHS)
    asked = dict(attention_mask=mask, output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        found, expected = ours(waveforms, **asked), theirs(waveforms, **asked)
    assert len(found.hidden_states) == len(expected.hidden_states) == values["num_hidden_layers"] + 1
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)
    assert_close(found.last_hidden_state, expected.last_hidden_state, "same graph")
    for index in range(values["num_hidden_layers"]):
        assert_close(found.hidden_states[index], expected.hidden_states[index], "same graph", f"hidden state {index}")
        assert_close(found.attentions[index], expected.attentions[index], "attention", f"attention {index}")


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_ctc_loss_and_its_gradient(values):
    values = dict(values, ctc_loss_reduction="mean", pad_token_id=7)
    theirs, ours = _pair("HubertForCTC", values)
    waveforms, mask = masked_batch((8000, 5000, 6399))
    labels = torch.tensor([[1, 2, 2, 3], [5, 6, -100, -100], [8, -100, -100, -100]])
    losses = [model(waveforms, attention_mask=mask, labels=labels).loss for model in (ours, theirs)]
    assert_close(*losses, "same graph", "loss")
    for loss in losses:
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    for name, parameter in ours.named_parameters():
        if name in gradients and not name.endswith("k_proj.bias"):  # whose gradient is zero but for rounding
            # gradients go through fifty sums of opposite signs: rounding is larger than the forward pass's
            error = (parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max()
            assert error < 1e-4, f"gradient of {name}: relative error {error:.1e}"


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
def test_what_we_save_transformers_loads(name, tmp_path):
    hubert_fast.HubertForCTC.from_pretrained(GOLDEN / name).save_pretrained(tmp_path)
    theirs = transformers.HubertForCTC.from_pretrained(tmp_path).eval()
    expected = np.load(GOLDEN / name / "expected.npz")
    with torch.no_grad():
        logits = theirs(torch.from_numpy(expected["waveforms"])).logits
    assert_close(logits, torch.from_numpy(expected["plain.logits"]), "same graph")


def test_what_transformers_saves_we_load(tmp_path):
    theirs, _ = _pair("HubertForCTC", PRE_LN)
    theirs.save_pretrained(tmp_path)
    ours, info = hubert_fast.HubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    waveforms, mask = masked_batch(LENGTHS)
    with torch.no_grad():
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask))


@pytest.mark.parametrize(
    "values", [dict(probability=0.3, length=4, min_masks=2), dict(probability=0.02, length=10, min_masks=0)]
)
def test_spec_augment_draws_the_same_masks(values):
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    from hubert_fast.spec_augment import sample_mask

    for seed in range(20):
        np.random.seed(seed)
        found = [sample_mask((3, 49), **values) for _ in range(2)]
        np.random.seed(seed)
        expected = [
            _compute_mask_indices((3, 49), values["probability"], values["length"], min_masks=values["min_masks"])
            for _ in range(2)
        ]
        assert np.array_equal(np.stack(found), np.stack(expected))
