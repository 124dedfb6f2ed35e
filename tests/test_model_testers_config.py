"""Ask of both configurations what transformers' configuration tester asks: round trips, labels, overrides, unknown keys."""

import copy
import json
import pickle
from importlib import import_module

import pytest
import transformers
from conftest import POST_LN, PRE_LN
from model_tester_cases import IMPORTS, RECENT, parametrize_cases, result, waveforms_of

from hubert_fast import HubertConfig

CONFIGS = pytest.mark.parametrize("library", IMPORTS)
# every field with a value other than its default
VALUES = {
    **PRE_LN,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-4,
    "hidden_dropout": 0.11,
    "activation_dropout": 0.12,
    "attention_dropout": 0.13,
    "feat_proj_dropout": 0.14,
    "final_dropout": 0.15,
    "layerdrop": 0.16,
    "feat_extract_activation": "relu",
    "conv_dim": [8, 16, 24],
    "conv_stride": [5, 3, 3],
    "conv_kernel": [10, 4, 3],
    "feat_proj_layer_norm": False,
    "apply_spec_augment": False,
    "mask_time_prob": 0.17,
    "mask_time_length": 4,
    "mask_time_min_masks": 3,
    "mask_feature_prob": 0.18,
    "mask_feature_length": 5,
    "mask_feature_min_masks": 1,
    "ctc_loss_reduction": "mean",
    "ctc_zero_infinity": True,
    "use_weighted_layer_sum": True,
    "initializer_range": 0.03,
    "pad_token_id": 31,
    "bos_token_id": 30,
    "eos_token_id": 29,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "problem_type": "single_label_classification",
}


def _class(library: str) -> type:
    return getattr(import_module(library), "HubertConfig", transformers.HubertConfig)


def _assert_holds(config, values: dict) -> None:
    for name, value in values.items():
        found = getattr(config, name)
        assert (list(found) if isinstance(value, (list, tuple)) else found) == (
            list(value) if isinstance(value, (list, tuple)) else value
        ), name


@CONFIGS
def test_every_field_is_an_argument_and_an_attribute(library):
    config = _class(library)(**VALUES)
    _assert_holds(config, VALUES)
    defaults = _class(library)()
    assert all(getattr(defaults, name) != value for name, value in VALUES.items() if name not in ("vocab_size", "conv_bias"))
    for name, value in VALUES.items():
        setattr(defaults, name, value)
    _assert_holds(defaults, VALUES)


@pytest.mark.parametrize("name", sorted(HubertConfig.field_names() - {"conv_pos_batch_norm", "adapter_attn_dim"}))
def test_defaults_are_those_of_transformers(name):
    expected, actual = getattr(transformers.HubertConfig(), name), getattr(HubertConfig(), name)
    assert (list(actual) if isinstance(actual, tuple) else actual) == (
        list(expected) if isinstance(expected, tuple) else expected
    )


@CONFIGS
def test_round_trips(library, tmp_path):
    """Through JSON text, a dictionary, a file, a folder, a copy and a pickle."""
    cls = _class(library)
    config = cls(**VALUES, num_labels=3, my_own_field={"kept": [1, 2]})
    text = config.to_json_string()
    assert json.loads(text)["hidden_dropout"] == 0.11 and json.loads(text)["conv_dim"] == [8, 16, 24]
    (tmp_path / "text.json").write_text(text)
    config.save_pretrained(tmp_path / "saved")
    others = [
        cls.from_dict(json.loads(text)),
        cls.from_dict(config.to_dict()),
        cls.from_json_file(str(tmp_path / "text.json")),
        cls.from_pretrained(tmp_path / "saved"),
        cls(**config.to_dict()),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ]
    for other in others:
        _assert_holds(other, {**VALUES, "my_own_field": {"kept": [1, 2]}, "num_labels": 3})
        assert other.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        assert cls.from_dict(json.loads(other.to_json_string())).to_dict() == cls.from_dict(json.loads(text)).to_dict()


