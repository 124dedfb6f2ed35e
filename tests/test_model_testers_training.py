"""Ask of every import what transformers' model tester asks of training: gradients, checkpointing, SpecAugment, new weights."""

import math

import numpy as np
import pytest
import torch
from conftest import assert_close
from model_tester_cases import (
    FRAMES,
    HEADS,
    IMPORTS,
    RECENT,
    TRANSFORMERS_5,
    assert_same_weights,
    parametrize_cases,
    result,
    save,
    waveforms_of,
)
from torch import nn


def _loss(model, case, waveforms, **options) -> torch.Tensor:
    output = model(waveforms, **options, **({} if case.labels() is None else {"labels": case.labels(len(waveforms))}))
    return output[0].square().mean() if case.labels() is None else output.loss


def _gradients(model, case, waveforms, **options) -> dict[str, torch.Tensor]:
    model.zero_grad()
    _loss(model, case, waveforms, **options).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _assert_same_gradients(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, "gradient", name)


@parametrize_cases()
def test_every_weight_gets_a_gradient(case):
    model = case.still_model(
        apply_spec_augment=True,
        mask_time_prob=0.3,
        mask_time_length=2,
        use_weighted_layer_sum=case.is_ours or not TRANSFORMERS_5,  # there the states to sum leave out the final norm
    )
    gradients = _gradients(model, case, waveforms_of())
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all()
        if "k_proj.bias" not in name:  # the softmax does not change when all its inputs are moved alike
            assert gradient.abs().max() > 1e-9, name


@parametrize_cases(HEADS)
def test_training_lowers_the_loss(case):
    model, waveforms = case.still_model(), waveforms_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = _loss(model, case, waveforms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses
    model.eval()  # inference must see the trained weights
    with torch.no_grad():
        assert _loss(model, case, waveforms).item() < losses[-1] * 1.05


@parametrize_cases()
def test_checkpointing_is_switched_on_and_off(case):
    model = case.model()
    assert model.supports_gradient_checkpointing and not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert case.model(gradient_checkpointing=True).is_gradient_checkpointing, "as old configurations ask for it"


@parametrize_cases(libraries=RECENT)
@pytest.mark.parametrize("use_reentrant", [None, False, True], ids=["default", "not reentrant", "reentrant"])
def test_checkpointing_keeps_gradients(case, use_reentrant):
    model, waveforms = case.still_model(), waveforms_of()
    expected = {name: gradient.clone() for name, gradient in _gradients(model, case, waveforms).items()}
    options = {} if use_reentrant is None else {"gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    model.gradient_checkpointing_enable(**options)
    _assert_same_gradients(_gradients(model, case, waveforms), expected)
    model.gradient_checkpointing_disable()
    _assert_same_gradients(_gradients(model, case, waveforms), expected)


@parametrize_cases()
def test_checkpointing_keeps_what_dropout_drew(case):
    model, waveforms = case.still_model(hidden_dropout=0.3, activation_dropout=0.3, attention_dropout=0.3), waveforms_of()
    torch.manual_seed(1)
    expected = {name: gradient.clone() for name, gradient in _gradients(model, case, waveforms).items()}
    model.gradient_checkpointing_enable()
    torch.manual_seed(1)
    _assert_same_gradients(_gradients(model, case, waveforms), expected)


@parametrize_cases(HEADS)
def test_frozen_feature_encoders_get_no_gradients(case):
    model, waveforms = case.still_model(), waveforms_of()
    expected = {name: gradient.clone() for name, gradient in _gradients(model, case, waveforms).items()}
    model.freeze_feature_encoder()
    actual = _gradients(model, case, waveforms)
    inside = {name for name in expected if name.startswith("hubert.feature_extractor.")}
    assert inside and actual.keys() == expected.keys() - inside
    _assert_same_gradients(actual, {name: gradient for name, gradient in expected.items() if name not in inside})


@parametrize_cases(HEADS)
def test_frozen_base_models_leave_the_head(case):
    model = case.still_model()
    model.freeze_base_model()
    assert not any(name.startswith("hubert.") for name in _gradients(model, case, waveforms_of()))
    assert all(parameter.requires_grad != name.startswith("hubert.") for name, parameter in model.named_parameters())


@parametrize_cases()
def test_equal_seeds_give_equal_weights_and_dropout(case):
    waveforms = waveforms_of()
    masks = {"mask_time_prob": 0.3, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 4}
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        outputs.append(result(case.cls(case.config(**masks, layerdrop=0.3)).train(), waveforms))
    assert torch.equal(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2], rtol=1e-2)


@parametrize_cases(libraries=IMPORTS[1:])
def test_equal_seeds_give_the_weights_of_transformers(case):
    states = []
    for library in ("transformers", case.library):
        same = case.with_library(library)
        torch.manual_seed(3)
        states.append(same.cls(same.config()).state_dict())
    assert_same_weights(states[1], states[0])


@parametrize_cases(HEADS, IMPORTS[1:])
def test_equal_seeds_give_the_new_heads_of_transformers(case, tmp_path):
    """Fine-tuning begins with a new head over a loaded encoder."""
    save(case.with_class("HubertModel").model(), tmp_path)
    states = []
    for library in ("transformers", case.library):
        torch.manual_seed(3)
        states.append(case.with_library(library).cls.from_pretrained(tmp_path).state_dict())
    assert_same_weights(states[1], states[0])


@parametrize_cases()
def test_new_weights_have_their_distributions(case):
    model = case.cls(case.config(initializer_range=0.05, hidden_size=96, mask_time_prob=0.1))
    assert model.training
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert abs(module.weight.mean().item()) < 0.01 and not module.bias.any(), name
            assert module.weight.std().item() == pytest.approx(0.05, rel=0.12), name
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            assert torch.equal(module.weight, torch.ones_like(module.weight)) and not module.bias.any(), name
        elif isinstance(module, nn.Conv1d) and "pos_conv_embed" not in name:  # Kaiming: a variance of 2 per input
            inputs = module.in_channels * module.kernel_size[0]
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.2), name
            assert module.bias is None or not module.bias.any(), name
    embedding = model.base_model.masked_spec_embed
    assert embedding.min() >= 0 and embedding.max() < 1 and embedding.mean().item() == pytest.approx(0.5, abs=0.12)


