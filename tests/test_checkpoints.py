"""Test reading and writing checkpoints and configurations: formats, spellings of names, options and errors."""

import json
import logging
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import POST_LN, small_config

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel
from hubert_fast.checkpoints import read_state_dict
from hubert_fast.hub import CheckpointError

GOLDEN = Path(__file__).parent / "golden"


def _same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def saved(tmp_path):
    model = HubertForCTC(small_config()).eval()
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


@pytest.mark.parametrize("cls", [HubertModel, HubertForCTC, HubertForSequenceClassification])
def test_round_trip_is_exact(cls, tmp_path):
    model = cls(small_config())
    model.save_pretrained(tmp_path)
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert _same_weights(model, loaded) and not loaded.training
    assert not any(info.values())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [cls.__name__]


def test_sharded_round_trip(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert _same_weights(model, HubertForCTC.from_pretrained(tmp_path / "sharded"))


def test_saving_with_an_old_huggingface_hub(saved, tmp_path, monkeypatch):
    model, _ = saved
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(__version__="0.17.3"))
    model.save_pretrained(tmp_path / "old")
    assert _same_weights(model, HubertForCTC.from_pretrained(tmp_path / "old"))
    with pytest.raises(RuntimeError, match=r"writing shards needs huggingface_hub 0\.24"):
        model.save_pretrained(tmp_path / "old", max_shard_size="50KB")


@pytest.mark.parametrize("spelling", ["weight_g and weight_v", "parametrizations"])
@pytest.mark.parametrize("extension", ["bin", "safetensors"])
def test_both_spellings_of_weight_norm_in_both_formats(saved, tmp_path, spelling, extension):
    from safetensors.torch import save_file

    model, folder = saved
    state = model.state_dict()
    if spelling == "weight_g and weight_v":
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            prefix = "hubert.encoder.pos_conv_embed.conv."
            state[prefix + old] = state.pop(f"{prefix}parametrizations.weight.{new}")
    target = tmp_path / "other"
    target.mkdir()
    shutil.copy(folder / "config.json", target)
    if extension == "bin":
        torch.save(state, target / "pytorch_model.bin")
    else:
        save_file(state, target / "model.safetensors")
    assert _same_weights(model, HubertForCTC.from_pretrained(target))
    fresh = HubertForCTC(model.config)
    fresh.load_state_dict(state)  # also without from_pretrained
    assert _same_weights(model, fresh)


