"""Check the definition beyond parity: rows that are too short, outputs, training switches, bad input."""

import pickle
import warnings

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, small_config

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel, PackedAudio
from hubert_fast.layers import ACTIVATIONS
from hubert_fast.outputs import CausalLMOutput

BOTH = pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])


def test_frame_counts():
    model = HubertModel(small_config()).eval()
    lengths = torch.tensor([0, 1, 399, 400, 719, 720, 16000])
    assert model.frame_counts(lengths).tolist() == [0, 0, 0, 1, 1, 2, 49]
    with torch.no_grad():
        for length in (400, 719, 720, 5003):
            frames = model(torch.randn(1, length)).last_hidden_state.shape[1]
            assert frames == model.frame_counts(torch.tensor(length))


@BOTH
def test_rows_without_frames_are_finite_and_change_no_other_row(values):
    """In transformers, the index of their last frame wraps around; here they have 0 frames."""
    torch.manual_seed(1)
    model = HubertForCTC(HubertConfig(**values)).eval()
    waveforms = torch.randn(5, 4000)
    mask = torch.zeros(5, 4000, dtype=torch.long)
    for row, samples in enumerate((4000, 0, 1, 399, 400)):
        mask[row, :samples] = 1
    waveforms *= mask
    with torch.no_grad():
        logits = model(waveforms, attention_mask=mask).logits
        alone = model(waveforms[:1], attention_mask=mask[:1]).logits
    assert logits.isfinite().all()
    assert_close(logits[:1], alone, "same graph")


@pytest.mark.parametrize("cls", [HubertModel, HubertForCTC, HubertForSequenceClassification])
@pytest.mark.parametrize("attentions", [False, True], ids=["no attentions", "attentions"])
def test_rows_without_frames_change_no_other_row_in_any_output(cls, attentions):
    model = cls(small_config(num_labels=4, use_weighted_layer_sum=True)).eval()
    mask = torch.arange(4000) < torch.tensor([0, 4000, 399, 1, 400, 2500])[:, None]
    waveforms = torch.randn(6, 4000) * mask
    options = dict(output_attentions=attentions, output_hidden_states=True)
    with torch.no_grad():
        together = model(waveforms, attention_mask=mask, **options)
        assert all(state.isfinite().all() for state in together.hidden_states)
        for row in (1, 4, 5):
            alone = model(waveforms[row : row + 1], attention_mask=mask[row : row + 1], **options)
            frames = model.frame_counts(mask[row].sum())
            for actual, expected in zip((together[0], *together.hidden_states), (alone[0], *alone.hidden_states)):
                real = slice(None) if actual.dim() == 2 else slice(frames)  # logits of classes have no frames
                assert_close(actual[row][real], expected[0][real], "same graph")


def test_ctc_loss_of_rows_without_frames_is_infinite_or_zero():
    """No alignment fits in zero frames: the loss is infinite, or zero with `ctc_zero_infinity`."""
    model = HubertForCTC(small_config(ctc_loss_reduction="none")).eval()
    mask = torch.arange(4000) < torch.tensor([4000, 399, 0])[:, None]
    waveforms, labels = torch.randn(3, 4000) * mask, torch.tensor([[1, 2], [1, 2], [-100, -100]])
    losses = model(waveforms, attention_mask=mask, labels=labels).loss
    alone = model(waveforms[:1], attention_mask=mask[:1], labels=labels[:1]).loss
    assert_close(losses[:1], alone, "same graph")
    assert losses[1].isinf() and losses[2] == 0
    model.config.update({"ctc_zero_infinity": True})
    losses = model(waveforms, attention_mask=mask, labels=labels).loss
    losses.sum().backward()
    assert losses[1] == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("attentions", [False, True], ids=["no attentions", "attentions"])
