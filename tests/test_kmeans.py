"""Test learning centroids: its quality, determinism and resumption, and the reading of frames from every layout of files."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from hubert_fast.units import Centroids, CentroidsError, FrameReader, FrameSource
from hubert_fast.units import kmeans as kmeans_module
from hubert_fast.units.frames import ArrayFrames, joined
from hubert_fast.units.kmeans import Step, learn

SOURCE = FrameSource("hubert", "ab12", 9)


def mixture(frames=30_000, channels=12, components=60, seed=0) -> np.ndarray:
    """Return frames of unequal clusters that overlap, each of which stays for 10 frames, in float16."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((components, channels)) * np.linspace(2, 0.3, channels)
    shares = rng.pareto(1.2, components) + 0.05
    labels = np.repeat(rng.choice(components, frames // 10, p=shares / shares.sum()), 10)
    return (means[labels] + 0.6 * rng.standard_normal((frames, channels))).astype(np.float16)


def inertia(frames: np.ndarray, values: np.ndarray) -> float:
    distances = ((frames.astype(np.float64)[:, None] - values) ** 2).sum(axis=2)
    return float(distances.min(axis=1).mean())


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: OpenMP threads of scikit-learn that spin lose badly when the other test process runs."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def small_batches(monkeypatch):
    """Shrink blocks, batches and the sample, so that 30,000 frames behave as millions do."""
    monkeypatch.setattr(kmeans_module, "BLOCK_ROWS", 64)
    monkeypatch.setattr(kmeans_module, "BATCH_ROWS", 1024)
    monkeypatch.setattr(kmeans_module, "SAMPLE_ROWS", 2048)


# learning


def test_frames_of_several_places_are_one_sequence():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((rows, 4)).astype(np.float32) for rows in (5, 1, 9)]
    whole, parts = np.concatenate(arrays), joined([ArrayFrames(array) for array in arrays])
    assert (parts.count, parts.channels) == (15, 4)
    for start in range(15):
        for end in range(start + 1, 16):
            assert np.array_equal(parts.read(start, end), whole[start:end])
    source = FrameSource("m", "f", 1)
    assert joined([ArrayFrames(arrays[0], source), ArrayFrames(arrays[1], source)]).source == source
    assert joined([ArrayFrames(arrays[0], source), ArrayFrames(arrays[1])]).source is None
    with pytest.raises(CentroidsError, match="same model, layer and settings"):
        joined([ArrayFrames(arrays[0], source), ArrayFrames(arrays[1], FrameSource("m", "g", 2))])
    with pytest.raises(CentroidsError, match="channels, but have 4 and 3"):
        joined([ArrayFrames(arrays[0]), ArrayFrames(arrays[1][:, :3])])


def test_learning_comes_near_to_lloyds_algorithm(small_batches):
    frames = mixture(15_000)
    learnt = learn(frames, 30)
    found = inertia(frames, learnt.values)
    best = KMeans(30, n_init=2, random_state=0).fit(frames.astype(np.float32)).inertia_ / len(frames)
    assert found < 1.03 * best, (found, best)  # both depend on their first centroids
    assert float(learnt.training["inertia per frame"]) == pytest.approx(found, rel=0.05)  # that of the sample
    expected = {"clusters": "30", "frames": "15000", "seed": "0"}
    assert expected.items() <= learnt.training.items()
    assert learnt.values.dtype == np.float32 and np.isfinite(learnt.values).all()


def test_counts_of_each_epoch_beat_those_of_all_epochs(small_batches):
    frames = mixture(15_000)
    start = learn(frames, 30, epochs=1)  # the same first centroids and batches
    everything = MiniBatchKMeans(30, init=start.values, n_init=1, reassignment_ratio=0.0, compute_labels=False)
    for epoch in (1, 2, 3, 4):
        blocks = ArrayFrames(frames).blocks(kmeans_module.BLOCK_ROWS, 0, epoch)
        for batch in kmeans_module._batches(blocks, kmeans_module.BATCH_ROWS, 12):
            everything.partial_fit(batch)
    found, other = (
        inertia(frames, learn(frames, 30, epochs=4, tolerance=0).values),
        inertia(frames, everything.cluster_centers_),
    )
    assert found < other, (found, other)


def test_separate_clusters_are_found_exactly():
    means = np.arange(20, dtype=np.float32)[:, None] * [[10, -10]]
    frames = (np.repeat(means, 50, axis=0) + np.tile([[-1, 0], [1, 0]], (500, 1))).astype(np.float32)
    learnt = learn(frames, 20)
    np.testing.assert_allclose(learnt.values[learnt.values[:, 0].argsort()], means, atol=1e-4)


def test_a_seed_determines_the_result(small_batches):
    frames = mixture(6000)
    first, again, other = (learn(frames, 10, seed=seed, epochs=2).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_frames_are_read_in_batches_of_several_places(small_batches, monkeypatch):
    seen = []
    original = MiniBatchKMeans.partial_fit
    monkeypatch.setattr(MiniBatchKMeans, "partial_fit", lambda self, batch: (seen.append(batch.copy()), original(self, batch)))
    frames = np.arange(6000, dtype=np.float32)[:, None] + np.zeros((1, 2), np.float32)
    learn(frames, 10, epochs=1, limit=5000)
    assert [len(batch) for batch in seen[:-1]] == [1024] * 4
    rows = np.concatenate(seen)[:, 0].astype(int)
    assert 5000 <= len(rows) < 5064 and len(set(rows)) == len(rows)
    places = np.flatnonzero(np.diff(seen[0][:, 0]) != 1)
    assert len(places) >= 10, places


def test_a_state_of_other_frames_is_refused(tmp_path, small_batches):
    """Layers of one folder have equally many frames and channels."""
    first, second, state = mixture(6000), mixture(6000)[::-1] + 1, tmp_path / "state"
    sources = [FrameSource("m", "f", layer) for layer in (1, 2)]
    learn(ArrayFrames(first, sources[0]), 10, epochs=1, state=state)
    with pytest.raises(CentroidsError, match=r"state of another run: frames' origin is layer 2 of m, \w+ \(was layer 1 of m"):
        learn(ArrayFrames(second, sources[1]), 10, epochs=1, state=state)
    learn(first, 10, epochs=1, state=tmp_path / "unknown")
    with pytest.raises(CentroidsError, match=r"state of another run: sample of frames is \w+ \(was \w+\): remove it"):
        learn(second, 10, epochs=1, state=tmp_path / "unknown")


def test_a_limit_below_the_block_that_is_drawn_first(small_batches):
    """The last block may be short; with some seeds it is the first one that is drawn."""
    frames = mixture(100)[:83]
    for seed in range(12):
        learnt = learn(frames, 15, seed=seed, limit=15, epochs=1)
        assert learnt.clusters == 15 and 15 <= int(learnt.training["frames"]) <= 19 + 64, seed


def test_frames_far_from_the_origin_end_as_those_near_it(small_batches):
    frames = mixture(6000).astype(np.float32)
    near, far = (learn(frames + np.float32(offset), 10, epochs=20, seed=1) for offset in (0, 1000))
    inertias = [float(learnt.training["inertia per frame"]) for learnt in (near, far)]
    assert inertias[1] == pytest.approx(inertias[0], rel=0.02)


def test_values_that_cannot_be_learnt_from_are_refused(small_batches):
    frames = mixture(500).astype(np.float64)
    for value, message in ((np.nan, "frames must be finite"), (1e30, "values must be at most 1e.15, .* but one is 1e.30")):
        frames[100, 0] = value
        with pytest.raises(CentroidsError, match=message):
            learn(frames, 5)
    with pytest.raises(CentroidsError, match="must be a floating-point array"):
        learn([[1.0, 2.0]], 1)
    for arguments, error in (({"limit": 100.0}, TypeError), ({"seed": -1}, ValueError), ({"seed": 2**32}, ValueError)):
        with pytest.raises(error, match=f"{next(iter(arguments))} must be "):
            learn(mixture(500), 5, **arguments)


def test_learning_ends_when_inertia_stops_falling(small_batches):
    steps = []
    learn(mixture(6000), 10, epochs=50, tolerance=0.01, progress=steps.append)
    inertias = [step.inertia for step in steps if step.inertia is not None]
    assert 2 <= len(inertias) < 50
    falls = [1 - new / old for old, new in itertools.pairwise(inertias)]
    assert falls[-1] < 0.01 and all(fall >= 0.01 for fall in falls[:-1]), falls


def test_an_epoch_that_makes_centroids_worse_is_dropped(small_batches, monkeypatch):
    frames, runs = mixture(6000), []
    original = kmeans_module._run_epoch

    def run_epoch(*arguments):
        runs.append(original(*arguments))
        return runs[-1] if len(runs) == 1 else runs[-1] + 100

    monkeypatch.setattr(kmeans_module, "_run_epoch", run_epoch)
    learnt = learn(frames, 10)
    assert len(runs) == 2
    np.testing.assert_array_equal(learnt.values, runs[0])
    assert float(learnt.training["inertia per frame"]) == pytest.approx(inertia(frames, runs[0]), rel=0.05)


def test_progress_reports_batches_and_epochs(small_batches):
    steps = []
    learn(mixture(2560), 5, epochs=2, tolerance=0, progress=steps.append)
    assert steps[0] == Step(0, 0, 2560)
    assert [step[:3] for step in steps[1:5]] == [(1, 1024, 2560), (1, 2048, 2560), (1, 2560, 2560), (1, 2560, 2560)]
    assert steps[3].inertia is None and steps[4].inertia > 0


def test_a_state_continues_to_the_same_result(tmp_path, small_batches):
    frames, state = mixture(15_000), tmp_path / "state"
    expected = learn(frames, 30, epochs=3, tolerance=0)
    assert expected.training["epochs"] == "3"

    class Killed(Exception):
        pass

    def kill(step):
        if step.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        learn(frames, 30, epochs=3, tolerance=0, progress=kill, state=state)
    epochs = []
    resumed = learn(frames, 30, epochs=3, tolerance=0, progress=lambda step: epochs.append(step.epoch), state=state)
    assert set(epochs) == {2, 3}
    np.testing.assert_array_equal(resumed.values, expected.values)
    assert resumed.training == expected.training
    with pytest.raises(CentroidsError, match=r"state of another run: seed is 1 \(was 0\): remove it"):
        learn(frames, 30, seed=1, state=state)
    with pytest.raises(CentroidsError, match=r"the frames have 5 channels \(had 12\)"):
        learn(frames[:, :5], 30, state=state)
    state.write_bytes(b"x")
    with pytest.raises(CentroidsError, match="not a complete state of learning: remove it"):
        learn(frames, 30, state=state)


def test_the_result_names_the_source_of_the_frames(tmp_path, small_batches):
    learnt = learn(ArrayFrames(mixture(2000), SOURCE), 5, epochs=1)
    learnt.save(tmp_path / "km")
    assert Centroids.load(tmp_path / "km").source == SOURCE


def test_wrong_arguments_are_refused(monkeypatch):
    frames = mixture(100)
    with pytest.raises(CentroidsError, match="101 clusters need at least as many frames, but there are only 100"):
        learn(frames, 101)
    for arguments in ({"clusters": 0}, {"clusters": 5, "epochs": 0}, {"clusters": 5, "limit": 0}):
        with pytest.raises(ValueError, match="must be at least 1, but is 0"):
            learn(frames, **arguments)
    with pytest.raises(CentroidsError, match=r"floating-point array \[N, C\], each at least 1, but are int64 \[3\]"):
        learn(np.arange(3), 1)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(CentroidsError, match=r"needs scikit-learn: pip install 'hubert_fast\[units\]'"):
        learn(frames, 5)


# reading frames


def features(folder, utterances: list[dict], shards: dict[str, np.ndarray], **description) -> None:
    values = {"format": "hubert_fast features", "version": 1, "layers": [6, 9], "dtype": "float16", "channels": 3}
    values |= {"source": {"9": SOURCE.to_metadata()}} | description
    (folder / "features.json").write_text(json.dumps(values))
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in utterances))
    for name, frames in shards.items():
        np.save(folder / f"{name}.npy", frames)


