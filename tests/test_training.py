"""Check training: loss curves against transformers, gradient checkpointing, Trainer, LoRA, regression."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import POST_LN, PRE_LN, assert_close, masked_batch, perturb, relative_error, small_config, true_frames

import hubert_fast
from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel, HubertProcessor, audio, demo

RANDOM_DROPS_AND_MASKS = dict(
    hidden_dropout=0.1, attention_dropout=0.1, layerdrop=0.3, mask_time_prob=0.3, mask_time_length=2, mask_feature_prob=0.1
)
LOAD_OPTIONS = dict(dtype=torch.float32, layerdrop=0.2, ctc_loss_reduction="mean")
BOTH = pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])


@pytest.fixture(scope="module")
def examples():
    """Return the demo's recordings as a Trainer's data set: samples and labels."""
    processor = HubertProcessor.from_pretrained(demo.MODEL)
    vocabulary = processor.tokenizer.vocabulary
    rows = []
    for recording in demo.recordings():
        text = recording.reference.upper().replace(" ", "|")
        samples = processor(audio.load(recording.path), return_tensors="pt")["input_values"][0]
        rows.append({"input_values": samples, "labels": torch.tensor([vocabulary[letter] for letter in text])})
    return rows


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    samples = [row["input_values"] for row in rows]
    return {
        "input_values": pad(samples, batch_first=True),
        "attention_mask": pad([torch.ones(len(row), dtype=torch.long) for row in samples], batch_first=True),
        "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=-100),
    }


def test_loss_curve_matches_transformers_at_every_step(examples):
    """SpecAugment and LayerDrop are on, and draw as in transformers. Dropout is off: its masks depend on the kernel."""

    def losses(cls) -> list[float]:
        model = cls.from_pretrained(demo.MODEL, **LOAD_OPTIONS).train()
        assert model.config.mask_time_prob > 0 and model.config.hidden_dropout == 0
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        torch.manual_seed(0)
        np.random.seed(0)
        curve = []
        for step in range(10):
            batch = collate([examples[(3 * step + row) % len(examples)] for row in range(3)])
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            curve.append(loss.item())
        return curve

    ours, theirs = losses(HubertForCTC), losses(transformers.HubertForCTC)
    assert max(theirs) > 2 * min(theirs)  # a curve, not a line
    assert ours == pytest.approx(theirs, rel=1e-5)


def _saved_bytes(model, batch) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the bytes that one training step saves for its backward pass, and the gradients."""
    sizes = {}

    def record(tensor):
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.zero_grad()
    torch.manual_seed(1)
    np.random.seed(1)
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = model(**batch).loss
        saved_bytes = sum(size for pointer, size in sizes.items() if pointer not in parameters)
    loss.backward()
    return saved_bytes, {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@BOTH
@pytest.mark.parametrize("options", [None, {"use_reentrant": True}], ids=["default", "reentrant"])
def test_gradient_checkpointing_saves_memory_and_changes_no_gradient(values, options):
    model = perturb(HubertForCTC(HubertConfig(**values, **RANDOM_DROPS_AND_MASKS))).train()
    waveforms, mask = masked_batch((8000, 5000))
    batch = {"input_values": waveforms, "attention_mask": mask, "labels": torch.tensor([[1, 2, 3], [4, 5, -100]])}
    plain_bytes, expected = _saved_bytes(model, batch)
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable(options)
    assert model.is_gradient_checkpointing
    saved_bytes, actual = _saved_bytes(model, batch)
    # reentrant checkpoints cannot begin at the waveform, so the first convolution still saves its activations
    assert saved_bytes < (0.7 if options else 0.5) * plain_bytes, f"{saved_bytes} of {plain_bytes} bytes"
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(actual[name], gradient), f"{name}: {relative_error(actual[name], gradient):.1e}"
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing and _saved_bytes(model, batch)[0] == plain_bytes
    model.gradient_checkpointing_enable()
    model.eval()
    with torch.no_grad():
        assert model(waveforms).logits.isfinite().all()


def test_gradient_checkpointing_under_its_newer_name():
    model = HubertModel(small_config())
    model.activation_checkpointing_enable({"use_reentrant": True})
    assert model.is_gradient_checkpointing
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    for enable in (model.activation_checkpointing_enable, model.gradient_checkpointing_enable):
        enable(None, every_n_layers=1, offload=False)  # as Trainer calls it, from transformers 5.20 on
        assert model.is_gradient_checkpointing
        with pytest.raises(ValueError, match="every_n_layers must be 1 and offload False, but they are 2 and False"):
            enable(every_n_layers=2)
    assert HubertModel(small_config(gradient_checkpointing=True)).is_gradient_checkpointing  # as in old configurations


def test_freezing():
    model = HubertForCTC(small_config())
    total = model.num_parameters()
    model.freeze_feature_encoder()
    frozen = sum(parameter.numel() for parameter in model.hubert.feature_extractor.parameters())
    assert model.num_parameters(only_trainable=True) == total - frozen
    model(torch.randn(1, 4000), labels=torch.tensor([[1]])).loss.backward()
    assert model.hubert.feature_extractor.conv_layers[0].conv.weight.grad is None
    model.freeze_base_model()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "lm_head.weight",
        "lm_head.bias",
    }
    assert model.base_model is model.hubert and model.hubert.base_model is model.hubert


