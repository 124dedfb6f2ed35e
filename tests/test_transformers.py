"""Our three models against the transformers that is installed, live."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, PRE_LN, assert_close, masked_batch, perturb, true_frames
from golden.cases import CASES, answers, models

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


def _assert_same_outputs(found, expected, mask=None):
    assert list(found.keys()) == list(expected.keys())
    for name in found.keys():
        pairs = zip(found[name], expected[name]) if isinstance(found[name], tuple) else [(found[name], expected[name])]
        for index, (ours, theirs) in enumerate(pairs):
            assert_close(true_frames(ours, mask), true_frames(theirs, mask), "same graph", f"{name}[{index}]")


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("values", LIVE.values(), ids=LIVE.keys())
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_live(class_name, values, masked):
    theirs, ours = _pair(class_name, values)
    waveforms, mask = masked_batch(LENGTHS)
    mask = mask if masked else None
    with torch.no_grad():
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask), mask)


@pytest.mark.parametrize("name", CASES)
def test_live_states_attentions_losses_and_gradients(name):
    """What the golden files hold, from the transformers that is installed."""
    peers = models(transformers, CASES[name])
    for theirs in peers:
        if hasattr(theirs, "set_attn_implementation"):  # 5.x, where only this one returns attentions
            theirs.set_attn_implementation("eager")
    ours = models(hubert_fast, CASES[name])
    for model in ours:  # 5.x: before the final norm of a pre-LN model, also for use_weighted_layer_sum
        model.hubert.encoder.final_norm_in_hidden_states = not getattr(transformers.HubertModel, "_can_record_outputs", None)
    expected, found = answers(*peers), answers(*ours)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(found[key], value, "gradient" if key.startswith("gradient") else "same graph", key)


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
        _assert_same_outputs(ours(waveforms, attention_mask=mask), theirs(waveforms, attention_mask=mask), mask)


@pytest.mark.parametrize(
    "values", [dict(probability=0.3, length=4, min_masks=2), dict(probability=0.02, length=10, min_masks=0)]
)
def test_spec_augment_draws_the_same_masks(values):
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    from hubert_fast.layers import sample_spec_augment_mask

    for seed in range(20):
        np.random.seed(seed)
        found = [sample_spec_augment_mask((3, 49), **values) for _ in range(2)]
        np.random.seed(seed)
        expected = [
            _compute_mask_indices((3, 49), values["probability"], values["length"], min_masks=values["min_masks"])
            for _ in range(2)
        ]
        assert np.array_equal(np.stack(found), np.stack(expected))
