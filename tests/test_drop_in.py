"""Test `hubert_fast.transformers`: every instance is accelerated from birth, and in all other respects is transformers'."""

import copy
import functools
import gc
import inspect
import json
import logging
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from conftest import POST_LN, PRE_LN, perturb  # noqa: E402
from transformers_models import outputs_of  # noqa: E402

import hubert_fast  # noqa: E402
from hubert_fast import transformers as drop_in  # noqa: E402

CLASSES = ["HubertModel", "HubertForCTC", "HubertForSequenceClassification"]


def new(name, values=PRE_LN, **changes):
    return perturb(getattr(drop_in, name)(transformers.HubertConfig(**{**values, **changes}))).eval()


def own(model, name, folder):
    """Return transformers' model with the weights of `model`, through a checkpoint."""
    model.save_pretrained(folder)
    return getattr(transformers, name).from_pretrained(folder).eval()


def fast_forward(model):
    return vars(getattr(model, "hubert", model))["_hubert_fast"]


def assert_served(model, peer, batch, by_us=True):
    """Check that a call gives the peer's first output, apart from padding, and which forward served it."""
    waveforms, mask = batch
    actual, expected = outputs_of(model, waveforms, mask)[0], outputs_of(peer, waveforms, mask)[0]
    assert (fast_forward(model).reason is None) == by_us
    if actual.dim() == 3:
        frames = getattr(peer, "hubert", peer)._get_feature_vector_attention_mask(actual.shape[1], mask)
        actual, expected = actual[frames], expected[frames]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("values", [PRE_LN, POST_LN], ids=["large", "base"])
@pytest.mark.parametrize("name", CLASSES)
def test_instances_are_accelerated_however_they_are_made(name, values, batch, tmp_path):
    model = new(name, values)
    peer = own(model, name, tmp_path)
    cls = getattr(drop_in, name)
    assert issubclass(cls, getattr(transformers, name)) and cls.__name__ == name
    made = {
        "constructor": model,
        "from_pretrained": cls.from_pretrained(tmp_path),
        "deepcopy": copy.deepcopy(model),
        "deepcopy after a call": copy.deepcopy(cls.from_pretrained(tmp_path)),
    }
    if hasattr(cls, "_from_config"):
        made["_from_config"] = cls._from_config(model.config).eval()
        made["_from_config"].load_state_dict(model.state_dict())
    for instance in made.values():
        assert_served(instance, peer, batch)


def test_unpickled_instances_are_accelerated(batch, tmp_path):
    """Parametrized modules cannot be pickled, in transformers either, so this model has a batch norm instead."""
    model = new("HubertForCTC", conv_pos_batch_norm=True)
    if any(torch.nn.utils.parametrize.is_parametrized(module) for module in model.modules()):
        pytest.skip("transformers 4.34.1 ignores conv_pos_batch_norm")
    outputs_of(model, *batch)
    unpickled = pickle.loads(pickle.dumps(model))
    assert torch.equal(outputs_of(unpickled, *batch).logits, outputs_of(model, *batch).logits)
    assert fast_forward(unpickled) is not fast_forward(model) and fast_forward(unpickled).base is unpickled.hubert


@pytest.mark.parametrize("name", CLASSES)
def test_saved_models_are_transformers(name, batch, tmp_path):
    model = new(name)
    peer = own(model, name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [name] and "auto_map" not in config
    assert type(peer) is getattr(transformers, name)
    assert list(model.state_dict()) == list(peer.state_dict())
    automatic = {"HubertModel": "AutoModel", "HubertForCTC": "AutoModelForCTC"}.get(name, "AutoModelForAudioClassification")
    assert type(getattr(transformers, automatic).from_pretrained(tmp_path)) is type(peer)


def test_copies_compute_with_their_own_weights(batch):
    for name in CLASSES:
        model = new(name)
        before = outputs_of(model, *batch)[0]
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1.5)
        assert not torch.allclose(outputs_of(changed, *batch)[0], before)
        assert torch.equal(outputs_of(model, *batch)[0], before)


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_are_transformers(name):
    ours, theirs = getattr(drop_in, name), getattr(transformers, name)
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.signature(new(name).forward) == inspect.signature(theirs(transformers.HubertConfig(**PRE_LN)).forward)
    assert ours.config_class is theirs.config_class and ours.base_model_prefix == theirs.base_model_prefix


