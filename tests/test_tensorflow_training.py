"""Check that the TensorFlow models train: `fit`, SpecAugment, dropout, LayerDrop, freezing, and eager calls in between."""

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from tensorflow_models import as_torch, pair, tf

import hubert_fast
from hubert_fast import HubertForCTC, HubertProcessor, audio, demo
from hubert_fast.integrations.tensorflow.masks import sample_spec_augment_mask
from hubert_fast.integrations.tensorflow.weights import assign, named_weights, state_dict
from hubert_fast.tensorflow import TFHubertForCTC, TFHubertModel

keras = pytest.importorskip("keras", reason="Keras is not installed")

STILL = dict(hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0)
STILL |= dict(layerdrop=0.0, mask_time_prob=0.0, mask_feature_prob=0.0)
LABELS = np.array([[3, 4, 4, -100], [6, 7, -100, -100], [8, -100, -100, -100]], np.int32)


def batch(lengths=(6000, 5000, 4000)):
    waveforms, mask = masked_batch(lengths)
    return {"input_values": waveforms.numpy(), "attention_mask": mask.numpy().astype(np.int32)}


def pytorch_losses(model, inputs, labels, steps, rate):
    """Train by gradient descent without momentum, in training mode, and return the loss of each step."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, labels=torch.from_numpy(labels)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_fit_on_the_demo_recordings_lowers_the_loss_as_pytorch_does():
    recordings = [recording for recording in demo.recordings() if recording.path.stat().st_size < 100_000][:3]
    processor = HubertProcessor.from_pretrained(demo.MODEL)
    waveforms = [audio.load(recording.path) for recording in recordings]
    inputs = dict(processor(waveforms, sampling_rate=16000, padding=True, return_tensors="np"))
    texts = [recording.reference.upper() for recording in recordings]
    ids = processor(text=texts)["input_ids"]
    labels = np.full((len(ids), max(map(len, ids))), -100)
    for row, tokens in zip(labels, ids):
        row[: len(tokens)] = tokens
    options = STILL | dict(ctc_loss_reduction="mean")
    expected = pytorch_losses(HubertForCTC.from_pretrained(demo.MODEL, **options), inputs, labels, 4, 0.05)
    model = TFHubertForCTC.from_pretrained(demo.MODEL, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.05), jit_compile=False)
    losses = model.fit(inputs | {"labels": labels}, epochs=4, batch_size=3, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    assert_close(torch.tensor(losses), torch.tensor(expected), "gradient", "losses")


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_a_step_changes_weights_as_in_pytorch(values):
    model, counterpart = pair(values, **STILL)
    inputs = batch()
    counterpart.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
    counterpart.fit(inputs, LABELS, epochs=2, verbose=0, shuffle=False)
    pytorch_losses(model, inputs, LABELS, 2, 1e-3)
    trained = TFHubertForCTC(model.config)
    assign(trained, {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()})
    for name, variable in named_weights(counterpart).items():
        if name != "hubert/masked_spec_embed":  # only TensorFlow has it without a mask probability
            assert_close(as_torch(variable), as_torch(named_weights(trained)[name]), "gradient", name)


@pytest.mark.parametrize("how", ["dictionary", "targets", "dataset", "compiled", "xla", "eager"])
def test_every_way_to_fit(how):
    _, model = pair(PRE_LN, **STILL)
    inputs = batch()
    expected = float(model(**inputs, labels=LABELS).loss[0])
    options = {"xla": dict(jit_compile=True), "eager": dict(run_eagerly=True)}.get(how, dict(jit_compile=False))
    if how == "compiled":
        model.compile(optimizer="sgd", loss=lambda y, logits: tf.reduce_mean(tf.square(logits - y)), metrics=["mae"])
        history = model.fit(inputs, np.zeros((3, 18, 32), np.float32), epochs=2, verbose=0).history
        assert history["loss"][1] < history["loss"][0] and "mae" in history
        return
    model.compile(optimizer=keras.optimizers.SGD(1e-4), **options)
    if how == "dataset":
        rows = tf.data.Dataset.from_tensor_slices((inputs, LABELS)).batch(3)
        history = model.fit(rows, epochs=2, verbose=0).history
        evaluated = model.evaluate(rows, verbose=0)
    elif how == "targets":
        history = model.fit(inputs, LABELS, epochs=2, verbose=0).history
        evaluated = model.evaluate(inputs, LABELS, verbose=0)
    else:
        history = model.fit(inputs | {"labels": LABELS}, epochs=2, verbose=0).history
        evaluated = model.evaluate(inputs | {"labels": LABELS}, verbose=0)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert evaluated < history["loss"][1] < history["loss"][0]


def test_predict_joins_the_outputs_of_batches():
    _, model = pair(PRE_LN)
    inputs = batch((6000, 6000, 5000, 6000, 4000))
    output = model.predict(inputs, batch_size=2, verbose=0)
    assert_close(torch.from_numpy(output.logits), as_torch(model(**inputs).logits), "other graph")


def test_fit_without_a_loss_is_refused():
    _, model = pair(PRE_LN)
    model.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="need labels for the loss of TFHubertForCTC"):
        model.fit(batch(), verbose=0)
    with pytest.raises(ValueError, match="labels are given twice"):
        model.fit(batch() | {"labels": LABELS}, LABELS, verbose=0)
    encoder = TFHubertModel(model.config)
    encoder.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="loss of TFHubertModel"):
        encoder.fit(batch()["input_values"], verbose=0)


@pytest.mark.parametrize("method", ["freeze_feature_encoder", "freeze_feature_extractor"])
def test_freezing_the_feature_encoder(method):
    _, model = pair(PRE_LN, **STILL)
    getattr(model, method)()
    assert not model.hubert.feature_extractor.trainable_weights
    before = [variable.numpy() for variable in model.hubert.feature_extractor.weights]
    others = model.lm_head.kernel.numpy()
    model.compile(optimizer="sgd", jit_compile=False)
    model.fit(batch(), LABELS, verbose=0)
    for variable, value in zip(model.hubert.feature_extractor.weights, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert not np.array_equal(model.lm_head.kernel.numpy(), others)


@pytest.mark.parametrize("in_a_graph", [False, True], ids=["eager", "graph"])
def test_dropout_layerdrop_and_spec_augment_act_in_training_alone(in_a_graph):
    quiet = STILL | dict(output_hidden_states=True)
    inputs = batch()
    for change in (
        dict(hidden_dropout=0.5),
        dict(activation_dropout=0.5),
        dict(attention_dropout=0.5),
        dict(feat_proj_dropout=0.5),
        dict(final_dropout=0.5),
        dict(layerdrop=0.5),
        dict(mask_time_prob=0.5, mask_time_length=3),
        dict(mask_feature_prob=0.5),
        {},
    ):
        _, model = pair(PRE_LN, **quiet | change)
        call = tf.function(model) if in_a_graph else model
        plain = call(**inputs, training=False).logits.numpy()
        runs = [call(**inputs, training=True).logits.numpy() for _ in range(6)]
        frames = np.arange(18) < np.array([[18], [15], [12]])
        differs = [abs(run - plain)[frames].max() > 1e-3 for run in runs]
        assert any(differs) == bool(change), change
        assert not change or any(abs(runs[0] - run)[frames].max() > 1e-3 for run in runs[1:]), f"{change} draws once"


def test_layerdrop_skips_layers_with_its_probability():
    _, model = pair(PRE_LN, **STILL | dict(layerdrop=0.3))
    call = tf.function(lambda waveforms: model(waveforms, output_hidden_states=True, output_attentions=True, training=True))
    waveforms = batch()["input_values"]
    skipped = []
    for _ in range(60):
        output = call(waveforms)
        states = [state.numpy() for state in output.hidden_states]
        same = [np.array_equal(states[index], states[index + 1]) for index in range(2)]  # the last one is normalised
        zero = [not attention.numpy().any() for attention in output.attentions]
        assert same == zero[:2]
        skipped += zero
    assert 0.18 < np.mean(skipped) < 0.42  # 0.3 within three and a half standard deviations
    for probability, expected in ((1.0, True), (1e-9, False)):
        model.config.layerdrop = probability
        assert (
            all(not attention.numpy().any() for attention in model(waveforms, output_attentions=True, training=True).attentions)
            == expected
        )


@pytest.mark.parametrize("in_a_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(
    ("size", "probability", "length", "least"),
    [(100, 0.5, 10, 0), (37, 0.2, 5, 2), (10, 0.9, 10, 1), (50, 0.0, 7, 2), (9, 0.3, 1, 0)],
)
def test_masks_have_the_spans_that_spec_augment_defines(size, probability, length, least, in_a_graph):
    seed = keras.random.SeedGenerator(0)

    def draw():
        return sample_spec_augment_mask(8, size, probability, length, least, seed)

    call = tf.function(draw, jit_compile=True) if in_a_graph else draw
    masks = np.concatenate([call().numpy() for _ in range(20)])
    counts = {probability * size / length // 1, probability * size / length // 1 + 1}
    limits = [min(max(int(count), least), size // length) for count in counts]
    for mask in masks:
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))))[::2]
        assert all(run >= length for run in runs)
        assert sum(runs) <= max(limits) * length
        assert length > 1 or min(limits) <= sum(runs) <= max(limits)
    if max(limits) and max(limits) * length < size:
        assert len({mask.tobytes() for mask in masks}) > 20


def test_masks_equal_those_of_pytorch_in_distribution():
    seed = keras.random.SeedGenerator(0)
    ours = np.concatenate([sample_spec_augment_mask(50, 60, 0.4, 6, 2, seed).numpy() for _ in range(20)])
    theirs = np.concatenate([hubert_fast.spec_augment.sample_spec_augment_mask((50, 60), 0.4, 6, 2).numpy() for _ in range(20)])
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert abs(ours.mean(0) - theirs.mean(0)).max() < 0.1


def test_a_mask_longer_than_the_audio_is_refused_as_in_pytorch():
    _, model = pair(PRE_LN, mask_time_prob=0.3, mask_time_length=13)
    with pytest.raises(ValueError, match="mask length must be between 1 and the number of positions, but is 13"):
        model(batch((4000,))["input_values"], training=True)
    call = tf.function(lambda waveforms: model(waveforms, training=True).logits, input_signature=[tf.TensorSpec([None, None])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask length must be between 1"):
        call(batch((4000,))["input_values"])


def test_equal_seeds_give_equal_training():
    histories = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        model = TFHubertForCTC(pair(PRE_LN, mask_time_length=3)[0].config)
        model.compile(optimizer="sgd", jit_compile=False)
        histories.append(model.fit(batch((5000, 5000, 5000)), LABELS, epochs=2, verbose=0, shuffle=False).history["loss"])
        torch.manual_seed(0)
    assert histories[0] == histories[1]


def test_new_weights_have_the_distribution_of_pytorch():
    model, _ = pair(PRE_LN | dict(hidden_size=192, num_attention_heads=4))
    fresh = HubertForCTC(model.config)
    counterpart = TFHubertForCTC(model.config)
    for name, array in state_dict(counterpart).items():
        expected = fresh.state_dict()[name]
        assert array.shape == expected.shape
        assert array.std() == pytest.approx(expected.std().item(), rel=0.25, abs=1e-6), name
        assert array.mean() == pytest.approx(expected.mean().item(), abs=0.3 * expected.std().item() + 1e-6), name


def test_batch_norm_learns_its_statistics():
    model, counterpart = pair(POST_LN, **STILL | dict(conv_pos_batch_norm=True))
    inputs = {"input_values": batch((5000, 5000))["input_values"]}
    counterpart(**inputs, training=True)
    model.train()(torch.from_numpy(inputs["input_values"]))
    norm = counterpart.hubert.encoder.pos_conv_embed.batch_norm
    reference = model.hubert.encoder.pos_conv_embed.batch_norm
    assert_close(as_torch(norm.moving_mean), reference.running_mean, "other graph", "mean")
    # PyTorch's running variance divides by n - 1, Keras's by n
    assert as_torch(norm.moving_variance).numpy() == pytest.approx(reference.running_var.numpy(), rel=0.05)


def test_eager_calls_follow_what_changes_in_a_model(monkeypatch):
    model, counterpart = pair(PRE_LN)
    traces = []
    encode = counterpart.hubert._encode
    object.__setattr__(counterpart.hubert, "_encode", lambda *args: traces.append(1) or encode(*args))
    for lengths in ((4000,), (3000, 2000), (6000, 5000, 4000)):
        counterpart(**batch(lengths))
    assert len(traces) == 1, "one graph serves all sizes"
    waveforms = batch((4000,))["input_values"]
    before = counterpart(waveforms).logits.numpy()
    assert len(traces) == 2

    kernel = counterpart.hubert.encoder.layer[0].attention.q_proj.kernel
    kernel.assign(2 * kernel)
    model.hubert.encoder.layers[0].attention.q_proj.weight.data *= 2
    doubled = counterpart(waveforms).logits.numpy()
    assert len(traces) == 2, "weights may change without a new graph"
    counterpart.hubert.encoder.layer[1].attention.scaling = 0.7
    model.hubert.encoder.layers[1].attention.scaling = 0.7
    scaled = counterpart(waveforms).logits.numpy()
    assert len(traces) == 3
    counterpart.hubert.encoder.layer[1].feed_forward.intermediate_act_fn = tf.nn.relu
    model.hubert.encoder.layers[1].feed_forward.intermediate_act_fn = torch.relu
    changed = counterpart(waveforms).logits
    with torch.no_grad():
        assert_close(as_torch(changed), model(torch.from_numpy(waveforms)).logits, "other graph")
    for one, other in ((before, doubled), (doubled, scaled), (scaled, changed.numpy())):
        assert abs(one - other).max() > 1e-3
    traces.clear()
    tf.config.run_functions_eagerly(True)
    try:
        eager = counterpart(waveforms).logits
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(traces) == 1
    assert_close(as_torch(eager), as_torch(changed), "other graph")