def test_nan_and_infinity_stay_in_their_row(attentions):
    model = HubertForCTC(small_config()).eval()
    mask = torch.arange(4000) < torch.tensor([4000, 3000, 2000])[:, None]
    waveforms = torch.randn(3, 4000) * mask
    with torch.no_grad():
        expected = model(waveforms, attention_mask=mask, output_attentions=attentions).logits
        for poison in (float("nan"), float("inf")):
            waveforms[1, 1000] = poison
            actual = model(waveforms, attention_mask=mask, output_attentions=attentions).logits
            assert actual[1, :9].isnan().all()  # NaN shows the fault, where finite values would hide it
            assert torch.equal(actual[[0, 2]], expected[[0, 2]])
            waveforms[1, 1000] = 0
            waveforms[1, 3500] = poison  # in the padding of a row
            actual = model(waveforms, attention_mask=mask, output_attentions=attentions).logits
            frames = model.frame_counts(torch.tensor(3000))
            assert_close(actual[[0, 2]], expected[[0, 2]], "same graph")
            waveforms[1, 3500] = 0
            clean = model(waveforms, attention_mask=mask, output_attentions=attentions).logits
            assert_close(actual[1, :frames], clean[1, :frames], "same graph")


def test_empty_batches_give_empty_outputs():
    waveforms, mask = torch.zeros(0, 4000), torch.ones(0, 4000)
    options = dict(attention_mask=mask, output_hidden_states=True, output_attentions=True)
    for cls, shape in ((HubertModel, (0, 12, 48)), (HubertForCTC, (0, 12, 32)), (HubertForSequenceClassification, (0, 4))):
        model = cls(small_config(num_labels=4)).eval()
        with torch.no_grad():
            output = model(waveforms, **options)
        assert output[0].shape == shape and output.attentions[0].shape == (0, 4, 12, 12)
        if cls is not HubertModel:
            with pytest.raises(ValueError, match="labels need at least one row of input_values, but the batch is empty"):
                model(waveforms, labels=torch.zeros(0, 1, dtype=torch.long))


def test_padding_does_not_change_layer_norm_models():
    model = HubertForCTC(small_config()).eval()
    waveforms = torch.randn(2, 6000)
    mask = torch.ones(2, 6000)
    mask[1, 3000:] = 0
    waveforms[1, 3000:] = 0
    with torch.no_grad():
        batch = model(waveforms, attention_mask=mask).logits
        alone = model(waveforms[1:, :3000]).logits
    assert_close(batch[1:, : alone.shape[1]], alone, "same graph")


def test_classification_of_rows_without_frames_is_finite():
    model = HubertForSequenceClassification(small_config(num_labels=4)).eval()
    mask = torch.ones(2, 1000)
    mask[1, 300:] = 0
    with torch.no_grad():
        logits = model(torch.randn(2, 1000), attention_mask=mask).logits
    assert logits.shape == (2, 4) and logits.isfinite().all()


def test_outputs_read_as_objects_dicts_and_tuples():
    model = HubertForCTC(small_config()).eval()
    waveforms = torch.randn(1, 1000)
    with torch.no_grad():
        output = model(waveforms, output_hidden_states=True)
        as_tuple = model(waveforms, output_hidden_states=True, return_dict=False)
    assert isinstance(output, CausalLMOutput) and isinstance(as_tuple, tuple)
    assert output.loss is None and list(output) == list(output.keys()) == ["logits", "hidden_states"]
    assert output[0] is output.logits is output["logits"] is output.to_tuple()[0]
    assert "loss" not in output and output.get("loss", 3) == 3 and len(output) == 2
    assert torch.equal(as_tuple[0], output[0]) and len(as_tuple) == 2
    with pytest.raises(KeyError, match="'loss' is not in this output"):
        output["loss"]


def test_outputs_of_subclasses_and_of_exported_compiled_and_traced_models():
    """Subclasses keep the fields; exported, compiled and traced models return the same outputs."""

    class Scored(CausalLMOutput):
        score: torch.Tensor

    output = Scored(logits=1, score=2)
    assert output.score == 2 and output.to_tuple() == (1, 2) and output.loss is None and "Scored(logits=1" in repr(output)
    with pytest.raises(TypeError, match="has the fields loss, logits, hidden_states, attentions, score, but got scroe"):
        Scored(scroe=1)
    with pytest.raises(AttributeError, match="no scroe"):
        output.scroe = 1
    assert pickle.loads(pickle.dumps(CausalLMOutput(logits=3))) == {"logits": 3}
    model = HubertForCTC(small_config()).eval()
    waveforms, mask = torch.randn(2, 4000), torch.ones(2, 4000)
    with torch.no_grad():
        expected = model(waveforms, attention_mask=mask).logits
        exported = torch.export.export(model, (waveforms,), {"attention_mask": mask}).module()
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for variant in (exported, compiled):
            assert isinstance(variant(waveforms, attention_mask=mask), CausalLMOutput)
            assert_close(variant(waveforms, attention_mask=mask).logits, expected, "same graph")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, (waveforms, mask), strict=False)
        assert_close(traced(waveforms, mask)["logits"], expected, "same graph")


