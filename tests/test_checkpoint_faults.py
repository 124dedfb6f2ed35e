"""Test checkpoints found in practice: files of other kinds, wrappers' prefixes, trainers' dictionaries, one-line errors."""

import argparse
import gzip
import json
import logging
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config
from safetensors.torch import load_file, save_file

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel, HubertProcessor, demo
from hubert_fast.cli import main
from hubert_fast.conversion import convert
from hubert_fast.first_bytes import identify
from hubert_fast.hub import CheckpointError, first_line
from hubert_fast.transcribe import Transcriber

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1262041872\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"
ERROR = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
TOKENS = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()
WAVEFORM = torch.randn(16000, generator=torch.Generator().manual_seed(5)).numpy()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a small CTC model, whose head does not look untrained, and the folder of its complete checkpoint."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("original")
    model = HubertForCTC(small_config()).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
        model.lm_head.bias.normal_()
    model.save_pretrained(folder)
    HubertProcessor.from_tokens(TOKENS).save_pretrained(folder)
    return model, folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original[1], tmp_path / "model"))


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return copies of the weights, since tests may overwrite the file from which they are mapped."""
    return {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}


def replace_weights(folder: Path, name: str, content) -> Path:
    """Replace the weights with a file of these bytes, or with one that torch.save writes."""
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        torch.save(content, folder / name)
    return folder / name


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_line(error: pytest.ExceptionInfo, max_length: int = 420) -> str:
    """Return the message of an error. It must be one short line without advice to load unsafely."""
    message = str(error.value)
    assert "\n" not in message and len(message) <= max_length, message
    assert "weights_only" not in message and "Re-running" not in message
    return message


def zipped(**files: bytes) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return buffer.getvalue()


def tarred() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("config.json"))
    return buffer.getvalue()


OTHER_FILES = {
    "pointer": (POINTER, "this is a Git LFS pointer to a file of 1,262,041,872 bytes, not weights: run `git lfs pull`"),
    "page": (PAGE, "this is an HTML page, not weights"),
    "error": (ERROR, "this is an XML error message (AccessDenied), not weights"),
    "empty": (b"", "this is an empty file (0 bytes), not weights"),
    "gzip": (gzip.compress(b"x" * 99), "this is a gzip file, not weights: decompress it with `gunzip`"),
    "tar": (tarred(), "this is a tar archive, not weights: unpack it"),
    "zip": (zipped(notes__txt=b"a", more__txt=b"b"), "this is a zip archive of 2 files, such as 'notes.txt', not weights"),
    "npz": (zipped(weight__npy=b"a"), "this is NumPy arrays (.npz), not weights"),
    "TorchScript": (zipped(**{"x/constants.pkl": b"a", "x/data.pkl": b"a"}), "this is a TorchScript program, not weights"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "this is an HDF5 file, not weights: if it holds TensorFlow weights, load them"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "this is an ONNX model, not weights"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(99), "this is a GGUF file, not weights"),
    "NumPy": (b"\x93NUMPY\x01\0" + bytes(99), "this is a NumPy array, not weights: write a dictionary of tensors"),
    "pickle": (pickle.dumps([1, 2]), "this is a Python pickle, not weights: write a dictionary of tensors with torch.save("),
    "zeros": (bytes(2000), "this is a file that begins with nothing but zero bytes, not weights"),
    "JSON": (b'{"error": "not found"}', "this is JSON text, not weights: download the file with the weights instead"),
    "noise": (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a", "its 10 bytes begin with 01 02 03 04 05 06 07 08: download it"),
    "cut zip": (zipped(x__pkl=b"a" * 999)[:500], "it is cut off or damaged: it begins like a file of torch.save"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "checkpoint.pt"])
@pytest.mark.parametrize("content, message", OTHER_FILES.values(), ids=OTHER_FILES)
def test_errors_identify_files_that_are_not_weights(folder, name, content, message):
    path = replace_weights(folder, name, content)
    with pytest.raises(CheckpointError) as error:
        convert(path) if name == "checkpoint.pt" else HubertForCTC.from_pretrained(folder)
    assert one_line(error).startswith(f"{path} cannot be read: ") and message in str(error.value)


def test_a_real_torchscript_program_is_identified(folder):
    path = replace_weights(folder, "pytorch_model.bin", b"")
    with pytest.warns(DeprecationWarning):
        torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(path)
    with pytest.raises(CheckpointError, match="this is a TorchScript program, not weights"):
        HubertForCTC.from_pretrained(folder)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_errors_describe_damage_to_safetensors(folder, share):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="it is cut off") as error:
        HubertForCTC.from_pretrained(folder)
    expected = len(data) if share > 0.1 else int.from_bytes(data[:8], "little")
    assert f"{expected:,}" in one_line(error) and f"{int(share * len(data)):,}" in str(error.value)
    path.write_bytes(data + b"more")
    with pytest.raises(CheckpointError, match="longer than it should be"):
        HubertForCTC.from_pretrained(folder)
    path.write_bytes(data[:20] + b"!" + data[21:])
    with pytest.raises(CheckpointError, match="its safetensors header is damaged"):
        HubertForCTC.from_pretrained(folder)


def test_a_truncated_pickle_is_reported(folder):
    path = replace_weights(folder, "pytorch_model.bin", state_of(folder))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(CheckpointError, match=r"^\S+pytorch_model\.bin cannot be read: it is cut off or damaged"):
        HubertForCTC.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_contents_decide_the_format_not_the_name(original, folder, zipped):
    model, _ = original
    state = state_of(folder)
    torch.save(state, folder / "model.safetensors", _use_new_zipfile_serialization=zipped)
    assert same_weights(HubertForCTC.from_pretrained(folder), model)
    torch.save({"model": state, "args": argparse.Namespace()}, folder / "model.safetensors")
    assert same_weights(HubertForCTC.from_pretrained(folder), model)
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "pytorch_model.bin")
    assert same_weights(HubertForCTC.from_pretrained(folder), model)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "wrap, prefix",
    [
        (lambda key: "module." + key, "module."),
        (lambda key: "model." + key, "model."),
        (lambda key: "_orig_mod." + key, "_orig_mod."),
        (lambda key: "_forward_module." + key, "_forward_module."),
        (lambda key: "module._orig_mod." + key, "module._orig_mod."),
        (lambda key: "_orig_mod.module." + key, "module._orig_mod."),
        (lambda key: "module.module.model." + key, "module.module.model."),
        (lambda key: key.replace(".layers.1.", ".layers.1._checkpoint_wrapped_module."), "_checkpoint_wrapped_module."),
    ],
    ids=["DataParallel", "Lightning", "compile", "Fabric", "both", "both, reversed", "nested", "inside"],
)
@pytest.mark.parametrize("cls", [HubertForCTC, HubertModel])
def test_wrapper_prefixes_are_removed_with_a_warning(original, folder, caplog, wrap, prefix, cls):
    model, _ = original
    save_file({wrap(key): tensor for key, tensor in state_of(folder).items()}, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = cls.from_pretrained(folder)
    assert same_weights(loaded, model if cls is HubertForCTC else model.hubert)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"{folder}: removed {prefix!r}, which a wrapper added to the names of the weights"
    assert len(messages) == (1 if cls is HubertForCTC else 2)  # the base model has no place for the head


def test_a_prefixed_encoder_loads_but_two_models_are_refused(original, folder):
    """The encoder lacks its own prefix here. Two models are refused, since either could be meant."""
    model, _ = original
    state = state_of(folder)
    bare = {"module." + key.removeprefix("hubert."): tensor for key, tensor in state.items()}
    save_file(bare, folder / "model.safetensors")
    assert same_weights(HubertForCTC.from_pretrained(folder), model)
    two_models = {f"{name}.{key}": tensor.clone() for key, tensor in state.items() for name in ("student", "teacher")}
    save_file(two_models, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"weights are missing: .* and \d+ more; unexpected weights: ") as error:
        Transcriber.from_pretrained(folder, device="cpu")
    one_line(error)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_weights_in_a_trainers_dictionary(original, folder, caplog, key):
    model, _ = original
    content = {key: state_of(folder), "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}}
    content |= {"hyper_parameters": argparse.Namespace(lr=1.0), "rng_state": torch.ones(3)}
    replace_weights(folder, "pytorch_model.bin", content)
    with caplog.at_level(logging.WARNING):
        assert same_weights(HubertForCTC.from_pretrained(folder), model)
    expected = f"using the weights in its entry {key!r}; the other entries are ignored: epoch, optimizer, hyper_parameters,"
    assert expected in caplog.text


def test_weights_saved_by_lightning(original, folder):
    """Lightning saves a dictionary in which each weight's name begins with the module's name."""
    state = {"model." + key: tensor for key, tensor in state_of(folder).items()}
    replace_weights(folder, "pytorch_model.bin", {"state_dict": state, "pytorch-lightning_version": "2.1"})
    assert same_weights(HubertForCTC.from_pretrained(folder), original[0])


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda state: {"model": state, "ema": dict(state)}, "holds several sets of weights (model, ema)"),
        (lambda state: torch.nn.Linear(2, 2), "holds an object (torch.nn.modules.linear.Linear), such as a whole module"),
        (lambda state: {**state, "args": argparse.Namespace()}, "objects, which are not rebuilt: args (argparse.Namespace)"),
        (lambda state: {"epoch": 3, "args": {"lr": 1}}, "must hold a dictionary of tensors, but holds epoch, args"),
        (lambda state: {}, "must hold a dictionary of tensors, but holds nothing"),
        (lambda state: {"model": {"encoder.x": 1, "a": "b"}}, "must hold a dictionary of tensors, but holds model"),
        (
            lambda state: {"cfg": None, "model": {"feature_extractor.conv_layers.0.0.weight": torch.ones(1)}},
            "names its weights as fairseq does: convert it with `hubert-fast convert ",
        ),
    ],
    ids=["two sets", "a module", "an object", "no weights", "nothing", "no tensors", "fairseq"],
)
def test_pickles_without_usable_weights_are_refused(folder, content, message):
    replace_weights(folder, "pytorch_model.bin", content(state_of(folder)))
    with pytest.raises(CheckpointError) as error:
        HubertForCTC.from_pretrained(folder)
    assert message in one_line(error)


def test_missing_shards_and_faulty_indexes_are_reported(original, folder):
    model, _ = original
    model.save_pretrained(folder / "shards", max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    for file in (folder / "shards").iterdir():
        file.replace(folder / file.name)
    assert same_weights(HubertForCTC.from_pretrained(folder), model)
    index, shards = folder / "model.safetensors.index.json", sorted(folder.glob("model-*.safetensors"))
    shard = shards[1].read_bytes()
    shards[1].write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{shards[1].name} cannot be read: this is a Git LFS pointer"):
        HubertForCTC.from_pretrained(folder)
    shards[1].unlink()
    with pytest.raises(CheckpointError) as error:
        HubertForCTC.from_pretrained(folder)
    expected = f"lacks 1 of the {len(shards)} weight files that {index.name} lists: {shards[1].name}"
    assert expected in one_line(error)
    shards[1].write_bytes(shard)
    for text, message in (
        ("{", "index.json is not valid JSON"),
        (POINTER.decode(), "index.json cannot be read: this is a Git LFS pointer to a file of 1,262,041,872 bytes, not JSON"),
        ('{"weight_map": {}}', "must have a weight_map"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "must have a weight_map"),
    ):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            HubertForCTC.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_json_files_may_be_in_any_unicode_encoding_but_must_be_json(folder, name):
    expected = Transcriber.from_pretrained(folder, device="cpu").transcribe(WAVEFORM)
    path = folder / name
    text = path.read_text()
    for content, message in (
        (POINTER, "this is a Git LFS pointer to a file of 1,262,041,872 bytes, not JSON: run `git lfs pull`"),
        (PAGE, "this is an HTML page, not JSON"),
        (b"", "this is an empty file (0 bytes), not JSON"),
        (bytes(2000), "nothing but zero bytes, not JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"a": 1,}', "is not valid JSON: "),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            Transcriber.from_pretrained(folder, device="cpu")
        assert message in one_line(error) and str(path) in str(error.value)
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        path.write_text(text, encoding=encoding)
        assert Transcriber.from_pretrained(folder, device="cpu").transcribe(WAVEFORM) == expected != ""


def test_errors_list_what_a_folder_without_weights_contains(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x")
    for name, message in (
        (
            "tf_model.h5",
            "; it has tf_model.h5, TensorFlow weights: load them with a class of hubert_fast.tensorflow",
        ),
        ("flax_model.msgpack", "; it has flax_model.msgpack, Flax weights: "),
        ("hubert.pt", f"; it has hubert.pt: `hubert-fast convert {folder}/hubert.pt OUT_DIR` converts"),
        ("model.onnx", "; it has model.onnx, an ONNX model: use the checkpoint that it was exported from"),
        ("adapter_model.safetensors", "; it has adapter_model.safetensors, a PEFT adapter: merge it into its base model"),
        ("weights.safetensors", "; it has weights.safetensors: if that file holds the weights, rename it to model.safetensors"),
        (None, ""),
    ):
        if name:
            (folder / name).write_bytes(b"x")
        with pytest.raises(CheckpointError, match=r"has no weights: none of model\.safetensors") as error:
            HubertForCTC.from_pretrained(folder)
        assert message in one_line(error) and (name or not str(error.value).count(";"))
        if name:
            (folder / name).unlink()
    for step in (500, 1000, 90):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "pytorch_model.bin").write_bytes(b"x")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json; its subfolder .*checkpoint-1000 has weights"):
        Transcriber.from_pretrained(folder, device="cpu")


def test_a_file_in_place_of_a_folder_is_reported(folder):
    path = folder / "hubert.pt"
    torch.save({}, path)
    for name, message in (
        (path, f"is a file; a checkpoint is a folder with config.json and weights; `hubert-fast convert {path} OUT_DIR`"),
        (folder / "model.safetensors", f"; name the folder that contains it, {folder}"),
    ):
        with pytest.raises(CheckpointError) as error:
            Transcriber.from_pretrained(name, device="cpu")
        assert message in one_line(error)


def test_checkpoints_that_cannot_transcribe_are_refused_in_one_line(original, folder, tmp_path, capsys):
    model, _ = original
    advice = "fine-tune it, or use a fine-tuned checkpoint such as facebook/hubert-large-ls960-ft"
    model.hubert.save_pretrained(tmp_path / "encoder")
    HubertForSequenceClassification(small_config()).save_pretrained(tmp_path / "classifier")
    shutil.copytree(folder, tmp_path / "no names").joinpath("vocab.json").unlink()
    shutil.copytree(folder, tmp_path / "other").joinpath("config.json").unlink()
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(values | {"model_type": "wav2vec2"}))
    for name, message in (
        ("encoder", f"encoder is a pre-trained encoder without a CTC head: {advice}"),
        ("classifier", f"is a classifier (HubertForSequenceClassification) without a CTC head: {advice}"),
        ("no names", "has no vocab.json: a CTC head needs it to map outputs to characters"),
        ("other", "config.json: model_type must be 'hubert', but this configuration belongs to a 'wav2vec2' model"),
    ):
        for vocabulary in (False, True) if name in ("encoder", "classifier") else (False,):
            if vocabulary:
                shutil.copy(folder / "vocab.json", tmp_path / name)
            edit(tmp_path / name / "config.json", **({"architectures": None} if vocabulary else {}))
            assert main(["transcribe", "x.wav", "--model", str(tmp_path / name), "--device", "cpu"]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and message in lines[0], lines


def test_weights_take_precedence_over_the_listed_architecture(original, folder):
    edit(folder / "config.json", architectures=["HubertModel"])
    expected = Transcriber.from_pretrained(original[1], device="cpu").transcribe(WAVEFORM)
    assert Transcriber.from_pretrained(folder, device="cpu").transcribe(WAVEFORM) == expected != ""


def test_an_untrained_head_causes_a_warning(folder, caplog):
    model = HubertForCTC(small_config())
    model.save_pretrained(folder)
    Transcriber.from_pretrained(folder, device="cpu")
    assert "the CTC head appears to be untrained" in caplog.text
    caplog.clear()
    with torch.no_grad():
        model.lm_head.bias[3] = 0.1
    model.save_pretrained(folder)
    Transcriber.from_pretrained(folder, device="cpu")
    assert caplog.text == ""
    Transcriber.from_pretrained(demo.MODEL, device="cpu")
    assert caplog.text == ""


def _transformers_texts(folder: Path, waveform: np.ndarray) -> tuple[list[str], torch.Tensor]:
    """Return transformers' text with and without special tokens, and the ids it was decoded from."""
    import transformers

    model = transformers.HubertForCTC.from_pretrained(folder).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    with torch.no_grad():
        inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
        ids = model(**inputs).logits.argmax(-1)[0]
    return [tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)], ids