@pytest.mark.parametrize("labels", [torch.tensor([0.5, -2.0]), torch.tensor([[0.5], [-2.0]]), torch.tensor([1, 3])], ids=str)
def test_one_label_is_regression(labels):
    """As documented; transformers' code takes the cross entropy over one class, which is 0 whatever the labels are."""
    model = HubertForSequenceClassification(small_config(num_labels=1)).eval()
    output = model(torch.randn(2, 4000), labels=labels)
    assert output.loss.item() == pytest.approx(((output.logits[:, 0] - labels.flatten()) ** 2).mean().item())
    output.loss.backward()
    assert model.classifier.bias.grad.abs() > 0


@pytest.mark.parametrize(
    "cls, labels, message",
    [
        (
            HubertForSequenceClassification,
            torch.tensor([0, 4]),
            r"labels must be 0 to 3, or -100 to be ignored, but one is 4",
        ),
        (HubertForSequenceClassification, torch.tensor([-1, 0]), "but one is -1"),
        (HubertForSequenceClassification, torch.tensor([0.5, 1]), "must be whole numbers to choose among 4 classes"),
        (HubertForSequenceClassification, torch.tensor([1]), r"one entry for each of the 2 rows, but have shape \[1\]"),
        (HubertForCTC, torch.tensor([1, 2]), r"\[batch, length\], with 2 rows here, but are torch.int64 \[2\]"),
        (HubertForCTC, torch.tensor([[1]]), "with 2 rows here"),
        (HubertForCTC, torch.tensor([[1.0], [2.5]]), "must be whole numbers"),
        (HubertForCTC, [[1], [2]], "labels must be a tensor, but are a list"),
        (HubertForSequenceClassification, [1, 2], "labels must be a tensor, but are a list"),
        (HubertForCTC, torch.tensor([[1], [32]]), r"below vocab_size \(32\), but reach 32"),
    ],
)
def test_errors_describe_labels_that_do_not_fit(cls, labels, message):
    with pytest.raises(ValueError, match=message):
        cls(small_config(num_labels=4))(torch.randn(2, 4000), labels=labels)


@pytest.mark.parametrize("blank", [None, -1, 32])
def test_blank_must_be_an_output(blank):
    model = HubertForCTC(small_config(pad_token_id=blank))
    with pytest.raises(ValueError, match=f"pad_token_id is CTC's blank and must be an output, 0 to 31, but is {blank}"):
        model(torch.randn(1, 4000), labels=torch.tensor([[1]]))