def test_activations_match_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-12, 12, 200)
    for name, function in ACTIVATIONS.items():
        assert_close(function(x), ACT2FN[name](x), "same graph", name)


def test_configuration_sets_default_call_options():
    model = HubertModel(small_config(output_hidden_states=True, output_attentions=True, return_dict=False)).eval()
    with torch.no_grad():
        last, states, attentions = model(torch.randn(1, 1000))
        assert len(states) == 4 and len(attentions) == 3 and torch.equal(states[-1], last)
        assert len(model(torch.randn(1, 1000), output_hidden_states=False, output_attentions=False)) == 1


def test_attentions_are_probabilities_over_real_frames():
    model = HubertModel(small_config()).eval()
    mask = torch.ones(2, 4000)
    mask[1, 2000:] = 0
    with torch.no_grad():
        attentions = model(torch.randn(2, 4000), attention_mask=mask, output_attentions=True).attentions
    frames = model.frame_counts(torch.tensor(2000))
    for attention in attentions:
        assert_close(attention.sum(-1), torch.ones(2, 4, 12), "same graph")
        assert not attention[1, :, :, frames:].any()


def test_freezing():
    model = HubertForCTC(small_config())
    model.freeze_feature_encoder()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith("hubert.feature_extractor.") for name in frozen)
    model.freeze_base_model()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "lm_head.weight",
        "lm_head.bias",
    ]


def test_dropout_and_masking_act_only_in_training():
    model = HubertForCTC(small_config(mask_time_prob=0.3, mask_time_length=2))
    waveforms = torch.randn(2, 8000)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(waveforms).logits, model(waveforms).logits)
        model.eval()
        assert torch.equal(model(waveforms).logits, model(waveforms).logits)


def test_layerdrop_of_one_skips_every_layer():
    config = small_config(layerdrop=1.0, hidden_dropout=0.0, mask_time_prob=0.0)
    model = HubertModel(config).train()
    with torch.no_grad():
        states = model(torch.randn(1, 2000), output_hidden_states=True).hidden_states
    assert torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


def test_masked_frames_become_the_mask_embedding():
    model = HubertModel(small_config()).eval()
    assert not hasattr(HubertModel(small_config(mask_time_prob=0.0)), "masked_spec_embed")
    indices = torch.zeros(1, 12, dtype=torch.bool)
    indices[0, 3] = True
    seen = {}
    model.encoder.register_forward_pre_hook(lambda module, arguments: seen.update(x=arguments[0]))
    with torch.no_grad():
        model(torch.randn(1, 4000), mask_time_indices=indices)
    assert torch.equal(seen["x"][0, 3], model.masked_spec_embed)
    assert not torch.equal(seen["x"][0, 4], model.masked_spec_embed)


