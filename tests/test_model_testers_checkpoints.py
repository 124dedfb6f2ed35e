"""Ask of every import what transformers' model tester asks of saving and loading."""

import io
import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import assert_close
from model_tester_cases import (
    CLASSES,
    IMPORTS,
    RECENT,
    SMALL,
    TRANSFORMERS_5,
    Case,
    assert_same_weights,
    parametrize_cases,
    result,
    save,
    waveforms_of,
)

NEEDS_SHARDS = pytest.mark.skipif(
    not hasattr(huggingface_hub, "save_torch_state_dict"), reason="writing shards needs huggingface_hub 0.24"
)


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
    assert_same_weights(loaded.state_dict(), model.state_dict())
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


@NEEDS_SHARDS
@parametrize_cases(("HubertForCTC",))
@pytest.mark.parametrize("size", ["30KB", 30_000])
def test_shards_load_as_one(case, size, tmp_path):
    model = case.model()
    save(model, tmp_path, max_shard_size=size)
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@NEEDS_SHARDS
@parametrize_cases(("HubertForCTC",))
def test_saving_over_shards_leaves_no_old_weights(case, tmp_path):
    save(case.model(), tmp_path, max_shard_size="30KB")
    model = case.model()
    save(model, tmp_path)
    assert not list(tmp_path.glob("model-*"))
    assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), model.state_dict())


@parametrize_cases(libraries=RECENT)  # 4.34.1 keeps the mask embedding in float32
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_saved_models_keep_their_dtype(case, dtype, tmp_path):
    model = case.model().to(dtype)
    save(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert f"torch.{values.get('dtype') or values.get('torch_dtype')}" == str(dtype)
    loaded = case.cls.from_pretrained(tmp_path, torch_dtype="auto")
    assert loaded.dtype == dtype
    assert_same_weights(loaded.state_dict(), model.state_dict())


@parametrize_cases(libraries=RECENT)  # 4.34.1 keeps the mask embedding in float32
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
        assert_same_weights(other.state_dict(), model.state_dict())


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


@parametrize_cases(libraries=RECENT)
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
    assert_same_weights(loaded.state_dict(), model.state_dict())


def _replaced(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = key.replace(old, new)
    return key


@parametrize_cases(("HubertForCTC",))
def test_weights_stay_after_their_files_are_gone(case, tmp_path):
    """Loaded weights may be views of a mapped file."""
    model, waveforms = case.model(), waveforms_of()
    save(model, tmp_path)
    loaded = case.cls.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
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
    assert_same_weights(loaded.state_dict(), model.state_dict())
    assert_close(result(loaded, waveforms), result(model, waveforms), "same graph")


@parametrize_cases(("HubertForCTC",))
def test_keywords_of_transformers(case, tmp_path):
    model = case.model()
    model.save_pretrained(save_directory=str(tmp_path), is_main_process=True, safe_serialization=True)
    loaded = case.cls.from_pretrained(pretrained_model_name_or_path=str(tmp_path))
    assert_same_weights(loaded.state_dict(), model.state_dict())
    model.save_pretrained(save_directory=tmp_path / "unwritten", is_main_process=False)
    assert not (tmp_path / "unwritten" / "model.safetensors").exists()


@parametrize_cases(("HubertForCTC",))
def test_subfolders_and_variants(case, tmp_path):
    model = case.model()
    save(model, tmp_path / "sub", variant="first")
    assert (tmp_path / "sub" / "model.first.safetensors").is_file()
    loaded = case.cls.from_pretrained(Path(tmp_path), subfolder="sub", variant="first")
    assert_same_weights(loaded.state_dict(), model.state_dict())


@parametrize_cases(("HubertForCTC",))
def test_state_dicts_to_save(case, tmp_path):
    model = case.model()
    state = {key: weight + 1 for key, weight in model.state_dict().items()}
    save(model, tmp_path, state_dict=dict(state))
    assert_same_weights(case.cls.from_pretrained(tmp_path).state_dict(), state)
