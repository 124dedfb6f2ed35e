"""Compare the TensorFlow models with transformers 4.34.1's, by golden answers, and with our PyTorch definition."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from small_models import ALL
from tensorflow_models import as_torch, assert_equal_frames, assert_equal_gradients, pair, tf

from hubert_fast import HubertConfig, HubertModel
from hubert_fast.batch_feature import BatchFeature
from hubert_fast.integrations.tensorflow.weights import pytorch_name
from hubert_fast.tensorflow import TFCausalLMOutput, TFHubertForCTC, TFHubertMainLayer, TFHubertModel

GOLDEN = Path(__file__).parent / "golden"
LABELS = np.array([[3, 4, 4, 5, -100], [6, 7, -100, -100, -100], [8, -100, -100, -100, -100]], np.int32)


def golden(name):
    """Return the inputs and the answers of transformers 4.34.1's TensorFlow class, and our model with its weights."""
    inputs = np.load(GOLDEN / name / "expected.npz")
    answers = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "tensorflow" / f"{name}.npz").items()}
    return inputs["waveforms"], inputs["mask"], answers, TFHubertForCTC.from_pretrained(GOLDEN / name)


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_outputs_equal_transformers_4_34_1(name, kind):
    waveforms, mask, expected, model = golden(name)
    attention_mask = mask if kind == "masked" else None
    output = model(waveforms, attention_mask=attention_mask, output_hidden_states=True, output_attentions=True)
    frames = output.logits.shape[1]
    counts = [frames] * 3 if attention_mask is None else model.frame_counts(mask.sum(-1)).numpy()
    assert_equal_frames(output.logits, expected[f"{kind}.logits"], counts, "other graph", "logits")
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1 == len(output.attentions) + 1
    for index, state in enumerate(output.hidden_states):
        reference = expected[f"{kind}.hidden_states.{index}"]
        assert_equal_frames(state, reference, counts, "other graph", f"hidden state {index}")
    for index, attention in enumerate(output.attentions):
        rows = zip(as_torch(attention), expected[f"{kind}.attentions.{index}"], counts)
        for actual, reference, count in rows:
            assert_close(actual[:, :count], reference[:, :count], "attention", f"attention {index}")


