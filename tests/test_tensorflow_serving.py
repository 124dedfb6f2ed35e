"""Check what leaves Python: SavedModels, TensorFlow Lite, XLA, functional models; and what importing needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from small_models import ALL
from tensorflow_models import as_torch, assert_equal_frames, pair, tf

from hubert_fast import CTCTokenizer, HubertForCTC, HubertProcessor, audio, demo
from hubert_fast.tensorflow import TFCausalLMOutput, TFHubertForCTC, TFHubertModel

keras = pytest.importorskip("keras", reason="Keras is not installed")

PAGE = Path(__file__).parent.parent / "docs" / "tensorflow.md"
SERVE = """
import sys
import numpy as np
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
inputs = np.load(sys.argv[2])
logits = served(**{name: tf.constant(inputs[name]) for name in inputs})["logits"]
np.save(sys.argv[3], logits.numpy())
assert not {"hubert_fast", "torch"} & set(sys.modules), "needs more than TensorFlow"
"""


def demo_inputs():
    """Return the demo model, its inputs for a batch of recordings, and the texts that PyTorch's class gives for it."""
    recordings = [recording for recording in demo.recordings() if recording.path.stat().st_size < 120_000][:4]
    processor = HubertProcessor.from_pretrained(demo.MODEL)
    waveforms = [audio.load(recording.path) for recording in recordings]
    batch = processor(waveforms, sampling_rate=16000, padding=True, return_attention_mask=True, return_tensors="np")
    inputs = {"input_values": batch.input_values, "attention_mask": batch.attention_mask.astype(np.int32)}
    with torch.no_grad():
        reference = HubertForCTC.from_pretrained(demo.MODEL)(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}
        )
    texts = decoded(reference.logits.numpy())
    assert sum(text == recording.reference.lower() for text, recording in zip(texts, recordings)) >= 3
    return TFHubertForCTC.from_pretrained(demo.MODEL), inputs, texts


def decoded(logits):
    texts = CTCTokenizer.from_pretrained(demo.MODEL).batch_decode(np.argmax(logits, axis=-1))
    return [text.lower() for text in texts]