@pytest.mark.parametrize("rows", [3, 8])
def test_outputs_without_a_token_decode_as_unknown(original, tmp_path, caplog, rows):
    """An output layer may be padded, say to a multiple of eight. Transcripts leave out the unknown token."""
    torch.manual_seed(1)
    wide = HubertForCTC(small_config(vocab_size=len(TOKENS) + rows)).eval()
    wide.hubert.load_state_dict(original[0].hubert.state_dict())
    with torch.no_grad():
        wide.lm_head.weight.mul_(30)
        wide.lm_head.bias.normal_()
        wide.lm_head.bias[len(TOKENS) :] += 2  # so that argmax picks them
    wide.save_pretrained(tmp_path)
    HubertProcessor.from_tokens(TOKENS).save_pretrained(tmp_path)
    (with_unknown, expected), ids = _transformers_texts(tmp_path, WAVEFORM)
    assert (ids >= len(TOKENS)).any() and "<unk>" in with_unknown and expected
    processor = HubertProcessor.from_pretrained(tmp_path)
    assert processor.decode(ids) == with_unknown
    caplog.clear()
    text = Transcriber.from_pretrained(tmp_path, device="cpu", dtype="float32").transcribe(WAVEFORM)
    assert text == processor.decode(ids, skip_special_tokens=True)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and messages[0].startswith(
        f"the model has {32 + rows} outputs, but the vocabulary has no token for 32, 33, 34"
    )


