"""Test that `accelerate` keeps the answers of a live transformers model, and that `restore` undoes it."""

import copy
import inspect

import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, PRE_LN, assert_close, true_frames
from transformers_models import forward_of, outputs_of, transformers_model

import hubert_fast
from hubert_fast import accelerate, audio, demo, restore

CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")
STATES = dict(output_hidden_states=True)
ALL = {**ARCHITECTURES, **NEWER_ARCHITECTURES}


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize(
    "values", {**ARCHITECTURES, **NEWER_ARCHITECTURES}.values(), ids={**ARCHITECTURES, **NEWER_ARCHITECTURES}
)
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_accelerated_outputs_equal_the_originals(class_name, values, masked, batch):
    model = transformers_model(class_name, values, use_weighted_layer_sum=True)
    supported = set(model.state_dict()) == set(getattr(hubert_fast, class_name)(model.config).state_dict())
    waveforms, mask = batch[0], batch[1] if masked else None
    expected = outputs_of(model, waveforms, mask, **STATES)
    assert accelerate(model) is model
    actual = outputs_of(model, waveforms, mask, **STATES)
    assert (forward_of(model).reason is None) == supported  # transformers 4.34.1 ignores the newer options
    assert type(actual) is type(expected) and list(actual.keys()) == list(expected.keys())
    has_head = class_name != "HubertModel"  # transformers' own, which get zeros for padding

    def compare(output, reference, name):
        assert_close(true_frames(output, mask), true_frames(reference, mask), "same graph", name)
        if supported and masked and (not has_head or name != "output"):
            padding = ~getattr(model, "hubert", model)._get_feature_vector_attention_mask(output.shape[1], mask)
            assert padding.any() and not output[padding].any()

    compare(actual[0], expected[0], "output")
    assert len(actual.hidden_states) == len(expected.hidden_states)
    for index, (output, reference) in enumerate(zip(actual.hidden_states, expected.hidden_states)):
        compare(output, reference, f"hidden state {index}")
    as_tuple = outputs_of(model, waveforms, mask, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], actual[0])


def test_accelerate_changes_only_the_given_object(batch):
    forward, modules = transformers.HubertModel.forward, set(vars(transformers.models.hubert.modeling_hubert))
    model, untouched = transformers_model(), transformers_model()
    keys, signature = list(model.state_dict()), inspect.signature(model.hubert.forward)
    accelerate(model)
    assert transformers.HubertModel.forward is forward and set(vars(transformers.models.hubert.modeling_hubert)) == modules
    assert "forward" not in vars(untouched.hubert) and "forward" not in vars(model)
    assert list(model.state_dict()) == keys and inspect.signature(model.hubert.forward) == signature
    assert restore(model) is model and "forward" not in vars(model.hubert)
    assert restore(model) is model  # nothing to undo
    outputs_of(model, *batch)


def test_accelerate_twice_and_restore_under_a_wrapper(batch):
    import functools

    model = transformers_model("HubertModel")
    fast = accelerate(accelerate(model)).forward
    assert fast.__wrapped__.__self__ is model

    @functools.wraps(fast)
    def wrapper(*args, **kwargs):  # what Hugging Face's accelerate does for mixed precision
        return fast(*args, **kwargs)

    model.forward = wrapper
    expected = outputs_of(model, *batch)[0]
    assert fast.reason is None
    restore(model)
    fast.reason = "not called"
    assert_close(true_frames(outputs_of(model, *batch)[0], batch[1]), true_frames(expected, batch[1]), "same graph")
    assert fast.reason == "not called" and model.forward is wrapper
    accelerate(model)
    outputs_of(model, *batch)
    assert fast.reason is None


