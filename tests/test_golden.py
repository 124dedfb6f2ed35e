"""Compare our three models with outputs of transformers 4.34.1: states, attentions, logits, losses and gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close, true_frames
from golden.cases import CASES, answers, models

import hubert_fast

GOLDEN = Path(__file__).parent / "golden"


def expected_of(path: Path) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


@pytest.mark.parametrize("name", CASES)
def test_cases_equal_transformers_4_34_1(name):
    expected = expected_of(GOLDEN / "cases" / f"{name}.npz")
    actual = answers(*models(hubert_fast, CASES[name]))
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs().max() > 1e-3, f"{key} is too small to be worth comparing"
        assert_close(actual[key], value, "gradient" if key.startswith("gradient") else "same graph", key)


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
@pytest.mark.parametrize("attentions", [False, True], ids=["no attentions", "attentions"])
def test_golden_checkpoints_equal_transformers_4_34_1(name, kind, attentions):
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
    mask = expected["mask"] if kind == "masked" else None
    assert_close(true_frames(output.logits, mask), true_frames(expected[f"{kind}.logits"], mask), "same graph", "logits")
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    for index, state in enumerate(output.hidden_states):
        reference = expected[f"{kind}.hidden_states.{index}"]
        assert_close(true_frames(state, mask), true_frames(reference, mask), "same graph", f"hidden state {index}")
    for index, attention in enumerate(output.attentions or ()):
        assert_close(attention, expected[f"{kind}.attentions.{index}"], "attention", f"attention {index}")


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_golden_classifier_with_a_weighted_layer_sum(kind):
    expected = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "weighted" / "expected.npz").items()}
    model = hubert_fast.HubertForSequenceClassification.from_pretrained(GOLDEN / "weighted")
    assert model.layer_weights.std() > 0.01 and model.config.num_labels == 5
    with torch.no_grad():
        logits = model(expected["waveforms"], attention_mask=expected["mask"] if kind == "masked" else None).logits
    assert_close(logits, expected[f"{kind}.logits"], "same graph", "logits")