def test_tokens_without_an_output_are_ignored(original, folder, caplog):
    expected = Transcriber.from_pretrained(folder, device="cpu", dtype="float32").transcribe(WAVEFORM)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"é": 32, "ü": 40}))
    assert Transcriber.from_pretrained(folder, device="cpu", dtype="float32").transcribe(WAVEFORM) == expected
    assert caplog.text == ""


@pytest.mark.parametrize("pad", [None, 5, 31, 99], ids=str)
def test_the_tokenizers_blank_takes_precedence_over_the_configurations(original, folder, caplog, pad):
    expected = Transcriber.from_pretrained(original[1], device="cpu", dtype="float32").transcribe(WAVEFORM)
    edit(folder / "config.json", pad_token_id=pad)
    caplog.clear()
    assert Transcriber.from_pretrained(folder, device="cpu", dtype="float32").transcribe(WAVEFORM) == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"pad_token_id is {'null' if pad is None else pad} in config.json, but the tokenizer's <pad> has the id 0: "
        "the CTC blank is 0, as in transformers"
    ]
    model = HubertForCTC.from_pretrained(folder)
    mask = torch.ones(1, 16000, dtype=torch.long)
    mask[:, 9000:] = 0
    assert model(torch.from_numpy(WAVEFORM)[None], mask).logits.isfinite().all()


def test_long_lists_of_weights_are_shortened(original, tmp_path, caplog):
    config = small_config(num_hidden_layers=1)
    HubertForCTC(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 12}))
    HubertForCTC.from_pretrained(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert len(message) < 600 and message.count(", ") < 8 and message.endswith(f" and {11 * 16 - 5} more")


def test_library_messages_are_shortened_without_unsafe_advice():
    assert first_line(ValueError("x" * 5000)) == "x" * 296 + " ..."
    advice = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed"
    assert first_line(RuntimeError(advice)) == "it holds objects other than tensors"
    assert first_line(RuntimeError("\n\nCUDA error\nstack")) == "CUDA error"


def test_weights_are_not_identified_as_another_format(folder):
    """`identify` only sees files whose first bytes are not those of the expected format."""
    assert identify((folder / "model.safetensors").read_bytes()[:1024]) is None
    assert identify(b"RIFF\x24\0\0\0WAVEfmt ") is None
    assert HubertConfig.from_pretrained(folder).vocab_size == 32
