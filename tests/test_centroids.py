"""Test centroids: what their files keep, which frames they refuse, and what the fingerprint of a model depends on."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN
from small_models import model_of

from hubert_fast import HubertModel
from hubert_fast.units import Centroids, CentroidsError, FrameSource
from hubert_fast.units.codebook import Projection
from hubert_fast.units.frame_source import fingerprint

SOURCE = FrameSource("facebook/hubert-base-ls960", "ab12", 9, final_norm=False, normalize=False, projection=None)
TRAINING = {"clusters": "5", "seed": "3", "inertia per frame": "1.5"}


def values(rows=5, channels=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, channels)).astype(np.float32)


def projection(seed=1):
    rng = np.random.default_rng(seed)
    return Projection(rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal(4).astype(np.float32))


@pytest.mark.parametrize(
    "centroids",
    [
        Centroids(values()),
        Centroids(values(), SOURCE, training=TRAINING),
        Centroids(values(), replace(SOURCE, projection="final_proj", final_norm=True, normalize=True), projection(), TRAINING),
        Centroids(values(), projection=Projection(projection().weight)),
    ],
    ids=["alone", "source and training", "all", "projection without bias"],
)
def test_load_restores_what_save_wrote(tmp_path, centroids):
    centroids.save(tmp_path / "new" / "km.bin")  # the folder is created, and the name does not decide the format
    loaded = Centroids.load(tmp_path / "new" / "km.bin")
    np.testing.assert_array_equal(loaded.values, centroids.values)
    assert (loaded.source, loaded.training) == (centroids.source, centroids.training)
    assert (loaded.projection is None) == (centroids.projection is None)
    if centroids.projection is not None:
        np.testing.assert_array_equal(loaded.projection.weight, centroids.projection.weight)
        np.testing.assert_array_equal(loaded.projection(values(3, 6)), centroids.projection(values(3, 6)))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["km.bin"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "km.safetensors"
    Centroids(values()).save(path)

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        Centroids(values(seed=1)).save(path)
    np.testing.assert_array_equal(Centroids.load(path).values, values())
    assert [file.name for file in tmp_path.iterdir()] == ["km.safetensors"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": 6, "fingerprint": "cd34"}, r"layer is 6, but the centroids were learnt on layer 9: use"),
        ({"model": "other", "fingerprint": "cd34"}, r"the model is other, .* with facebook/hubert-base-ls960, whose weights"),
        ({"fingerprint": "cd34"}, r"the model is facebook/.*, but the centroids were learnt with other weights of that name"),
        ({"normalize": True}, r"waveforms are normalised .*, but .* that were not normalised"),
        ({"final_norm": True}, r"final norm is applied, but .* it was not applied"),
        ({"projection": "final_proj"}, r"the projection final_proj is applied .* learnt with no projection"),
    ],
    ids=["layer", "model", "fine-tuned in place", "normalisation", "final norm", "projection"],
)
def test_frames_of_another_source_are_refused(change, message):
    with pytest.raises(CentroidsError, match=message):
        Centroids(values(), SOURCE).check(replace(SOURCE, **change), 4)


def test_frames_of_the_same_source_are_accepted_under_another_name():
    assert Centroids(values(), SOURCE).check(replace(SOURCE, model="/copies/hubert"), 4) is None


def test_an_unknown_source_gives_a_note():
    assert "does not name their model and layer" in Centroids(values()).check(SOURCE, 4)
    assert "source of the frames is unknown" in Centroids(values(), SOURCE).check(None, 4)


@pytest.mark.parametrize("source", [SOURCE, None], ids=["known", "unknown"])
def test_another_number_of_channels_is_refused(source):
    with pytest.raises(CentroidsError, match=r"for frames of 4 channels.*, but these frames have 768: use the model"):
        Centroids(values(), source).check(source, 768)
    with pytest.raises(CentroidsError, match="for frames of 6 channels"):  # those before the projection
        Centroids(values(), source, projection()).check(source, 4)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3), np.int64), "must be floating-point numbers, but have dtype int64"),
        (np.zeros(3, np.float32), r"must have shape \[K, C\], each at least 1, but have shape \[3\]"),
        (np.zeros((0, 3), np.float32), r"but have shape \[0, 3\]"),
        (np.array([[0, 1], [np.nan, 0]], np.float32), "must be finite, but 1 of 2 rows are not, the first being 1"),
        (np.array([[1e300, 0.0]]), "must be finite"),
        ([[1.0]], "must be an array of numbers, but is a list"),
    ],
    ids=["integers", "one dimension", "no rows", "NaN", "beyond float32", "list"],
)
def test_values_are_validated(array, message):
    with pytest.raises(CentroidsError, match=message):
        Centroids(array)


def test_a_projection_must_fit():
    with pytest.raises(CentroidsError, match=r"must have 5 outputs, .* weights of shape \[4, 6\] and biases of shape \[4\]"):
        Centroids(values(3, 5), projection=projection())


def test_a_later_version_and_damaged_metadata_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "km.safetensors"
    save_file({"centroids": values()}, path, metadata={"format": "hubert_fast centroids", "version": "2"})
    with pytest.raises(CentroidsError, match=r"expected version 1 .* has version 2: update hubert_fast"):
        Centroids.load(path)
    metadata = {"format": "hubert_fast centroids", "version": "1", "source.model": "x"}
    save_file({"centroids": values()}, path, metadata=metadata)
    with pytest.raises(CentroidsError, match=r"metadata is damaged: .* must have the text 'fingerprint'"):
        Centroids.load(path)


@pytest.mark.parametrize("change", [{"layer": "-1"}, {"layer": "9.0"}, {"normalize": "yes"}], ids=str)
def test_malformed_sources_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        FrameSource.from_metadata({**SOURCE.to_metadata(), **change})


@pytest.mark.parametrize("architecture", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
class TestFingerprint:
    def test_neither_a_head_nor_later_layers_nor_the_dtype_matter(self, architecture):
        model = model_of(values=architecture)
        expected = fingerprint(model, 1)
        assert fingerprint(model.hubert, 1) == expected
        shorter = HubertModel(type(model.config)(**{**architecture, "num_hidden_layers": 1}))
        shorter.load_state_dict(model.hubert.state_dict(), strict=False)
        assert fingerprint(shorter, 1) == expected
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            assert fingerprint(model.to(dtype), 1) == expected, dtype

    def test_the_names_of_weight_norm_do_not_matter(self, architecture):
        model = model_of(HubertModel, architecture)
        expected, state = fingerprint(model, 1), model.state_dict()
        old = {
            key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): weight
            for key, weight in state.items()
        }
        assert old.keys() != state.keys()
        model.state_dict = lambda: old
        assert fingerprint(model, 1) == expected

    def test_weights_up_to_the_layer_matter_and_no_others(self, architecture):
        model = model_of(HubertModel, architecture)
        before = [fingerprint(model, layer) for layer in (0, 1, 2)]
        with torch.no_grad():
            model.encoder.layers[1].attention.q_proj.weight[0, 0] *= -1
        after = [fingerprint(model, layer) for layer in (0, 1, 2)]
        assert [old == new for old, new in zip(before, after)] == [True, True, False]

    def test_fine_tuning_matters(self, architecture):
        model = model_of(HubertModel, architecture)
        before = fingerprint(model, 2)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.01 * weight.std().nan_to_num(0) * torch.randn_like(weight)
        assert fingerprint(model, 2) != before

    def test_the_configuration_matters_where_the_layer_depends_on_it(self, architecture):
        model = model_of(HubertModel, architecture)
        before = [fingerprint(model, layer) for layer in (0, 1)]
        model.config.hidden_act = "relu"
        assert [fingerprint(model, layer) for layer in (0, 1)] == [before[0], fingerprint(model, 1)]
        assert fingerprint(model, 1) != before[1]

    def test_a_layer_that_the_model_lacks_is_refused(self, architecture):
        with pytest.raises(ValueError, match="layer must be from 0 to 3, the model's number of layers, but is 4"):
            fingerprint(model_of(HubertModel, architecture), 4)


def test_the_fingerprint_of_transformers_model_is_ours():
    transformers = pytest.importorskip("transformers", reason="compares with a model of transformers")
    config = transformers.HubertConfig(**{**PRE_LN, "num_hidden_layers": 2})
    theirs = transformers.HubertModel(config)
    ours = HubertModel(model_of(HubertModel, PRE_LN, num_hidden_layers=2).config)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert fingerprint(ours, 2) == fingerprint(theirs, 2)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, hubert_fast.units; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
