"""Compare the frames and units of `Encoder` with transformers 4.34.1, fairseq and scikit-learn, for batches of any files."""

from dataclasses import replace
from pathlib import Path

import fairseq_reference
import numpy as np
import pytest
import soundfile
import torch
from conftest import POST_LN, PRE_LN, assert_close, perturb
from sklearn.cluster import KMeans
from test_conversion import ARCHITECTURES, pretrained, saved

from hubert_fast import HubertConfig, HubertFeatureExtractor, HubertModel, demo
from hubert_fast.audio import AudioError
from hubert_fast.conversion import convert
from hubert_fast.jobs.cutting import Cutter, join_at_middles
from hubert_fast.outputs import PackedModelOutput
from hubert_fast.units import Centroids, CentroidsError, Encoder, FrameSource
from hubert_fast.units.codebook import Projection
from hubert_fast.units.encodings import merged
from hubert_fast.units.frame_model import FrameModel

GOLDEN = Path(__file__).parent / "golden"
LENGTHS = (16000, 401, 9000, 720, 16000, 12345)
FAST = dict(device="cpu", dtype="float32")


def checkpoint(folder: Path, values: dict, normalize: bool = True) -> Path:
    """Write a small encoder with random weights."""
    perturb(HubertModel(HubertConfig(**values))).save_pretrained(folder)
    HubertFeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return folder


