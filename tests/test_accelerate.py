"""accelerate and restore: a live transformers model, made fast and undone, and every reason for which it steps aside."""

import copy
import inspect
import logging

import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, PRE_LN, assert_close, masked_batch, perturb
from torch import nn

import hubert_fast
from hubert_fast import accelerate, audio, demo, restore

CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
STATES = dict(output_hidden_states=True)
ALL = {**ARCHITECTURES, **NEWER_ARCHITECTURES}


def theirs(class_name: str = "HubertForCTC", values: dict = PRE_LN, **more):
    model = getattr(transformers, class_name)(transformers.HubertConfig(**{**values, **more}))
    return perturb(model).eval()


def forward_of(model: nn.Module):
    return getattr(model, "hubert", model).forward


def answers(model: nn.Module, waveforms: torch.Tensor, mask: torch.Tensor | None, **asked):
    with torch.no_grad():
        return model(waveforms, attention_mask=mask, **asked)


@pytest.fixture
def batch():
    return masked_batch((8000, 5000, 401, 6399))


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize(
    "values", {**ARCHITECTURES, **NEWER_ARCHITECTURES}.values(), ids={**ARCHITECTURES, **NEWER_ARCHITECTURES}
)
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_the_same_answers_from_our_graph(class_name, values, masked, batch):
    model = theirs(class_name, values, use_weighted_layer_sum=True)
    if set(model.state_dict()) != set(getattr(hubert_fast, class_name)(model.config).state_dict()):
        pytest.skip(f"transformers {transformers.__version__} does not know this configuration")
    waveforms, mask = batch[0], batch[1] if masked else None
    expected = answers(model, waveforms, mask, **STATES)
    assert accelerate(model) is model
    found = answers(model, waveforms, mask, **STATES)
    assert forward_of(model).reason is None
    assert type(found) is type(expected) and list(found.keys()) == list(expected.keys())
    assert_close(found[0], expected[0], "same graph")
    assert len(found.hidden_states) == len(expected.hidden_states)
    for index, (ours, other) in enumerate(zip(found.hidden_states, expected.hidden_states)):  # by their convention
        assert_close(ours, other, "same graph", f"hidden state {index}")
    as_tuple = answers(model, waveforms, mask, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], found[0])


def test_it_is_that_object_and_nothing_else(batch):
    forward, modules = transformers.HubertModel.forward, set(vars(transformers.models.hubert.modeling_hubert))
    model, other = theirs(), theirs()
    keys, signature = list(model.state_dict()), inspect.signature(model.hubert.forward)
    accelerate(model)
    assert transformers.HubertModel.forward is forward and set(vars(transformers.models.hubert.modeling_hubert)) == modules
    assert "forward" not in vars(other.hubert) and "forward" not in vars(model)
    assert list(model.state_dict()) == keys and inspect.signature(model.hubert.forward) == signature
    assert restore(model) is model and "forward" not in vars(model.hubert)
    assert restore(model) is model  # nothing to undo
    answers(model, *batch)


def test_accelerating_twice_and_restoring_below_a_wrapper(batch):
    import functools

    model = theirs("HubertModel")
    fast = accelerate(accelerate(model)).forward
    assert fast.__wrapped__.__self__ is model

    @functools.wraps(fast)
    def wrapper(*args, **kwargs):  # what Hugging Face's accelerate does for mixed precision
        return fast(*args, **kwargs)

    model.forward = wrapper
    expected = answers(model, *batch)[0]
    assert fast.reason is None
    restore(model)
    fast.reason = "not called"
    assert_close(answers(model, *batch)[0], expected, "same graph")
    assert fast.reason == "not called" and model.forward is wrapper
    accelerate(model)
    answers(model, *batch)
    assert fast.reason is None


def test_what_changes_the_weights_reaches_both(batch):
    model = accelerate(theirs())
    answers(model, *batch)
    other = theirs()

    def check(waveforms=batch[0]):
        found = answers(model, waveforms, batch[1]).logits
        assert forward_of(model).reason is None
        expected = answers(restore(model), waveforms, batch[1]).logits
        assert_close(found, expected, "same graph")
        accelerate(model)
        return found

    before = check()
    model.load_state_dict(other.state_dict())
    assert not torch.equal(check(), before)
    model.load_state_dict({key: 2 * tensor for key, tensor in other.state_dict().items()}, assign=True)
    before = check()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    assert not torch.equal(check(), before)
    assert check(batch[0].double()).dtype == torch.float64 if model.double() else None
    model.float().hubert.encoder.layers = model.hubert.encoder.layers[:2]  # fewer layers than configured
    answers(model, *batch)
    assert forward_of(model).reason.startswith("encoder.layers.2 is None")
    model.config.num_hidden_layers = 2


