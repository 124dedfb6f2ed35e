"""Test the conversion of fairseq and s3prl checkpoints: equal outputs, every known file layout, and no code run."""

import argparse
import os
import pickle
import subprocess
import sys
import types
import zipfile
from enum import Enum
from pathlib import Path

import fairseq_reference
import pytest
import torch
from conftest import assert_close

from hubert_fast import HubertForCTC, HubertModel, HubertProcessor
from hubert_fast.cli import main
from hubert_fast.conversion import convert
from hubert_fast.hub import CheckpointError
from hubert_fast.inert_pickle import Inert, entries, load_inert, plain

CONVOLUTIONS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
BASE = dict(
    extractor_mode="default",
    conv_feature_layers=CONVOLUTIONS,
    conv_bias=False,
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=3,
    layer_norm_first=False,
    conv_pos=8,
    conv_pos_groups=2,
    activation_fn="gelu",
    final_dim=12,
    dropout=0.2,
    mask_prob=0.8,
)
LARGE = dict(BASE, extractor_mode="layer_norm", layer_norm_first=True)
ARCHITECTURES = {
    "base": BASE,
    "large": LARGE,
    "head dim 80, as xlarge": dict(LARGE, encoder_embed_dim=160, encoder_attention_heads=2),
    "convolution bias": dict(LARGE, conv_bias=True),
    "odd positional kernel": dict(BASE, conv_pos=7),
    "no projection": dict(BASE, encoder_embed_dim=16, encoder_attention_heads=2),
    "positional batch norm": dict(BASE, conv_pos_batch_norm=True),
    "tanh gelu": dict(BASE, activation_fn="gelu_accurate"),
}
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A"]


class Dictionary:
    """Stand in for fairseq.data.dictionary.Dictionary."""

    def __init__(self):
        self.symbols, self.count, self.indices = list(SYMBOLS), [1] * 8, {symbol: id for id, symbol in enumerate(SYMBOLS)}
        self.bos_word, self.nspecial = "<s>", 4


class ExtractorMode(Enum):
    """Stand in for fairseq's enumeration of the same values."""

    default = "default"
    layer_norm = "layer_norm"


class Node:
    """Stand in for omegaconf's nodes: a value, or a container, each with a reference to its parent."""

    def __init__(self, value, parent=None):
        self._parent = parent
        if isinstance(value, dict):
            self._content = {key: Node(entry, self) for key, entry in value.items()}
        else:
            self._val = value


