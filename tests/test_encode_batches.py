"""Encode batches as Ray Data's map_batches and datasets.map pass them."""

import os
import pickle
import sys

import numpy as np
import pytest
import soundfile
import torch

from hubert_fast import audio, demo
from hubert_fast.jobs.options import Options
from hubert_fast.units import Centroids, EncodeBatch, Encoder

FAST = dict(device="cpu", dtype="float32")
PATHS = [recording.path for recording in demo.recordings()[:5]]


@pytest.fixture(scope="module")
def frames() -> Encoder:
    return Encoder.from_pretrained(demo.MODEL, layers=[2], **FAST)


@pytest.fixture(scope="module")
def expected(frames) -> list[np.ndarray]:
    return [frames.encode_file(path).frames[2] for path in PATHS]


def test_every_kind_of_audio(frames, expected):
    waveforms = [audio.load(path) for path in PATHS]
    stereo, rate_hz = soundfile.read(PATHS[0], dtype="float32", always_2d=True)
    kinds = {
        "paths": [str(path) for path in PATHS],
        "bytes": [path.read_bytes() for path in PATHS],
        "waveforms": waveforms,
        "lists": [waveform.tolist() for waveform in waveforms],
        "audio feature, decoded": [{"path": None, "array": each, "sampling_rate": 16000} for each in waveforms],
        "audio feature, bytes": [{"bytes": path.read_bytes(), "path": path.name} for path in PATHS],
        "audio feature, paths": [{"bytes": None, "path": str(path)} for path in PATHS],
        "stereo": [{"array": np.repeat(stereo, 2, axis=1), "sampling_rate": rate_hz}],
        "stereo, channels first": [{"array": np.repeat(stereo, 2, axis=1).T, "sampling_rate": float(rate_hz)}],
        "one channel, channels first": [waveforms[0][None]],
        "tensors": [torch.from_numpy(waveform) for waveform in waveforms],
    }
    for name, items in kinds.items():
        batch = EncodeBatch(frames)({"audio": items, "speaker": ["x"] * len(items)})
        assert [*batch] == ["layer2", "error"] and batch["error"] == [None] * len(items), name
        for actual, reference in zip(batch["layer2"], expected):
            assert np.abs(actual - reference).max() < 1e-3 * np.abs(reference).max(), name


def test_rows_that_fail_have_a_reason_and_the_others_a_result(frames, expected, tmp_path):
    (tmp_path / "bad.wav").write_text("not audio")
    items = [
        str(PATHS[0]), str(tmp_path / "bad.wav"), b"no audio at all", np.zeros(399, np.float32), {"array": [0.1] * 800}, 7,
        np.zeros((2, 2, 2)), np.full(800, np.nan), np.arange(800), {"name": "x"}, str(PATHS[1]),
    ]  # fmt: skip
    batch = EncodeBatch(frames, column="sound")({"sound": items})
    reasons = [
        None, "not audio", "row 2: ", "too short: 399 samples", "sampling_rate must be a number of Hz, but is None", "is a int",
        r"[2, 2, 2]", "NaN", "int16, but is int64", "is a dict with name", None,
    ]  # fmt: skip
    for error, reason in zip(batch["error"], reasons, strict=True):
        assert (error is None) if reason is None else (reason in error), (error, reason)
    assert [row is None for row in batch["layer2"]] == [reason is not None for reason in reasons]
    assert np.abs(batch["layer2"][-1] - expected[1]).max() < 1e-3 * np.abs(expected[1]).max()


def test_units_and_columns(frames, expected):
    centroids = Centroids(np.concatenate(expected)[::40].copy(), frames.sources[0])
    batch = EncodeBatch(demo.MODEL, kmeans=centroids, merge=True, **FAST)({"audio": np.array([*map(str, PATHS)], dtype=object)})
    assert [*batch] == ["audio", "units", "durations", "error"]
    for name in ("units", "durations", "error"):
        assert batch[name].dtype == object and len(batch[name]) == 5
    for units, durations, reference in zip(batch["units"], batch["durations"], expected):
        nearest = ((reference[:, None] - centroids.values) ** 2).sum(-1).argmin(1)
        assert np.repeat(units, durations).tolist() == nearest.tolist()
    with pytest.raises(KeyError, match="no column 'audio', only 'x'"):
        EncodeBatch(frames)({"x": []})
    with pytest.raises(TypeError, match="merge"):
        EncodeBatch(frames, merge=True)
    with pytest.raises(ValueError, match="one encoding"):
        EncodeBatch(frames, options=Options(channels="each"))
    assert EncodeBatch(frames)({"audio": []}) == {"layer2": [], "error": []}


def test_pickles_load_the_model_anew(expected):
    encode = EncodeBatch(demo.MODEL, layers=[2], **FAST)
    data = pickle.dumps(encode)
    assert len(data) < 1000 and data == pickle.dumps(EncodeBatch(demo.MODEL, layers=[2], **FAST))
    actual = pickle.loads(data)({"audio": [str(PATHS[0])]})["layer2"][0]
    assert np.abs(actual - expected[0]).max() < 1e-3 * np.abs(expected[0]).max()


def test_ray_data(expected):
    ray = pytest.importorskip("ray", reason="Ray is an optional dependency: pip install 'hubert_fast[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data needs pyarrow and pandas")
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TRITON_INTERPRET": "0"}
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment}
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items([{"number": number, "audio": str(path)} for number, path in enumerate(PATHS)])
        encoded = dataset.map_batches(
            EncodeBatch,
            fn_constructor_args=(demo.MODEL,),
            fn_constructor_kwargs={"layers": [2], **FAST},
            batch_size=2,
            concurrency=1,
        )
        rows = {row["number"]: row for row in encoded.take_all()}
    finally:
        ray.shutdown()
    assert len(rows) == 5
    for number, reference in enumerate(expected):
        actual = np.stack([*rows[number]["layer2"]])
        assert rows[number]["error"] is None and np.abs(actual - reference).max() < 1e-3 * np.abs(reference).max()


def test_what_cannot_be_a_batch_or_a_pickle_is_refused(frames):
    with pytest.raises(TypeError, match="a batch must be a dictionary of columns, but is a list: leave the batch_format"):
        EncodeBatch(frames)([{"audio": "a.wav"}])
    with pytest.raises(TypeError, match="with an Encoder cannot be pickled: pass the name or folder of the model"):
        pickle.dumps(EncodeBatch(frames))
    with pytest.raises(TypeError, match="but is a str"):
        EncodeBatch(frames)("audio")
    error = EncodeBatch(frames)({"audio": [np.zeros((2000, 2000), np.float32)]})["error"][0]
    assert error == "a waveform must have at most 1024 channels, but has 2000"