def test_saved_keys_equal_those_of_transformers_4_34_1(tmp_path):
    expected = read_state_dict(GOLDEN / "pre_ln")
    HubertForCTC.from_pretrained(GOLDEN / "pre_ln").save_pretrained(tmp_path)
    from safetensors import safe_open

    with (
        safe_open(tmp_path / "model.safetensors", "pt") as ours,
        safe_open(GOLDEN / "pre_ln/model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        assert ours.metadata()["format"] == "pt"  # required by transformers 4.34.1
        assert all(torch.equal(ours.get_tensor(key), expected[key]) for key in ours.keys())


def test_base_and_ctc_checkpoints_load_into_each_other(saved, tmp_path, caplog):
    model, folder = saved
    base, info = HubertModel.from_pretrained(folder, output_loading_info=True)
    assert _same_weights(base, model.hubert) and info["missing_keys"] == []
    assert info["unexpected_keys"] == ["lm_head.bias", "lm_head.weight"]
    base.save_pretrained(tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        head, info = HubertForCTC.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert _same_weights(head.hubert, model.hubert)
    assert info["missing_keys"] == ["lm_head.bias", "lm_head.weight"] and "lm_head.weight" in caplog.text
    assert head.lm_head.weight.std().item() == pytest.approx(head.config.initializer_range, rel=0.1)
    assert not head.lm_head.bias.any()


def test_loading_in_another_dtype(saved):
    model, folder = saved
    model.half().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"
    for requested, expected in (
        (None, torch.float32),
        ("auto", torch.float16),
        ("bfloat16", torch.bfloat16),
        (torch.float64,) * 2,
    ):
        assert HubertForCTC.from_pretrained(folder, dtype=requested).dtype == expected
        assert HubertForCTC.from_pretrained(folder, torch_dtype=requested).dtype == expected
    for wrong in ("int8", "fp99", torch.int32):
        with pytest.raises(ValueError, match="dtype must be a floating-point"):
            HubertForCTC.from_pretrained(folder, dtype=wrong)


def test_the_saved_configuration_has_the_dtype_of_the_weights(saved):
    """transformers 5 writes `dtype` where 4.34.1 wrote `torch_dtype`; a stale `dtype` must not survive."""
    model, folder = saved
    model.config = HubertConfig.from_dict(model.config.to_dict() | {"dtype": "float32"})
    model.half().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    assert values["torch_dtype"] == "float16" and "dtype" not in values


def test_configuration_overrides_and_unknown_options(saved):
    _, folder = saved
    assert HubertForCTC.from_pretrained(folder, hidden_dropout=0.7).config.hidden_dropout == 0.7
    with pytest.raises(TypeError, match="hidden_dropuot"):
        HubertForCTC.from_pretrained(folder, hidden_dropuot=0.7)


def test_device_and_device_map(saved):
    _, folder = saved
    for options in ({"device": "cpu"}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}, {"device_map": torch.device("cpu")}):
        assert HubertForCTC.from_pretrained(folder, **options).device.type == "cpu"
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("auto", "balanced", "sequential"):
        assert HubertForCTC.from_pretrained(folder, device_map=name).device.type == fastest
    for options, message in (
        ({"device_map": {"lm_head": "cpu", "hubert": 0}}, "device_map must put the whole model on one device"),
        ({"device_map": "disk"}, "device must be auto, cpu, cuda or cuda:N, but is 'disk'"),
        ({"device_map": 99}, "device cuda:99 was requested, but"),
        ({"device": "cpu", "device_map": "cpu"}, "takes device or device_map, but got both"),
    ):
        with pytest.raises(ValueError, match=message):
            HubertForCTC.from_pretrained(folder, **options)


def test_a_separate_configuration(saved, tmp_path):
    import transformers

    model, folder = saved
    (folder / "config.json").rename(tmp_path / "config.json")
    config = HubertConfig.from_pretrained(tmp_path, hidden_dropout=0.6)
    assert config.hidden_dropout == 0.6
    for argument in (config, tmp_path, str(tmp_path), transformers.HubertConfig.from_pretrained(tmp_path)):
        assert _same_weights(model, HubertForCTC.from_pretrained(folder, config=argument))
    assert HubertForCTC.from_pretrained(folder, config=tmp_path, layerdrop=0.4).config.layerdrop == 0.4
    for argument in ({}, 3, transformers.Wav2Vec2Config()):
        with pytest.raises(TypeError, match="expected a HubertConfig, but got a"):
            HubertForCTC.from_pretrained(folder, config=argument)


def test_transformers_options_without_effect_are_accepted(saved):
    model, folder = saved
    options = dict(attn_implementation="sdpa", low_cpu_mem_usage=True, use_safetensors=True, trust_remote_code=False)
    assert _same_weights(model, HubertForCTC.from_pretrained(folder, **options))


def test_unsupported_options_are_refused(saved, tmp_path):
    model, folder = saved
    with pytest.raises(TypeError, match="from_pretrained got hiden_dropout, which is neither"):
        HubertConfig.from_pretrained(folder, hiden_dropout=0.5)
    with pytest.raises(ValueError, match="safe_serialization must be True"):
        model.save_pretrained(tmp_path / "pickled", safe_serialization=False)


def test_mismatched_shapes(saved, caplog):
    _, folder = saved
    with pytest.raises(ValueError, match=r"lm_head.*\[32.*expects \[40"):
        HubertForCTC.from_pretrained(folder, vocab_size=40)
    model, info = HubertForCTC.from_pretrained(folder, vocab_size=40, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["mismatched_keys"][0] == ("lm_head.bias", (32,), (40,)) and model.lm_head.out_features == 40
    assert set(info) == {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}
    assert "lm_head.bias ([32] instead of [40])" in caplog.text
    assert not model.lm_head.bias.any() and model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


class _Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_malicious_pickle_does_not_run(saved, tmp_path):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.bias": _Malicious(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        HubertForCTC.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_errors_name_the_file_and_the_reason(saved, tmp_path):
    _, folder = saved
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache, and the hub is out of reach"):
        HubertForCTC.from_pretrained("someone/no-such-model")
    with pytest.raises(CheckpointError, match="neither a folder nor a name"):
        HubertForCTC.from_pretrained("no/such/folder/")
    with pytest.raises(CheckpointError, match="is a file; a checkpoint is a folder"):
        HubertForCTC.from_pretrained(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no config\.json"):
        HubertForCTC.from_pretrained(tmp_path / "empty")
    shutil.copy(folder / "config.json", tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"has no weights: none of model\.safetensors"):
        HubertForCTC.from_pretrained(tmp_path / "empty")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        HubertForCTC.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        HubertForCTC.from_pretrained(folder)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.json", '["a", "list"]', "must hold a JSON object, but holds a list"),
        ("config.json", '{"conv_dim": null}', r"conv_dim must be tuple\[int, ...\], but is None"),
        ("config.json", '{"hidden_size": "256"}', "hidden_size must be int, but is '256'"),
        ("config.json", '{"layer_norm_eps": "small"}', "layer_norm_eps must be float, but is 'small'"),
        ("config.json", b"\xff\xfe", "is not valid JSON"),
        ("model.safetensors.index.json", '{"metadata": {}}', "must have a weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "must have a weight_map"),
        ("config.json", '{"eos_token_id": [2, "3"]}', "eos_token_id must be"),
        ("config.json", '{"id2label": {"x": "a"}}', "id2label must map integers to labels"),
        ("config.json", '{"num_hidden_layers": -1}', "num_hidden_layers must not be negative"),
    ],
)
def test_malformed_files_are_named(saved, name, content, message):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((CheckpointError, ValueError), match=f"{re.escape(str(folder / name))}.*{message}"):
        HubertForCTC.from_pretrained(folder)


def test_a_pickle_without_a_dictionary_is_refused(saved):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must hold a dictionary of tensors"):
        HubertForCTC.from_pretrained(folder)


def test_weights_and_configuration_have_equal_file_permissions(saved):
    _, folder = saved
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_another_kind_of_model_is_refused():
    with pytest.raises(ValueError, match="'wav2vec2' model"):
        HubertConfig.from_dict({"model_type": "wav2vec2"})


def test_a_configuration_keeps_unknown_options(tmp_path):
    config = HubertConfig(**POST_LN, tokenizer_class="Wav2Vec2CTCTokenizer", future_option={"a": 1}, num_labels=3)
    config.save_pretrained(tmp_path)
    loaded = HubertConfig.from_pretrained(tmp_path)
    assert loaded == config and loaded != HubertConfig(**POST_LN)
    loaded.set_later = 5
    assert loaded.to_dict()["set_later"] == 5
    assert loaded.future_option == {"a": 1} and loaded.num_labels == 3 and loaded.id2label[2] == "LABEL_2"


def test_configuration_updates_are_atomic():
    config = HubertConfig(**POST_LN)
    config.update({"hidden_size": 60, "num_conv_pos_embedding_groups": 5, "num_labels": 7})  # either alone would be invalid
    assert (config.hidden_size, config.num_labels, config.id2label[6]) == (60, 7, "LABEL_6")
    with pytest.raises(ValueError, match="must be divisible by num_attention_heads"):
        config.update({"num_attention_heads": 7})
    assert config.num_attention_heads == 4
    assert HubertConfig.from_dict(json.loads(config.to_json_string())) == config


def test_models_accept_transformers_configurations():
    import transformers

    theirs = transformers.HubertConfig(**POST_LN, num_labels=3)
    model = HubertForSequenceClassification(theirs).eval()
    assert isinstance(model.config, HubertConfig) and model.config.num_labels == 3
    assert model(torch.randn(1, 400)).logits.shape == (1, 3)


def test_configuration_defaults_equal_those_of_transformers():
    import transformers

    # through JSON, which makes tuples lists and label ids text, as in the file
    ours, theirs = (json.loads(json.dumps(config.to_dict())) for config in (HubertConfig(), transformers.HubertConfig()))
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 40
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(conv_dim=(8, 8)), "conv_dim, conv_stride and conv_kernel"),
        (dict(num_attention_heads=5), r"hidden_size \(48\) must be divisible by num_attention_heads \(5\)"),
        (dict(num_conv_pos_embedding_groups=5), "num_conv_pos_embedding_groups"),
        (dict(feat_extract_norm="batch"), "feat_extract_norm must be one of group, layer"),
        (dict(ctc_loss_reduction="max"), "ctc_loss_reduction"),
        (dict(num_labels=3, id2label={0: "a"}), "num_labels is 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_contradictory_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        small_config(**values)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be one of gelu"):
        HubertModel(small_config(hidden_act="gleu"))
