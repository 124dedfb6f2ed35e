"""Ask of every import what transformers' model tester asks of saving and loading."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from conftest import assert_close
from model_tester_cases import (
    CLASSES,
    HEADS,
    IMPORTS,
    NUM_LABELS,
    SMALL,
    TRANSFORMERS_5,
    Case,
    parametrize_cases,
    result,
    save,
    waveforms_of,
)

HEAD_WEIGHTS = {
    "HubertForCTC": {"lm_head.weight", "lm_head.bias"},
    "HubertForSequenceClassification": {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"},
}


def _assert_same_weights(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(actual[key], weight), key


@parametrize_cases()
def test_saved_models_load_as_they_were(case, tmp_path):
    model, waveforms = case.model(hidden_dropout=0.25, my_own_field="kept"), waveforms_of()
    save(model, tmp_path)
    assert {"config.json", "model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == [case.class_name] and values["model_type"] == "hubert"
    assert values["my_own_field"] == "kept" and values["hidden_dropout"] == 0.25
    loaded = case.cls.from_pretrained(tmp_path)
    assert type(loaded) is case.cls and not loaded.training
    _assert_same_weights(loaded.state_dict(), model.state_dict())
    assert_close(result(loaded, waveforms), result(model, waveforms), "attention")
    assert loaded.config.my_own_field == "kept" and loaded.config.hidden_dropout == 0.25
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@parametrize_cases()
def test_saving_twice_writes_the_same_weights(case, tmp_path):
    model = case.model()
    for name in ("first", "second"):
        save(model, tmp_path / name)
        model = case.cls.from_pretrained(tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


@parametrize_cases(("HubertForCTC",))
@pytest.mark.parametrize("size", ["30KB", 30_000])
def test_shards_load_as_one(case, size, tmp_path):
    model = case.model()
    save(model, tmp_path, max_shard_size=size)
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert not (tmp_path / "model.safetensors").exists()
    _assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@parametrize_cases(("HubertForCTC",))
def test_saving_over_shards_leaves_no_old_weights(case, tmp_path):
    save(case.model(), tmp_path, max_shard_size="30KB")
    model = case.model()
    save(model, tmp_path)
    assert not list(tmp_path.glob("model-*"))
    _assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@parametrize_cases()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_saved_models_keep_their_dtype(case, dtype, tmp_path):
    model = case.model().to(dtype)
    save(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert f"torch.{values.get('dtype') or values.get('torch_dtype')}" == str(dtype)
    loaded = case.cls.from_pretrained(tmp_path, torch_dtype="auto")
    assert loaded.dtype == dtype
    _assert_same_weights(loaded.state_dict(), model.state_dict())


@parametrize_cases()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_models_load_in_another_dtype(case, dtype, tmp_path):
    model = case.model()
    save(model, tmp_path)
    loaded = case.cls.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.dtype == dtype
    for key, weight in model.state_dict().items():
        if "parametrizations" not in key:
            assert torch.equal(loaded.state_dict()[key], weight.to(dtype)), key
    tolerance = "other graph" if dtype == torch.float64 else "half-precision model"
    waveforms = waveforms_of()
    assert_close(result(loaded, waveforms.to(dtype)).float(), result(model, waveforms), tolerance)


@parametrize_cases(("HubertForCTC",))
def test_dtype_without_a_request(case, tmp_path):
    save(case.model().to(torch.bfloat16), tmp_path)
    expected = torch.bfloat16 if TRANSFORMERS_5 and not case.is_ours else torch.float32
    assert case.cls.from_pretrained(tmp_path).dtype == expected


@parametrize_cases()
@pytest.mark.skipif(
    not TRANSFORMERS_5, reason="only later versions have a model without weight norm, which PyTorch cannot pickle"
)
def test_whole_models_pickle(case, tmp_path):
    model, waveforms = case.model(conv_pos_batch_norm=True), waveforms_of()
    torch.save(model, tmp_path / "model.pt")
    pickled = pickle.dumps(model)
    expected = result(model, waveforms)
    if case.is_ours:  # a call sets hooks on some of transformers' models, which cannot be pickled then
        pickled = pickle.dumps(model)
    for other in (torch.load(tmp_path / "model.pt", weights_only=False), pickle.loads(pickled)):
        assert type(other) is case.cls and not other.training
        assert_close(result(other, waveforms), expected, "same graph")
        _assert_same_weights(other.state_dict(), model.state_dict())


@parametrize_cases()
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_state_dicts_load(case, assign):
    model, other, waveforms = case.model(), case.model(), waveforms_of()
    expected = result(model, waveforms)
    assert not torch.allclose(result(other, waveforms), expected, rtol=1e-2)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    report = other.load_state_dict(state, assign=assign)
    assert not report.missing_keys and not report.unexpected_keys
    assert torch.equal(result(other, waveforms), expected)
    shared = other.state_dict()[
        "feature_projection.projection.weight" if case.class_name == "HubertModel" else next(iter(state))
    ]
    assert any(shared.data_ptr() == weight.data_ptr() for weight in state.values()) == assign


@parametrize_cases()
@pytest.mark.parametrize("spelling", ["parametrizations", "weight_g and weight_v"])
def test_pickled_state_dicts_load_from_a_folder(case, spelling, tmp_path):
    model = case.model()
    state = model.state_dict()
    if spelling != "parametrizations":
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        state = {_replaced(key, names): weight for key, weight in state.items()}
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    _assert_same_weights(loaded.state_dict(), model.state_dict())


def _replaced(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = key.replace(old, new)
    return key


@parametrize_cases(HEADS)
def test_an_encoder_loads_into_a_model_with_a_head(case, tmp_path):
    encoder = case.with_class("HubertModel").model()
    save(encoder, tmp_path)
    model, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == HEAD_WEIGHTS[case.class_name] and not info["unexpected_keys"]
    _assert_same_weights(model.hubert.state_dict(), encoder.state_dict())
    head = model.lm_head if case.class_name == "HubertForCTC" else model.projector
    assert head.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.1) and not head.bias.any()


@parametrize_cases(HEADS)
def test_a_model_with_a_head_loads_into_an_encoder(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    encoder, info = case.with_class("HubertModel").cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and set(info["unexpected_keys"]) == HEAD_WEIGHTS[case.class_name]
    _assert_same_weights(encoder.state_dict(), model.hubert.state_dict())


@parametrize_cases(("HubertForCTC",))
def test_another_head_loads_the_encoder_only(case, tmp_path):
    model = case.model()
    save(model, tmp_path)
    other, info = case.with_class("HubertForSequenceClassification").cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == HEAD_WEIGHTS["HubertForSequenceClassification"]
    assert set(info["unexpected_keys"]) == HEAD_WEIGHTS["HubertForCTC"]
    _assert_same_weights(other.hubert.state_dict(), model.hubert.state_dict())


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
    _assert_same_weights({key: new[key] for key in state}, state)
    assert torch.equal(new[absent[1]], torch.ones_like(new[absent[1]])), "the weight of a new norm is 1"
    assert new[absent[0]].std().item() == pytest.approx(model.config.initializer_range, rel=0.1)


@parametrize_cases(("HubertForCTC",))
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
    _assert_same_weights(loaded.hubert.state_dict(), model.hubert.state_dict())


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
    _assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@parametrize_cases(("HubertForCTC",))
def test_weights_stay_after_their_files_are_gone(case, tmp_path):
    """Loaded weights may be views of a mapped file."""
    model, waveforms = case.model(), waveforms_of()
    save(model, tmp_path)
    loaded = case.cls.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert_close(result(loaded, waveforms), result(model, waveforms), "attention")


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


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("reader", IMPORTS)
@pytest.mark.parametrize("writer", IMPORTS)
def test_every_import_reads_what_every_import_writes(writer, reader, class_name, architecture, tmp_path):
    waveforms = waveforms_of()
    model = Case(writer, class_name, architecture).model()
    save(model, tmp_path)
    loaded, info = Case(reader, class_name, architecture).cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    _assert_same_weights(loaded.state_dict(), model.state_dict())
    assert_close(result(loaded, waveforms), result(model, waveforms), "same graph")


@parametrize_cases(("HubertForCTC",))
def test_bad_folders_are_refused(case, tmp_path):
    with pytest.raises(OSError, match="absent"):
        case.cls.from_pretrained(tmp_path / "absent")
    case.config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match="safetensors"):
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


@parametrize_cases(("HubertForCTC",), fails_with=("hubert_fast",))
def test_keywords_of_transformers(case, tmp_path):
    model = case.model()
    model.save_pretrained(save_directory=str(tmp_path), is_main_process=True, safe_serialization=True)
    loaded = case.cls.from_pretrained(pretrained_model_name_or_path=str(tmp_path))
    _assert_same_weights(loaded.state_dict(), model.state_dict())
    model.save_pretrained(save_directory=tmp_path / "unwritten", is_main_process=False)
    assert not (tmp_path / "unwritten" / "model.safetensors").exists()


@parametrize_cases(("HubertForCTC",), fails_with=("hubert_fast",))
def test_subfolders_and_variants(case, tmp_path):
    model = case.model()
    save(model, tmp_path / "sub", variant="first")
    assert (tmp_path / "sub" / "model.first.safetensors").is_file()
    loaded = case.cls.from_pretrained(Path(tmp_path), subfolder="sub", variant="first")
    _assert_same_weights(loaded.state_dict(), model.state_dict())


@parametrize_cases(("HubertForCTC",), fails_with=("hubert_fast",))
def test_state_dicts_to_save(case, tmp_path):
    model = case.model()
    state = {key: weight + 1 for key, weight in model.state_dict().items()}
    save(model, tmp_path, state_dict=dict(state))
    _assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), state)


@parametrize_cases(("HubertForCTC",), fails_with=("hubert_fast",))
def test_memory_footprint(case):
    model = case.model()
    assert model.get_memory_footprint() == sum(weight.nbytes for weight in model.state_dict().values())
