"""Test the documented keywords of from_pretrained, save_pretrained and forward: honoured or refused, never ignored."""

import inspect
import json
import shutil

import huggingface_hub
import pytest
import torch
from conftest import PRE_LN, masked_batch, small_config
from safetensors.torch import load_file

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel
from hubert_fast.hub import CheckpointError

CLASSES = [HubertModel, HubertForCTC, HubertForSequenceClassification]


@pytest.fixture
def saved(tmp_path):
    model = HubertForCTC(small_config()).eval()
    model.save_pretrained(save_directory=tmp_path / "saved")
    return model, tmp_path / "saved"


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_name_by_keyword_and_by_position(saved):
    model, folder = saved
    for loaded in (
        HubertForCTC.from_pretrained(folder),
        HubertForCTC.from_pretrained(str(folder)),
        HubertForCTC.from_pretrained(pretrained_model_name_or_path=folder),
        HubertForCTC.from_pretrained(name_or_path=folder),
    ):
        assert same(loaded, model)
    assert HubertConfig.from_pretrained(pretrained_model_name_or_path=folder) == HubertConfig.from_pretrained(folder)
    assert HubertConfig.from_pretrained(name_or_path=folder) == HubertConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match="another name of pretrained_model_name_or_path"):
        HubertForCTC.from_pretrained(folder, name_or_path=folder)
    with pytest.raises(ValueError, match="needs pretrained_model_name_or_path"):
        HubertForCTC.from_pretrained()
    with pytest.raises(TypeError, match="needs pretrained_model_name_or_path"):
        HubertConfig.from_pretrained()


def test_weights_from_a_state_dict(saved):
    model, folder = saved
    state = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    by_name = HubertForCTC.from_pretrained(folder, state_dict=state)
    alone = HubertForCTC.from_pretrained(None, config=model.config, state_dict=state)
    for loaded in (by_name, alone):
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    before = state["lm_head.bias"].clone()
    torch.nn.init.zeros_(alone.lm_head.bias)
    assert torch.equal(state["lm_head.bias"], before)  # the model has a copy
    with pytest.raises(ValueError, match="needs config=, a HubertConfig"):
        HubertForCTC.from_pretrained(None, state_dict=state)


def test_a_subfolder(saved, tmp_path):
    model, folder = saved
    shutil.move(folder, tmp_path / "outer/inner")
    assert same(HubertForCTC.from_pretrained(tmp_path / "outer", subfolder="inner"), model)
    assert HubertConfig.from_pretrained(tmp_path / "outer", subfolder="inner") == model.config.with_overrides(
        json.loads((tmp_path / "outer/inner/config.json").read_text())
    )
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        HubertForCTC.from_pretrained(tmp_path / "outer")


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_variant_is_written_and_read_as_transformers_does(tmp_path, shards):
    transformers = pytest.importorskip("transformers")
    if shards and not hasattr(huggingface_hub, "save_torch_state_dict"):
        pytest.skip(f"huggingface_hub {huggingface_hub.__version__} cannot write shards")
    model = HubertForCTC(small_config())
    size = {"max_shard_size": "50KB"} if shards else {}
    model.save_pretrained(tmp_path / "ours", variant="fp16", **size)
    names = {file.name for file in (tmp_path / "ours").iterdir()}
    if shards:
        assert "model.safetensors.index.fp16.json" in names and len(names) > 3
    else:
        assert names == {"config.json", "model.fp16.safetensors"}
    assert same(HubertForCTC.from_pretrained(tmp_path / "ours", variant="fp16"), model)
    assert same(transformers.HubertForCTC.from_pretrained(tmp_path / "ours", variant="fp16"), model)
    transformers.HubertForCTC.from_pretrained(tmp_path / "ours", variant="fp16").save_pretrained(
        tmp_path / "theirs", variant="fp16", **size
    )
    assert same(HubertForCTC.from_pretrained(tmp_path / "theirs", variant="fp16"), model)
    with pytest.raises(CheckpointError, match="has no weights"):
        HubertForCTC.from_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"none of model.bf16.safetensors"):
        HubertForCTC.from_pretrained(tmp_path / "ours", variant="bf16")


