"""Ask of every import what transformers' model tester asks of a model's outputs: states, attentions, containers, batches."""

import copy
import inspect
import io
import warnings

import pytest
import torch
from conftest import assert_close
from model_tester_cases import (
    FRAMES,
    IMPORTS,
    NUM_LABELS,
    SAMPLES,
    TRANSFORMERS_5,
    padded_batch,
    parametrize_cases,
    result,
    tensors_of,
    waveforms_of,
)

REAL = 6  # frames of half of SAMPLES
LAYERS, HEADS, CHANNELS = 3, 4, 48  # of the small models


class _FirstOutput(torch.nn.Module):
    """Return the first output of a model, its padded frames zeroed: their values mean nothing."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, waveforms, mask):
        output = self.model(waveforms, attention_mask=mask)[0]
        if output.dim() == 2:
            return output
        return torch.where((torch.arange(FRAMES) < torch.tensor([[FRAMES], [REAL]]))[..., None], output, 0.0)


@parametrize_cases()
def test_names_that_other_libraries_read(case):
    model = case.model()
    assert list(inspect.signature(model.forward).parameters)[:2] == ["input_values", "attention_mask"]
    assert model.main_input_name == "input_values" and model.base_model_prefix == "hubert"
    encoder = model if case.class_name == "HubertModel" else model.hubert
    assert model.base_model is encoder
    assert type(encoder) is case.with_class("HubertModel").cls or not case.is_ours
    assert model.config_class.model_type == "hubert" and isinstance(model.config, model.config_class)


@parametrize_cases()
def test_equal_calls_give_equal_outputs(case):
    model, waveforms = case.model(), waveforms_of()
    first, second = (result(model, waveforms) for _ in range(2))
    assert torch.equal(first, second) and first.isfinite().all()
    assert torch.equal(result(model, input_values=waveforms), first)
    assert not torch.equal(result(model, waveforms + 1e-2 * torch.randn_like(waveforms)), first)


@parametrize_cases()
def test_hidden_states_by_argument_and_by_configuration(case):
    model, waveforms = case.model(), waveforms_of()
    with torch.no_grad():
        plain = model(waveforms)
        output = model(waveforms, output_hidden_states=True)
        model.config.output_hidden_states = True
        configured = model(waveforms)
        refused = model(waveforms, output_hidden_states=False)
    assert plain.hidden_states is None and refused.hidden_states is None
    assert [list(state.shape) for state in output.hidden_states] == [[2, FRAMES, CHANNELS]] * (LAYERS + 1)
    assert len(configured.hidden_states) == LAYERS + 1
    for actual, expected in zip(configured.hidden_states, output.hidden_states):
        assert_close(actual, expected, "same graph")
    for before, after in zip(output.hidden_states, output.hidden_states[1:]):
        assert not torch.allclose(before, after)
    assert_close(output[0], plain[0], "same graph")


@parametrize_cases()
def test_last_hidden_state_is_the_encoders_output(case):
    model, waveforms = case.model(), waveforms_of()
    with torch.no_grad():
        states = model(waveforms, output_hidden_states=True).hidden_states
        last = model.base_model(waveforms).last_hidden_state
        if TRANSFORMERS_5 and not case.is_ours and case.architecture == "layer norm":  # there it is before the final norm
            assert_close(model.base_model.encoder.layer_norm(states[-1]), last, "same graph")
        else:
            assert_close(states[-1], last, "same graph")


@parametrize_cases()
def test_attentions_are_probabilities_of_every_layer_and_head(case):
    model = case.model()
    waveforms, mask = padded_batch()
    with torch.no_grad():
        plain = model(waveforms, attention_mask=mask)
        output = model(waveforms, attention_mask=mask, output_attentions=True)
        both = model(waveforms, attention_mask=mask, output_attentions=True, output_hidden_states=True)
        model.config.output_attentions = True
        configured = model(waveforms, attention_mask=mask)
    assert plain.attentions is None and output.hidden_states is None
    assert [list(layer.shape) for layer in output.attentions] == [[2, HEADS, FRAMES, FRAMES]] * LAYERS
    for layer, again, alike in zip(output.attentions, both.attentions, configured.attentions):
        assert_close(layer.sum(-1), torch.ones(2, HEADS, FRAMES), "same graph")
        assert layer[0].min() > 0 and not layer[1, ..., REAL:].any()
        assert torch.equal(layer, again) and torch.equal(layer, alike)
    assert list(both.keys())[-2:] == ["hidden_states", "attentions"]
    actual, expected = output[0], plain[0]
    if actual.dim() == 3:
        actual, expected = (torch.cat((x[0], x[1, :REAL])) for x in (actual, expected))
    assert_close(actual, expected, "attention")


@parametrize_cases()
def test_tuples_and_objects_hold_the_same_tensors(case):
    model, waveforms, labels = case.model(), waveforms_of(), case.labels()
    options = [{}, {"output_hidden_states": True}, {"output_hidden_states": True, "output_attentions": True}]
    options += [] if labels is None else [{"labels": labels}, {"labels": labels, "output_hidden_states": True}]
    for kwargs in options:
        with torch.no_grad():
            as_object, as_tuple = model(waveforms, **kwargs), model(waveforms, return_dict=False, **kwargs)
        assert type(as_tuple) is tuple and not isinstance(as_object, tuple)
        assert len(as_tuple) == len(as_object.keys()) == len(as_object.to_tuple())
        pairs = list(zip(tensors_of(as_tuple), tensors_of(as_object), strict=True))
        assert len(pairs) == 1 + ("labels" in kwargs) + 4 * ("output_hidden_states" in kwargs) + 3 * (
            "output_attentions" in kwargs
        )
        for actual, expected in pairs:
            assert torch.equal(actual, expected)
        for name in as_object.keys():
            assert as_object[name] is getattr(as_object, name)


@parametrize_cases(libraries=("hubert_fast",) if TRANSFORMERS_5 else IMPORTS)  # an error from inside transformers 5.x
def test_configuration_asks_for_tuples(case):
    model, waveforms = case.model(return_dict=False), waveforms_of()
    with torch.no_grad():
        as_tuple, as_object = model(waveforms), model(waveforms, return_dict=True)
    assert type(as_tuple) is tuple and torch.equal(as_tuple[0], as_object[0])


@parametrize_cases()
def test_gradients_stay_on_states_and_attentions(case):
    model = case.still_model()
    output = model(waveforms_of(), output_hidden_states=True, output_attentions=True)
    first_state, first_attention = output.hidden_states[0], output.attentions[0]
    first_state.retain_grad()
    first_attention.retain_grad()
    output[0].flatten()[0].backward()
    assert first_state.grad.abs().max() > 0 and first_attention.grad.abs().max() > 0
    assert not first_state.grad[1].any(), "the first row's output does not depend on the second row"


@parametrize_cases()
def test_gradient_of_the_input_is_the_slope(case):
    """Compare with the central difference along a random direction, in float64."""
    model = case.model().double()
    waveforms, direction = waveforms_of(1).double(), waveforms_of(1).double()
    waveforms.requires_grad_()
    weights = torch.randn_like(result(model, waveforms))
    (model(waveforms)[0] * weights).sum().backward()
    slope = (waveforms.grad * direction).sum()
    step = 1e-5
    above, below = ((result(model, waveforms + sign * step * direction) * weights).sum() for sign in (1, -1))
    assert slope.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6)


@parametrize_cases()
def test_a_batch_gives_what_its_rows_give_alone(case):
    model, waveforms = case.model(), waveforms_of(3)
    together = result(model, waveforms)
    for row in range(3):
        assert_close(together[row : row + 1], result(model, waveforms[row : row + 1]), "same graph")
    assert_close(result(model, waveforms.flip(0)), together.flip(0), "same graph")


@parametrize_cases()
def test_padding_changes_no_row(case):
    """Group norm over time would read the padding: both encoders are tested behind layer-normed convolutions."""
    model = case.model(feat_extract_norm="layer")
    waveforms, mask = padded_batch()
    together = result(model, waveforms, attention_mask=mask)
    other_padding = result(model, torch.where(mask.bool(), waveforms, torch.full(waveforms.shape, 3.0)), attention_mask=mask)
    alone = result(model, waveforms[1:, : SAMPLES // 2])
    if together.dim() == 3:
        together, other_padding = together[:, : alone.shape[1]], other_padding[:, : alone.shape[1]]
    assert_close(together[1:], alone, "same graph")
    assert_close(other_padding[1:], alone, "same graph")


@parametrize_cases()
def test_a_mask_of_ones_changes_nothing(case):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    for dtype in (torch.long, torch.int32, torch.bool):
        mask = torch.ones(waveforms.shape, dtype=dtype)
        assert_close(result(model, waveforms, attention_mask=mask), expected, "same graph")


@parametrize_cases(("HubertModel", "HubertForCTC"))
def test_a_mask_of_zeros_leaves_other_rows_alone(case):
    model, waveforms = case.model(), waveforms_of()
    mask = torch.ones(waveforms.shape, dtype=torch.long)
    mask[1] = 0
    output = result(model, waveforms, attention_mask=mask)
    assert output.isfinite().all()
    assert_close(output[:1], result(model, waveforms[:1]), "same graph")


@parametrize_cases(("HubertModel",))
def test_frame_counts_match_output_lengths(case):
    model = case.model()
    lengths = torch.tensor([400, 719, 720, 3999, SAMPLES])
    counts = model._get_feat_extract_output_lengths(lengths)
    for samples, count in zip(lengths.tolist(), counts.tolist()):
        assert result(model, waveforms_of(1, samples)).shape[1] == count


@parametrize_cases()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_outputs_have_the_dtype_of_the_model(case, dtype):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    model = model.to(dtype)
    assert model.dtype == dtype and {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.no_grad():
        output = model(waveforms.to(dtype), output_hidden_states=True, output_attentions=True)
    assert {tensor.dtype for tensor in tensors_of(output)} == {dtype}
    assert_close(output[0].float(), expected, "other graph" if dtype == torch.float64 else "half-precision model")


@parametrize_cases()
def test_copies_are_equal_and_independent(case):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    other = copy.deepcopy(model)
    assert type(other) is type(model) and torch.equal(result(other, waveforms), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    changed = result(other, waveforms)
    assert torch.equal(result(model, waveforms), expected) and not torch.allclose(changed, expected, rtol=1e-2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert torch.equal(result(other, waveforms), changed)
    other.config.output_hidden_states = True
    assert not model.config.output_hidden_states


@parametrize_cases(libraries=("hubert_fast",) if TRANSFORMERS_5 else IMPORTS)  # transformers 5.x ignores them
def test_options_that_do_not_exist_are_refused(case):
    with pytest.raises(TypeError, match="scroe"):
        case.model()(waveforms_of(), scroe=True)


@parametrize_cases()
def test_a_traced_model_gives_the_same(case):
    model = _FirstOutput(case.model()).eval()
    waveforms, mask = padded_batch()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (waveforms, mask))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        loaded = torch.jit.load(file)
    waveforms = waveforms * 2 + 0.1 * mask
    with torch.no_grad():
        expected = model(waveforms, mask)
        for program in (traced, loaded):
            assert_close(program(waveforms, mask), expected, "same graph")


@pytest.mark.slow
@parametrize_cases()
def test_a_compiled_model_gives_the_same(case):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    torch.compiler.reset()
    assert_close(result(torch.compile(model, backend="aot_eager"), waveforms), expected, "same graph")


@pytest.mark.slow
@parametrize_cases(("HubertForCTC",))
def test_an_inductor_model_gives_the_same(case):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    torch.compiler.reset()
    assert_close(result(torch.compile(model), waveforms), expected, "other graph")


@parametrize_cases(("HubertForSequenceClassification",))
def test_classification_logits_and_weighted_sums(case):
    model, waveforms = case.model(use_weighted_layer_sum=True), waveforms_of()
    with torch.no_grad():
        output = model(waveforms, output_hidden_states=True)
        weights = model.layer_weights.softmax(-1)
        mixed = sum(weight * state for weight, state in zip(weights, output.hidden_states))
        expected = model.classifier(model.projector(mixed).mean(1))
    assert list(output.logits.shape) == [2, NUM_LABELS]
    assert_close(output.logits, expected, "same graph")
    assert_close(result(model, waveforms), expected, "same graph")