def test_whole_numbered_floating_point_labels(examples):
    model = HubertForCTC(small_config()).eval()
    waveforms, labels = torch.randn(2, 4000), torch.tensor([[1, 2], [3, -100]])
    assert torch.equal(model(waveforms, labels=labels.float()).loss, model(waveforms, labels=labels).loss)


def test_layerdrop_may_change_after_construction():
    model = HubertModel(small_config(layerdrop=1.0, hidden_dropout=0.0, mask_time_prob=0.0)).train()
    model.config.layerdrop = 0.0
    states = model(torch.randn(1, 4000), output_hidden_states=True).hidden_states
    assert not torch.equal(states[0], states[1])


def test_labels_of_minus_100_are_ignored():
    model = HubertForSequenceClassification(small_config(num_labels=4)).eval()
    waveforms = torch.randn(2, 4000)
    loss = model(waveforms, labels=torch.tensor([2, -100])).loss
    assert_close(loss, model(waveforms[:1], labels=torch.tensor([2])).loss, "same graph")


@BOTH
@pytest.mark.parametrize("class_name", ["HubertModel", "HubertForCTC", "HubertForSequenceClassification"])
def test_initial_weights_are_distributed_as_in_transformers(values, class_name):
    values = dict(values, hidden_size=192, intermediate_size=256, use_weighted_layer_sum=True, initializer_range=0.05)
    ours, theirs = (getattr(library, class_name)(library.HubertConfig(**values)) for library in (hubert_fast, transformers))
    expected = dict(theirs.named_parameters())
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        # a parameter of n numbers has a standard deviation known to 1/sqrt(2n), a mean known to std/sqrt(n)
        n, std = parameter.numel(), expected[name].std(correction=0).item()
        assert parameter.std(correction=0).item() == pytest.approx(std, rel=8 / np.sqrt(2 * n), abs=1e-7), name
        assert parameter.mean().item() == pytest.approx(expected[name].mean().item(), abs=8 * std / np.sqrt(n) + 1e-7), name