def numbered(rows: int, first=0) -> np.ndarray:
    return (np.arange(first, first + rows)[:, None] * [[1, -1, 0.5]]).astype(np.float16)


UTTERANCES = [
    {"id": "c", "audio": "c.wav", "shard": 7, "start": 2, "frames": 3},
    {"id": "a", "audio": "a.wav", "shard": 3, "start": 10, "frames": 5},
    {"id": "b", "audio": "b.wav", "shard": 3, "start": 15, "frames": 4},
    {"id": "empty", "audio": "e.wav", "shard": 5, "start": 0, "frames": 0},
    {"id": "d", "audio": "d.wav", "shard": 3, "start": 0, "frames": 2},
]


def test_folders_of_features_are_read_as_the_index_says(tmp_path):
    garbage = np.full((30, 3), np.nan, np.float16)  # rows that the index does not mention
    third, seventh = garbage.copy(), garbage[:5].copy()
    third[10:19], third[:2], seventh[2:] = numbered(9, 10), numbered(2), numbered(3, 100)
    features(tmp_path, UTTERANCES, {"layer9-00003": third, "layer9-00007": seventh})
    reader = FrameReader(tmp_path, layer=9)
    assert (reader.count, reader.channels, reader.source) == (14, 3, SOURCE)
    expected = np.concatenate([numbered(2), numbered(9, 10), numbered(3, 100)]).astype(np.float32)
    np.testing.assert_array_equal(reader.read(0, 14), expected)
    for start in range(14):
        for end in range(start, 15):
            np.testing.assert_array_equal(reader.read(start, end), expected[start:end])