@pytest.mark.parametrize("reader", IMPORTS)
@pytest.mark.parametrize("writer", IMPORTS)
def test_each_reads_what_each_writes(writer, reader, tmp_path):
    config = _class(writer)(**VALUES, id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1}, my_own_field="kept")
    config.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "hubert"
    other = _class(reader).from_pretrained(tmp_path)
    _assert_holds(other, {**VALUES, "my_own_field": "kept", "id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}})
    automatic = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(automatic) is transformers.HubertConfig
    _assert_holds(automatic, VALUES)


@CONFIGS
def test_labels(library):
    cls = _class(library)
    assert cls().num_labels == 2 and cls().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    config = cls(num_labels=4)
    assert config.num_labels == 4 and config.id2label[3] == "LABEL_3" and config.label2id["LABEL_3"] == 3
    config.num_labels = 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    named = cls(id2label={"0": "yes", "1": "no", "2": "up"}, label2id={"yes": 0, "no": 1, "up": 2})
    assert named.num_labels == 3 and named.id2label == {0: "yes", 1: "no", 2: "up"} and named.label2id["up"] == 2
    named.num_labels = 3
    assert named.id2label[2] == "up", "the same number keeps the names"


@CONFIGS
def test_overrides_when_loading(library, tmp_path):
    cls = _class(library)
    cls(**POST_LN, num_labels=7).save_pretrained(tmp_path)
    config = cls.from_pretrained(tmp_path, hidden_dropout=0.5, pad_token_id=9, num_labels=3, output_hidden_states=True)
    _assert_holds(config, {"hidden_dropout": 0.5, "pad_token_id": 9, "num_labels": 3, "output_hidden_states": True})
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and config.hidden_size == POST_LN["hidden_size"]
    assert cls.from_dict({"hidden_size": 24, "num_attention_heads": 4}, hidden_size=32).hidden_size == 32


@CONFIGS
def test_updates_and_comparison(library):
    cls = _class(library)
    first, second = cls(**POST_LN), cls(**POST_LN)
    assert first.to_dict() == second.to_dict() and first == second
    second.update({"layerdrop": 0.75, "ctc_zero_infinity": True})
    assert second.layerdrop == 0.75 and second.ctc_zero_infinity and first != second
    assert first.layerdrop == 0.1


@CONFIGS
def test_derived_values(library):
    config = _class(library)(conv_dim=[8, 16, 24], conv_stride=[5, 3, 3], conv_kernel=[10, 4, 3])
    assert config.num_feat_extract_layers == 3 and config.inputs_to_logits_ratio == 45


@CONFIGS
def test_convolutions_must_agree(library):
    with pytest.raises(Exception, match="conv_dim"):
        _class(library)(conv_dim=[8, 8], conv_stride=[5, 2, 2], conv_kernel=[10, 3, 3])


@pytest.mark.parametrize("library", RECENT)
def test_bad_values_and_absent_files_are_refused(library, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**POST_LN, "model_type": "hubert", "hidden_dropout": "none"}))
    with pytest.raises(Exception, match="hidden_dropout"):
        _class(library).from_pretrained(tmp_path)
    with pytest.raises(OSError, match="absent"):
        _class(library).from_pretrained(tmp_path / "absent")


@parametrize_cases()
def test_a_model_reads_its_configuration_at_every_call(case):
    config = case.config()
    model = case.cls(config).eval()
    assert model.config.num_labels == config.num_labels == 5
    model.config.output_hidden_states = True
    output = model(waveforms_of())
    assert len(output.hidden_states) == 4
    model.config.output_hidden_states = False
    assert model(waveforms_of()).hidden_states is None
    assert result(model, waveforms_of()).isfinite().all()


@parametrize_cases(libraries=("hubert_fast",))
def test_our_models_take_configurations_of_transformers(case):
    theirs = transformers.HubertConfig(**case.config().to_dict(), my_own_field="kept")
    model = case.cls(theirs)
    assert isinstance(model.config, HubertConfig) and model.config.my_own_field == "kept"
    assert model.config.to_dict().items() >= {"hidden_size": 48, "num_hidden_layers": 3, "layerdrop": 0.1}.items()
