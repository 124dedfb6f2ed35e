"""Test the methods that configurations of transformers have, against transformers."""

import json

import pytest
from conftest import PRE_LN, small_config

from hubert_fast import HubertConfig

NAMES = {0: "no", 1: "yes", 2: "maybe"}


@pytest.fixture
def folder(tmp_path):
    small_config(id2label=NAMES, note="kept").save_pretrained(save_directory=tmp_path)
    return tmp_path


def theirs():
    return pytest.importorskip("transformers").HubertConfig


def test_options_that_are_not_used_are_returned_or_refused(folder):
    config, unused = HubertConfig.from_pretrained(folder, return_unused_kwargs=True, layerdrop=0.5, foo=1)
    assert config.layerdrop == 0.5 and unused == {"foo": 1}
    expected, expected_unused = theirs().from_pretrained(folder, return_unused_kwargs=True, layerdrop=0.5, foo=1)
    assert expected.layerdrop == 0.5 and expected_unused == unused
    with pytest.raises(TypeError, match="got foo, which is neither"):
        HubertConfig.from_pretrained(folder, foo=1)
    for values in (PRE_LN, small_config().to_dict()):
        config, unused = HubertConfig.from_dict(values, return_unused_kwargs=True, layerdrop=0.5, foo=1)
        assert config.layerdrop == 0.5 and unused == {"foo": 1}


def test_attributes_of_the_file_and_of_every_configuration_can_be_overridden(folder):
    config = HubertConfig.from_pretrained(folder, note="new", finetuning_task="ctc", trust_remote_code=True)
    assert config.note == "new" and config.finetuning_task == "ctc" and not hasattr(config, "trust_remote_code")
    assert HubertConfig.from_pretrained(folder / "config.json").note == "kept"


def test_reading_a_dictionary(folder):
    values, rest = HubertConfig.get_config_dict(folder, foo=1)
    assert values == json.loads((folder / "config.json").read_text()) and rest == {"foo": 1}
    assert HubertConfig.from_dict(config_dict=values) == HubertConfig.from_json_file(json_file=folder / "config.json")


def test_transformers_reads_what_is_written(folder, tmp_path):
    ours = HubertConfig.from_pretrained(folder)
    ours.to_json_file(json_file_path=tmp_path / "diff.json")
    ours.to_json_file(tmp_path / "full.json", use_diff=False)
    for name in ("config.json", "diff.json", "full.json"):
        config = theirs().from_json_file(tmp_path / name)
        assert config.id2label == NAMES and config.note == "kept" and config.hidden_size == 48
        assert HubertConfig.from_json_file(tmp_path / name) == ours
    config.save_pretrained(tmp_path / "theirs")
    back = HubertConfig.from_pretrained(tmp_path / "theirs")
    assert {name: vars(back)[name] for name in PRE_LN} == {name: vars(ours)[name] for name in PRE_LN}


def test_defaults_of_every_configuration_are_left_out_of_a_diff():
    assert "output_attentions" in HubertConfig().to_dict() and "output_attentions" not in HubertConfig().to_diff_dict()
    config = HubertConfig(output_attentions=True, id2label=NAMES)
    diff, expected = config.to_diff_dict(), theirs()(output_attentions=True, id2label=NAMES).to_diff_dict()
    for name in ("output_attentions", "hidden_size", "layerdrop", "model_type"):
        assert diff[name] == expected[name], name
    assert diff["id2label"] == {str(index): label for index, label in expected["id2label"].items()}
    absent = {"problem_type", "return_dict", "output_hidden_states"}
    assert not absent & diff.keys() and not absent & expected.keys()
    assert json.loads(config.to_json_string()) == diff and json.loads(config.to_json_string(use_diff=False)) == config.to_dict()


def test_changing_fields():
    config, expected = small_config(), theirs()(**PRE_LN)
    for each in (config, expected):
        each.update({"layerdrop": 0.25, "hidden_act": "relu"})
        each.update_from_string("hidden_dropout=0.5,conv_bias=false,vocab_size=40")
        each.num_labels = 3
        assert each.layerdrop == 0.25 and each.hidden_act == "relu" and each.hidden_dropout == 0.5
        assert each.conv_bias is False and each.vocab_size == 40
        assert each.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and each.label2id["LABEL_2"] == 2
    config.id2label = NAMES
    assert config.num_labels == 3
    for text, message in (
        ("layerdrop", "FIELD=VALUE"),
        ("foo=1", "an existing field"),
        ("conv_dim=1", "numbers, booleans and text"),
    ):
        with pytest.raises(ValueError, match=message):
            config.update_from_string(text)
    with pytest.raises(ValueError, match=r"hidden_size .* must be divisible"):
        config.update({"num_attention_heads": 7})
    assert config.num_attention_heads == 4


def test_names_that_older_code_reads():
    config = small_config(return_dict=False, _name_or_path="someone/hubert")
    assert config.use_return_dict is False and config.name_or_path == "someone/hubert"
    assert HubertConfig().name_or_path == "" and HubertConfig().use_return_dict is True


def test_saving_is_refused_where_it_cannot_work(tmp_path):
    with pytest.raises(ValueError, match="upload_folder"):
        HubertConfig().save_pretrained(tmp_path / "new", push_to_hub=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="needs a folder"):
        HubertConfig().save_pretrained(tmp_path / "file")
