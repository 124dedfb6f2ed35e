"""Test the peers of `hubert-fast bench` for CPUs: they give transformers' answers, and say what they cannot do."""

import logging
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from conftest import assert_close, relative_error

from hubert_fast import cli, console, demo
from hubert_fast.benchmark import arithmetic, exported, rows
from hubert_fast.benchmark.measure import Reference
from hubert_fast.benchmark.providers import provider
from hubert_fast.benchmark.subject import Subject, Unavailable
from hubert_fast.benchmark.work import Work
from hubert_fast.tolerances import MODEL_TOLERANCES

for library in ("transformers", "openvino", "onnxruntime", "onnx", "onnxscript"):
    pytest.importorskip(library)

CPU = torch.device("cpu")
NAMES = ["openvino", "openvino-static", "onnxruntime"]
LENGTHS = {"padded": (8000, 5000, 401, 6399), "equal": (6000, 6000), "single": (9000,)}


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "true")  # OpenVINO's converter then reports nothing


@torch.inference_mode(False)  # as in the command
def subject_of(config, dtype):
    """Return a subject of random weights, or the demo model."""
    return Subject.pretrained(str(demo.MODEL), CPU, dtype) if config is None else Subject.random(config, CPU, dtype)


def waveforms(lengths):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) for length in lengths]


def theirs(subject, batch, with_mask):
    """Return the logits of transformers' model, [N, V], without padding."""
    inputs = subject.their_processor(batch, sampling_rate=16000, padding=True, return_tensors="pt", return_attention_mask=True)
    mask = inputs["attention_mask"] if with_mask else None
    logits = subject.theirs("sdpa")(inputs["input_values"], attention_mask=mask).logits
    counts = subject.ours.frame_counts(torch.tensor([len(waveform) for waveform in batch]))
    return logits[torch.arange(logits.shape[1]) < counts[:, None]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", ["tiny", "tiny-large"])
@torch.inference_mode()
def test_logits_equal_those_of_transformers(config, name):
    subject = subject_of(config, torch.float32)
    peer = provider(name, subject)
    for case, lengths in LENGTHS.items():
        batch = waveforms(lengths)
        expected = theirs(subject, batch, with_mask=True)
        ready = peer.forward(batch)
        for _ in range(2):
            assert_close(ready.frames(ready.run()), expected, "other graph", case)
        if case == "padded":  # without a mask, transformers gives something else
            assert relative_error(theirs(subject, batch, with_mask=False), expected) > 1e-3


@pytest.mark.parametrize("name", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.bench)])
@torch.inference_mode()
def test_texts_equal_those_of_transformers(name):
    subject = subject_of(None, torch.float32)
    work = Work.of("demo", 1)
    peer, reference = provider(name, subject), provider("hf-sdpa", subject)
    for batch in (work.waveforms[:3], work.waveforms[3:4]):
        texts = peer.text(batch)
        assert texts == reference.text(batch) and all(texts)
    with pytest.raises(Unavailable, match="compare the protocol leaderboard instead"):
        peer.files(["any.wav"])


@pytest.mark.parametrize("suffix, graphs", [("", {True}), ("-sorted", {True}), ("-single", {False})])
@torch.inference_mode()
def test_the_graph_that_is_timed_is_the_one_that_is_compared(suffix, graphs):
    subject = subject_of("tiny", torch.float32)
    reference = Reference(subject, Work("", tuple(waveforms(LENGTHS["padded"]))))
    peer = provider(f"openvino{suffix}", subject)
    error, _ = reference.compare(peer)
    assert error < 1e-5 and set(peer.model._infer) == graphs


@pytest.mark.parametrize("name", NAMES[:2])
@torch.inference_mode()
def test_openvino_computes_in_bfloat16(name):
    subject = subject_of("tiny-large", torch.bfloat16)
    try:
        peer = provider(name, subject)
    except Unavailable as error:
        assert str(error) == "OpenVINO does not compute in bfloat16 on this CPU"
        pytest.skip(str(error))
    error, _ = Reference(subject, Work("", tuple(waveforms(LENGTHS["padded"])))).compare(peer)
    assert 1e-3 < error < MODEL_TOLERANCES[torch.bfloat16].value


