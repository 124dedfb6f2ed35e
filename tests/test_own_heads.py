"""Test that a published head, written for transformers, works with its imports changed alone: same weights, same results."""

import json
import types
from dataclasses import dataclass

import pytest
import torch
from conftest import PRE_LN, assert_close, masked_batch
from torch import nn
from torch.nn import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss

import hubert_fast

transformers = pytest.importorskip("transformers")


@dataclass
class SpeechClassifierOutput(transformers.utils.ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def classifier_of(library: types.ModuleType, finish: str = "post_init") -> type:
    """Return the emotion classifier of a widely copied notebook, on the classes of `library`.

    Args:
        finish: `"init_weights"`, as in the notebook, or `"post_init"`, which transformers 5 needs.
    """

    class HubertClassificationHead(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.dropout = nn.Dropout(config.final_dropout)
            self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

        def forward(self, features, **kwargs):
            x = self.dropout(features)
            x = torch.tanh(self.dense(x))
            return self.out_proj(self.dropout(x))

    class HubertForSpeechClassification(library.HubertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.num_labels = config.num_labels
            self.pooling_mode = config.pooling_mode
            self.config = config
            self.hubert = library.HubertModel(config)
            self.classifier = HubertClassificationHead(config)
            getattr(self, finish)()

        def freeze_feature_extractor(self):
            self.hubert.feature_extractor._freeze_parameters()

        def merged_strategy(self, hidden_states, mode="mean"):
            if mode == "mean":
                return torch.mean(hidden_states, dim=1)
            if mode == "sum":
                return torch.sum(hidden_states, dim=1)
            if mode == "max":
                return torch.max(hidden_states, dim=1)[0]
            raise ValueError(mode)

        def forward(
            self,
            input_values,
            attention_mask=None,
            output_attentions=None,
            output_hidden_states=None,
            return_dict=None,
            labels=None,
        ):
            return_dict = return_dict if return_dict is not None else self.config.use_return_dict
            outputs = self.hubert(
                input_values,
                attention_mask=attention_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=return_dict,
            )
            hidden_states = self.merged_strategy(outputs[0], mode=self.pooling_mode)
            logits = self.classifier(hidden_states)
            loss = None
            if labels is not None:
                if self.config.problem_type is None:
                    self.config.problem_type = "regression" if self.num_labels == 1 else "single_label_classification"
                if self.config.problem_type == "regression":
                    loss = MSELoss()(logits.view(-1, self.num_labels), labels)
                elif self.config.problem_type == "single_label_classification":
                    loss = CrossEntropyLoss()(logits.view(-1, self.num_labels), labels.view(-1))
                else:
                    loss = BCEWithLogitsLoss()(logits, labels)
            if not return_dict:
                output = (logits, *outputs[2:])
                return (loss, *output) if loss is not None else output
            return SpeechClassifierOutput(
                loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
            )

    return HubertForSpeechClassification


@pytest.fixture
def encoder(tmp_path):
    hubert_fast.HubertModel(hubert_fast.HubertConfig(**PRE_LN)).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def fine_tunable(library: types.ModuleType, encoder, finish: str = "post_init", mode: str = "mean"):
    """Return the classifier over the encoder's checkpoint, as the notebook makes it."""
    labels = ["anger", "fear", "joy"]
    config = library.HubertConfig.from_pretrained(
        encoder,
        num_labels=3,
        label2id={label: index for index, label in enumerate(labels)},
        id2label=dict(enumerate(labels)),
        finetuning_task="wav2vec2_clf",
    )
    config.pooling_mode = mode
    torch.manual_seed(3)
    return classifier_of(library, finish).from_pretrained(encoder, config=config)


@pytest.mark.parametrize("finish", ["init_weights", "post_init"])
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_the_head_computes_the_same(encoder, finish, mode):
    ours, theirs = fine_tunable(hubert_fast, encoder, finish, mode), fine_tunable(transformers, encoder, mode=mode)
    expected_weights = theirs.state_dict()
    assert ours.state_dict().keys() == expected_weights.keys()
    assert all(torch.equal(tensor, expected_weights[key]) for key, tensor in ours.state_dict().items())
    waveforms, mask = masked_batch((6000, 6000))
    for arguments in ({}, {"attention_mask": mask}, {"labels": torch.tensor([0, 2])}):
        with torch.no_grad():
            actual, expected = ours(waveforms, **arguments), theirs(waveforms, **arguments)
            as_tuple = ours(waveforms, return_dict=False, **arguments)
        assert_close(actual.logits, expected.logits, "other graph")
        assert torch.equal(as_tuple[-1], actual.logits)
        if "labels" in arguments:
            assert actual.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert ours.config.problem_type == theirs.config.problem_type == "single_label_classification"


def test_its_encoder_runs_packed(encoder):
    model = fine_tunable(hubert_fast, encoder)
    with torch.no_grad():
        assert model.explain_path() == "packed"


def test_a_step_of_training_is_the_same(encoder):
    results = []
    waveforms, _ = masked_batch((6000, 6000))
    for library in (hubert_fast, transformers):
        model = fine_tunable(library, encoder)
        model.freeze_feature_extractor()
        assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {
            name for name, _ in model.named_parameters() if name.startswith("hubert.feature_extractor.")
        }
        model.config.apply_spec_augment = model.hubert.config.apply_spec_augment = False
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(3):  # in evaluation mode, without dropout
            loss = model(waveforms, labels=torch.tensor([1, 2])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert results[0][2] < results[0][0]


def test_it_saves_and_loads_in_both_libraries(encoder, tmp_path):
    model = fine_tunable(hubert_fast, encoder, mode="sum")
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved/config.json").read_text())
    assert written["architectures"] == ["HubertForSpeechClassification"] and written["pooling_mode"] == "sum"
    assert written["id2label"] == {"0": "anger", "1": "fear", "2": "joy"} and written["finetuning_task"] == "wav2vec2_clf"
    for library in (hubert_fast, transformers):
        loaded = classifier_of(library).from_pretrained(tmp_path / "saved")
        assert loaded.pooling_mode == "sum" and loaded.config.num_labels == 3
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    theirs = fine_tunable(transformers, encoder)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded, info = classifier_of(hubert_fast).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values()) and torch.equal(loaded.classifier.dense.weight, theirs.classifier.dense.weight)


def test_a_configuration_of_transformers_is_taken_too(encoder, tmp_path):
    config = transformers.AutoConfig.from_pretrained(encoder, num_labels=3)
    config.pooling_mode = "mean"
    model = classifier_of(hubert_fast).from_pretrained(encoder, config=config)
    waveforms, mask = masked_batch((6000, 4000))
    with torch.no_grad():
        assert model(waveforms, attention_mask=mask).logits.shape == (2, 3)
    model.save_pretrained(tmp_path / "saved")
    for library in (hubert_fast, transformers):
        loaded = classifier_of(library).from_pretrained(tmp_path / "saved")
        assert loaded.config.pooling_mode == "mean" and loaded.config.num_labels == 3
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())


class Wide(hubert_fast.HubertPreTrainedModel):
    """A head whose constructor has arguments of its own, and whose initialisation is its own."""

    def __init__(self, config, classes, scale=1.0):
        super().__init__(config)
        self.hubert = hubert_fast.HubertModel(config)
        self.head = nn.Linear(config.hidden_size, classes)
        self.scale = scale
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self.head:
            module.weight.data.fill_(0.5)
            module.bias.data.fill_(self.scale)


def test_arguments_of_the_constructor_go_through_from_pretrained(encoder):
    model = Wide.from_pretrained(encoder, 4, scale=2.0, layerdrop=0.0)
    assert model.head.weight.shape == (4, 48) and model.scale == 2.0 and model.config.layerdrop == 0.0
    assert (model.head.weight == 0.5).all() and (model.head.bias == 2).all()
    with pytest.raises(TypeError, match="got unknown_option, which is neither"):
        Wide.from_pretrained(encoder, 4, unknown_option=1)


def test_an_encoder_loaded_within_a_constructor(encoder):
    class Loader(hubert_fast.HubertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.hubert = hubert_fast.HubertModel.from_pretrained(encoder)
            self.head = nn.Linear(48, 2)
            self.post_init()

    model = Loader(hubert_fast.HubertConfig(**PRE_LN))
    expected = hubert_fast.HubertModel.from_pretrained(encoder).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.hubert.state_dict().items())
    assert not model.head.bias.any() and model.head.weight.std().item() == pytest.approx(0.02, rel=0.3)