@pytest.mark.parametrize("name", ["post_ln", "pre_ln"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_losses_and_gradients_equal_transformers_4_34_1(name, kind):
    waveforms, mask, expected, model = golden(name)
    attention_mask = mask if kind == "masked" else None
    for reduction in ("none", "sum"):
        model.config.ctc_loss_reduction = reduction
        with tf.GradientTape() as tape:
            loss = model(waveforms, attention_mask=attention_mask, labels=LABELS).loss
        assert_close(as_torch(loss), expected[f"{kind}.loss.{reduction}"], "other graph", reduction)
    prefix = f"{kind}.gradient."
    gradients = {pytorch_name(key.removeprefix(prefix)): value for key, value in expected.items() if key.startswith(prefix)}
    by_layout = {key: _pytorch_layout(key, value) for key, value in gradients.items()}
    by_layout.pop("hubert.masked_spec_embed")  # unused outside training
    assert_equal_gradients(model, tape.gradient(loss, model.trainable_weights), by_layout)


def _pytorch_layout(key, value):
    is_transposed = value.dim() > 1 and not key.endswith("original1")
    return value.permute(*reversed(range(value.dim()))) if is_transposed else value


@pytest.mark.parametrize("values", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("cls", [HubertModel, "ctc"], ids=["model", "ctc"])
def test_every_architecture_equals_pytorch(values, cls):
    model, counterpart = pair(values) if cls == "ctc" else pair(values, HubertModel)
    waveforms, mask = masked_batch((4000, 3000, 900))
    for attention_mask in (None, mask):
        options = dict(output_hidden_states=True, output_attentions=True)
        with torch.no_grad():
            expected = model(waveforms, attention_mask=attention_mask, **options)
        numpy_mask = None if attention_mask is None else attention_mask.numpy()
        actual = counterpart(waveforms.numpy(), attention_mask=numpy_mask, **options)
        frames = actual[0].shape[1]
        counts = [frames] * 3 if attention_mask is None else model.frame_counts(mask.sum(-1)).tolist()
        assert min(counts) > 0
        pairs = [(actual[0], expected[0]), *zip(actual.hidden_states, expected.hidden_states)]
        for index, (state, reference) in enumerate(pairs):
            assert_equal_frames(state, reference, counts, "other graph", f"tensor {index}")
        for index, (attention, reference) in enumerate(zip(actual.attentions or (), expected.attentions or ())):
            for a, e, count in zip(as_torch(attention), reference, counts):
                assert_close(a[:, :count], e[:, :count], "attention", f"attention {index}")


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_losses_and_gradients_equal_pytorch(values, reduction, masked):
    model, counterpart = pair(values, ctc_loss_reduction=reduction, pad_token_id=5, mask_time_prob=0.0)
    waveforms, mask = masked_batch((6000, 5000, 4000))
    labels = torch.tensor([[3, 4, 4, -100, 6], [7, 8, -100, -100, -100], [-100, 9, 9, 9, -100]])
    attention_mask = mask if masked else None
    model.zero_grad()
    loss = model(waveforms, attention_mask=attention_mask, labels=labels).loss
    loss.sum().backward()
    with tf.GradientTape() as tape:
        actual = counterpart(waveforms.numpy(), attention_mask=mask.numpy() if masked else None, labels=labels.numpy()).loss
    assert_close(as_torch(actual), loss.detach().reshape(-1), "other graph", "loss")
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert_equal_gradients(counterpart, tape.gradient(actual, counterpart.trainable_weights), expected)


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("in_a_graph", [False, True], ids=["eager", "graph"])
def test_labels_too_long_for_their_frames(zero_infinity, in_a_graph):
    model, counterpart = pair(PRE_LN, ctc_loss_reduction="none", ctc_zero_infinity=zero_infinity)
    waveforms, mask = masked_batch((4000, 1200, 300))  # 12, 3 and 0 frames
    labels = torch.tensor([[3, 4, 5], [6, 6, -100], [7, -100, -100]])
    expected = model(waveforms, attention_mask=mask, labels=labels).loss.detach()
    call = tf.function(counterpart) if in_a_graph else counterpart
    actual = as_torch(call(waveforms.numpy(), attention_mask=mask.numpy(), labels=labels.numpy()).loss)
    assert_close(actual[:2], expected[:2], "other graph", "possible losses")
    assert actual[2] == expected[2] == (0 if zero_infinity else float("inf"))


@pytest.mark.parametrize("labels", [torch.zeros(2, 0).long(), torch.full((2, 3), -100), torch.tensor([[-100], [4]])], ids=str)
@pytest.mark.parametrize("in_a_graph", [False, True], ids=["eager", "graph"])
def test_rows_without_labels(labels, in_a_graph):
    model, counterpart = pair(PRE_LN, ctc_loss_reduction="none")
    waveforms, mask = masked_batch((4000, 3000))
    expected = model(waveforms, attention_mask=mask, labels=labels).loss.detach()
    call = tf.function(counterpart) if in_a_graph else counterpart
    actual = call(waveforms.numpy(), attention_mask=mask.numpy(), labels=labels.numpy().astype(np.int32)).loss
    assert_close(as_torch(actual), expected, "other graph")


def test_impossible_losses_give_no_gradient_when_they_count_as_zero():
    _, counterpart = pair(PRE_LN, ctc_zero_infinity=True)
    waveforms, mask = masked_batch((4000, 300))
    with tf.GradientTape() as tape:
        loss = counterpart(waveforms.numpy(), attention_mask=mask.numpy(), labels=np.array([[3] * 20, [4] * 20])).loss
    gradients = tape.gradient(loss, counterpart.lm_head.trainable_weights)
    assert loss.numpy() == 0 and all(np.all(gradient.numpy() == 0) for gradient in gradients)


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("short", [0, 1, 399])
def test_a_row_without_frames_disturbs_nobody(values, short):
    _, model = pair(values)
    waveforms, mask = masked_batch((4000, short, 2000))
    alone = model(waveforms.numpy()[[0, 2]], attention_mask=mask.numpy()[[0, 2]])
    logits = model(waveforms.numpy(), attention_mask=mask.numpy()).logits.numpy()
    assert_close(as_torch(logits[[0, 2]]), as_torch(alone.logits), "other graph", "neighbours")
    assert np.isfinite(logits).all() and (logits[1].argmax(-1) == model.config.pad_token_id).all()


def test_the_mask_may_have_holes_since_only_its_sum_counts():
    model, counterpart = pair(PRE_LN)
    waveforms, mask = masked_batch((4000, 4000))
    mask[1, 500:1500] = 0
    with torch.no_grad():
        expected = model(waveforms, attention_mask=mask).logits
    actual = counterpart(waveforms.numpy(), attention_mask=mask.numpy()).logits
    assert_equal_frames(actual, expected, [12, model.frame_counts(torch.tensor(3000))], "other graph", "logits")


@pytest.mark.parametrize("blank", [0, 29, 31, None, 32])
def test_padding_has_the_logits_of_the_blank(blank):
    model, counterpart = pair(PRE_LN, pad_token_id=blank)
    waveforms, mask = masked_batch((4000, 2000))
    with torch.no_grad():
        expected = model(waveforms, attention_mask=mask).logits
    actual = as_torch(counterpart(waveforms.numpy(), attention_mask=mask.numpy()).logits)
    assert_close(actual, expected, "other graph", "logits with padding")
    assert model.frame_counts(torch.tensor(2000)) < 12


def test_a_head_mask_scales_the_attention_of_heads():
    _, model = pair(PRE_LN)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    waveforms = masked_batch((3000,))[0].numpy()
    plain = model(waveforms, output_attentions=True)
    same = model(waveforms, head_mask=np.ones(heads, np.float32))
    assert_close(as_torch(same.logits), as_torch(plain.logits), "same graph", "ones")
    one = np.ones((layers, heads), np.float32)
    one[1, 2] = 0
    masked = model(waveforms, head_mask=one, output_attentions=True)
    assert np.all(masked.attentions[1][:, 2] == 0) and np.all(masked.attentions[1][:, 1] > 0)
    weights = model.hubert.encoder.layer[1].attention.out_proj.kernel
    kernel = weights.numpy()
    kernel[2 * 12 : 3 * 12] = 0  # what this head writes
    weights.assign(kernel)
    assert_close(as_torch(masked.logits), as_torch(model(waveforms).logits), "other graph", "without the head")


def test_inputs_come_as_keywords_a_list_or_a_dictionary():
    _, model = pair(PRE_LN)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 2000)))
    expected = model(input_values=waveforms, attention_mask=mask).logits.numpy()
    unused = dict(token_type_ids=np.zeros_like(mask), position_ids=np.zeros_like(mask))
    calls = [
        model(waveforms, mask),
        model([waveforms, mask]),
        model((tf.constant(waveforms), tf.constant(mask))),
        model({"input_values": waveforms, "attention_mask": mask}),
        model({"input_values": waveforms}, attention_mask=mask),
        model(collections.UserDict(input_values=waveforms, attention_mask=mask)),
        model(BatchFeature(input_values=waveforms, attention_mask=mask)),
        model({"input_values": waveforms, "attention_mask": mask} | unused),
        model(waveforms.astype(np.float64), attention_mask=mask.astype(bool)),
        model(tf.constant(waveforms), attention_mask=tf.constant(mask, tf.float32), **unused),
        model(input_values=waveforms.tolist(), attention_mask=mask.tolist()),
    ]
    for index, output in enumerate(calls):
        assert_close(as_torch(output.logits), as_torch(expected), "same graph", f"call {index}")