@pytest.mark.parametrize("how", ["tf.saved_model.save", "save_pretrained", "export"])
def test_a_saved_model_gives_the_demo_texts_without_hubert_fast(how, tmp_path):
    model, inputs, texts = demo_inputs()
    folder = tmp_path / "served"
    if how == "tf.saved_model.save":
        tf.saved_model.save(model, str(folder), signatures=model.serving)
    elif how == "save_pretrained":
        model.save_pretrained(tmp_path, saved_model=True, version=3)
        folder = tmp_path / "saved_model" / "3"
        assert (tmp_path / "model.safetensors").exists()
    else:
        model(inputs)
        signature = [{name: tf.TensorSpec([None, None], array.dtype, name=name) for name, array in inputs.items()}]
        model.export(str(folder), input_signature=signature, verbose=False)
    np.savez(tmp_path / "inputs.npz", **inputs)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(folder), str(tmp_path / "inputs.npz"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-I", "-c", SERVE, *arguments], check=True, cwd=tmp_path, env=environment)
    logits = np.load(tmp_path / "logits.npy")
    assert_close(torch.from_numpy(logits), as_torch(model(**inputs).logits), "other graph")
    assert decoded(logits) == texts


@pytest.mark.parametrize("how", ["saved model", "keras model", "concrete function"])
def test_tensorflow_lite_gives_the_demo_texts(how, tmp_path):
    model, inputs, texts = demo_inputs()
    if how == "keras model":
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
    elif how == "saved model":
        tf.saved_model.save(model, str(tmp_path), signatures=model.serving)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    else:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([model.serving.get_concrete_function()], model)
    content = converter.convert()  # with built-in operations alone
    assert len(content) > 0.9 * 4 * model.count_params()
    interpreter = tf.lite.Interpreter(model_content=content)
    if how == "saved model":
        run = interpreter.get_signature_runner()
        logits = run(**inputs)["logits"]
        assert_close(torch.from_numpy(logits), as_torch(model(**inputs).logits), "other graph")
        assert decoded(logits) == texts
        inputs = {name: array[1:2, :24_000] for name, array in inputs.items()}  # another shape
        assert_close(torch.from_numpy(run(**inputs)["logits"]), as_torch(model(**inputs).logits), "other graph")
        return
    details = {
        entry["name"].rpartition("_default_")[2].partition(":")[0]: entry["index"] for entry in interpreter.get_input_details()
    }
    alone = inputs["input_values"][:1, : inputs["attention_mask"][0].sum()]
    given = {"input_values": alone, "attention_mask": np.ones_like(alone, np.int32)}
    by_index = {
        index: next(given[known] for known in given if known in name or len(details) == 1) for name, index in details.items()
    }
    for index, array in by_index.items():
        interpreter.resize_tensor_input(index, array.shape)
    interpreter.allocate_tensors()
    for index, array in by_index.items():
        interpreter.set_tensor(index, array)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert_close(torch.from_numpy(logits), as_torch(model(alone).logits), "other graph")
    assert decoded(logits) == [texts[0]]


@pytest.mark.parametrize("values", ALL.values(), ids=ALL.keys())
def test_tensorflow_lite_converts_every_architecture(values, tmp_path):
    _, model = pair(values)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 2000)))
    tf.saved_model.save(model, str(tmp_path), signatures=model.serving)
    run = tf.lite.Interpreter(
        model_content=tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    ).get_signature_runner()
    actual = run(input_values=waveforms, attention_mask=mask.astype(np.int32))["logits"]
    expected = as_torch(model(waveforms, attention_mask=mask).logits)
    assert_close(torch.from_numpy(actual), expected, "other graph")


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_xla_gives_what_eager_calls_give(values, masked):
    _, model = pair(values)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 300, 2000)))
    options = dict(attention_mask=mask if masked else None, output_hidden_states=True, output_attentions=True)
    compiled = tf.function(lambda waveforms: model(waveforms, **options), jit_compile=True)(waveforms)
    expected = model(waveforms, **options)
    assert isinstance(compiled, TFCausalLMOutput) and list(compiled) == list(expected)
    for actual, reference in zip(tf.nest.flatten(compiled), tf.nest.flatten(expected)):
        assert_close(as_torch(actual), as_torch(reference), "other graph")


def test_xla_compiles_the_loss_and_its_gradients():
    _, model = pair(PRE_LN)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 3000)))
    labels = np.array([[3, 4, -100], [5, 5, 6]])

    def gradients():
        with tf.GradientTape() as tape:
            loss = model(waveforms, attention_mask=mask, labels=labels).loss
        return loss, tape.gradient(loss, model.lm_head.trainable_weights)

    for actual, expected in zip(tf.nest.flatten(tf.function(gradients, jit_compile=True)()), tf.nest.flatten(gradients())):
        assert_close(as_torch(actual), as_torch(expected), "gradient")


def test_a_graph_of_unknown_sizes():
    _, model = pair(POST_LN)
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None, None], tf.int32)]
    call = tf.function(lambda waveforms, mask: model(waveforms, attention_mask=mask), input_signature=specs)
    for lengths in ((4000, 3000), (2000,), (5000, 400, 399)):
        waveforms, mask = (tensor.numpy() for tensor in masked_batch(lengths))
        expected = as_torch(model(waveforms, attention_mask=mask).logits)
        counts = model.frame_counts(np.array(lengths)).numpy()
        assert_equal_frames(call(waveforms, mask.astype(np.int32)).logits, expected, counts, "other graph", str(lengths))


def test_serving_stacks_states_and_attentions(tmp_path):
    _, model = pair(PRE_LN, output_hidden_states=True, output_attentions=True)
    tf.saved_model.save(model, str(tmp_path), signatures=model.serving)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 3000)))
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    output = served(input_values=tf.constant(waveforms), attention_mask=tf.constant(mask.astype(np.int32)))
    assert sorted(output) == ["attentions", "hidden_states", "logits"]
    expected = model(waveforms, attention_mask=mask)
    assert_close(as_torch(output["hidden_states"]), torch.stack([*map(as_torch, expected.hidden_states)]), "other graph")
    assert_close(as_torch(output["attentions"]), torch.stack([*map(as_torch, expected.attentions)]), "other graph")