@pytest.mark.parametrize("rows", [1, 4, 14, 100])
def test_blocks_cover_every_frame_once_in_an_order_of_the_seed(rows):
    frames = ArrayFrames(numbered(14))
    blocks = list(frames.blocks(rows, seed=5))
    assert sorted(np.concatenate(blocks)[:, 0]) == list(range(14))
    assert all((np.diff(block[:, 0]) == 1).all() for block in blocks)
    orders = [[block[0, 0] for block in frames.blocks(rows, seed, epoch)] for seed, epoch in ((5, 0), (5, 0), (5, 1), (6, 0))]
    assert orders[0] == orders[1]
    assert rows > 4 or (orders[0] != orders[2] and orders[0] != orders[3])
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_limit_chooses_the_same_blocks_in_each_epoch():
    frames = ArrayFrames(numbered(100))
    chosen = [sorted(block[0, 0] for block in frames.blocks(10, 3, epoch, limit=41)) for epoch in range(3)]
    assert len(chosen[0]) == 5 and chosen[0] == chosen[1] == chosen[2]


def test_samples_are_uniform_and_distinct():
    frames = ArrayFrames(np.arange(1000, dtype=np.float32)[:, None])
    counts = np.zeros(1000)
    for seed in range(200):
        chosen = frames.sample(100, seed)[:, 0].astype(int)
        assert len(set(chosen)) == 100 and (np.diff(chosen) > 0).all()
        counts[chosen] += 1
    # each count is binomial: 200 draws with probability 0.1 have mean 20 and standard deviation 4.2
    assert counts.mean() == 20 and 3.8 < counts.std() < 4.7 and counts.min() > 4 and counts.max() < 40
    np.testing.assert_array_equal(frames.sample(5000, 0)[:, 0], np.arange(1000))