def train(model, examples, folder, **options):
    """Train for a few steps with transformers' Trainer and evaluate at the end. Return the trainer and its logs."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=3,
        max_steps=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="no",
        learning_rate=1e-4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=examples[:8], eval_dataset=examples[8:11], data_collator=collate
    )
    np.random.seed(0)
    trainer.train()
    logs = trainer.state.log_history
    return trainer, SimpleNamespace(
        losses=[entry["loss"] for entry in logs if "loss" in entry],
        norms=[entry["grad_norm"] for entry in logs if "grad_norm" in entry],
        eval_loss=next(entry["eval_loss"] for entry in logs if "eval_loss" in entry),
    )


def test_trainer_gives_the_losses_of_transformers(examples, tmp_path):
    ours, actual = train(HubertForCTC.from_pretrained(demo.MODEL, **LOAD_OPTIONS), examples, tmp_path / "ours")
    _, expected = train(transformers.HubertForCTC.from_pretrained(demo.MODEL, **LOAD_OPTIONS), examples, tmp_path / "theirs")
    assert len(actual.losses) == 4
    assert actual.losses == pytest.approx(expected.losses, rel=1e-5)
    assert actual.norms == pytest.approx(expected.norms, rel=1e-4)  # a sum over 3.6 million gradients
    assert actual.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    prediction = ours.predict(examples[8:11])
    assert prediction.predictions.shape[0] == 3 and np.isfinite(prediction.metrics["test_loss"])


def test_trainer_with_gradient_checkpointing_bf16_and_checkpoints(examples, tmp_path):
    model = HubertForCTC.from_pretrained(demo.MODEL, **LOAD_OPTIONS)
    name = "activation_checkpointing" if "activation_checkpointing" in vars(transformers.TrainingArguments) else None
    trainer, log = train(model, examples, tmp_path, bf16=True, **{name or "gradient_checkpointing": True})
    assert model.is_gradient_checkpointing and np.isfinite(log.losses).all()
    trainer.save_model(tmp_path / "saved")  # only weights, as for any model that is not transformers' own
    model.config.save_pretrained(tmp_path / "saved")
    loaded, info = HubertForCTC.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(parameter, model.state_dict()[name]) for name, parameter in loaded.state_dict().items())


def test_trainer_on_accelerated_models_trains_unchanged_and_evaluates_fast(examples, tmp_path):
    _, expected = train(transformers.HubertForCTC.from_pretrained(demo.MODEL, **LOAD_OPTIONS), examples, tmp_path / "plain")
    model = hubert_fast.accelerate(transformers.HubertForCTC.from_pretrained(demo.MODEL, **LOAD_OPTIONS))
    reasons, original_call = [], type(model.hubert.forward).__call__

    class Watched(type(model.hubert.forward)):
        def __call__(self, *args, **kwargs):
            output = original_call(self, *args, **kwargs)
            reasons.append(self.reason)
            return output

    model.hubert.forward.__class__ = Watched
    _, actual = train(model, examples, tmp_path / "fast")
    assert reasons == ["the model is training"] * 4 + [None]
    assert actual.losses == expected.losses
    assert actual.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)


def lora(model):
    import peft

    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def test_lora_on_our_model_matches_transformers():
    dropouts = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "final_dropout", "layerdrop"), 0.0)
    values = dict(PRE_LN, mask_time_prob=0.0, **dropouts)
    ours, theirs = (
        HubertForCTC(HubertConfig(**values)).eval(),
        transformers.HubertForCTC(transformers.HubertConfig(**values)).eval(),
    )
    ours.load_state_dict(theirs.state_dict())
    waveforms, mask = masked_batch((6000, 4000))
    with torch.no_grad():
        without_lora = ours(waveforms, attention_mask=mask).logits
    ours, theirs = lora(ours).eval(), lora(theirs).eval()
    theirs.load_state_dict(ours.state_dict())
    assert sum("lora_" in name for name, _ in ours.named_parameters()) == 2 * 2 * 3  # A and B, q and v, three layers
    with torch.no_grad():
        actual = ours(waveforms, attention_mask=mask).logits
        expected = true_frames(theirs(waveforms, attention_mask=mask).logits, mask)
        assert_close(true_frames(actual, mask), expected, "same graph")
    assert relative_error(true_frames(actual, mask), true_frames(without_lora, mask)) > 0.01
    labels = torch.tensor([[1, 2], [3, 4]])
    losses = [model.train()(waveforms, attention_mask=mask, labels=labels).loss for model in (ours, theirs)]
    for loss in losses:
        loss.backward()
    assert_close(*losses, "same graph")
    expected = dict(theirs.named_parameters())
    trained = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert len(trained) == 12 and all("lora_" in name for name in trained)
    for name, gradient in trained.items():
        assert_close(gradient, expected[name].grad, "gradient", name)
    merged = ours.eval().merge_and_unload()
    with torch.no_grad():
        assert_close(true_frames(merged(waveforms, attention_mask=mask).logits, mask), true_frames(actual, mask), "attention")


def test_accelerated_models_with_lora_use_transformers_forward():
    model = perturb(transformers.HubertForCTC(transformers.HubertConfig(**PRE_LN))).eval()
    base = hubert_fast.accelerate(model).hubert
    waveforms, mask = masked_batch((6000, 4000))

    def logits_of(module):
        with torch.no_grad():
            return true_frames(module(waveforms, attention_mask=mask).logits, mask)

    plain = logits_of(model)
    assert base.forward.reason is None
    adapted = lora(model).eval()
    actual = logits_of(adapted)
    assert "q_proj is Linear" in base.forward.reason or "has a hook" in base.forward.reason
    hubert_fast.restore(adapted)
    assert torch.equal(logits_of(adapted), actual) and relative_error(actual, plain) > 0.01
    hubert_fast.accelerate(adapted)
    with adapted.disable_adapter():
        assert_close(logits_of(adapted), plain, "same graph")
    merged = adapted.merge_and_unload()
    assert_close(logits_of(merged), actual, "attention")
    assert base.forward.reason is None