def test_bad_mask_time_indices_are_refused():
    waveforms, indices = torch.randn(1, 4000), torch.zeros(1, 12, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\[batch, frames\], here \[1, 12\], but has \[1, 13\]"):
        HubertModel(small_config())(waveforms, mask_time_indices=torch.zeros(1, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs the mask embedding"):
        HubertModel(small_config(mask_time_prob=0.0))(waveforms, mask_time_indices=indices)


@pytest.mark.parametrize(
    "waveforms, mask, message",
    [
        (torch.zeros(2, 3, 400), None, r"must be \[batch, samples\], but has shape \[2, 3, 400\]"),
        (torch.zeros(2, 400, dtype=torch.int16), None, "must be floating point, but is torch.int16"),
        (torch.zeros(2, 399), None, r"at least 400 samples.*\[2, 399\]"),
        (torch.zeros(2, 400), torch.ones(2, 399), r"shape of input_values, \[2, 400\], but has \[2, 399\]"),
        (torch.zeros(2, 400), torch.ones(400), r"shape of input_values, \[2, 400\], but has \[400\]"),
        (torch.zeros(2, 400), torch.ones(2, 1, 400), r"shape of input_values, \[2, 400\], but has \[2, 1, 400\]"),
        (torch.zeros(400), None, r"must be \[batch, samples\], but has shape \[400\]"),
        (torch.zeros(2, 400, dtype=torch.long), None, "must be floating point, but is torch.int64"),
        (torch.zeros(2, 0), None, r"at least 400 samples.*\[2, 0\]"),
        ([0.0] * 400, None, "input_values must be a tensor, but is a list"),
        (torch.zeros(1, 400), [[1] * 400], "attention_mask must be a tensor, but is a list"),
    ],
    ids=[
        "3-D",
        "int16",
        "399 samples",
        "mask shape",
        "1-D mask",
        "3-D mask",
        "1-D",
        "int64",
        "no samples",
        "list",
        "mask list",
    ],
)
def test_errors_describe_bad_input(waveforms, mask, message):
    with pytest.raises(ValueError, match=message):
        HubertModel(small_config())(waveforms, attention_mask=mask)


def test_labels_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"below vocab_size \(32\), but reach 32"):
        HubertForCTC(small_config())(torch.randn(1, 1000), labels=torch.tensor([[1, 32]]))


def test_samples_are_counted_exactly_in_half_precision():
    """bfloat16 cannot count past 256, nor float16 past 2048."""
    model = HubertForCTC(small_config()).eval()
    waveforms, labels = torch.randn(1, 80001), torch.tensor([[1, 2, 3]])
    ones = torch.ones_like(waveforms)
    with torch.no_grad():
        expected = model(waveforms, labels=labels).loss.item()
        for dtype in (torch.bfloat16, torch.float16):
            half = model.to(dtype)
            for mask in (None, ones.to(dtype)):
                loss = half(waveforms.to(dtype), attention_mask=mask, labels=labels).loss.item()
                assert loss == pytest.approx(expected, rel=0.05)
            model.float()


def test_models_require_a_configuration():
    with pytest.raises(TypeError, match="expected a HubertConfig, but got a dict"):
        HubertModel({})


@BOTH
def test_bfloat16_against_float64(values):
    """Positional groups have 16 channels: with fewer, torch 2.13's bfloat16 grouped convolution is wrong on CPUs."""
    values = dict(values, hidden_size=48, num_conv_pos_embedding_groups=3)
    model = HubertForCTC(HubertConfig(**values)).eval()
    waveforms = torch.randn(2, 6000)
    with torch.no_grad():
        expected = model.double()(waveforms.double()).logits
        actual = model.bfloat16()(waveforms.bfloat16()).logits
    # bf16 has 8 bits of precision: a rounding errs by up to 2^-8, and a few dozen roundings partly cancel
    error = ((actual.double() - expected).square().mean() / expected.square().mean()).sqrt().item()
    assert error < 0.04, f"relative RMS error {error:.3f}"


@pytest.mark.parametrize("weighted", [False, True])
def test_a_classifier_returns_hidden_states_only_on_request(weighted):
    model = HubertForSequenceClassification(small_config(use_weighted_layer_sum=weighted)).eval()
    waveform = torch.randn(1, 4000)
    audio = PackedAudio.from_waveforms([waveform[0].numpy()])
    with torch.no_grad():
        for call in (lambda **options: model(waveform, **options), lambda **options: model.forward_packed(audio, **options)):
            without, with_states = call(), call(output_hidden_states=True)
            assert without.hidden_states is None and len(with_states.hidden_states) == 4
            assert torch.equal(without.logits, with_states.logits)
            model.config.output_hidden_states = True
            assert len(call().hidden_states) == 4 and call(output_hidden_states=False).hidden_states is None
            model.config.output_hidden_states = False