def waveforms_of(lengths=LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Write noise to files without rounding."""
    paths = [tmp_path / f"{number}.wav" for number in range(len(LENGTHS))]
    for path, waveform in zip(paths, waveforms_of()):
        soundfile.write(path, waveform, 16000, subtype="FLOAT")
    return paths


@pytest.mark.parametrize("name", ["pre_ln", "post_ln"])
def test_frames_equal_transformers_4_34_1(name):
    expected = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name / "expected.npz").items()}
    model = HubertModel.from_pretrained(GOLDEN / name)
    layers = [*range(model.config.num_hidden_layers + 1)]
    encoder = Encoder(model, HubertFeatureExtractor(do_normalize=False), layers)
    count = 0
    for row, (waveform, mask) in enumerate(zip(expected["waveforms"], expected["mask"])):
        samples = int(mask.sum())
        if name == "post_ln" and samples < len(waveform):
            continue  # in transformers, padding enters the statistics of a GroupNorm
        frames = encoder.encode(waveform[:samples].numpy()).frames
        for layer in layers:
            reference = expected[f"masked.hidden_states.{layer}"][row, : len(frames[layer])]
            assert_close(torch.from_numpy(frames[layer]), reference, "same graph", f"layer {layer}")
            count += 1
    assert count >= len(layers)


@pytest.mark.parametrize("cfg", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_frames_equal_fairseqs_dump(cfg, tmp_path):
    """`output_layer` of fairseq is our layer, and there is no final norm, not even for the last one."""
    content = pretrained(cfg)
    convert(saved(content, tmp_path)).save_pretrained(tmp_path / "out")
    valid = dict(cfg, conv_feature_layers=content["cfg"]["model"]["conv_feature_layers"])
    layers = [1, cfg["encoder_layers"]]
    encoder = Encoder.from_pretrained(tmp_path / "out", layers=layers, final_norm=False, normalize=False, **FAST)
    (waveform,) = waveforms_of([5000])
    frames = encoder.encode(waveform).frames
    for layer in layers:
        expected = fairseq_reference.fairseq_features(content["model"], valid, torch.from_numpy(waveform)[None], layer)
        assert_close(torch.from_numpy(frames[layer]), expected[0], "other graph", f"layer {layer}")


@pytest.mark.parametrize("values", [PRE_LN, POST_LN], ids=["layer norm", "group norm"])
@pytest.mark.parametrize("batch_seconds", [0.5, 64])
def test_a_batch_gives_what_each_utterance_alone_gives(values, batch_seconds, files, tmp_path):
    encoder = Encoder.from_pretrained(checkpoint(tmp_path / "model", values), layers=[2, 0], **FAST)
    model = HubertModel.from_pretrained(tmp_path / "model").double()
    results = {result.utterance.audio: result for result in encoder.encode_many(files, batch_seconds=batch_seconds)}
    for path, waveform in zip(files, waveforms_of()):
        (encoding,) = results[str(path)].encodings
        assert [*encoding.frames] == [2, 0] and encoding.duration_seconds == len(waveform) / 16000
        normalized = torch.from_numpy(waveform).double()
        normalized = (normalized - normalized.mean()) / (normalized.var(correction=0) + 1e-7).sqrt()
        with torch.no_grad():
            expected = model(normalized[None], output_hidden_states=True, output_attentions=True).hidden_states
        for layer in (2, 0):
            assert_close(torch.from_numpy(encoding.frames[layer]), expected[layer][0], "other graph", f"{path.name} {layer}")


def test_units_are_scikit_learns(files, tmp_path):
    folder = checkpoint(tmp_path / "model", POST_LN)
    frames = Encoder.from_pretrained(folder, layers=[2], **FAST)
    encodings = {result.utterance.audio: result.encodings[0] for result in frames.encode_many(files)}
    kmeans = KMeans(20, n_init=1, random_state=0).fit(np.concatenate([each.frames[2] for each in encodings.values()]))
    centroids = Centroids(kmeans.cluster_centers_.astype(np.float32), frames.sources[0])
    centroids.save(tmp_path / "km.safetensors")
    units = Encoder.from_pretrained(folder, kmeans=tmp_path / "km.safetensors", **FAST)
    runs = Encoder.from_pretrained(folder, kmeans=centroids, merge=True, **FAST)
    assert units.layers == (2,) and units.note is None
    seen = set()
    for result, merged_result in zip(units.encode_many(files, ordered=True), runs.encode_many(files, ordered=True)):
        expected = kmeans.predict(encodings[result.utterance.audio].frames[2])
        actual = result.encodings[0].units
        assert actual.dtype == np.int32 and actual.tolist() == expected.tolist()
        run = merged_result.encodings[0]
        assert np.repeat(run.units, run.durations).tolist() == expected.tolist() and (np.diff(run.units) != 0).all()
        seen |= set(expected)
    assert len(seen) > 5


@pytest.mark.parametrize("units, runs, durations", [([], [], []), ([7], [7], [1]), ([0, 0, 3, 3, 3, 0], [0, 3, 0], [2, 3, 1])])
def test_merging(units, runs, durations):
    actual = merged(np.array(units, np.int32))
    assert [part.tolist() for part in actual] == [runs, durations] and {part.dtype for part in actual} == {np.dtype(np.int32)}


def test_long_audio_is_joined_at_the_middles_of_overlaps(tmp_path):
    (waveform,) = waveforms_of([100_000])
    soundfile.write(tmp_path / "long.wav", waveform, 16000, subtype="FLOAT")
    encoder = Encoder.from_pretrained(checkpoint(tmp_path / "model", PRE_LN, normalize=False), layers=[1], **FAST)
    cutter = Cutter.of_seconds(2, 0.5, 16000, 320, 400)
    pieces = [(start, samples[0]) for start, samples in cutter.cut([waveform[None]])]
    assert len(pieces) == 4
    expected, overlap = [], cutter.overlap
    for number, (_, samples) in enumerate(pieces):
        frames = encoder.encode(samples).frames[1]
        begin, end = (overlap // 2 if number else 0), (len(frames) if number == 3 else len(frames) - overlap + overlap // 2)
        expected.append(frames[begin:end])
    actual = encoder.encode_file(tmp_path / "long.wav", chunk_seconds=2, overlap_seconds=0.5).frames[1]
    assert len(actual) == (100_000 - 400) // 320 + 1
    assert_close(torch.from_numpy(actual), torch.from_numpy(np.concatenate(expected)), "other graph")
    whole = encoder.encode_file(tmp_path / "long.wav").frames[1]
    assert_close(torch.from_numpy(whole), torch.from_numpy(encoder.encode(waveform).frames[1]), "other graph")


def test_joined_frames_are_those_of_the_recording():
    cutter, total = Cutter(frames=9, overlap=3), 100
    blocks = [np.arange(total * 320 + 80)[None]]
    pieces = [
        (start, (np.arange(start, start + (samples.shape[1] - 400) // 320 + 1),)) for start, samples in cutter.cut(blocks)
    ]
    assert len(pieces) > 10
    assert join_at_middles(pieces)[0].tolist() == [*range(total)]


def test_pooled_frames_are_means(files, tmp_path):
    folder = checkpoint(tmp_path / "model", PRE_LN)
    frames = Encoder.from_pretrained(folder, layers=[1, 3], **FAST)
    pooled = Encoder.from_pretrained(folder, layers=[1, 3], pool="mean", **FAST)
    for layer in (1, 3):
        expected = frames.encode_file(files[0]).frames[layer].astype(np.float64).mean(axis=0, keepdims=True)
        actual = pooled.encode_file(files[0]).frames[layer]
        assert actual.shape == (1, 48) and np.abs(actual - expected).max() < 1e-5


def test_each_channel_has_an_encoding(tmp_path):
    left, right = waveforms_of([8000, 8000])
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    encoder = Encoder.from_pretrained(checkpoint(tmp_path / "model", PRE_LN), layers=[1], **FAST)
    (result,) = encoder.encode_many([tmp_path / "stereo.wav"], channels="each")
    for encoding, waveform in zip(result.encodings, (left, right), strict=True):
        assert_close(torch.from_numpy(encoding.frames[1]), torch.from_numpy(encoder.encode(waveform).frames[1]), "other graph")
    with pytest.raises(ValueError, match="'mix' for one result, but is 'each': use encode_many"):
        encoder.encode_file(tmp_path / "stereo.wav", channels="each")


def test_float16_frames_and_their_limit(files, tmp_path):
    folder = checkpoint(tmp_path / "model", PRE_LN)
    exact = Encoder.from_pretrained(folder, layers=[2], **FAST).encode_file(files[0]).frames[2]
    half = Encoder.from_pretrained(folder, layers=[2], frame_dtype="float16", **FAST)
    frames = half.encode_file(files[0]).frames[2]
    assert frames.dtype == np.float16 and np.abs(frames - exact).max() <= 2**-11 * np.abs(exact).max()
    with torch.no_grad():
        half.model.hubert.encoder.layers[1].feed_forward.output_dense.bias.fill_(1e5)
    with pytest.raises(AudioError, match=r"beyond float16.*store frames as float32"):
        half.encode_file(files[0])
    with pytest.raises(RuntimeError, match="beyond float16"):
        half.encode(waveforms_of()[0])
    with torch.no_grad():
        half.model.hubert.encoder.layers[1].feed_forward.output_dense.bias.fill_(torch.nan)
    with pytest.raises(AudioError, match="outputs are not finite"):
        half.encode_file(files[0])


def test_frames_whose_sum_is_beyond_float16_are_finite(monkeypatch):
    """Pre-LN models have states of several hundred in most channels; only infinities and NaN are an error."""
    model = FrameModel(HubertModel(HubertConfig(**PRE_LN)), [1], centroids=Centroids(np.zeros((2, 48), np.float32)))
    states = torch.full((3, 48), 2000.0, dtype=torch.float16)
    states[1, 5], states[2, 6] = torch.inf, torch.nan
    outputs = PackedModelOutput(hidden_states=(states,))
    monkeypatch.setattr(model.hubert, "forward_packed", lambda *_, **__: outputs)
    assert model(None)[1].tolist() == [True, False, False]


def test_units_of_frames_that_are_not_finite_are_an_error(files, tmp_path):
    folder = checkpoint(tmp_path / "model", PRE_LN)
    frames = Encoder.from_pretrained(folder, layers=[2], **FAST)
    units = Encoder.from_pretrained(folder, kmeans=Centroids(np.eye(48, dtype=np.float32), frames.sources[0]), **FAST)
    assert units.encode_file(files[0]).units.max() < 48
    with torch.no_grad():
        units.model.hubert.encoder.layers[1].feed_forward.output_dense.bias.fill_(torch.inf)
    with pytest.raises(AudioError, match="outputs are not finite"):
        units.encode_file(files[0])


def test_projections(files, tmp_path):
    """`final_proj` of the checkpoint first, then that of the file of centroids."""
    folder = checkpoint(tmp_path / "model", PRE_LN)
    rng = np.random.default_rng(0)
    plain = Encoder.from_pretrained(folder, layers=[2], **FAST).encode_file(files[0]).frames[2]
    with pytest.raises(Exception, match=r"no final_proj.*--keep-final-proj"):
        Encoder.from_pretrained(folder, layers=[2], project=True, **FAST)
    weight, bias = rng.standard_normal((16, 48)).astype(np.float32), rng.standard_normal(16).astype(np.float32)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state |= {"final_proj.weight": torch.from_numpy(weight), "final_proj.bias": torch.from_numpy(bias)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    projected = Encoder.from_pretrained(folder, layers=[2], project=True, **FAST)
    actual = projected.encode_file(files[0]).frames[2]
    assert projected.channels == 16 and projected.sources[0].projection.startswith("final_proj ")
    assert_close(torch.from_numpy(actual), torch.from_numpy(plain @ weight.T + bias), "other graph")
    second = Projection(rng.standard_normal((5, 16)).astype(np.float32))
    centroids = Centroids(rng.standard_normal((7, 5)).astype(np.float32), projected.sources[0], second)
    units = Encoder.from_pretrained(folder, project=True, kmeans=centroids, **FAST).encode_file(files[0]).units
    distances = ((second(actual)[:, None] - centroids.values) ** 2).sum(-1)
    assert units.tolist() == distances.argmin(1).tolist() and len(set(units)) > 1
    taken = Encoder.from_pretrained(folder, kmeans=centroids, **FAST)
    assert taken.sources == projected.sources and taken.encode_file(files[0]).units.tolist() == units.tolist()


def test_centroids_of_another_model_layer_or_normalisation_are_refused(tmp_path):
    folder, other = checkpoint(tmp_path / "one", PRE_LN), checkpoint(tmp_path / "two", PRE_LN)
    source = Encoder.from_pretrained(folder, layers=[2], **FAST).sources[0]
    assert source == FrameSource(str(folder), source.fingerprint, 2, False, True)
    centroids = Centroids(np.eye(48, dtype=np.float32), source)
    assert Encoder.from_pretrained(folder, kmeans=centroids, **FAST).sources[0] == source
    raw = replace(source, normalize=False)
    assert Encoder.from_pretrained(folder, kmeans=replace(centroids, source=raw), **FAST).sources[0] == raw, (
        "taken from the file"
    )
    for name, options, message in (
        (other, {}, "the model is .*two, but the centroids were learnt with .*one"),
        (folder, dict(layers=[1]), "layer is 1, but the centroids were learnt on layer 2"),
        (folder, dict(normalize=False), "waveforms are not normalised"),
        (folder, dict(final_norm=True), "final norm is applied, but"),
    ):
        with pytest.raises(CentroidsError, match=message):
            Encoder.from_pretrained(name, kmeans=centroids, **options, **FAST)
    with pytest.raises(CentroidsError, match="for frames of 7 channels, but these frames have 48"):
        Encoder.from_pretrained(folder, kmeans=Centroids(np.eye(7, dtype=np.float32)), layers=[2], **FAST)
    unknown = Encoder.from_pretrained(folder, kmeans=Centroids(np.eye(48, dtype=np.float32)), layers=[2], **FAST)
    assert "not checked" in unknown.note


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(), "layers must name"),
        (dict(kmeans=Centroids(np.eye(48, dtype=np.float32))), "does not name theirs"),
        (dict(layers=[9]), "one is 9"),
        (dict(layers=[1], frame_dtype="bfloat16"), "float32 or float16, but is 'bfloat16'"),
        (dict(layers=[1], pool="max"), "frames or mean, but is 'max'"),
        (dict(layers=[1], merge=True), "merge applies to units"),
        (dict(layers=[1, 2], kmeans=Centroids(np.eye(48, dtype=np.float32))), r"layers are \[1, 2\]"),
        (dict(layers=[1], final_norm=True), "no final norm"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value) or "nothing",
)
def test_contradictory_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(checkpoint(tmp_path / "model", POST_LN), **options, **FAST)


def test_a_ctc_checkpoint_serves_and_bad_files_are_errors(tmp_path):
    encoder = Encoder.from_pretrained(demo.MODEL, layers=[-1], **FAST)
    (tmp_path / "bad.wav").write_text("no audio")
    recording = demo.recordings()[0].path
    results = {Path(result.utterance.audio).name: result for result in encoder.encode_many([recording, tmp_path / "bad.wav"])}
    assert "bad.wav" in results["bad.wav"].error and results["bad.wav"].encodings == ()
    assert encoder.layers == (encoder.model.config.num_hidden_layers,) and encoder.sources[0].model == "demo"
    assert [*results[recording.name].encodings[0].frames] == [*encoder.layers]
    with pytest.raises(ValueError, match="too short: 399 samples"):
        encoder.encode(np.zeros(399, np.float32))