def test_fairseqs_dumps_and_one_file_per_utterance(tmp_path):
    (tmp_path / "speaker").mkdir()
    np.save(tmp_path / "train_0_2.npy", numbered(5))
    np.save(tmp_path / "train_1_2.npy", numbered(4, 5).astype(np.float32))
    np.save(tmp_path / "speaker" / "u.npy", numbered(2, 9).astype(">f8"))
    (tmp_path / "train_0_2.len").write_text("2\n3\n")
    frames = FrameReader(tmp_path)
    found = frames.read(0, frames.count)
    assert frames.source is None and found.dtype == np.float32 and sorted(found[:, 0]) == list(range(11))
    np.testing.assert_array_equal(FrameReader(tmp_path / "train_1_2.npy").read(1, 4), numbered(3, 6))
    (tmp_path / "train_0_2.len").write_text("2\n4\n")
    with pytest.raises(CentroidsError, match=r"add up to 6 frames, but train_0_2\.npy has 5: write both again"):
        FrameReader(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": None}, "has the layers 6, 9: choose one"),
        ({"layer": 4}, "has no layer 4: choose one of 6, 9"),
        ({"layer": 6}, r"layer6-00000\.npy cannot be read: No such file"),
        ({"version": 2}, "must have format 'hubert_fast features' and version 1, but has .* and 2: update"),
        ({"rows": [{"id": "a"}]}, r"line 1 of .*index\.jsonl must be a JSON object with the numbers shard, start and frames"),
        ({"rows": [{"shard": 0, "start": 3, "frames": 3}]}, r"mentions frames 3 to 6 of layer9-00000\.npy, which has only 5"),
        ({"rows": [{"shard": 0, "start": i, "frames": 2} for i in (0, 1)]}, "mentions some frames twice"),
        ({"rows": []}, "has no frames"),
        ({"source": {"9": {"model": "x"}}}, "features.json is damaged: .*'fingerprint'"),
    ],
    ids=["no layer", "unknown layer", "no shard", "version", "row", "beyond the shard", "twice", "no rows", "source"],
)
def test_damaged_folders_are_refused(tmp_path, change, message):
    rows = change.pop("rows", [{"shard": 0, "start": 0, "frames": 5}])
    layer = change.pop("layer", 9)
    features(tmp_path, rows, {"layer9-00000": numbered(5)}, **change)
    with pytest.raises(CentroidsError, match=message):
        FrameReader(tmp_path, layer)


