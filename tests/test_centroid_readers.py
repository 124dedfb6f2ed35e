"""Test the readers of centroids: every published layout by its content, damaged and hostile files, and that no code is run."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import sys
import types
import zlib

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from hubert_fast.units import Centroids, CentroidsError
from hubert_fast.units.inert_joblib import load_inert_joblib

FRAMES = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
MODELS = {
    "KMeans": KMeans(4, n_init=1, random_state=0).fit(FRAMES),
    "MiniBatchKMeans": MiniBatchKMeans(4, n_init=1, random_state=0).fit(FRAMES),
    "float64": KMeans(4, n_init=1, random_state=0).fit(FRAMES.astype(np.float64)),
}
VALUES = MODELS["KMeans"].cluster_centers_


def load(tmp_path, content: bytes, speaker=None) -> Centroids:
    (tmp_path / "centroids").write_bytes(content)
    return Centroids.load(tmp_path / "centroids", speaker)


def dumped(value, **options) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


def saved(value, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def numpy_file(*arrays, **named) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named) if named else np.save(file, *arrays)
    return file.getvalue()


def layout(values=VALUES) -> dict:
    return {"n_features_in_": 6, "_n_threads": 4, "cluster_centers_": values}


FILES = {
    f"{model}, {dump.__name__}, protocol {protocol}": (dump(MODELS[model], protocol=protocol), MODELS[model].cluster_centers_)
    for model in MODELS
    for dump in (pickle.dumps, dumped)
    for protocol in range(6)
}


@pytest.mark.parametrize("content, expected", FILES.values(), ids=FILES)
def test_objects_of_scikit_learn_are_read_without_it(tmp_path, monkeypatch, content, expected):
    for name in [name for name in sys.modules if name.split(".")[0] in ("sklearn", "joblib")]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    np.testing.assert_array_equal(load(tmp_path, content).values, expected.astype(np.float32))


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bz2", "lzma", "xz"])
@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_compressed_joblib(tmp_path, compression, level):
    content = dumped(MODELS["MiniBatchKMeans"], compress=(compression, level))
    np.testing.assert_array_equal(load(tmp_path, content).values, MODELS["MiniBatchKMeans"].cluster_centers_)
    with pytest.raises(CentroidsError, match=r"cut off|damaged"):
        load(tmp_path, content[: len(content) // 2])


@pytest.mark.parametrize("dump", [pickle.dumps, dumped], ids=["pickle", "joblib"])
@pytest.mark.parametrize(
    "array", [np.asfortranarray(VALUES), VALUES.astype(">f4"), VALUES.astype("<f8"), VALUES[::-1]],
    ids=["Fortran order", "big endian", "float64", "negative stride"],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_layouts_of_arrays(tmp_path, dump, array, protocol):
    np.testing.assert_array_equal(load(tmp_path, dump({"centroids": array, "k": 4}, protocol=protocol)).values, array)
    np.testing.assert_array_equal(load(tmp_path, dump(array, protocol=protocol)).values, array)


def test_arrays_in_fortran_order(tmp_path):
    file = io.BytesIO()
    np.save(file, np.asfortranarray(VALUES))
    np.testing.assert_array_equal(load(tmp_path, file.getvalue()).values, VALUES)


def without_padding(content: bytes) -> bytes:
    """Return a file of joblib as versions before 1.2 wrote it: without an alignment, and without padding before the bytes."""
    setting = b"\x8c\x1bnumpy_array_alignment_bytes\x94K\x10"
    start = content.index(setting)
    data = content.index(VALUES.tobytes())
    content = content[:data].rstrip(b"\xff")[:-1] + content[data:]
    content = content.replace(setting, setting[:-2] + b"N", 1)  # None
    (size,) = struct.unpack("<Q", content[3:11])
    assert start < 11 + size  # the setting is in the first frame, which is one byte shorter now
    return content[:3] + struct.pack("<Q", size - 1) + content[11:]


def test_joblib_before_padding(tmp_path):
    content = without_padding(dumped(VALUES, protocol=4))
    np.testing.assert_array_equal(load(tmp_path, content).values, VALUES)


def test_names_of_columns_beside_the_centroids_do_not_matter(tmp_path):
    model = KMeans(4, n_init=1).fit(FRAMES)
    model.feature_names_in_ = np.array([f"c{i}" for i in range(6)], dtype=object)
    for content in (dumped(model), pickle.dumps(model)):
        np.testing.assert_array_equal(load(tmp_path, content).values, model.cluster_centers_)


@pytest.mark.parametrize(
    "content",
    [
        saved(layout(torch.from_numpy(VALUES))),
        saved(layout()),
        saved(layout(), _use_new_zipfile_serialization=False),
        saved(torch.from_numpy(VALUES)),
        saved({"C": torch.from_numpy(VALUES.T.copy()), "Cnorm": torch.from_numpy((VALUES**2).sum(1)[None])}),
        saved({"model": {"codebook": torch.from_numpy(VALUES)}}),
        saved({"speaker": layout()}),
        numpy_file(VALUES),
        numpy_file(centers=VALUES, labels=np.arange(200), counts=np.ones((4, 1))),
        numpy_file(anything=VALUES, labels=np.arange(200)),
        dumped({"kmeans": MODELS["KMeans"]}),
    ],
    ids=[
        "hubert-soft",
        "so-vits-svc's arrays",
        "torch before 1.6",
        "tensor",
        "ApplyKmeans' buffers",
        "nested codebook",
        "one speaker",
        "npy",
        "npz by name",
        "npz by shape",
        "object in a dictionary",
    ],
)
def test_other_layouts(tmp_path, content):
    np.testing.assert_array_equal(load(tmp_path, content).values, VALUES)


def test_bfloat16_and_foreign_safetensors(tmp_path):
    from safetensors.torch import save

    values = torch.from_numpy(VALUES).bfloat16()
    np.testing.assert_array_equal(load(tmp_path, save({"x": values, "n": torch.ones(3)})).values, values.float().numpy())


def test_speakers(tmp_path):
    content = saved({"anna": layout(), 7: layout(VALUES + 1)})
    np.testing.assert_array_equal(load(tmp_path, content, "anna").values, VALUES)
    np.testing.assert_array_equal(load(tmp_path, content, "7").values, VALUES + 1)
    with pytest.raises(CentroidsError, match="holds the centroids of 2 speakers: choose one of anna, 7"):
        load(tmp_path, content)
    with pytest.raises(CentroidsError, match="has no speaker 'ben': choose one of anna, 7"):
        load(tmp_path, content, "ben")
    for single in (saved(layout()), numpy_file(VALUES)):
        with pytest.raises(CentroidsError, match="one set of centroids, without a speaker: leave out the speaker 'ben'"):
            load(tmp_path, single, "ben")


# files that are none


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "an HTML page, not centroids"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1500000\n", "git lfs pull"),
        (b"\x00\x01\x02\x03garbage", "expected centroids, in a file of .* begins with the bytes 00 01 02 03"),
        (b"RIFF\0\0\0\0WAVEfmt ", "centroids"),
        (pickle.dumps(KMeans(4)), "holds an object of the class sklearn.cluster._kmeans.KMeans with n_clusters"),
        (pickle.dumps({"a": 1}), "it holds a dictionary with a"),
        (pickle.dumps([1]), "it holds a list"),
        (pickle.dumps({"cluster_centers_": "x"}), "its cluster_centers_ must be an array of numbers, but is a str"),
        (pickle.dumps(np.array([[1, "a"]], object)), "array of Python objects"),
        (dumped(np.array([[1, "a"]], object)), "array of Python objects"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "array of dtype 'V4': expected numbers"),
        (pickle.dumps(np.zeros((2, 2), complex)), "array of dtype 'c16': expected numbers"),
        (pickle.dumps(np.zeros((2, 2), np.int32)), "must be floating-point numbers, but have dtype int32"),
        (numpy_file(np.array([[1, "a"]], object)), "must hold a floating-point array"),
        (numpy_file(VALUES)[:-1], "is cut off"),
        (numpy_file(x=np.array([[1, "a"]], object)), "arrays cannot be read"),
        (numpy_file(x=VALUES)[:-30], "cut off or damaged"),
        (numpy_file(x=VALUES, y=VALUES), "it holds a dictionary with x, y"),
        (saved({"state": 1}), "holds a dictionary with state"),
        (saved(layout())[:-20], "cut off or damaged"),
        (pickle.dumps(MODELS["KMeans"])[:-200], "cut off or damaged"),
        (dumped(MODELS["KMeans"])[:-200], "cut off or damaged"),
        (dumped(VALUES)[:-20], "cut off or damaged"),
        (b"ZF0x2a               x", "version of joblib before 0.10"),
        (b"IxXX" + struct.pack("<i", 6) + bytes(30), "faiss"),
    ],
    ids=[
        "empty",
        "HTML",
        "Git LFS",
        "garbage",
        "WAV",
        "not fitted",
        "pickled dictionary",
        "pickled list",
        "centroids that are text",
        "pickled objects",
        "joblib objects",
        "structured",
        "complex",
        "integers",
        "npy of objects",
        "npy cut off",
        "npz of objects",
        "npz cut off",
        "npz with two candidates",
        "torch without arrays",
        "torch cut off",
        "pickle cut off",
        "joblib cut off",
        "joblib array cut off",
        "joblib 0.9",
        "damaged faiss",
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(CentroidsError, match=message) as info:
        load(tmp_path, content)
    assert str(tmp_path / "centroids") in str(info.value) and "\n" not in str(info.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CentroidsError, match="No such file"):
        Centroids.load(tmp_path / "absent")
    with pytest.raises(CentroidsError, match="it is a folder: expected a file"):
        Centroids.load(tmp_path)


class Hostile:
    """Pickle as a call that creates a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": Hostile(os.system, "touch executed"),
    "eval": Hostile(eval, "open('executed', 'w')"),
    "exec": Hostile(exec, "open('executed', 'w')"),
    "os.mkdir": Hostile(os.mkdir, "executed"),
}


