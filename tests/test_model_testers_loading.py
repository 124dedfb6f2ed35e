"""Ask of every import what transformers' model tester asks of weights that do not fit, and of options of loading."""

import pytest
import torch
from conftest import assert_close
from model_tester_cases import HEADS, NUM_LABELS, RECENT, assert_same_weights, parametrize_cases, result, save, waveforms_of

HEAD_WEIGHTS = {
    "HubertForCTC": {"lm_head.weight", "lm_head.bias"},
    "HubertForSequenceClassification": {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"},
}


@parametrize_cases(HEADS)
def test_an_encoder_loads_into_a_model_with_a_head(case, tmp_path):
    encoder = case.with_class("HubertModel").model()
    save(encoder, tmp_path)
    model, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == HEAD_WEIGHTS[case.class_name] and not info["unexpected_keys"]
    assert_same_weights(model.hubert.state_dict(), encoder.state_dict())
    head = model.lm_head if case.class_name == "HubertForCTC" else model.projector
    assert head.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.1) and not head.bias.any()


@parametrize_cases(HEADS)
def test_a_model_with_a_head_loads_into_an_encoder(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    encoder, info = case.with_class("HubertModel").cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and set(info["unexpected_keys"]) == HEAD_WEIGHTS[case.class_name]
    assert_same_weights(encoder.state_dict(), model.hubert.state_dict())


@parametrize_cases(("HubertForCTC",))
def test_another_head_loads_the_encoder_only(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    other, info = case.with_class("HubertForSequenceClassification").cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == HEAD_WEIGHTS["HubertForSequenceClassification"]
    assert set(info["unexpected_keys"]) == HEAD_WEIGHTS["HubertForCTC"]
    assert_same_weights(other.hubert.state_dict(), model.hubert.state_dict())


@parametrize_cases()
def test_absent_and_additional_weights_are_reported(case, tmp_path):
    model = case.model()
    state = model.state_dict()
    prefix = "" if case.class_name == "HubertModel" else "hubert."
    absent = [f"{prefix}encoder.layers.1.attention.q_proj.weight", f"{prefix}feature_projection.layer_norm.weight"]
    for key in absent:
        del state[key]
    additional = f"{prefix}encoder.layers.7.attention.q_proj.weight"
    model.config.save_pretrained(tmp_path)
    torch.save({**state, additional: torch.ones(2)}, tmp_path / "pytorch_model.bin")
    loaded, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(absent) and set(info["unexpected_keys"]) == {additional}
    new = loaded.state_dict()
    assert_same_weights({key: new[key] for key in state}, state)
    assert torch.equal(new[absent[1]], torch.ones_like(new[absent[1]])), "the weight of a new norm is 1"
    assert new[absent[0]].std().item() == pytest.approx(model.config.initializer_range, rel=0.1)


@parametrize_cases(("HubertForCTC",), RECENT)
def test_sizes_that_differ(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    with pytest.raises((RuntimeError, ValueError), match="ignore_mismatched_sizes"):
        case.cls.from_pretrained(tmp_path, vocab_size=40)
    loaded, info = case.cls.from_pretrained(tmp_path, vocab_size=40, ignore_mismatched_sizes=True, output_loading_info=True)
    found = {key: (tuple(there), tuple(here)) for key, there, here in info["mismatched_keys"]}
    assert found == {"lm_head.weight": ((32, 48), (40, 48)), "lm_head.bias": ((32,), (40,))}
    assert loaded.config.vocab_size == 40 and list(result(loaded, waveforms_of()).shape) == [2, 12, 40]
    assert loaded.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1) and not loaded.lm_head.bias.any()
    assert_same_weights(loaded.hubert.state_dict(), model.hubert.state_dict())


@parametrize_cases(("HubertForSequenceClassification",))
def test_another_number_of_labels(case, tmp_path):
    save(case.model(), tmp_path)
    names = {0: "yes", 1: "no", 2: "silence"}
    options = {"num_labels": 3, "id2label": names, "label2id": {name: index for index, name in names.items()}}
    loaded = case.cls.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **options)
    assert list(result(loaded, waveforms_of()).shape) == [2, 3]
    assert loaded.config.num_labels == 3 and loaded.config.id2label == names and loaded.config.label2id["silence"] == 2


@parametrize_cases()
def test_fields_of_the_configuration_are_options_of_loading(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    loaded = case.cls.from_pretrained(tmp_path, layerdrop=0.0, mask_time_length=3, ctc_loss_reduction="mean")
    assert (loaded.config.layerdrop, loaded.config.mask_time_length) == (0.0, 3)
    assert loaded.config.ctc_loss_reduction == "mean" and loaded.config.num_labels == NUM_LABELS
    config = case.config(layerdrop=0.75)
    assert case.cls.from_pretrained(tmp_path, config=config).config.layerdrop == 0.75


@parametrize_cases(("HubertForCTC",))
def test_every_load_has_weights_of_its_own(case, tmp_path):
    model, waveforms = case.model(), waveforms_of()
    save(model, tmp_path)
    first, second = (case.cls.from_pretrained(tmp_path) for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert_close(result(second, waveforms), result(model, waveforms), "attention")
    assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@parametrize_cases(("HubertForCTC",))
@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, torch.device("cpu")], ids=["name", "dictionary", "device"])
def test_device_maps(case, device_map, tmp_path):
    if not case.is_ours:
        pytest.importorskip("accelerate", reason="transformers needs it for device_map")
    model, waveforms = case.model(), waveforms_of()
    save(model, tmp_path)
    loaded = case.cls.from_pretrained(tmp_path, device_map=device_map)
    assert loaded.device == torch.device("cpu")
    assert_close(result(loaded, waveforms), result(model, waveforms), "attention")


@parametrize_cases(("HubertForCTC",))
def test_bad_folders_are_refused(case, tmp_path):
    with pytest.raises((OSError, ValueError), match="absent"):
        case.cls.from_pretrained(tmp_path / "absent")
    case.config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"safetensors|pytorch_model"):
        case.cls.from_pretrained(tmp_path)


@parametrize_cases()
def test_parameters_are_counted(case):
    model = case.model()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters() == total
    assert len({parameter.data_ptr() for parameter in model.parameters()}) == len(list(model.parameters())), "no weight is tied"
    model.base_model.feature_extractor.requires_grad_(False)
    frozen = sum(parameter.numel() for parameter in model.base_model.feature_extractor.parameters())
    assert frozen > 1000 and model.num_parameters(only_trainable=True) == total - frozen


@parametrize_cases(("HubertForCTC",))
def test_memory_footprint(case):
    model = case.model()
    assert model.get_memory_footprint() == sum(weight.nbytes for weight in model.state_dict().values())


@parametrize_cases()
def test_a_state_dict_takes_the_place_of_a_checkpoint(case):
    model = case.model()
    loaded = case.cls.from_pretrained(None, config=case.config(), state_dict=dict(model.state_dict()))
    assert type(loaded) is case.cls and not loaded.training
    assert_same_weights(loaded.state_dict(), model.state_dict())


@parametrize_cases()
def test_speech_models_have_no_embeddings(case):
    model, waveforms = case.model(), waveforms_of()
    expected = result(model, waveforms)
    with pytest.raises(NotImplementedError):
        model.get_input_embeddings()
    with pytest.raises(NotImplementedError):
        model.resize_token_embeddings(40)
    model.tie_weights()
    assert model.get_output_embeddings() is None and torch.equal(result(model, waveforms), expected)
