"""Check that the TensorFlow models read and write the checkpoints of PyTorch and of transformers' TensorFlow classes."""

import copy
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PRE_LN, assert_close, masked_batch
from small_models import ALL
from tensorflow_models import as_torch, pair, tf

import hubert_fast
from hubert_fast import HubertConfig, HubertForCTC, HubertModel
from hubert_fast.hub import CheckpointError
from hubert_fast.integrations.tensorflow.weights import named_weights
from hubert_fast.tensorflow import TFHubertForCTC, TFHubertMainLayer, TFHubertModel, TFHubertPreTrainedModel

keras = pytest.importorskip("keras", reason="Keras is not installed")

GOLDEN = Path(__file__).parent / "golden"
TENSORFLOW = GOLDEN / "tensorflow"


def assert_same_weights(model, other):
    theirs = named_weights(other)
    assert named_weights(model).keys() == theirs.keys()
    for name, variable in named_weights(model).items():
        np.testing.assert_array_equal(variable.numpy(), theirs[name].numpy(), err_msg=name)


@pytest.fixture(scope="module")
def reference():
    return TFHubertForCTC.from_pretrained(GOLDEN / "post_ln")


@pytest.mark.parametrize("form", ["h5", "safetensors"])
@pytest.mark.parametrize("cls", [TFHubertForCTC, TFHubertModel])
def test_checkpoints_of_transformers_tensorflow_classes_load(form, cls, reference):
    model, info = cls.from_pretrained(TENSORFLOW / form, output_loading_info=True)
    if cls is TFHubertForCTC:
        assert not any(info.values())
        assert_same_weights(model, reference)
    else:
        assert info.pop("unexpected_keys") == ["lm_head.bias", "lm_head.weight"] and not any(info.values())
        assert_same_weights(model.hubert, reference.hubert)


def test_h5_files_equal_those_of_transformers(reference, tmp_path):
    import h5py

    reference.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "tf_model.h5"]
    ours, theirs = (h5py.File(folder / "tf_model.h5") for folder in (tmp_path, TENSORFLOW / "h5"))
    weights = []
    theirs.visititems(lambda name, node: weights.append(name) if isinstance(node, h5py.Dataset) else None)
    found = []
    ours.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
    by_class = [name.replace(reference.name, "tf_hubert_for_ctc") for name in found]
    assert sorted(by_class) == sorted(weights) and len(weights) > 50
    for name, path in zip(by_class, found):
        np.testing.assert_array_equal(ours[path][()], theirs[name][()], err_msg=name)
        assert ours[path].dtype == theirs[name].dtype
    named = {name: list(theirs[name].attrs["weight_names"]) for name in ("hubert", "lm_head")}
    for layer, names in named.items():
        written = [name.decode().replace(reference.name, "tf_hubert_for_ctc") for name in ours[layer].attrs["weight_names"]]
        assert sorted(written) == sorted(map(str, names))
    layers = [name for name in theirs.attrs["layer_names"] if not name.startswith("dropout")]
    assert [name.decode() for name in ours.attrs["layer_names"]] == layers


def test_long_lists_of_names_are_split_as_keras_2_reads_them(tmp_path):
    import h5py

    narrow = dict(num_hidden_layers=48, hidden_size=8, num_attention_heads=1, intermediate_size=8)
    config = HubertConfig(**PRE_LN | narrow | dict(num_conv_pos_embedding_groups=1))
    model = TFHubertForCTC(config)
    model.save_pretrained(tmp_path, safe_serialization=False)
    attributes = h5py.File(tmp_path / "tf_model.h5")["hubert"].attrs
    names = [name.decode() for index in range(len(attributes)) for name in attributes[f"weight_names{index}"]]
    assert len(attributes) > 1 and len(names) == len(set(names)) == len(model.hubert.weights)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("values", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("cls", [HubertForCTC, HubertModel])
def test_pytorch_and_tensorflow_read_what_the_other_writes(values, cls, tmp_path):
    model, counterpart = pair(values, cls)
    model.save_pretrained(tmp_path / "pytorch")
    loaded, info = type(counterpart).from_pretrained(tmp_path / "pytorch", output_loading_info=True)
    assert not any(info.values())
    assert_same_weights(loaded, counterpart)
    counterpart.save_pretrained(tmp_path / "tensorflow")
    again, info = cls.from_pretrained(tmp_path / "tensorflow", output_loading_info=True)
    assert not any(info.values())
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]) or key.endswith("num_batches_tracked"), key
    assert again.config.architectures == [cls.__name__]
    counterpart.save_pretrained(tmp_path / "h5", safe_serialization=False)
    assert_same_weights(type(counterpart).from_pretrained(tmp_path / "h5"), counterpart)