def test_outputs_are_read_by_attribute_by_name_by_index_and_as_a_tuple():
    _, model = pair(PRE_LN)
    waveforms = masked_batch((3000,))[0].numpy()
    output = model(waveforms, labels=np.array([[3, 4]]), output_hidden_states=True)
    assert (
        isinstance(output, TFCausalLMOutput)
        and output.attentions is None
        and list(output) == ["loss", "logits", "hidden_states"]
    )
    assert output.loss is output[0] is output["loss"] and output.loss.shape == (1,)
    _, logits, states = output.to_tuple()
    assert logits is output.logits and states is output.hidden_states
    as_tuple = model(waveforms, return_dict=False)
    assert type(as_tuple) is tuple and len(as_tuple) == 1
    assert_close(as_torch(as_tuple[0]), as_torch(logits), "same graph")
    (last,) = TFHubertModel(model.config)(waveforms, return_dict=False)
    assert last.shape == (1, 9, model.config.hidden_size)


def test_options_of_a_call_override_the_configuration_both_ways():
    _, model = pair(PRE_LN, output_hidden_states=True, output_attentions=True, return_dict=False)
    waveforms = masked_batch((3000,))[0].numpy()
    assert len(model(waveforms)) == 3
    assert list(model(waveforms, output_hidden_states=False, output_attentions=False, return_dict=True)) == ["logits"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(), "input_values are missing"),
        (lambda model: model(attention_mask=np.ones((1, 4000))), "input_values are missing"),
        (lambda model: model(np.zeros(4000, np.float32)), r"\[batch, samples\], but have shape \[4000\]"),
        (lambda model: model(np.zeros((1, 4000, 1), np.float32)), r"but have shape \[1, 4000, 1\]"),
        (lambda model: model(np.zeros((2, 399), np.float32)), "at least 400 samples, one frame, but have only 399"),
        (lambda model: model(np.zeros((1, 4000), bool)), "must be numbers, but are bool"),
        (lambda model: model(np.zeros((1, 4000), np.float32), np.ones((1, 3999))), r"\[1, 4000\], but has \[1, 3999\]"),
        (lambda model: model({"input_values": np.zeros((1, 4000)), "mask": np.ones((1, 4000))}), "the dictionary has mask"),
        (lambda model: model([np.zeros((1, 4000), np.float32)] * 20), "at most 7 entries"),
        (lambda model: model(np.zeros((1, 4000)), inputs_embeds=np.zeros((1, 12, 48))), "inputs_embeds must be None"),
        (lambda model: model(np.zeros((1, 4000)), head_mask=np.ones(5)), r"\[4\] or \[3, 4\], but has shape \[5\]"),
        (lambda model: model(np.zeros((1, 4000)), labels=np.array([[32]])), r"below vocab_size \(32\), but reach 32"),
        (lambda model: model(np.zeros((1, 4000)), labels=np.array([[1.5]])), "whole numbers"),
        (lambda model: model(np.zeros((1, 4000)), labels=np.array([1, 2])), r"\[batch, length\], with 1 rows"),
        (lambda model: model(np.zeros((1, 4000)), labels=np.ones((2, 2))), r"with 1 rows here, but have shape \[2, 2\]"),
        (
            lambda model: model({"input_values": np.zeros((1, 4000)), "labels": np.ones((1, 2))}, labels=np.ones((1, 2))),
            "twice",
        ),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    _, model = pair(PRE_LN)
    with pytest.raises(ValueError, match=message):
        call(model)