def test_a_functional_model_of_keras():
    _, model = pair(PRE_LN)
    waveforms, mask = (tensor.numpy() for tensor in masked_batch((4000, 3000)))
    inputs = {"input_values": keras.Input((None,)), "attention_mask": keras.Input((None,), dtype="int32")}
    output = model(inputs)
    assert isinstance(output, TFCausalLMOutput) and output.logits.shape == (None, None, 32)
    probabilities = keras.layers.Softmax()(output.logits)
    functional = keras.Model(inputs, probabilities)
    actual = functional({"input_values": waveforms, "attention_mask": mask.astype(np.int32)})
    assert_close(as_torch(actual), as_torch(model(waveforms, attention_mask=mask).logits).softmax(-1), "other graph")


def test_the_documented_example():
    processor = HubertProcessor.from_pretrained(demo.MODEL)
    model = TFHubertForCTC.from_pretrained(demo.MODEL)
    recording = demo.recordings()[0]
    batch = processor(audio.load(recording.path), sampling_rate=16000, return_tensors="tf")
    assert isinstance(batch.input_values, tf.Tensor) and batch.input_values.dtype == tf.float32
    predicted = tf.argmax(model(batch.input_values).logits, axis=-1)
    assert processor.decode(predicted[0]).lower() == recording.reference.lower()
    labels = processor(text=recording.reference.upper(), return_tensors="tf").input_ids
    assert labels.dtype == tf.int32 and model(batch.input_values, labels=labels).loss < 5
    padded = processor.feature_extractor.pad([{"input_values": row} for row in (tf.zeros(500), tf.zeros(700))])
    assert isinstance(padded["input_values"], tf.Tensor) and padded["input_values"].shape == (2, 700)
    with pytest.raises(ValueError, match="padding=True"):
        processor([np.zeros(500, np.float32), np.zeros(700, np.float32)], sampling_rate=16000, return_tensors="tf")
    states = TFHubertModel.from_pretrained(demo.MODEL)(batch.input_values).last_hidden_state
    assert states.shape[0] == 1 and states.shape[2] == model.config.hidden_size


@pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not beside the package under test")
def test_snippets_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waveforms = [audio.load(recording.path) for recording in demo.recordings()[:2]]
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = [dict(waveform=waveforms[0], waveforms=waveforms) for _ in snippets]
    for snippet, given in zip(snippets, names):
        exec(snippet.replace("facebook/hubert-large-ls960-ft", str(demo.MODEL)), given)
    reading, training, serving = names
    assert reading["text"] == [demo.recordings()[0].reference.upper()]
    assert np.isfinite(training["history"].history["loss"]).all()
    assert len(serving["lite"]) > 0.9 * 4 * serving["model"].count_params()


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


def test_importing_hubert_fast_does_not_import_tensorflow():
    result = run_python("import hubert_fast, sys; hubert_fast.HubertForCTC; print({'tensorflow', 'keras'} & set(sys.modules))")
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("missing", ["tensorflow", "keras", "h5py"])
def test_a_missing_library_is_named(missing):
    result = run_python(f"import sys; sys.modules[{missing!r}] = None; import hubert_fast.tensorflow")
    assert (
        result.returncode and f"hubert_fast.tensorflow needs {missing}: pip install 'hubert_fast[tensorflow]'" in result.stderr
    )


def test_an_old_library_and_another_backend_are_refused():
    result = run_python("import tensorflow; tensorflow.__version__ = '2.15.1'; import hubert_fast.tensorflow")
    assert "needs tensorflow 2.16 or newer, but this is 2.15.1" in result.stderr
    result = run_python("import hubert_fast.tensorflow", KERAS_BACKEND="torch")
    assert "needs Keras to run on TensorFlow, but it runs on torch" in result.stderr