def test_a_copy_is_accelerated_on_its_own(batch):
    model = accelerate(theirs())
    expected = answers(model, *batch).logits
    twin = copy.deepcopy(model)
    assert twin.hubert.forward is not model.hubert.forward and twin.hubert.forward.base is twin.hubert
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(answers(twin, *batch).logits, expected) and twin.hubert.forward.reason is None


def test_replicas_of_data_parallel_run_their_own_forward(batch):
    """Trainer makes them where there are several GPUs; each has its own device's weights, which ours would not see."""
    model = accelerate(theirs("HubertModel"))
    replica = model._replicate_for_data_parallel()
    assert not {"forward", "_replicate_for_data_parallel"} & set(vars(replica)) and "forward" in vars(model)
    assert replica.forward.__func__ is type(model).forward
    assert not {"forward", "_replicate_for_data_parallel"} & set(vars(restore(model)))


def asking_for_attentions(model, batch):
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    assert len(answers(model, *batch, output_attentions=True).attentions) == 3


def masking(model, batch):
    indices = torch.zeros(4, 24, dtype=torch.bool)
    indices[:, 3:5] = True
    with torch.no_grad():
        masked = model.hubert(batch[0], attention_mask=batch[1], mask_time_indices=indices)[0]
    assert not torch.equal(masked, answers(model.hubert, *batch)[0])
    with torch.no_grad():
        model.hubert(batch[0], mask_time_indices=indices)


def training(model, batch):
    model.train()
    answers(model, *batch)
    model.eval()


def needing_a_gradient(model, batch):
    model(batch[0], attention_mask=batch[1]).logits.sum().backward()
    assert model.hubert.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0


def needing_the_gradient_of_the_input(model, batch):
    model.requires_grad_(False)
    waveforms = batch[0].clone().requires_grad_()
    model(waveforms).logits.sum().backward()
    assert waveforms.grad.abs().sum() > 0


def compiling_it_all(model, batch):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    expected = answers(restore(model), *batch).logits
    assert_close(answers(compiled, *batch).logits, expected, "same graph")
    accelerate(model)
    assert_close(answers(compiled, *batch).logits, expected, "same graph")


STEPS_ASIDE = {
    "output_attentions is asked for": asking_for_attentions,
    "mask_time_indices are given": masking,
    "the model is training": training,
    "a gradient may be needed": needing_a_gradient,
    "a gradient may be needed ": needing_the_gradient_of_the_input,
    "the model is being compiled": compiling_it_all,
}


@pytest.mark.parametrize("reason, call", STEPS_ASIDE.items(), ids=[call.__name__ for call in STEPS_ASIDE.values()])
def test_it_steps_aside_for_a_call(reason, call, batch):
    model = accelerate(theirs())
    answers(model, *batch)
    assert forward_of(model).reason is None
    call(model, batch)
    assert forward_of(model).reason.startswith(reason.strip())
    answers(model, *batch)
    assert forward_of(model).reason is None  # only for that call


class LoudLinear(nn.Linear):
    """Stands for a layer that computes something else than its weight says: an adapter, a quantised one."""

    def forward(self, x):
        return super().forward(x) + 1


def replaced(layer):
    loud = LoudLinear(48, 48)
    loud.load_state_dict(layer.attention.q_proj.state_dict())
    layer.attention.q_proj = loud


def hooked(layer):
    layer.attention.v_proj.register_forward_hook(lambda module, inputs, output: output + 1)


def hooked_before(layer):
    layer.register_forward_pre_hook(lambda module, inputs: None)


def forwarded(layer):
    forward = layer.feed_forward.forward
    layer.feed_forward.forward = lambda x: forward(x) + 1


def parametrized(layer):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(layer.attention.q_proj, "weight", Double())


def compiled(layer):
    torch.compiler.reset()
    layer.attention.q_proj = torch.compile(layer.attention.q_proj, backend="eager")


def compiled_in_place(layer):
    torch.compiler.reset()
    layer.attention.out_proj.compile(backend="eager")


def quantised(layer):
    class Quantised(nn.Parameter):
        pass

    layer.attention.k_proj.weight = Quantised(layer.attention.k_proj.weight.detach())


def another_activation(layer):
    layer.feed_forward.intermediate_act_fn = nn.ReLU()