def test_training_runs_transformers_forward(tmp_path):
    """Loss and gradients are transformers', bit for bit."""
    waveforms, mask = torch.randn(2, 9000), torch.ones(2, 9000, dtype=torch.long)
    mask[1, 6000:] = 0
    model = new("HubertForCTC", attention_dropout=0.0, hidden_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0)
    peer = own(model, "HubertForCTC", tmp_path)
    labels = torch.tensor([[3, 4, 5], [6, 7, -100]])
    losses, gradients = [], []
    for each in (model, peer):
        torch.manual_seed(0)
        np.random.seed(0)  # SpecAugment
        each.train()
        loss = each(waveforms, attention_mask=mask, labels=labels).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad for parameter in each.parameters()])
    assert torch.equal(*losses)
    for (name, _), mine, theirs in zip(model.named_parameters(), *gradients):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs), name
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients[0])
    assert fast_forward(model).reason is not None


def test_a_subclass_runs_its_own_overrides(batch):
    class Doubled(drop_in.HubertModel):
        def _get_feature_vector_attention_mask(self, frames, attention_mask):
            return torch.ones(len(attention_mask), frames, dtype=torch.bool)

    torch.manual_seed(0)
    model = perturb(Doubled(transformers.HubertConfig(**PRE_LN))).eval()
    plain = transformers.HubertModel(model.config).eval()
    plain.load_state_dict(model.state_dict())
    waveforms, mask = batch
    assert torch.equal(outputs_of(model, waveforms, mask)[0], outputs_of(plain, waveforms, torch.ones_like(mask))[0])


