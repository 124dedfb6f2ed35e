"""Test the measures of units, the phone labels of the bundled recordings, and that the demo model's units mean phones."""

import itertools

import numpy as np
import pytest
import soundfile
from bench_programs import needs_programs, rows_of
from sklearn.metrics import mutual_info_score
from threadpoolctl import threadpool_limits

from hubert_fast import audio, demo
from hubert_fast.units import Encoder
from hubert_fast.units.kmeans import learn
from hubert_fast.units.quality import cluster_purity, labels_at_frames, phone_purity, pnmi

# the measures


def test_hand_computed_values():
    # unit 7: phone 1 twice, 2 once;  unit 9: phone 2 three times;  unit 4: phones 1 and 3
    units = np.array([7, 7, 7, 9, 9, 9, 4, 4])
    phones = np.array([1, 1, 2, 2, 2, 2, 1, 3])
    assert phone_purity(units, phones) == pytest.approx((2 + 3 + 1) / 8)
    assert cluster_purity(units, phones) == pytest.approx((2 + 3 + 1) / 8)  # phone 1 in unit 7, 2 in 9, 3 in 4
    entropy = -(3 / 8 * np.log(3 / 8) + 4 / 8 * np.log(4 / 8) + 1 / 8 * np.log(1 / 8))
    left = 3 / 8 * -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) + 2 / 8 * np.log(2)
    assert pnmi(units, phones) == pytest.approx(1 - left / entropy)