def _masked_frames(model, waveforms) -> torch.Tensor:
    """Return which frames the encoder got as the mask embedding: bool `[B, T]`."""
    seen = {}
    handle = model.base_model.encoder.register_forward_pre_hook(
        lambda module, arguments, options: seen.update(x=arguments[0] if arguments else options["hidden_states"]),
        with_kwargs=True,
    )
    model(waveforms)
    handle.remove()
    return (seen["x"] == model.base_model.masked_spec_embed).all(-1)


@parametrize_cases()
@pytest.mark.parametrize("probability, length, least", [(0.5, 3, 2), (0.05, 4, 2), (0.3, 2, 0)])
def test_spec_augment_masks_spans_of_frames(case, probability, length, least):
    options = {"mask_time_prob": probability, "mask_time_length": length, "mask_time_min_masks": least}
    model = case.still_model(apply_spec_augment=True, **options)
    draws = []
    for seed in (0, 0, 1, 2):
        np.random.seed(seed)
        draws.append(_masked_frames(model, waveforms_of(4)))
    assert torch.equal(draws[0], draws[1])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 3
    spans = max(least, math.ceil(probability * FRAMES / length))
    for draw in draws:
        for row in draw.int().tolist():
            assert sum(row) <= spans * length
            assert all(run >= length for run in _runs(row)) and len(_runs(row)) >= min(least, 1)
    assert not _masked_frames(model.eval(), waveforms_of()).any()


def _runs(row: list[int]) -> list[int]:
    """Return the lengths of the runs of ones."""
    return [len(run) for run in "".join(map(str, row)).split("0") if run]


@parametrize_cases()
def test_spec_augment_masks_channels(case):
    model = case.still_model(apply_spec_augment=True, mask_time_prob=0.0, mask_feature_prob=0.3, mask_feature_length=4)
    assert hasattr(model.base_model, "masked_spec_embed")
    seen = {}
    model.base_model.encoder.register_forward_pre_hook(
        lambda module, arguments, options: seen.update(x=arguments[0] if arguments else options["hidden_states"]),
        with_kwargs=True,
    )
    model(waveforms_of(3))
    silent = (seen["x"] == 0).all(1)
    assert torch.equal((seen["x"] == 0).any(1), silent), "a channel is masked in all frames or in none"
    for row in silent.int().tolist():
        assert 4 <= sum(row) <= 0.3 * 48 + 4 and all(run >= 4 for run in _runs(row))


@parametrize_cases()
def test_spec_augment_needs_frames_for_a_span(case):
    model = case.still_model(apply_spec_augment=True, mask_time_prob=0.1, mask_time_length=FRAMES + 1)
    with pytest.raises(ValueError, match=r"mask[_ ]length"):
        model(waveforms_of())


@parametrize_cases(("HubertModel",))
def test_frames_to_mask_can_be_given(case):
    model, waveforms = case.model(), waveforms_of()
    indices = torch.zeros(2, FRAMES, dtype=torch.bool)
    indices[0, 2:5] = True
    plain, masked = result(model, waveforms), result(model, waveforms, mask_time_indices=indices)
    assert_close(masked[1], plain[1], "attention")
    assert not torch.allclose(masked[0], plain[0], rtol=1e-2)
    other = waveforms.clone()
    model.feature_projection.register_forward_hook(lambda module, arguments, output: _without(output, indices))
    assert_close(result(model, other, mask_time_indices=indices), masked, "attention")


def _without(output, indices):
    """Set the frames that are masked to 7, in the output of the projection or in its first part."""
    states = output[0] if isinstance(output, tuple) else output
    states = torch.where(indices[..., None], torch.full_like(states, 7), states)
    return (states, *output[1:]) if isinstance(output, tuple) else states


@parametrize_cases()
def test_layerdrop_of_one_skips_every_layer(case):
    model, waveforms = case.still_model(layerdrop=1.0), waveforms_of()
    skipping, whole = result(model, waveforms), result(model.eval(), waveforms)
    model.base_model.encoder.layers = nn.ModuleList()
    assert_close(skipping, result(model, waveforms), "same graph")
    assert not torch.allclose(skipping, whole, rtol=1e-2)


@parametrize_cases(HEADS)
def test_regularisation_is_for_training_only(case):
    model, waveforms = case.model(hidden_dropout=0.5, final_dropout=0.5, layerdrop=0.5), waveforms_of()
    assert torch.equal(result(model, waveforms), result(model, waveforms))
    model.train()
    assert not torch.equal(result(model, waveforms), result(model, waveforms))