@pytest.mark.parametrize(
    "name, dtype, message",
    [
        ("openvino", torch.float16, "OpenVINO is compared in float32 and bfloat16, but the dtype is float16"),
        ("openvino-static", torch.float16, "OpenVINO is compared in float32 and bfloat16, but the dtype is float16"),
        ("onnxruntime", torch.float16, "ONNX Runtime is compared in float32, but the dtype is float16"),
        ("onnxruntime", torch.bfloat16, "ONNX Runtime is compared in float32, but the dtype is bfloat16"),
    ],
)
def test_other_dtypes_are_refused(name, dtype, message):
    with pytest.raises(Unavailable, match=message):
        provider(name, subject_of("tiny", dtype))


def test_other_devices_and_missing_libraries_are_refused(monkeypatch):
    subject = subject_of("tiny", torch.float32)
    for missing, names in {"openvino": NAMES[:2], "onnxscript": NAMES[2:]}.items():
        monkeypatch.setattr(exported, "find_spec", lambda package, missing=missing: None if package == missing else package)
        for name in names:
            with pytest.raises(Unavailable, match=rf"^{missing} is not installed: pip install 'hubert_fast\[bench-cpu\]'$"):
                provider(name, subject)
    monkeypatch.setattr(Subject, "device", torch.device("cuda:0"))
    for name in NAMES:
        with pytest.raises(Unavailable, match="is compared on CPUs, but the device is cuda:0"):
            provider(name, subject)


def test_static_shapes_are_limited(monkeypatch):
    monkeypatch.setattr(exported, "STATIC_SHAPES", 2)
    model = provider("openvino-static", subject_of("tiny", torch.float32)).model
    values = torch.randn(2, 4000)
    first = model(values).logits.clone()
    mask = torch.ones(2, 4000, dtype=torch.long)
    mask[1, 3000:] = 0
    model(values, mask)  # the same size, but another graph
    with pytest.raises(Unavailable, match="at most 2 shapes of batches, but this work has more"):
        model(values[:1])
    assert torch.equal(model(values).logits, first)


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_padding_have_a_graph_of_their_own(name, tmp_path, monkeypatch, recwarn, capfd):
    """Both graphs are converted without a warning and without leaving a file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = provider(name, subject_of("tiny", torch.float32)).model
    recwarn.clear()
    capfd.readouterr()
    values, mask = torch.randn(2, 4000), torch.ones(2, 4000, dtype=torch.int32)
    full = model(values, mask).logits.clone()
    assert torch.equal(full, model(values).logits) and set(model._infer) == {False}
    mask[1, 3000:] = 0
    assert relative_error(model(values, mask).logits, full) > 1e-3 and set(model._infer) == {False, True}
    assert not list(recwarn) and capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assert logging.root.manager.disable == logging.NOTSET


def test_signals_are_handled_after_two_models_were_freed():
    """In a process of its own, which the signal ends if OpenVINO has left no stack for its handler."""
    program = f"""if True:
        import gc, signal
        import torch
        from hubert_fast.benchmark.providers import provider
        from hubert_fast.benchmark.subject import Subject
        signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
        subject = Subject.random("tiny", torch.device("cpu"), torch.float32)
        models = [provider(name, subject).model for name in {NAMES[:2]}]
        for model in models:
            model(torch.zeros(1, 4000))
        while models:
            model = None
            del models[0]
            gc.collect()
        signal.raise_signal(signal.SIGUSR1)
    """
    child = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, "handled\n"), child.stderr


@pytest.mark.bench
def test_command(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "CPU_PRODUCTS", ((64, 64, 64),))
    names = "ours,hf-sdpa,openvino,openvino-single,openvino-static,onnxruntime,onnxruntime-sorted"
    options = ["--config", "tiny", "--dtype", "float32", "--device", "cpu", "--protocol", "model,leaderboard", "--rounds", "1"]
    work = ["--audio-seconds", "6", "--batch-seconds", "4", "--batch-utterances", "2"]
    path = tmp_path / "rows.csv"
    assert cli.main(["bench", *options, *work, "--providers", names, "--csv", str(path)]) == console.EXIT_OK
    results = rows.read(path)
    assert [row["provider"] for row in results] == names.split(",") * 2
    assert all(row["status"] == "ok" and float(row["max_error"]) < 1e-5 and float(row["rtfx"]) > 0 for row in results)