def test_unsuitable_files_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    for array, message in (
        (np.arange(6), r"floating-point array \[rows, channels\], but holds shape \[6\] and dtype int64"),
        (np.asfortranarray(np.ones((2, 3))), "in Fortran order"),
        (np.array([[1, np.inf]]), "infinities or NaN in the 1 rows from 0"),
    ):
        np.save(path, array)
        with pytest.raises(CentroidsError, match=message):
            FrameReader(path).read(0, 1)
    np.save(path, numbered(100))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CentroidsError, match="is cut off: its header says"):
        FrameReader(path)
    path.write_bytes(b"text")
    with pytest.raises(CentroidsError, match=r"not a complete \.npy file"):
        FrameReader(path)
    with pytest.raises(CentroidsError, match="would name layers: leave out layer 9"):
        FrameReader(path, layer=9)
    path.unlink()
    with pytest.raises(CentroidsError, match=r"has no \.npy files: expected a folder of hubert-fast features"):
        FrameReader(tmp_path)
    np.save(path, np.ones((2, 3)))
    np.save(tmp_path / "y.npy", np.ones((2, 4)))
    with pytest.raises(CentroidsError, match=r"equally many channels, but .*x\.npy has 3 and .*y\.npy has 4"):
        FrameReader(tmp_path)


MEASURE = """
import re, sys
from hubert_fast.units import FrameReader, kmeans
kmeans.BATCH_ROWS, kmeans.SAMPLE_ROWS = 2048, 2048
for path in sys.argv[1:]:
    kmeans.learn(FrameReader(path), 16, epochs=1)
    print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # the peak so far
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak memory from Linux' /proc")
def test_memory_does_not_grow_with_the_frames(tmp_path):
    block = np.random.default_rng(0).random((10_000, 256), np.float32).astype(np.float16)
    paths = [tmp_path / "small.npy", tmp_path / "large.npy"]
    for path, blocks in zip(paths, (2, 20)):
        with open(path, "wb") as file:
            shape = (blocks * len(block), 256)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for _ in range(blocks):
                block.tofile(file)
    command = [sys.executable, "-c", MEASURE, *paths]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    small, large = (int(line) // 1024 for line in ran.stdout.split())
    assert large - small < 30, f"peaks of {small} and {large} MB with 10 and 100 MB of frames"