CHANGES = {
    replaced: "encoder.layers.1.attention.q_proj is LoudLinear",
    hooked: "encoder.layers.1.attention.v_proj has a hook",
    hooked_before: "encoder.layers.1 has a hook",
    forwarded: "the forward of encoder.layers.1.feed_forward is replaced",
    parametrized: "encoder.layers.1.attention.q_proj is ParametrizedLinear",
    compiled: "the forward of encoder.layers.1.attention.q_proj is replaced or compiled",
    compiled_in_place: "the forward of encoder.layers.1.attention.out_proj is replaced or compiled",
    quantised: "encoder.layers.1.attention.k_proj has weights of type quantised.<locals>.Quantised",
    another_activation: "encoder.layers.1.feed_forward.intermediate_act_fn is ReLU",
}


@pytest.mark.parametrize("change, reason", CHANGES.items(), ids=[change.__name__ for change in CHANGES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_steps_aside_for_a_changed_layer(change, reason, when, batch):
    model = theirs()
    untouched = answers(model, *batch).logits
    if when == "after":
        accelerate(model)
        answers(model, *batch)
        assert forward_of(model).reason is None
    change(model.hubert.encoder.layers[1])
    accelerate(model)
    found = answers(model, *batch).logits
    assert forward_of(model).reason.startswith(reason)
    assert torch.equal(found, answers(restore(model), *batch).logits)
    if change not in (hooked_before, compiled, compiled_in_place, quantised):
        assert not torch.allclose(found, untouched)


def test_hooks_come_and_go(batch):
    model = accelerate(theirs())
    handle = model.hubert.encoder.register_forward_hook(lambda *arguments: None)
    answers(model, *batch)
    assert forward_of(model).reason == "encoder has a hook"
    handle.remove()
    answers(model, *batch)
    assert forward_of(model).reason is None
    seen = []
    model.hubert.register_forward_hook(lambda module, inputs, output: seen.append(output))
    answers(model, *batch)  # around ours
    assert len(seen) == 1 and forward_of(model).reason is None
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    answers(model, *batch)
    handle.remove()
    assert forward_of(model).reason == "there are hooks on all modules"


def test_each_reason_is_told_once(batch, caplog):
    model = accelerate(theirs())
    with caplog.at_level(logging.INFO, logger="hubert_fast"):
        for _ in range(2):
            model(batch[0])
            training(model, batch)
    told = [(record.levelname, record.message) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "torch.no_grad()" in told[0][1] and "training" in told[1][1]


def test_what_it_cannot_accelerate(batch):
    class Mine(transformers.HubertModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    tiny = transformers.HubertConfig(**PRE_LN)
    wav2vec2 = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**PRE_LN))
    for stranger in (wav2vec2, hubert_fast.HubertModel(hubert_fast.HubertConfig(**PRE_LN)), Mine(tiny), "a name", None):
        for function in (accelerate, restore):
            with pytest.raises(TypeError, match="expected a Hubert model of transformers, but got a "):
                function(stranger)
    model = theirs()
    model.hubert.forward = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="forward of this HubertModel is already replaced"):
        accelerate(model)


def test_bad_calls_fail_as_they_did():
    model = accelerate(theirs())
    with torch.no_grad(), pytest.raises(TypeError):
        model.hubert()
    with torch.no_grad(), pytest.raises(ValueError, match="at least 400 samples"):
        model(torch.zeros(1, 399))


@pytest.fixture(scope="module")
def recordings():
    return [audio.load(recording.path) for recording in demo.recordings()[:4]]


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"chunk_length_s": 2, "stride_length_s": 0.5}], ids=str)
def test_in_a_speech_recognition_pipeline(recordings, options):
    processor = transformers.Wav2Vec2Processor.from_pretrained(demo.MODEL)
    pipe = transformers.pipeline(
        "automatic-speech-recognition",
        model=transformers.HubertForCTC.from_pretrained(demo.MODEL),
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device="cpu",
    )
    expected = [entry["text"] for entry in pipe([np.array(samples) for samples in recordings], **options)]
    accelerate(pipe.model)
    found = [entry["text"] for entry in pipe([np.array(samples) for samples in recordings], **options)]
    assert found == expected and all(len(text) > 5 for text in found)
    assert forward_of(pipe.model).reason is None


def test_in_an_audio_classification_pipeline(recordings):
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    model = theirs("HubertForSequenceClassification", num_labels=3)
    pipe = transformers.pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")
    expected = pipe([np.array(samples) for samples in recordings])
    accelerate(model)
    found = pipe([np.array(samples) for samples in recordings])
    assert forward_of(model).reason is None
    for ours, other in zip(found, expected):
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in other]
        assert [entry["score"] for entry in ours] == pytest.approx([entry["score"] for entry in other], abs=1e-5)