def test_a_head_of_ones_own_gets_an_accelerated_encoder(batch):
    class HubertForSpeechClassification(drop_in.HubertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.hubert = drop_in.HubertModel(config)
            self.classifier = torch.nn.Linear(config.hidden_size, 4)
            self.post_init()

        def forward(self, input_values, attention_mask=None):
            return (self.classifier(self.hubert(input_values, attention_mask=attention_mask).last_hidden_state.mean(1)),)

    model = HubertForSpeechClassification(transformers.HubertConfig(**PRE_LN)).eval()
    with torch.no_grad():
        (logits,) = model(*batch)
    assert logits.shape == (len(batch[0]), 4) and fast_forward(model).reason is None


@pytest.mark.parametrize("name", CLASSES)
def test_restore_and_accelerate_again(name, batch, tmp_path):
    model = new(name)
    peer = own(model, name, tmp_path)
    hubert_fast.restore(model)
    assert torch.equal(outputs_of(model, *batch)[0], outputs_of(peer, *batch)[0])
    hubert_fast.accelerate(model)
    assert_served(model, peer, batch)


def test_data_parallel_replicas_run_transformers_forward(batch):
    model = new("HubertModel")
    outputs_of(model, *batch)
    replica = model._replicate_for_data_parallel()
    assert type(replica) is transformers.HubertModel and "_hubert_fast" not in vars(replica)
    assert type(model) is drop_in.HubertModel and fast_forward(model).base is model


def test_random_state_and_weights_are_as_with_transformers():
    states = []
    for module in (transformers, drop_in):
        for name in CLASSES:
            torch.manual_seed(0)
            model = getattr(module, name)(transformers.HubertConfig(**POST_LN))
            states.append((name, list(model.state_dict().values()), torch.rand(3)))
    for (name, mine, drawn), (_, theirs, expected) in zip(states[: len(CLASSES)], states[len(CLASSES) :]):
        assert all(map(torch.equal, mine, theirs)) and torch.equal(drawn, expected), name


def test_nothing_is_logged_for_calls_that_are_served(batch, caplog):
    with caplog.at_level(logging.DEBUG, "hubert_fast.integrations"):
        outputs_of(new("HubertForCTC"), *batch)
    assert caplog.messages == []


@pytest.mark.parametrize("version", [None, "4.30.2"], ids=["missing", "old"])
def test_a_missing_or_old_transformers_is_named(version):
    code = "import sys, types; sys.modules['transformers'] = None"
    if version is not None:
        code = f"import sys, types; sys.modules['transformers'] = types.SimpleNamespace(__version__={version!r})"
    code += "\nimport hubert_fast.transformers"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = run.stderr.strip().splitlines()[-1]
    expected = "needs transformers 4.34.1 or newer" + ("" if version is None else f", but this is transformers {version}")
    assert message.startswith("ImportError: hubert_fast.transformers ") and expected in message


@pytest.mark.parametrize("way", ["accelerate", "drop-in"])
def test_a_copy_of_a_model_prepared_for_mixed_precision_computes_with_its_own_weights(way, batch):
    """Hugging Face's Accelerate wraps the function of `forward` and binds it to the model."""
    accelerate = pytest.importorskip("accelerate", reason="Hugging Face's Accelerate is not installed")
    config = transformers.HubertConfig(**PRE_LN)
    model = drop_in.HubertModel(config) if way == "drop-in" else hubert_fast.accelerate(transformers.HubertModel(config))
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(perturb(model).eval())
    before = outputs_of(prepared, *batch)[0]
    copied = copy.deepcopy(prepared)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    changed, restored = outputs_of(copied, *batch)[0], outputs_of(hubert_fast.restore(copied), *batch)[0]
    assert not torch.allclose(changed, before)
    assert torch.equal(outputs_of(prepared, *batch)[0], before)
    frames = ~(changed == 0).all(-1)
    assert (changed - restored)[frames].abs().max() <= 0.05 * restored.abs().max()  # in bfloat16
    unwrapped = accelerate.utils.extract_model_from_parallel(prepared, keep_fp32_wrapper=False)
    assert unwrapped is prepared and outputs_of(unwrapped, *batch)[0].isfinite().any()


@pytest.mark.parametrize("way", ["accelerate", "drop-in"])
def test_the_trainer_predicts_what_it_predicts_with_transformers(way, tmp_path):
    """The weighted layer sum needs the hidden states, but the predictions have them only if transformers' do."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs Hugging Face's Accelerate")
    config = transformers.HubertConfig(**PRE_LN, use_weighted_layer_sum=True, num_labels=3)
    peer = perturb(transformers.HubertForSequenceClassification(config)).eval()
    model = drop_in.HubertForSequenceClassification(config) if way == "drop-in" else hubert_fast.accelerate(copy.deepcopy(peer))
    model.load_state_dict(peer.state_dict())
    rows = [{"input_values": torch.randn(4000 + 500 * index).numpy(), "labels": index % 3} for index in range(4)]
    predictions = []
    for each in (peer, model.eval()):
        arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], disable_tqdm=True, per_device_eval_batch_size=1)
        predicted = transformers.Trainer(model=each, args=arguments).predict(rows).predictions
        predictions.append(predicted if isinstance(predicted, tuple) else (predicted,))
    assert fast_forward(model).reason is None
    assert len(predictions[0]) == len(predictions[1])
    assert np.abs(predictions[0][0] - predictions[1][0]).max() <= 1e-5 * np.abs(predictions[0][0]).max()


@pytest.mark.parametrize("way", ["accelerate", "drop-in"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("blank", [0, 5, None], ids=["blank 0", "blank 5", "no blank"])
def test_padding_is_the_blank_for_certain(blank, dtype, way, batch):
    """Also in a tuple, with labels, and where only the encoder is ours; calls that transformers serves keep its logits."""
    waveforms, mask = batch[0].to(dtype), batch[1]
    config = transformers.HubertConfig(**{**PRE_LN, "pad_token_id": blank})
    model = drop_in.HubertForCTC(config) if way == "drop-in" else hubert_fast.accelerate(transformers.HubertForCTC(config))
    model = perturb(model).eval().to(dtype)
    output = outputs_of(model, waveforms, mask)
    counts = model._get_feat_extract_output_lengths(mask.sum(-1)).clamp(min=0)
    assert output.frame_counts.dtype == torch.int64 and torch.equal(output.frame_counts, counts)
    assert "frame_counts" not in output.keys() and len(output.to_tuple()) == len(output.keys())
    padding = torch.arange(output.logits.shape[1]) >= counts[:, None]
    expected = torch.zeros(config.vocab_size) if blank is None else torch.full((config.vocab_size,), -100.0)
    if blank is not None:
        expected[blank] = 100
    assert padding.any() and (output.logits[padding] == expected.to(dtype)).all()
    assert output.logits.dtype == dtype and not (output.logits[~padding].abs() == 100).any()
    options = {} if blank is None else {"labels": torch.tensor([[3]] * len(mask))}
    assert torch.equal(outputs_of(model, waveforms, mask, return_dict=False, **options)[len(options)], output.logits)
    with torch.no_grad():
        assert torch.equal(model(waveforms, mask).logits, output.logits)  # by position
        if way == "drop-in":
            assert torch.equal(model.forward(waveforms, mask).logits, output.logits)  # no hook runs
    whole = outputs_of(model, waveforms, None)
    assert (whole.frame_counts == whole.logits.shape[1]).all() and not (whole.logits.abs() == 100).any()
    hubert_fast.restore(model)
    theirs = outputs_of(model, waveforms, mask)
    assert not hasattr(theirs, "frame_counts") and not (theirs.logits[padding] == expected.to(dtype)).all(-1).any()
    assert not model._forward_hooks and not model._forward_hooks_with_kwargs


def compiled_with(how, model, waveforms):
    """Compile a model as one graph, call it, and return its first output."""
    if how == "compile":
        return torch.compile(model, fullgraph=True, backend="eager")(waveforms)[0]
    if how == "export":
        return torch.export.export(model, (waveforms,)).module()(waveforms)[0]
    output = torch.jit.trace(model, (waveforms,), strict=False)(waveforms)
    return next(iter(output.values())) if isinstance(output, dict) else output[0]


@pytest.mark.parametrize("how", ["compile", "export", "trace"])
@pytest.mark.parametrize("name", ["HubertModel", "HubertForCTC"])
def test_what_compiles_with_transformers_compiles(name, how, tmp_path):
    """Compilers take transformers' own forward, as one graph."""
    model, waveforms = new(name), torch.randn(2, 4000)
    with torch.no_grad():
        try:
            expected = compiled_with(how, own(model, name, tmp_path), waveforms)
        except Exception as error:
            pytest.skip(f"transformers {transformers.__version__} itself does not: {type(error).__name__}")
        actual = compiled_with(how, model, waveforms)
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


def halved(own):
    """Return a patch for a `forward` that halves its result, and has its names, as decorators of tracing libraries do."""

    @functools.wraps(own)
    def forward(self, *args, **kwargs):
        output = own(self, *args, **kwargs)
        if isinstance(output, tuple):
            return (output[0] * 0.5, *output[1:])
        if isinstance(output, dict):
            return type(output)(**{**output, "last_hidden_state": output["last_hidden_state"] * 0.5})
        return output * 0.5

    return forward


PATCHED = ["HubertModel", "HubertEncoderLayerStableLayerNorm", "HubertFeedForward", "HubertFeatureEncoder"]


@pytest.mark.parametrize("when", ["before construction", "after a call"])
@pytest.mark.parametrize("patched", PATCHED)
@pytest.mark.parametrize("name", ["HubertModel", "HubertForCTC"])
def test_patched_classes_are_noticed(name, patched, when, batch, tmp_path, monkeypatch):
    cls = getattr(transformers.models.hubert.modeling_hubert, patched)
    folder = tmp_path / "model"
    new(name).save_pretrained(folder)
    model = getattr(drop_in, name).from_pretrained(folder)
    before = outputs_of(model, *batch)[0]
    assert fast_forward(model).reason is None
    monkeypatch.setattr(cls, "forward", halved(cls.forward))
    if when == "before construction":
        model = getattr(drop_in, name).from_pretrained(folder)
    peer = getattr(transformers, name).from_pretrained(folder)
    actual, expected = outputs_of(model, *batch)[0], outputs_of(peer, *batch)[0]
    frames = getattr(peer, "hubert", peer)._get_feature_vector_attention_mask(actual.shape[1], batch[1])
    assert torch.equal(actual[frames], expected[frames]) and "patched" in fast_forward(model).reason
    assert not torch.allclose(actual[frames], before[frames])
    monkeypatch.undo()
    assert torch.equal(outputs_of(model, *batch)[0], before) and fast_forward(model).reason is None


def test_patched_methods_and_attentions_are_noticed(batch, tmp_path, monkeypatch):
    model = new("HubertForCTC")
    peer, own_mask = own(model, "HubertForCTC", tmp_path), transformers.HubertModel._get_feature_vector_attention_mask
    monkeypatch.setattr(
        transformers.HubertModel, "_get_feature_vector_attention_mask", lambda *arguments: torch.ones_like(own_mask(*arguments))
    )
    assert torch.equal(outputs_of(model, *batch).logits, outputs_of(peer, *batch).logits)
    assert fast_forward(model).reason == "_get_feature_vector_attention_mask of HubertModel is patched"
    monkeypatch.undo()
    modeling = transformers.models.hubert.modeling_hubert
    if not hasattr(modeling, "eager_attention_forward"):
        pytest.skip("attentions are classes in this transformers")
    own_attention = modeling.eager_attention_forward

    @functools.wraps(own_attention)
    def attention(*args, **kwargs):
        output, weights = own_attention(*args, **kwargs)
        return output * 0.5, weights

    model = new("HubertForCTC", attn_implementation="eager")
    before = outputs_of(model, *batch).logits
    assert fast_forward(model).reason is None
    monkeypatch.setattr(modeling, "eager_attention_forward", attention)
    assert not torch.allclose(outputs_of(model, *batch).logits, before) and "attention" in fast_forward(model).reason


def test_a_wrapped_forward_without_the_signature_is_called(batch, monkeypatch):
    own_forward, calls = transformers.HubertModel.forward, []
    monkeypatch.setattr(
        transformers.HubertModel, "forward", lambda self, *args, **kwargs: calls.append(1) or own_forward(self, *args, **kwargs)
    )
    model = new("HubertForCTC")
    outputs_of(model, *batch)
    outputs_of(hubert_fast.accelerate(transformers.HubertModel(model.config).eval()), *batch)
    assert len(calls) == 2


@pytest.mark.parametrize("result", ["tensor", "upsampled", "pooled", "no logits"])
def test_heads_with_a_forward_of_their_own_keep_their_output(result, batch):
    class Own(transformers.HubertForCTC):
        def forward(self, input_values, attention_mask=None):
            logits = self.lm_head(self.hubert(input_values, attention_mask=attention_mask).last_hidden_state)
            return {
                "tensor": lambda: logits,
                "upsampled": lambda: {"logits": logits.repeat_interleave(2, 1)},
                "pooled": lambda: {"logits": logits.mean(1)},
                "no logits": lambda: {"loss": logits.sum()},
            }[result]()

    model = hubert_fast.accelerate(perturb(Own(transformers.HubertConfig(**PRE_LN))).eval())
    with torch.no_grad():
        output = model(*batch)
    assert fast_forward(model).reason is None
    value = output if isinstance(output, torch.Tensor) else next(iter(output.values()))
    assert not (value.abs() == 100).any()


def test_a_model_that_cannot_be_accelerated_is_transformers(batch, monkeypatch):
    modeling = transformers.models.hubert.modeling_hubert
    mine = type("HubertModel", (modeling.HubertModel,), {})
    monkeypatch.setattr(modeling, "HubertModel", mine)
    model = drop_in.HubertForCTC(transformers.HubertConfig(**PRE_LN)).eval()
    assert type(model.hubert) is mine and outputs_of(model, *batch).logits.dim() == 3
    monkeypatch.undo()
    config = transformers.HubertConfig(**PRE_LN)
    config.lock = threading.Lock()  # cannot be copied
    model = drop_in.HubertModel(config).eval()
    outputs_of(model, *batch)
    assert fast_forward(model).reason.startswith("the configuration is not supported: TypeError: cannot pickle")


def test_new_heads_are_drawn_as_with_transformers(tmp_path):
    new("HubertModel").save_pretrained(tmp_path)
    drawn = []
    for module in (transformers, drop_in):
        for name in CLASSES[1:]:
            torch.manual_seed(0)
            model = getattr(module, name).from_pretrained(tmp_path)
            drawn.append([*model.state_dict().values(), torch.rand(3)])
    for theirs, mine in zip(drawn[:2], drawn[2:]):
        assert all(map(torch.equal, theirs, mine))


def test_a_shallow_copy_outlives_its_original(batch):
    model = new("HubertModel")
    expected = outputs_of(model, *batch)[0]
    shallow = copy.copy(model)
    assert torch.equal(outputs_of(shallow, *batch)[0], expected)
    del model
    gc.collect()
    assert torch.equal(outputs_of(shallow, *batch)[0], expected) and fast_forward(shallow).base is shallow
    model = new("HubertForCTC")
    encoder = copy.copy(model.hubert)
    del model
    gc.collect()
    outputs_of(encoder, *batch)
    assert fast_forward(encoder).reason is None


@pytest.mark.parametrize("way", ["accelerate", "drop-in"])
def test_a_dispatched_model_can_be_copied(way, batch):
    accelerate = pytest.importorskip("accelerate", reason="Hugging Face's Accelerate is not installed")
    model = new("HubertForCTC")
    if way == "accelerate":
        peer = transformers.HubertForCTC(model.config).eval()
        peer.load_state_dict(model.state_dict())
        model = hubert_fast.accelerate(peer)
    devices = {"hubert": "cpu", "lm_head": "cpu"}
    model = accelerate.dispatch_model(model, devices, main_device="cpu", force_hooks=True)
    assert torch.equal(outputs_of(copy.deepcopy(model), *batch).logits, outputs_of(model, *batch).logits)


def test_evaluation_after_training_with_gradient_checkpointing_is_accelerated(batch, tmp_path):
    model = new("HubertForCTC")
    peer = own(model, "HubertForCTC", tmp_path)
    model.gradient_checkpointing_enable()
    assert_served(model, peer, batch)
    model.gradient_checkpointing_disable()
    assert_served(model, peer, batch)


def test_a_configuration_of_ones_own_class_is_accelerated(batch):
    class MyConfig(transformers.HubertConfig):
        model_type = "my-hubert"

    model = perturb(drop_in.HubertForCTC(MyConfig(**PRE_LN))).eval()
    outputs_of(model, *batch)
    assert fast_forward(model).reason is None


def test_the_default_device_does_not_matter(batch):
    model = new("HubertForCTC")
    expected = outputs_of(model, *batch).logits
    with torch.device("meta"):
        assert torch.equal(outputs_of(model, *batch).logits, expected)


@pytest.mark.parametrize("way", ["accelerate", "drop-in"])
def test_padding_is_that_of_the_mask_which_the_encoder_got(way, batch):
    waveforms, mask = batch
    config = transformers.HubertConfig(**PRE_LN)
    model = drop_in.HubertForCTC(config) if way == "drop-in" else hubert_fast.accelerate(transformers.HubertForCTC(config))
    model = perturb(model).eval()
    whole = outputs_of(model, waveforms, None).logits
    model.hubert.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"attention_mask": None}), with_kwargs=True
    )
    output = outputs_of(model, waveforms, mask)
    assert torch.equal(output.logits, whole) and (output.frame_counts == whole.shape[1]).all()


def test_a_class_given_later_runs_its_own_forward(batch):
    class Doubled(transformers.HubertModel):
        def forward(self, *args, **kwargs):
            return (2 * super().forward(*args, **kwargs)[0],)

    for model in (
        new("HubertForCTC"),
        hubert_fast.accelerate(transformers.HubertForCTC(transformers.HubertConfig(**PRE_LN)).eval()),
    ):
        expected = 2 * outputs_of(hubert_fast.restore(copy.deepcopy(model)).hubert, *batch)[0]
        model.hubert.__class__ = Doubled
        assert torch.equal(outputs_of(model.hubert, *batch)[0], expected)


def test_accelerate_installs_again_what_was_removed(batch):
    model = hubert_fast.accelerate(perturb(transformers.HubertForCTC(transformers.HubertConfig(**PRE_LN))).eval())
    expected = outputs_of(model, *batch).logits
    del model.hubert.forward
    theirs = outputs_of(model, *batch)
    assert not hasattr(theirs, "frame_counts") and not torch.equal(theirs.logits, expected)
    hubert_fast.accelerate(model)
    assert torch.equal(outputs_of(model, *batch).logits, expected)