def test_extreme_values():
    phones = np.repeat([0, 1, 2, 3], 25)
    assert phone_purity(phones + 5, phones) == cluster_purity(phones + 5, phones) == pytest.approx(1)
    assert pnmi(phones + 5, phones) == pytest.approx(1)
    # a unit of its own for each frame knows the phone; one unit for all frames and independent units know nothing
    each = np.arange(100)
    assert phone_purity(each, phones) == pytest.approx(1) and pnmi(each, phones) == pytest.approx(1)
    assert cluster_purity(each, phones) == pytest.approx(1 / 25)
    for units in (np.zeros(100, int), each % 5):
        assert pnmi(units, phones) == pytest.approx(0, abs=1e-12) and phone_purity(units, phones) == pytest.approx(1 / 4)
    assert phone_purity(each, np.zeros(100, int)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    phones = rng.integers(0, 40, 3000) - 7  # ids need not begin at 0
    units = np.where(rng.random(3000) < 0.6, phones * 3 + rng.integers(0, 3, 3000), rng.integers(0, 500, 3000))
    expected = mutual_info_score(phones, units) / mutual_info_score(phones, phones)
    assert pnmi(units, phones) == pytest.approx(expected, rel=1e-9)
    assert pnmi(units.astype(np.int32), phones.astype(np.int16)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", [phone_purity, cluster_purity, pnmi])
@pytest.mark.parametrize(
    "units, phones, message",
    [
        ([], [], r"units must be integers of shape \[T\], but are float64 \[0\]"),
        (np.zeros(0, int), np.zeros(0, int), "are empty: measure at least one frame"),
        ([1, 2], [1, 2, 3], "of the same frames, but there are 2 and 3"),
        ([1.0, 2.0], [1, 2], "units must be integers .* float64"),
        ([1, 2], [[1, 2]], r"phones must be integers .* \[1, 2\]"),
        ([1, 2], ["a", "b"], "phones must be integers .* <U1"),
    ],
    ids=["empty list", "empty", "lengths", "floats", "two dimensions", "text"],
)
def test_errors(measure, units, phones, message):
    with pytest.raises(ValueError, match=message):
        measure(units, phones)


def test_pnmi_needs_two_phones():
    with pytest.raises(ValueError, match="at least 2 different phones"):
        pnmi([1, 2, 3], [4, 4, 4])


def test_labels_at_the_centres_of_frames():
    # centres: 12.5, 32.5, 52.5, 72.5 ms; a label that begins at a centre has that frame
    assert labels_at_frames([0.0, 0.0325, 0.0526, 0.06], [5, 6, 7, 8], 4).tolist() == [5, 6, 6, 8]
    assert labels_at_frames([0.0], [5], 0).tolist() == []
    assert labels_at_frames([0, 1.4], [1, 2], 3, hop_seconds=1, window_seconds=1).tolist() == [1, 2, 2]
    for starts, labels, message in (
        ([0.0], [1, 2], r"same shape \[L\], L >= 1, but have \[1\] and \[2\]"),
        ([], [], "L >= 1"),
        ([0.0, 0.2, 0.1], [1, 2, 3], "must ascend"),
        ([0.02], [1], "the first label begins at 0.02 s, after the centre of the first frame"),
    ):
        with pytest.raises(ValueError, match=message):
            labels_at_frames(starts, labels, 4)


# the labels


@pytest.mark.parametrize("recording", demo.recordings(), ids=lambda recording: recording.path.name)
def test_phones_cover_the_recordings_and_pauses_are_quiet(recording):
    phones = demo.phones()[recording.path.name]
    assert phones[0].start_seconds == 0 and all(phone.end_seconds > phone.start_seconds for phone in phones)
    assert all(phone.end_seconds == following.start_seconds for phone, following in itertools.pairwise(phones))
    assert phones[-1].end_seconds == pytest.approx(soundfile.info(recording.path).duration, abs=0.001)

    blocks = audio.load(recording.path)
    blocks = blocks[: len(blocks) // 160 * 160].reshape(-1, 160)  # 10 ms
    level_db = 10 * np.log10((blocks**2).mean(axis=1) + 1e-12)
    centres = 0.005 + 0.01 * np.arange(len(blocks))

    def levels(names: set[str], margin_seconds: float) -> np.ndarray:
        inside = [
            (centres >= phone.start_seconds + margin_seconds) & (centres < phone.end_seconds - margin_seconds)
            for phone in phones
            if phone.name in names
        ]
        return level_db[np.any(inside, axis=0)]

    vowels = np.median(levels(set("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split()), 0))
    pauses = levels({"pau"}, 0.03)
    # 22 to 47 dB on 2026-11-27, the least for 8-bit samples; two voices have an echo, which rings 30 dB below
    assert np.percentile(pauses, 95) < vowels - 20 and pauses.max() < vowels - 20, (pauses.max(), vowels)


# units mean phones

CLUSTERS, LAYERS, BEST = 50, range(5), 2  # of these recordings, layer 2 has the highest PNMI


def units_of(frames: np.ndarray, seed: int = 0) -> np.ndarray:
    with threadpool_limits(1):  # OpenMP threads of scikit-learn that spin lose badly when another test process runs
        centroids = learn(frames, CLUSTERS, seed=seed).values
    return ((centroids**2).sum(axis=1) - 2 * frames @ centroids.T).argmin(axis=1)


@pytest.fixture(scope="module")
def layers() -> dict[int, np.ndarray]:
    """Return the unit of each frame of the bundled recordings, for each layer."""
    encoder = Encoder.from_pretrained(demo.MODEL, layers=LAYERS, device="cpu", dtype="float32")
    with threadpool_limits(1):
        encodings = [encoder.encode_file(recording.path) for recording in demo.recordings()]
    return {layer: units_of(np.concatenate([encoding.frames[layer] for encoding in encodings])) for layer in LAYERS}


@pytest.fixture(scope="module")
def phones() -> np.ndarray:
    """Return the phone of each frame of the bundled recordings."""
    labels = demo.phones()
    ids = {name: index for index, name in enumerate(sorted({phone.name for each in labels.values() for phone in each}))}
    frames = []
    for recording in demo.recordings():
        count = 1 + (len(audio.load(recording.path)) - 400) // 320
        entries = labels[recording.path.name]
        frames.append(
            labels_at_frames([phone.start_seconds for phone in entries], [ids[phone.name] for phone in entries], count)
        )
    return np.concatenate(frames)


def check(layers: dict[int, np.ndarray], phones: np.ndarray) -> None:
    """Assert that units say much about phones, and each layer as much as it should.

    Ranges are those of 10 seeds of k-means (0 to 9), measured on 2026-11-27 with scikit-learn 1.9.1.
    """
    found = {layer: pnmi(units, phones) for layer, units in layers.items()}
    purity = {layer: phone_purity(units, phones) for layer, units in layers.items()}
    chance = pnmi(np.random.default_rng(0).permutation(layers[BEST]), phones)
    message = f"PNMI by layer {found}, of shuffled units {chance:.3f}; phone purity {purity}"
    assert 0.68 < found[BEST] < 0.77, message  # 0.711 to 0.733
    assert 0.65 < purity[BEST] < 0.75, message  # 0.683 to 0.717
    assert chance < 0.13 and min(found.values()) > chance + 0.4, message  # 0.10 to 0.12; least layer 0.580
    assert found[2] > found[0] + 0.1 and purity[2] > purity[0] + 0.08, message  # 0.123 to 0.148; means 0.701, 0.574
    assert found[2] > found[1] + 0.055, message  # 0.073 to 0.101
    assert found[3] > found[4] + 0.055, message  # 0.067 to 0.085
    for shift in (-1, 1):  # 0.050 and 0.060 on average
        late = pnmi(np.roll(layers[BEST], shift), phones)
        assert found[BEST] > late + 0.025, f"shifted by {shift} frames: {late}; {message}"


def test_units_mean_phones(layers, phones):
    check(layers, phones)


@pytest.mark.parametrize(
    "fault",
    [
        lambda layers: {layer: np.roll(units, 10) for layer, units in layers.items()},
        lambda layers: {layer: np.roll(units, 1) for layer, units in layers.items()},
        lambda layers: {layer: np.roll(units, -1) for layer, units in layers.items()},
        lambda layers: {layer: layers[min(layer + 1, 4)] for layer in layers},
        lambda layers: {layer: layers[max(layer - 1, 0)] for layer in layers},
        lambda layers: {layer: np.random.default_rng(1).permutation(units) for layer, units in layers.items()},
        lambda layers: dict.fromkeys(layers, layers[BEST]),
    ],
    ids=["10 frames late", "1 frame late", "1 frame early", "layers 1 too high", "layers 1 too low", "shuffled", "one layer"],
)
def test_faults_are_noticed(layers, phones, fault):
    with pytest.raises(AssertionError, match="PNMI by layer"):
        check(fault(layers), phones)


@needs_programs
def test_units_of_the_model_beat_those_of_log_mel(layers, phones, bench_program):
    log_mel = bench_program("units_quality").log_mel
    units = units_of(np.concatenate([log_mel(audio.load(recording.path)) for recording in demo.recordings()]))
    assert len(units) == len(phones)
    for measure, least in ((pnmi, 0.1), (phone_purity, 0.08)):  # PNMI 0.135 to 0.159; phone purity means 0.701 and 0.569
        ours, theirs = measure(layers[BEST], phones), measure(units, phones)
        assert ours > theirs + least, (measure.__name__, ours, theirs)


@needs_programs
@pytest.mark.bench
def test_program_measures_every_layer(bench_program, tmp_path, capsys):
    options = ["--sets", "bundled", "--clusters", "8", "--seeds", "0", "--out", str(tmp_path / "rows.csv")]
    assert bench_program("units_quality").main(options) == 0
    rows = {row["feature"]: row for row in rows_of(tmp_path / "rows.csv")}
    assert list(rows) == ["log-mel", "MFCC", "0", "1", "2", "3", "4"] and capsys.readouterr().out.count("K   8") == 7
    for row in rows.values():
        assert row["frames"] == row["learning_frames"] == "2576" and row["commit"]
        assert 0 < float(row["shuffled_pnmi"]) < 0.1 < float(row["pnmi"]) < 0.6


@needs_programs
@pytest.mark.bench
def test_program_says_what_is_missing(bench_program, monkeypatch, capsys):
    program = bench_program("units_quality")
    monkeypatch.setattr(program.shutil, "which", lambda name: None)
    assert program.main([]) == 1
    assert "apt-get install espeak-ng flite, or --sets bundled" in capsys.readouterr().err