@pytest.mark.parametrize("dump", [pickle.dumps, dumped, saved], ids=["pickle", "joblib", "torch"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_no_call_in_a_pickle_is_made(tmp_path, monkeypatch, dump, hostile):
    monkeypatch.chdir(tmp_path)
    contents = [dump({"cluster_centers_": hostile})]
    if dump is not saved:
        contents += [compress(contents[0]) for compress in (zlib.compress, gzip.compress, bz2.compress, lzma.compress)]
    for content in contents:
        with pytest.raises(CentroidsError, match="its cluster_centers_ must be an array of numbers, but is an object"):
            load(tmp_path, content)
    beside = dump({"cluster_centers_": VALUES, "other": hostile, "array": {"state": hostile}})
    np.testing.assert_array_equal(load(tmp_path, beside).values, VALUES)
    assert not (tmp_path / "executed").exists()


def test_no_module_that_a_pickle_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("open('executed', 'w')\ndef function(): pass")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CentroidsError, match=r"object of the class hostile_module\.function"):
        load(tmp_path, b"\x80\x04\x8c\x0ehostile_module\x8c\x08function\x93)R.")
    assert not (tmp_path / "executed").exists() and "hostile_module" not in sys.modules


DTYPE = b"U\x05dtypecnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def stream(shape: bytes, dtype: bytes = DTYPE, name: bytes = b"NumpyArrayWrapper") -> bytes:
    """Return a stream of joblib with an array of 64 bytes, whose shape and dtype are these opcodes."""
    state = b"U\x05shape" + shape + b"U\x05orderU\x01C" + dtype
    return b"\x80\x02cjoblib.numpy_pickle\n" + name + b"\n)\x81}(" + state + b"ub" + bytes(64) + b"."


@pytest.mark.parametrize(
    "content, message",
    [
        (stream(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"), "cut off"),
        (stream(b"J\xff\xff\xff\xffK\x02\x86"), "not a tuple of sizes"),
        (stream(b"K\x02"), "not a tuple of sizes"),
        (stream(b"K\x02K\x02\x86", dtype=b""), "whose dtype is missing"),
        (stream(b"K\x02K\x02\x86", name=b"NDArrayWrapper"), "version of joblib before 0.10"),
        (b"\x80\x02(cos\nsystem\nU\x0etouch executed\x85R}b.", "object of the class os.system"),
        (b"\x80\x02}U\x01xU\x01y\x86b.", "damaged"),
        (b"\x80\x02\x82\x01.", "registry of extensions"),
        (b"\x80\x02U\x01aQ.", "damaged"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged|cut off"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged|cut off"),
        (b"\x80\x02(", "damaged"),
    ],
    ids=[
        "huge shape",
        "negative size",
        "shape is a number",
        "no dtype",
        "old joblib",
        "state of a call",
        "attributes of a dictionary",
        "extension",
        "persistent id",
        "huge frame",
        "huge bytes",
        "no end",
    ],
)
def test_hostile_streams(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CentroidsError, match=message):
        load(tmp_path, content)
    assert not (tmp_path / "executed").exists()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hubert_fast.units.inert_joblib.MAX_BYTES", 1 << 20)
    with pytest.raises(CentroidsError, match="when decompressed: expected centroids alone"):
        load(tmp_path, zlib.compress(bytes(1 << 22)))


def test_random_damage_raises_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    for content in (pickle.dumps(MODELS["KMeans"]), dumped(MODELS["KMeans"])):
        for _ in range(300):
            damaged = bytearray(content)
            for position in rng.integers(0, len(damaged), 3):
                damaged[position] = rng.integers(0, 256)
            try:
                load_inert_joblib(bytes(damaged))
                load(tmp_path, bytes(damaged))
            except CentroidsError:
                pass


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss-cpu is not installed")


def transforms_of(faiss, index):
    chain = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    return [] if chain is None else [faiss.downcast_VectorTransform(chain.at(number)) for number in range(chain.size())]


def indexed(faiss, description: str, channels=16):
    frames = np.random.default_rng(2).standard_normal((1000, channels)).astype(np.float32)
    index = faiss.index_factory(channels, description)
    for transform in transforms_of(faiss, index):
        if isinstance(transform, faiss.OPQMatrix):
            transform.niter = transform.niter_pq = transform.niter_pq_0 = 1  # 50 take seconds
    index.train(frames)
    index.add(frames[:10])
    return index, frames


@pytest.mark.parametrize("description", ["OPQ4_8,IVF12_HNSW32,PQ4x4fsr", "IVF12,Flat", "PCA8,RR6,IVF12,Flat", "PCAR6,Flat"])
def test_faiss_units_are_those_of_the_index(tmp_path, faiss, description):
    index, frames = indexed(faiss, description)
    faiss.write_index(index, str(tmp_path / "km"))
    centroids = Centroids.load(tmp_path / "km")
    assert centroids.channels == 16
    transformed = frames
    for transform in transforms_of(faiss, index):
        transformed = transform.apply_py(transformed)
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    quantizer = inner.quantizer if isinstance(inner, faiss.IndexIVF) else inner
    expected = quantizer.search(transformed, 1)[1][:, 0]
    projected = frames if centroids.projection is None else centroids.projection(frames)
    np.testing.assert_allclose(projected, transformed, atol=1e-5)
    distances = ((projected[:, None] - centroids.values) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), expected)  # HNSW finds all of so few centroids


@pytest.mark.parametrize("description, message", [("HNSW8", "expected an IVF or flat"), ("L2norm,IVF12,Flat", "only linear")])
def test_other_faiss_indices_are_refused(tmp_path, faiss, description, message):
    faiss.write_index(indexed(faiss, description)[0], str(tmp_path / "km"))
    with pytest.raises(CentroidsError, match=message):
        Centroids.load(tmp_path / "km")
    faiss.write_index(faiss.IndexFlatIP(4), str(tmp_path / "km"))
    with pytest.raises(CentroidsError, match="must use Euclidean distance"):
        Centroids.load(tmp_path / "km")


def test_without_faiss_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CentroidsError, match="pip install faiss-cpu"):
        load(tmp_path, b"IxPT" + struct.pack("<i", 768) + bytes(30))


def test_without_lz4_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lz4", types.ModuleType("lz4"))
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(CentroidsError, match="compressed with lz4, which Python cannot read: pip install lz4"):
        load(tmp_path, b"\x04\x22\x4d\x18" + bytes(30))
