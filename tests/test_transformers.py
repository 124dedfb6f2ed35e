"""Compare our three models with the installed transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, PRE_LN, assert_close, masked_batch, perturb, true_frames
from golden.cases import CASES, answers, models

import hubert_fast

GOLDEN = Path(__file__).parent / "golden"
ALL = {**ARCHITECTURES, **NEWER_ARCHITECTURES}
CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
LENGTHS = (8000, 5000, 401, 6399)


def _pair(class_name: str, values: dict):
    """Return transformers' model and ours with the same random weights."""
    theirs = perturb(getattr(transformers, class_name)(transformers.HubertConfig(**values)).eval())
    ours = getattr(hubert_fast, class_name)(hubert_fast.HubertConfig(**values)).eval()
    if set(theirs.state_dict()) != set(ours.state_dict()):
        pytest.skip(f"transformers {transformers.__version__} does not know this configuration")
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def _assert_same_outputs(actual, expected, mask=None):
    assert list(actual.keys()) == list(expected.keys())
    for name in actual.keys():
        pairs = zip(actual[name], expected[name]) if isinstance(actual[name], tuple) else [(actual[name], expected[name])]
        for index, (ours, theirs) in enumerate(pairs):
            assert_close(true_frames(ours, mask), true_frames(theirs, mask), "same graph", f"{name}[{index}]")


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("values", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_outputs_match_transformers(class_name, values, masked):
    theirs, ours = _pair(class_name, values)
    waveforms, mask = masked_batch(LENGTHS)
    mask = mask if masked else None
    with torch.no_grad():
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask), mask)


@pytest.mark.parametrize("name", CASES)
def test_states_attentions_losses_and_gradients_match_transformers(name):
    """Compute the values of the golden files with the installed transformers."""
    their_models = models(transformers, CASES[name])
    for theirs in their_models:
        if hasattr(theirs, "set_attn_implementation"):  # in 5.x, only this implementation returns attentions
            theirs.set_attn_implementation("eager")
    ours = models(hubert_fast, CASES[name])
    for model in ours:  # 5.x: before the final norm of a pre-LN model, also for use_weighted_layer_sum
        model.hubert.encoder.final_norm_in_hidden_states = not getattr(transformers.HubertModel, "_can_record_outputs", None)
    expected, actual = answers(*their_models), answers(*ours)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value, "gradient" if key.startswith("gradient") else "same graph", key)


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
def test_transformers_loads_our_checkpoints(name, tmp_path):
    hubert_fast.HubertForCTC.from_pretrained(GOLDEN / name).save_pretrained(tmp_path)
    theirs = transformers.HubertForCTC.from_pretrained(tmp_path).eval()
    expected = np.load(GOLDEN / name / "expected.npz")
    with torch.no_grad():
        logits = theirs(torch.from_numpy(expected["waveforms"])).logits
    assert_close(logits, torch.from_numpy(expected["plain.logits"]), "same graph")


def test_we_load_checkpoints_of_transformers(tmp_path):
    theirs, _ = _pair("HubertForCTC", PRE_LN)
    theirs.save_pretrained(tmp_path)
    ours, info = hubert_fast.HubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    waveforms, mask = masked_batch(LENGTHS)
    with torch.no_grad():
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask), mask)


@pytest.mark.parametrize(
    "values", [dict(probability=0.3, length=4, min_masks=2), dict(probability=0.02, length=10, min_masks=0)]
)
def test_spec_augment_draws_the_same_masks(values):
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    from hubert_fast.spec_augment import sample_spec_augment_mask

    for seed in range(20):
        np.random.seed(seed)
        actual = [sample_spec_augment_mask((3, 49), **values) for _ in range(2)]
        np.random.seed(seed)
        expected = [
            _compute_mask_indices((3, 49), values["probability"], values["length"], min_masks=values["min_masks"])
            for _ in range(2)
        ]
        assert np.array_equal(np.stack(actual), np.stack(expected))