@pytest.fixture
def foreign_classes(monkeypatch):
    """Move the classes above to modules of libraries that are not installed, so that pickles name those libraries."""
    for cls, module in ((Dictionary, "fairseq.data.dictionary"), (ExtractorMode, "fairseq.models"), (Node, "omegaconf.nodes")):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
        setattr(sys.modules[module], cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", module)
    yield
    monkeypatch.undo()


def pretrained(cfg: dict) -> dict:
    task = {"normalize": cfg["extractor_mode"] == "layer_norm", "sample_rate": 16000}
    valid_cfg = {**cfg, "conv_feature_layers": CONVOLUTIONS} if len(cfg["conv_feature_layers"]) > 1000 else cfg
    return {"args": None, "cfg": {"model": cfg, "task": task}, "model": fairseq_reference.fairseq_state(valid_cfg)}


def fine_tuned(cfg: dict) -> dict:
    w2v_args = {"model": cfg, "task": {"normalize": False}}
    outer = {
        "w2v_args": w2v_args,
        "apply_mask": True,
        "mask_prob": 0.5,
        "layerdrop": 0.05,
        "dropout": 0.0,
        "final_dropout": 0.3,
    }
    return {
        "cfg": {"model": outer, "task": {"normalize": True}},
        "model": fairseq_reference.fairseq_state(cfg, vocabulary_size=len(SYMBOLS)),
        "task_state": {"target_dictionary": None},
    }


def distilled(cfg: dict) -> dict:
    config = {**cfg, "extractor_conv_feature_layers": CONVOLUTIONS, "n_tasks": 3, "task_emb_type": "expand-last"}
    return {"Distiller": fairseq_reference.distilhubert_state(config), "Config": {"distiller": config}, "Step": 7}


def saved(content: dict, folder: Path, **options) -> Path:
    torch.save(content, folder / "checkpoint.pt", **options)
    return folder / "checkpoint.pt"


def through_files(path: Path, cls, tmp_path: Path, **options):
    convert(path, **options).save_pretrained(tmp_path / "out")
    model, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    return model


WAVEFORM = torch.randn(2, 5000, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("cfg", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_pretrained_outputs_equal_fairseqs(cfg, tmp_path):
    content = pretrained(cfg)
    model = through_files(saved(content, tmp_path), HubertModel, tmp_path)
    with torch.no_grad():
        actual = model(WAVEFORM).last_hidden_state
    assert_close(actual, fairseq_reference.fairseq_features(content["model"], cfg, WAVEFORM), "other graph")
    # these do not affect the outputs, so they are compared directly
    state = content["model"]
    assert torch.equal(model.masked_spec_embed, state["mask_emb"])
    assert torch.equal(model.encoder.layers[1].attention.k_proj.bias, state["encoder.layers.1.self_attn.k_proj.bias"])
    assert model.config.hidden_dropout == 0.2 and model.config.mask_time_prob == 0.05


@pytest.mark.parametrize("cfg", [BASE, LARGE], ids=["base", "large"])
def test_fine_tuned_outputs_equal_fairseqs(cfg, tmp_path):
    content = fine_tuned(cfg)
    (tmp_path / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\nA 33152\n")
    path = saved(content, tmp_path)
    model = through_files(path, HubertForCTC, tmp_path, dictionary=tmp_path / "dict.ltr.txt")
    with torch.no_grad():
        actual = model(WAVEFORM).logits
    assert_close(actual, fairseq_reference.fairseq_ctc_logits(content["model"], cfg, WAVEFORM), "other graph")
    config = model.config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (8, 0, 1, 2)
    assert (config.mask_time_prob, config.layerdrop, config.final_dropout, config.apply_spec_augment) == (0.5, 0.05, 0.3, True)
    processor = HubertProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.vocabulary == {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "T": 6, "A": 7}
    assert processor.decode([6, 6, 0, 5, 4, 7]) == "TE A"
    assert processor.feature_extractor.do_normalize  # from the fine-tuning task, not from pre-training
    assert processor.feature_extractor.return_attention_mask == (cfg is LARGE)


@pytest.mark.parametrize("name", ["base", "odd positional kernel", "no projection"])
def test_distilhubert_outputs_equal_s3prls(name, tmp_path):
    content = distilled(ARCHITECTURES[name])
    model = through_files(saved(content, tmp_path), HubertModel, tmp_path)
    with torch.no_grad():
        actual = model(WAVEFORM).last_hidden_state
    expected = fairseq_reference.distilhubert_features(content["Distiller"], content["Config"]["distiller"], WAVEFORM)
    assert_close(actual, expected, "other graph")
    assert not model.config.feat_proj_layer_norm and not hasattr(model, "masked_spec_embed")


@pytest.mark.parametrize("layout", ["omegaconf", "flat arguments", "enumeration", "s3prl's copy", "no configuration", "legacy"])
def test_every_layout_of_fairseq_files_converts(layout, tmp_path, foreign_classes):
    content, options = pretrained(LARGE), {}
    if layout == "omegaconf":
        content["cfg"] = Node(content["cfg"])
    elif layout == "flat arguments":
        content |= {"cfg": None, "args": argparse.Namespace(**LARGE, normalize=True)}
    elif layout == "enumeration":
        content["cfg"]["model"] = dict(LARGE, extractor_mode=ExtractorMode.layer_norm)
    elif layout == "s3prl's copy":
        content = {"model_weight": content["model"], "model_cfg": LARGE, "task_cfg": {"normalize": True}}
    elif layout == "no configuration":
        cfg = dict(
            LARGE,
            encoder_embed_dim=768,
            encoder_attention_heads=12,
            conv_feature_layers="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        )
        content = {"model": fairseq_reference.fairseq_state(cfg)}
    elif layout == "legacy":
        options = {"_use_new_zipfile_serialization": False}
    content["extra_state"] = {"meters": Dictionary()}
    path = saved(content, tmp_path, **options)
    for module in [name for name in sys.modules if name.split(".")[0] in ("fairseq", "omegaconf")]:
        del sys.modules[module]
    converted = convert(path)
    cfg = LARGE if layout != "no configuration" else cfg
    with torch.no_grad():
        actual = converted.model(WAVEFORM).last_hidden_state
    expected = fairseq_reference.fairseq_features(content.get("model", content.get("model_weight")), cfg, WAVEFORM)
    assert_close(actual, expected, "other graph")
    assert converted.feature_extractor.do_normalize
    assert not [name for name in sys.modules if name.split(".")[0] in ("fairseq", "omegaconf")]


def test_the_dictionary_in_the_checkpoint_is_used(tmp_path, foreign_classes):
    content = fine_tuned(BASE) | {"task_state": {"target_dictionary": Dictionary()}}
    converted = convert(saved(content, tmp_path))
    assert list(converted.tokenizer.vocabulary) == ["<pad>", "<s>", *SYMBOLS[2:]]


class _Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_no_code_in_the_file_runs(zipped, tmp_path):
    content = pretrained(BASE) | {"extra_state": _Malicious(tmp_path / "ran")}
    converted = convert(saved(content, tmp_path, _use_new_zipfile_serialization=zipped))
    assert isinstance(converted.model, HubertModel) and not (tmp_path / "ran").exists()
    inert = load_inert(tmp_path / "checkpoint.pt")["extra_state"]
    assert isinstance(inert, Inert) and inert.kind == f"{os.system.__module__}.system"
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=False) and (tmp_path / "ran").exists()  # torch.load runs it


def test_a_pickle_cannot_set_attributes_of_functions(tmp_path):
    """The BUILD opcode sets attributes: a function's defaults, or `dump_patches`, for which torch's reader writes a file."""
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    state = pickle.dumps((None, {"__defaults__": (), "dump_patches": True}), protocol=2)[2:-1]
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + function + state + b"b.")
        file.writestr("x/version", "3")
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(CheckpointError, match="the pickle sets attributes of a function"):
        load_inert(tmp_path / "x.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before != ()


def test_contents_of_inert_objects(tmp_path, foreign_classes):
    torch.save([Node({"a": 3, "b": {"c": None}}), argparse.Namespace(d=4), ExtractorMode.default], tmp_path / "x.pt")
    node, namespace, member = load_inert(tmp_path / "x.pt")
    assert plain(entries(node)["a"]) == 3 and plain(entries(entries(node)["b"])["c"]) is None
    assert entries(namespace) == {"d": 4} and plain(member) == "default" and entries(member) == {} == entries(7)


def _with_weights(content: dict, **changes) -> dict:
    content["model"].update({key: value for key, value in changes.items() if value is not None})
    return content


def _without(content: dict, key: str) -> dict:
    del content["model"][key]
    return content


def _with_change(content: dict, key: str, change) -> dict:
    content["model"][key] = change(content["model"][key])
    return content


BAD = {
    "numbers for names": (lambda: {"model": {1: torch.ones(1)}}, "must hold floating-point weights by name, but holds 1"),
    "integer weights": (
        lambda: _with_change(pretrained(BASE), "mask_emb", lambda tensor: tensor.int()),
        "holds 'mask_emb', torch.int32",
    ),
    "a flat weight": (
        lambda: _with_change(pretrained(BASE), "encoder.pos_conv.0.weight_v", torch.flatten),
        "must have 3 dimensions",
    ),
    "an empty weight": (
        lambda: _with_change(pretrained(BASE), "encoder.pos_conv.0.weight_v", lambda tensor: tensor[:, :0]),
        r"\[24, 0, 8\]",
    ),
    "no output layer": (lambda: _without(fine_tuned(BASE), "w2v_encoder.proj.weight"), "w2v_encoder.proj.weight is missing"),
    "an unknown activation": (lambda: pretrained(dict(BASE, activation_fn="glu")), "activation must be one of gelu"),
    "a list of activations": (
        lambda: pretrained(BASE) | {"cfg": {"model": dict(BASE, activation_fn=["gelu"])}},
        "hidden_act must be str",
    ),
    "endless code": (
        lambda: pretrained(BASE) | {"cfg": dict(conv_feature_layers="[]" + "+[(1,1,1)]" * 5000)},
        "must be a list",
    ),
    "other keys": (lambda: {"weights": 1}, r"expected a fairseq \('model'\) or s3prl \('Distiller'\).*holds weights"),
    "a list": (lambda: [1], "holds no dictionary"),
    "no tensors": (lambda: {"model": {"a": 1}}, "'model' must hold a dictionary of tensors"),
    "an unknown weight": (lambda: _with_weights(pretrained(BASE), project_q=torch.ones(2)), "has unknown weights: project_q"),
    "a missing weight": (
        lambda: _without(pretrained(BASE), "encoder.layers.1.fc2.bias"),
        "lacks weights: encoder.layers.1.feed_forward",
    ),
    "no positional weight": (
        lambda: _without(pretrained(BASE), "encoder.pos_conv.0.weight_v"),
        r"pos_conv.0.weight_v is missing",
    ),
    "a wrong shape": (
        lambda: _with_weights(pretrained(BASE), mask_emb=torch.ones(5)),
        r"masked_spec_embed has shape \[5\].*\[24\]",
    ),
    "code for convolutions": (lambda: pretrained(BASE) | {"cfg": dict(conv_feature_layers="exit(3)")}, "but are 'exit"),
    "other convolutions": (
        lambda: pretrained(BASE) | {"cfg": dict(conv_feature_layers="[(8,10,5)]")},
        r"conv_layers.0.0.weight has shape \[16, 1, 10\]",
    ),
    "no number of heads": (
        lambda: pretrained(BASE) | {"cfg": dict(conv_feature_layers=CONVOLUTIONS)},
        "encoder_attention_heads",
    ),
    "an unknown attention": (lambda: distilled(dict(BASE, attention_type="sparse")), "attention_type must be one of original"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD.keys())
def test_unsupported_content_is_refused_with_the_reason(content, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"checkpoint.pt: .*{message}"):
        convert(saved(content(), tmp_path))


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_unsupported_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    cut = saved(pretrained(BASE), tmp_path)
    cut.write_bytes(cut.read_bytes()[:2000])
    torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(tmp_path / "script.pt")
    for name, message in (
        ("text.pt", "cannot be read"),
        ("checkpoint.pt", "cannot be read"),
        ("script.pt", "TorchScript"),
        ("absent.pt", "is missing"),
        (".", "is a folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / name)


@pytest.mark.parametrize(
    "text, message",
    [("| 1\nE 2\n", "has 6 symbols, special ones included, but .* 8 outputs"), ("| 1\nE\n", "line 2 of the dictionary")],
)
def test_unsuitable_dictionaries_are_refused(text, message, tmp_path):
    (tmp_path / "dict.ltr.txt").write_text(text)
    path = saved(fine_tuned(BASE), tmp_path)
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "dict.ltr.txt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert(path, tmp_path / "absent.txt")
    (tmp_path / "dict.ltr.txt").write_text("| 1\n")
    for content in (pretrained(BASE), distilled(BASE)):
        with pytest.raises(CheckpointError, match="a dictionary was given, but"):
            convert(saved(content, tmp_path), tmp_path / "dict.ltr.txt")


def test_the_convert_command(tmp_path, capsys):
    path, out = saved(fine_tuned(BASE), tmp_path), tmp_path / "out"
    assert main(["convert", str(path), str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{out}: HubertForCTC, 2 layers of 24, ")
    assert "label_embs_concat" in captured.err and "holds no symbols" in captured.err and not (out / "vocab.json").exists()
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert main(["convert", str(path), str(out)]) == 2 and f"{out} is not empty" in capsys.readouterr().err
    (tmp_path / "dict.txt").write_text("| 1\nE 1\nT 1\nA 1\n")
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(path), str(tmp_path / "empty"), "--dict", str(tmp_path / "dict.txt")]) == 0
    assert (tmp_path / "empty" / "vocab.json").exists()
    assert main(["convert", str(tmp_path / "absent.pt"), str(tmp_path / "other")]) == 2
    assert "absent.pt is missing" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert main(["convert", str(path), str(path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_transformers_loads_the_converted_folder(tmp_path):
    import transformers

    content = fine_tuned(LARGE)
    (tmp_path / "dict.ltr.txt").write_text("| 1\nE 1\nT 1\nA 1\n")
    arguments = ["convert", saved(content, tmp_path), tmp_path / "out", "--dict", tmp_path / "dict.ltr.txt"]
    subprocess.run([sys.executable, "-m", "hubert_fast", *arguments], check=True)
    theirs = transformers.HubertForCTC.from_pretrained(tmp_path / "out").eval()
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        actual = theirs(WAVEFORM).logits
    assert_close(actual, fairseq_reference.fairseq_ctc_logits(content["model"], LARGE, WAVEFORM), "other graph")
    assert processor.tokenizer.pad_token_id == 0 and processor.feature_extractor.do_normalize


@pytest.mark.parametrize("cfg", [BASE, LARGE], ids=["base", "large"])
def test_the_pretraining_head_is_kept_on_request(cfg, tmp_path, capsys):
    """Users of fairseq, s3prl and ContentVec load this head into a subclass of transformers' HubertModel."""
    import transformers

    class WithFinalProj(transformers.HubertModel):
        def __init__(self, config):
            super().__init__(config)
            self.final_proj = torch.nn.Linear(config.hidden_size, config.classifier_proj_size)
            self.post_init()

    content = pretrained(cfg)
    state = content["model"] | {"target_glu.0.weight": torch.randn(4, 2), "target_glu.0.bias": torch.randn(4)}
    state["final_proj.weight"] = state["final_proj.weight"].half()
    path = saved(content | {"model": state}, tmp_path)
    assert main(["convert", str(path), str(tmp_path / "out"), "--keep-final-proj"]) == 0
    messages = capsys.readouterr().err
    width = len(state["final_proj.weight"])
    assert "also kept, although HubertModel does not use them: " in messages and "left out" not in messages
    for name in ("final_proj.weight", "final_proj.bias", "label_embs_concat", "target_glu.0.weight"):
        assert f"{name} {list(state[name].shape)}" in messages
    theirs, info = WithFinalProj.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and theirs.config.classifier_proj_size == width
    assert torch.equal(theirs.final_proj.weight, state["final_proj.weight"].float())
    ours, info = HubertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert info["unexpected_keys"] == [
        "final_proj.bias",
        "final_proj.weight",
        "label_embs_concat",
        "target_glu.0.bias",
        "target_glu.0.weight",
    ]
    with torch.no_grad():
        assert_close(ours(WAVEFORM).last_hidden_state, theirs.eval()(WAVEFORM).last_hidden_state, "other graph")
    assert main(["convert", str(path), str(tmp_path / "without")]) == 0
    assert "left out, as only training uses them: final_proj.bias, final_proj.weight, label" in capsys.readouterr().err
    assert main(["transcribe", "x.wav", "--model", str(tmp_path / "out")]) == 2
    assert "is a pre-trained encoder without a CTC head" in capsys.readouterr().err


def test_keeping_an_absent_pretraining_head_is_refused(tmp_path):
    for content in (fine_tuned(BASE), distilled(BASE), _without(pretrained(BASE), "final_proj.weight")):
        for key in [key for key in content.get("model", {}) if "final_proj" in key]:
            del content["model"][key]
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt: there is no final_proj to keep: only a pre-trained"):
            convert(saved(content, tmp_path), keep_final_proj=True)


def test_weights_that_need_no_conversion_are_refused_briefly(tmp_path):
    """Errors name only a few weights: a list of a hundred would fill a screen and not help."""
    model = convert(saved(pretrained(BASE), tmp_path)).model
    model.save_pretrained(tmp_path / "folder")
    with pytest.raises(CheckpointError, match="is a safetensors file; expected a file written by torch"):
        convert(tmp_path / "folder/model.safetensors")
    torch.save(model.state_dict(), tmp_path / "weights.pt")  # not over checkpoint.pt, from which the weights are mapped
    with pytest.raises(CheckpointError, match="weights with Hugging Face's names, which need no conversion") as error:
        convert(tmp_path / "weights.pt")
    assert len(str(error.value)) < 400
    torch.save({f"a{index}": 1 for index in range(100)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"it holds a0, a1, a2, a3, a4 and 95 more"):
        convert(tmp_path / "other.pt")