def test_without_a_mask_probability_the_mask_embedding_may_be_absent(tmp_path, caplog):
    model, _ = pair(PRE_LN, mask_time_prob=0.0)
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        counterpart, info = TFHubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and not caplog.text
    counterpart.save_pretrained(tmp_path)
    _, info = HubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())


def test_pickles_and_both_spellings_of_weight_norm_load(reference):
    assert (GOLDEN / "post_ln" / "pytorch_model.bin").exists() and not list((GOLDEN / "post_ln").glob("*.safetensors"))
    keys = torch.load(GOLDEN / "post_ln" / "pytorch_model.bin", weights_only=True)
    assert any(key.endswith(("weight_g", "original0")) for key in keys)
    counterpart = HubertForCTC.from_pretrained(GOLDEN / "post_ln")
    weight = counterpart.hubert.encoder.pos_conv_embed.conv.weight.detach()
    assert_close(as_torch(reference.hubert.encoder.pos_conv_embed.conv.kernel).permute(2, 1, 0), weight, "small op")


def test_half_precision_checkpoints_become_float32(tmp_path):
    model, _ = pair(PRE_LN)
    model.half().save_pretrained(tmp_path)
    counterpart = TFHubertForCTC.from_pretrained(tmp_path)
    assert {variable.dtype for variable in counterpart.weights} == {"float32"}
    kernel = as_torch(counterpart.lm_head.kernel)
    assert torch.equal(kernel, model.lm_head.weight.float().T)


class Classifier(TFHubertPreTrainedModel):
    """An own head that leaves its weights to the first call."""

    def __init__(self, config, classes=3):
        super().__init__(config)
        self.hubert = TFHubertMainLayer(self.config, name="hubert")
        self.projector = keras.layers.Dense(10, name="projector")
        self.classifier = keras.layers.Dense(classes, name="classifier")

    def call(self, input_values, attention_mask=None, training=False):
        encoded = self.hubert(input_values, attention_mask=attention_mask, training=training)
        return self.classifier(self.projector(tf.reduce_mean(encoded.last_hidden_state, axis=1)))


@pytest.mark.parametrize("safetensors", [False, True])
def test_own_heads_load_and_save(safetensors, tmp_path):
    model, info = Classifier.from_pretrained(GOLDEN / "post_ln", classes=5, output_loading_info=True)
    own = ["classifier.bias", "classifier.weight", "projector.bias", "projector.weight"]
    assert info["missing_keys"] == own and info["unexpected_keys"] == ["lm_head.bias", "lm_head.weight"]
    waveforms = masked_batch((3000, 2000))[0].numpy()
    model.save_pretrained(tmp_path, safe_serialization=safetensors)
    loaded, info = Classifier.from_pretrained(tmp_path, classes=5, output_loading_info=True)
    assert not any(info.values()) and loaded.config.architectures == ["Classifier"]
    np.testing.assert_array_equal(loaded(waveforms).numpy(), model(waveforms).numpy())
    assert model.num_parameters() == sum(variable.numpy().size for variable in model.weights)
    model.hubert.trainable = False
    assert model.num_parameters(only_trainable=True) == 48 // 2 * 10 + 10 + 10 * 5 + 5


def test_copies_are_independent(reference):
    copied = copy.deepcopy(reference)
    assert_same_weights(copied, reference)
    copied.lm_head.bias.assign(copied.lm_head.bias + 1)
    assert not np.array_equal(copied.lm_head.bias.numpy(), reference.lm_head.bias.numpy())


def test_files_in_order_of_preference(reference, tmp_path):
    shutil.copytree(GOLDEN / "post_ln", tmp_path, dirs_exist_ok=True)
    other = TFHubertForCTC(reference.config)
    other.save_pretrained(tmp_path, safe_serialization=False)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path), other)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path, from_pt=True), reference)
    newest = TFHubertForCTC(reference.config)
    newest.save_pretrained(tmp_path)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path), newest)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path, use_safetensors=False), other)


def test_a_file_that_would_be_read_in_place_of_the_written_one_is_named(reference, tmp_path, caplog):
    reference.save_pretrained(tmp_path)
    assert not caplog.text
    reference.save_pretrained(tmp_path, safe_serialization=False)
    assert "has model.safetensors, which from_pretrained reads in place of tf_model.h5: delete it" in caplog.text


def test_safetensors_are_split_and_read_again(reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path), reference)