def test_weight_changes_apply_accelerated_and_restored(batch):
    model = accelerate(transformers_model())
    outputs_of(model, *batch)
    source = transformers_model()

    def check(waveforms=batch[0]):
        actual = outputs_of(model, waveforms, batch[1]).logits
        assert forward_of(model).reason is None
        expected = outputs_of(restore(model), waveforms, batch[1]).logits
        assert_close(true_frames(actual, batch[1]), true_frames(expected, batch[1]), "same graph")
        accelerate(model)
        return actual

    before = check()
    model.load_state_dict(source.state_dict())
    assert not torch.equal(check(), before)
    model.load_state_dict({key: 2 * tensor for key, tensor in source.state_dict().items()}, assign=True)
    before = check()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    assert not torch.equal(check(), before)
    model.double()
    assert check(batch[0].double()).dtype == torch.float64
    model.float().hubert.encoder.layers = model.hubert.encoder.layers[:2]  # fewer layers than configured
    outputs_of(model, *batch)
    assert forward_of(model).reason.startswith("encoder.layers.2 is missing")


def test_a_deep_copy_is_accelerated_independently(batch):
    model = accelerate(transformers_model())
    expected = outputs_of(model, *batch).logits
    twin = copy.deepcopy(model)
    assert twin.hubert.forward is not model.hubert.forward and twin.hubert.forward.base is twin.hubert
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(outputs_of(twin, *batch).logits, expected) and twin.hubert.forward.reason is None


def test_data_parallel_replicas_run_their_own_forward():
    """Trainer replicates a model across GPUs. Each replica has its device's own weights, which our forward would not use."""
    model = accelerate(transformers_model("HubertModel"))
    replica = model._replicate_for_data_parallel()
    assert not {"forward", "_replicate_for_data_parallel"} & set(vars(replica)) and "forward" in vars(model)
    assert replica.forward.__func__ is type(model).forward
    assert not {"forward", "_replicate_for_data_parallel"} & set(vars(restore(model)))


def test_unsupported_models_are_rejected():
    class Subclass(transformers.HubertModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    tiny = transformers.HubertConfig(**PRE_LN)
    wav2vec2 = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**PRE_LN))
    for unsupported in (wav2vec2, hubert_fast.HubertModel(hubert_fast.HubertConfig(**PRE_LN)), Subclass(tiny), "a name", None):
        for function in (accelerate, restore):
            with pytest.raises(TypeError, match="expected a HuBERT model of transformers, but got a "):
                function(unsupported)
    model = transformers_model()
    model.hubert.forward = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="forward of this HubertModel has already been replaced"):
        accelerate(model)


def test_invalid_calls_still_raise():
    model = accelerate(transformers_model())
    with torch.no_grad(), pytest.raises(TypeError):
        model.hubert()
    with torch.no_grad(), pytest.raises(ValueError, match="at least 400 samples"):
        model(torch.zeros(1, 399))


@pytest.fixture(scope="module")
def recordings():
    return [audio.load(recording.path) for recording in demo.recordings()[:4]]


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"chunk_length_s": 2, "stride_length_s": 0.5}], ids=str)
def test_speech_recognition_pipeline(recordings, options):
    processor = transformers.Wav2Vec2Processor.from_pretrained(demo.MODEL)
    pipe = transformers.pipeline(
        "automatic-speech-recognition",
        model=transformers.HubertForCTC.from_pretrained(demo.MODEL),
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device="cpu",
    )
    # unbatched: in a batch, transformers decodes letters from the padding
    unbatched = {name: value for name, value in options.items() if name != "batch_size"}
    expected = [entry["text"] for entry in pipe([np.array(samples) for samples in recordings], **unbatched)]
    accelerate(pipe.model)
    actual = [entry["text"] for entry in pipe([np.array(samples) for samples in recordings], **options)]
    assert actual == expected and all(len(text) > 5 for text in actual)
    assert forward_of(pipe.model).reason is None


def test_audio_classification_pipeline(recordings):
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    model = transformers_model("HubertForSequenceClassification", num_labels=3)
    pipe = transformers.pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")
    expected = pipe([np.array(samples) for samples in recordings])
    accelerate(model)
    actual = pipe([np.array(samples) for samples in recordings])
    assert forward_of(model).reason is None
    for labels, reference in zip(actual, expected):
        assert [entry["label"] for entry in labels] == [entry["label"] for entry in reference]
        assert [entry["score"] for entry in labels] == pytest.approx([entry["score"] for entry in reference], abs=1e-5)