def test_the_kind_of_weight_file(saved):
    model, folder = saved
    pickled = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    torch.save(pickled, folder / "pytorch_model.bin")
    for option in (None, True):
        assert same(HubertForCTC.from_pretrained(folder, use_safetensors=option), model)
    loaded = HubertForCTC.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(loaded.lm_head.bias, model.lm_head.bias + 1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights: none of model\.safetensors, model\.safetensors\.index\.json"):
        HubertForCTC.from_pretrained(folder, use_safetensors=True)


def test_options_reach_huggingface_hub(saved, monkeypatch):
    model, folder = saved
    calls = []

    def download(name, filename, **options):
        calls.append((name, filename, options))
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    options = dict(revision="v2", force_download=True, token="secret", subfolder="inner", cache_dir="somewhere")
    assert same(HubertForCTC.from_pretrained("someone/hubert", **options), model)
    assert [call[:2] for call in calls] == [("someone/hubert", "config.json"), ("someone/hubert", "model.safetensors")]
    assert all(call[2] == {**options, "local_files_only": False} for call in calls)
    calls.clear()
    HubertForCTC.from_pretrained("someone/hubert", use_auth_token="older name")
    assert calls[0][2]["token"] == "older name"
    calls.clear()
    HubertConfig.from_pretrained("someone/hubert", subfolder="inner", force_download=True)
    assert calls[0][2] == {"subfolder": "inner", "force_download": True}


REFUSED = {
    "from_tf": (True, "load the checkpoint with transformers 4"),
    "from_flax": (True, "load the checkpoint with transformers 4"),
    "load_in_8bit": (True, "from hubert_fast.transformers import"),
    "load_in_4bit": (True, "from hubert_fast.transformers import"),
    "quantization_config": ({"load_in_8bit": True}, "from hubert_fast.transformers import"),
    "proxies": ({"https": "http://proxy"}, "HTTPS_PROXY"),
    "max_memory": ({0: "1GB"}, "the whole model goes to one device"),
    "offload_folder": ("somewhere", "the whole model goes to one device"),
    "offload_state_dict": (True, "the whole model goes to one device"),
    "target_lang": ("eng", "adapter files are not supported"),
    "attn_implementation": ("my_attention", "must be one of None, 'eager', 'sdpa'"),
    "adapter_name": ("lora", "from hubert_fast.transformers import"),
    "key_mapping": ({"a": "b"}, "pass them as state_dict"),
    "tp_plan": ("auto", "from hubert_fast.transformers import"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_are_not_supported_are_refused(saved, name):
    model, folder = saved
    value, advice = REFUSED[name]
    with pytest.raises(ValueError, match=f"{name}.*{advice}"):
        HubertForCTC.from_pretrained(folder, **{name: value})
    assert same(HubertForCTC.from_pretrained(folder, **{name: None}), model)


@pytest.mark.parametrize(
    "options",
    [
        {"low_cpu_mem_usage": True},
        {"trust_remote_code": True},
        {"_fast_init": False},
        {"mirror": "tuna"},
        {"resume_download": True},
        {"weights_only": True},
        {"attn_implementation": "eager"},
        {"attn_implementation": "sdpa", "use_flash_attention_2": False},
        {"from_tf": False, "from_flax": False, "load_in_8bit": False, "proxies": {}},
    ],
    ids=str,
)
def test_options_without_effect(saved, options):
    model, folder = saved
    assert same(HubertForCTC.from_pretrained(folder, **options), model)


def test_every_documented_keyword_of_transformers_is_known(saved):
    """Whatever transformers' signature names is honoured, without effect or refused, but not unknown."""
    transformers = pytest.importorskip("transformers")
    model, folder = saved
    for name, parameter in inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert same(HubertForCTC.from_pretrained(folder, **{name: parameter.default}), model), name
    for name, parameter in inspect.signature(transformers.PreTrainedModel.save_pretrained).parameters.items():
        if name not in ("self", "save_directory", "safe_serialization", "kwargs"):
            model.save_pretrained(folder, **{name: parameter.default})


def test_unknown_keywords_are_refused(saved):
    model, folder = saved
    with pytest.raises(TypeError, match="got hiden_size, which is neither an option nor a field"):
        HubertForCTC.from_pretrained(folder, hiden_size=3)
    with pytest.raises(TypeError, match="save_pretrained got max_shard, which is not one of its options"):
        model.save_pretrained(folder, max_shard="1GB")


def test_saving_from_other_processes_writes_nothing(tmp_path):
    model = HubertForCTC(small_config())
    model.save_pretrained(tmp_path / "other", is_main_process=False, save_function=torch.save)
    assert not (tmp_path / "other").exists()


def test_accelerates_way_of_saving(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(HubertForCTC(small_config()))
    state = {key: tensor * 2 for key, tensor in accelerator.get_state_dict(model).items()}
    accelerator.unwrap_model(model).save_pretrained(
        tmp_path,
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
        state_dict=state,
    )
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # for the tests after this one
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)


@pytest.mark.parametrize("cls", CLASSES)
def test_transformers_loads_what_is_saved(cls, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = cls(small_config(num_labels=3)).eval()
    model.save_pretrained(tmp_path, True, None, None, False, "5GB", True, None)  # transformers' order
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [cls.__name__]
    theirs, info = getattr(transformers, cls.__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and same(theirs, model)
    theirs.save_pretrained(tmp_path / "back", max_shard_size="60KB")
    ours, info = cls.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()) and same(ours, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_to_hub": True}, "upload_folder"),
        ({"token": "secret"}, "upload_folder"),
        ({"safe_serialization": False}, "written as safetensors, not as pickles"),
        ({"distributed_checkpoint": True}, "pass them as state_dict"),
    ],
    ids=str,
)
def test_ways_of_saving_that_are_not_supported_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        HubertForCTC(small_config()).save_pretrained(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_uploading_is_refused():
    with pytest.raises(NotImplementedError, match="upload_folder"):
        HubertForCTC(small_config()).push_to_hub("someone/hubert")


@pytest.mark.parametrize("cls", CLASSES)
def test_forward_names_unknown_arguments_and_the_known(cls):
    model = cls(small_config())
    known = "input_values, attention_mask, " + ("mask_time_indices, " if cls is HubertModel else "")
    with pytest.raises(TypeError, match=f"{cls.__name__} got unknown arguments: input_ids, foo. Its arguments are {known}"):
        model(torch.randn(1, 4000), input_ids=None, foo=1)
    parameters = inspect.signature(model.forward).parameters
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())  # Trainer reads this
    assert "unknown" not in parameters and "input_values" in parameters


def test_the_private_methods_that_published_code_calls():
    transformers = pytest.importorskip("transformers")
    config = small_config()
    ours, theirs = HubertForCTC(config), transformers.HubertForCTC(transformers.HubertConfig(**PRE_LN))
    for samples in (400, 401, 719, 720, 16000, 123457):
        assert ours._get_feat_extract_output_lengths(samples).item() == int(theirs._get_feat_extract_output_lengths(samples))
    lengths = torch.tensor([[400, 8000], [5000, 6399]])
    assert torch.equal(ours._get_feat_extract_output_lengths(lengths), theirs._get_feat_extract_output_lengths(lengths))
    assert ours._get_feat_extract_output_lengths(lengths).dtype == torch.int64
    assert ours._get_feat_extract_output_lengths(399).item() == 0
    _, mask = masked_batch((8000, 5000, 401, 6399))
    actual, expected = (model._get_feature_vector_attention_mask(24, mask) for model in (ours, theirs))
    assert torch.equal(actual, expected) and actual.dtype == torch.bool


def test_sizes_and_embeddings():
    transformers = pytest.importorskip("transformers")
    ours, theirs = HubertForCTC(small_config()), transformers.HubertForCTC(transformers.HubertConfig(**PRE_LN))
    ours.freeze_feature_encoder()
    theirs.freeze_feature_encoder()
    for arguments in ((), (True,), (False, True)):
        assert ours.num_parameters(*arguments) == theirs.num_parameters(*arguments)
    assert ours.get_memory_footprint() == theirs.get_memory_footprint() == 4 * ours.num_parameters()
    assert ours.half().get_memory_footprint(return_buffers=False) == 2 * ours.num_parameters()
    assert ours.get_output_embeddings() is theirs.get_output_embeddings() is None
    assert ours.tie_weights() is None
    for model in (ours, theirs):
        with pytest.raises(NotImplementedError):
            model.get_input_embeddings()
        with pytest.raises(NotImplementedError):
            model.resize_token_embeddings(40)
    with pytest.raises(NotImplementedError, match=r"vocab_size=N, ignore_mismatched_sizes=True"):
        ours.resize_token_embeddings(40)


def test_changed_activations_and_scalings_count():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = HubertModel(small_config(initializer_range=0.2)).eval()
    theirs = transformers.HubertModel(transformers.HubertConfig(**PRE_LN)).eval()
    theirs.load_state_dict(ours.state_dict())
    waveforms, mask = masked_batch((8000, 5000))

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            frames = torch.tensor([24, 15])
            return tuple(
                model(waveforms, attention_mask=mask).last_hidden_state[torch.arange(24) < frames[:, None]]
                for model in (ours, theirs)
            )

    before, expected = outputs()
    assert torch.allclose(before, expected, atol=1e-4)

    def change(attribute: str, value: object, path: str, their_value: object = None) -> None:
        nonlocal before
        part, name = attribute.split(".")
        for model, new in ((ours, value), (theirs, their_value or value)):
            setattr(getattr(model.encoder.layers[1], part), name, new)
        with torch.no_grad():
            assert ours.explain_path().startswith(path)
        after, expected = outputs()
        assert torch.allclose(after, expected, atol=1e-4)
        assert not torch.allclose(after, before, atol=1e-2)
        before = after

    change("feed_forward.intermediate_act_fn", torch.relu, "packed", torch.nn.ReLU())
    change("feed_forward.intermediate_act_fn", torch.nn.Tanh(), "definition: encoder.layers.1.feed_forward.intermediate_act_fn")
    change("attention.scaling", 3.0, "definition: ")
    with torch.no_grad():  # also where the attentions are returned
        actual, expected = ours(waveforms, output_attentions=True), theirs(waveforms)
    assert torch.allclose(actual.last_hidden_state, expected.last_hidden_state, atol=1e-4)