def test_h5_files_that_transformers_split_load(reference, tmp_path):
    """transformers 4 writes the shards of large models without the name of the model, and with an index."""
    import h5py

    weights = named_weights(reference)
    files = {name: f"tf_model-0000{1 + index % 2}-of-00002.h5" for index, name in enumerate(weights)}
    for name, file in files.items():
        with h5py.File(tmp_path / file, "a") as shard:
            shard.create_dataset(name + ":0", data=weights[name].numpy())
    index = {"metadata": {}, "weight_map": {f"tf_hubert_for_ctc/{name}:0": file for name, file in files.items()}}
    (tmp_path / "tf_model.h5.index.json").write_text(json.dumps(index))
    shutil.copy(GOLDEN / "post_ln" / "config.json", tmp_path)
    assert_same_weights(TFHubertForCTC.from_pretrained(tmp_path), reference)


def test_a_head_is_initialised_and_named_in_a_warning(tmp_path, caplog):
    model, _ = pair(PRE_LN, HubertModel)
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        counterpart, info = TFHubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == ["lm_head.bias", "lm_head.weight"]
    assert "lacks these weights of TFHubertForCTC" in caplog.text and "lm_head.weight" in caplog.text
    kernel = counterpart.lm_head.kernel.numpy()
    assert 0.01 < kernel.std() < 0.03


def test_other_shapes_are_refused_or_initialised(reference, tmp_path):
    reference.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lm_head.bias has shape \[32\], but the configuration expects \[7\]"):
        TFHubertForCTC.from_pretrained(tmp_path, vocab_size=7)
    model, info = TFHubertForCTC.from_pretrained(tmp_path, vocab_size=7, ignore_mismatched_sizes=True, output_loading_info=True)
    assert [entry[0] for entry in info["mismatched_keys"]] == ["lm_head.bias", "lm_head.weight"]
    assert model.lm_head.kernel.shape == (reference.config.hidden_size, 7)
    assert_same_weights(model.hubert, reference.hubert)


def test_overrides_and_options_of_from_pretrained(tmp_path):
    model = TFHubertForCTC.from_pretrained(GOLDEN / "post_ln", ctc_loss_reduction="mean", name="mine", output_attentions=True)
    assert model.name == "mine" and model.config.ctc_loss_reduction == "mean"
    assert model(np.zeros((1, 4000), np.float32)).attentions is not None
    with pytest.raises(TypeError, match="got nonsense"):
        TFHubertForCTC.from_pretrained(GOLDEN / "post_ln", nonsense=1)
    config = hubert_fast.HubertConfig.from_pretrained(GOLDEN / "post_ln", final_dropout=0.3)
    assert TFHubertForCTC.from_pretrained(GOLDEN / "post_ln", config=config).dropout.rate == 0.3


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_damaged_h5_files_are_refused(content, tmp_path):
    shutil.copy(GOLDEN / "post_ln" / "config.json", tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tf_model\.h5 cannot be read as HDF5"):
        TFHubertForCTC.from_pretrained(tmp_path)


def test_an_h5_file_without_weights_and_a_folder_without_files_are_refused(tmp_path):
    import h5py

    shutil.copy(GOLDEN / "post_ln" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights: none of .*tf_model\.h5"):
        TFHubertForCTC.from_pretrained(tmp_path)
    h5py.File(tmp_path / "tf_model.h5", "w").close()
    with pytest.raises(CheckpointError, match="it holds none"):
        TFHubertForCTC.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        TFHubertForCTC.from_pretrained(tmp_path / "absent")


def test_wrong_options_of_save_pretrained_are_refused(reference, tmp_path):
    with pytest.raises(ValueError, match="push_to_hub"):
        reference.save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(TypeError, match="nonsense"):
        reference.save_pretrained(tmp_path, nonsense=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        reference.save_pretrained(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("cls", [TFHubertForCTC, TFHubertModel])
def test_keras_files_hold_the_whole_model(cls, tmp_path):
    _, model = pair(PRE_LN, HubertForCTC if cls is TFHubertForCTC else HubertModel, conv_pos_batch_norm=True)
    waveforms = masked_batch((3000, 2000))[0].numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is cls and loaded.config == model.config
    np.testing.assert_array_equal(loaded(waveforms)[0].numpy(), model(waveforms)[0].numpy())
    model.save_weights(tmp_path / "model.weights.h5")
    other = cls(model.config)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(other, model)
    clone = keras.models.clone_model(model)
    assert type(clone) is cls and clone.config == model.config


def test_checkpoints_of_tensorflow_restore_weights(tmp_path):
    _, model = pair(PRE_LN)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    other = TFHubertForCTC(model.config)
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    assert_same_weights(other, model)