def test_labels_out_of_the_vocabulary_are_refused_in_a_graph():
    _, model = pair(PRE_LN)
    call = tf.function(lambda waveforms, labels: model(waveforms, labels=labels).loss)
    with pytest.raises(tf.errors.InvalidArgumentError, match="below vocab_size"):
        call(np.zeros((1, 4000), np.float32), np.array([[99]]))


@pytest.mark.parametrize("blank", [None, 32])
def test_a_blank_outside_the_vocabulary_is_refused_with_labels(blank):
    _, model = pair(PRE_LN, pad_token_id=blank)
    with pytest.raises(ValueError, match="pad_token_id is CTC's blank"):
        model(np.zeros((1, 4000), np.float32), labels=np.array([[1]]))


@pytest.mark.parametrize("field", ["hidden_act", "feat_extract_activation"])
def test_an_unknown_activation_is_refused_by_the_field_that_names_it(field):
    with pytest.raises(ValueError, match=f"{field} must be one of .*'snake'"):
        TFHubertModel(HubertConfig(**PRE_LN | {field: "snake"}))


@pytest.mark.parametrize(
    "name", ["gelu_new", "quick_gelu", "gelu_10", "mish", "leaky_relu", "relu2", "silu", "sigmoid", "tanh"]
)
def test_activations_equal_pytorch(name):
    model, counterpart = pair(PRE_LN, hidden_act=name, feat_extract_activation=name)
    waveforms = 3 * masked_batch((3000,))[0]
    with torch.no_grad():
        expected = model(waveforms).logits
    assert_close(as_torch(counterpart(waveforms.numpy()).logits), expected, "other graph", name)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_mixed_precision_computes_in_half_and_keeps_float32_weights(policy, values):
    model, reference = pair(values)
    counterpart = TFHubertForCTC(model.config, dtype=policy)
    counterpart.set_weights(reference.get_weights())
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 2000)))
    expected = reference(waveforms, attention_mask=mask).logits
    actual = counterpart(waveforms, attention_mask=mask).logits
    assert actual.dtype == policy.removeprefix("mixed_")
    assert_close(as_torch(tf.cast(actual, tf.float32)), as_torch(expected), "half-precision model", policy)
    assert {weight.dtype for weight in counterpart.weights} == {"float32"}


def test_an_own_head_on_the_main_layer():
    import keras

    class Classifier(keras.Model):
        def __init__(self, config):
            super().__init__()
            self.hubert = TFHubertMainLayer(config, name="hubert")
            self.head = keras.layers.Dense(4)

        def call(self, waveforms, training=False):
            return self.head(tf.reduce_mean(self.hubert(waveforms, training=training).last_hidden_state, axis=1))

    model = Classifier(pair(PRE_LN)[0].config)
    waveforms = masked_batch((4000, 4000))[0].numpy()
    assert model(waveforms).shape == (2, 4)
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(waveforms, np.array([0, 3]), verbose=0).history["loss"]).all()
    assert any(weight.path.endswith("hubert/encoder/layers.0/attention/k_proj/kernel") for weight in model.weights)
