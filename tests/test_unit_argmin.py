"""Test the nearest centroid of each frame against scikit-learn, at ties, with NaN, in slices, and whatever PyTorch may round.

`tests/test_ops.py` compares the kernel with its definition in float64, and tests strides, errors and registration.
"""

import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hubert_fast import ops
from hubert_fast.tolerances import TEST_TOLERANCES

TOLERANCE = TEST_TOLERANCES["squared distance"].value


def has_triton():
    return importlib.util.find_spec("triton") is not None


needs_triton = pytest.mark.skipif(not has_triton(), reason="triton is not installed (it exists for Linux only)")
BACKENDS = pytest.mark.parametrize("backend", ["eager", pytest.param("triton", marks=needs_triton)])


def predicted(x, centroids):
    """Return what scikit-learn's k-means predicts, in float32."""
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about centroids that are equal
        model = cluster.KMeans(len(centroids), init=centroids.numpy(), n_init=1, max_iter=1).fit(centroids.numpy())
    model.cluster_centers_ = centroids.numpy()
    assert model.cluster_centers_.dtype == np.float32
    return torch.from_numpy(model.predict(x.numpy()))


def gap(x, centroids, units, others):
    """Return how much further each frame is from `units` than from `others`, as a share of the squares that were added up."""
    x, centroids = x.double(), centroids.double()
    distances = torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    size = (x.norm(dim=1, keepdim=True) + centroids.norm(dim=1)).square()

    def of(values, indices):
        return values.gather(1, indices.long()[:, None])[:, 0]

    return (of(distances, units) - of(distances, others)) / torch.maximum(of(size, units), of(size, others))


def random_frames(offset=0.0, channels=768):
    return torch.randn(300, channels) + offset, torch.randn(100, channels) + offset


def duplicated():
    x, centroids = random_frames()
    return x, centroids[:50].repeat(2, 1)


def nearly_midway():
    """Return frames between two centroids: half of all pairs differ by less than float32 can tell."""
    _, centroids = random_frames()
    first, second = torch.randint(100, (2, 300))
    return (centroids[first] + centroids[second]) / 2, centroids


FRAMES = {
    "random": random_frames,
    "random, 1280 channels": lambda: random_frames(channels=1280),
    "around 10": lambda: random_frames(10.0),
    "duplicated centroids": duplicated,
    "midway": nearly_midway,
}


@BACKENDS
@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_differs_from_scikit_learn_only_in_ties(make, backend):
    x, centroids = make()
    units, expected = ops.unit_argmin(x, centroids, backend=backend), predicted(x, centroids)
    nearest = ops.unit_argmin_eager(x.double(), centroids.double())
    assert gap(x, centroids, units, nearest).max() <= TOLERANCE
    assert gap(x, centroids, units, expected).abs().max() <= TOLERANCE
    if make not in (duplicated, nearly_midway):
        # the second nearest centroid would fail
        second = torch.cdist(x.double(), centroids.double()).topk(2, largest=False).indices[:, 1]
        assert (gap(x, centroids, second, nearest) > TOLERANCE).float().mean() > 0.95
        assert (units != expected).float().mean() < 0.01


@BACKENDS
def test_the_first_of_equal_distances_as_in_scikit_learn(backend):
    """Sums of small whole numbers are exact in any order, so that equal distances are equal in float32."""
    centroids = torch.randint(-4, 5, (150, 70)).float() * 2
    centroids[100:] = centroids[:50]
    first, second = torch.randint(150, (2, 200))
    x = (centroids[first] + centroids[second]) / 2
    distances = torch.cdist(x.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist").square().round()
    ties = (distances == distances.min(1, keepdim=True).values).sum(1)
    assert (ties > 1).sum() > 150
    units = ops.unit_argmin(x, centroids, backend=backend)
    assert torch.equal(units.long(), distances.argmin(1)) and (units < 100).all()
    assert torch.equal(units, predicted(x, centroids))
    assert not ops.unit_argmin(x, centroids[:1].expand(70, 70), backend=backend).any()


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nan_is_never_nearest(backend, dtype):
    nan, inf = float("nan"), float("inf")
    centroids = torch.tensor([[1, 0], [-1, 0], [nan, 0], [0, 2.0]])
    frames = {
        (nan, 0): 0, (nan, nan): 0, (0, 3): 3, (-2, 0): 1, (5, 0): 0,  # the third centroid wins nowhere
        (inf, 0): 0, (-inf, 0): 1, (0, inf): 3, (0, -inf): 0, (inf, inf): 0, (inf, -inf): 0,
    }  # fmt: skip
    x = torch.tensor(list(frames), dtype=dtype)
    with np.errstate(invalid="ignore"):
        actual = ops.unit_argmin(x, centroids, backend=backend)
    assert actual.tolist() == list(frames.values())
    # in the second block of centroids too
    with np.errstate(invalid="ignore"):
        actual = ops.unit_argmin(x, torch.cat((torch.full((64, 2), nan), centroids)), backend=backend)
    shifted = [unit + 64 if all(map(np.isfinite, frame)) or unit else unit for frame, unit in frames.items()]
    shifted[5] = 64  # (inf, 0)
    assert actual.tolist() == shifted


@BACKENDS
def test_products_overflow_to_infinity(backend):
    centroids = torch.tensor([[1.0, 1.0], [-2.0, 3.0], [3.0, 1.0]])
    with np.errstate(over="ignore"):
        units = ops.unit_argmin(torch.tensor([[0, 3e38], [3e38, 0]]), centroids, backend=backend)
    assert units.tolist() == [0, 0]  # 2 * 3e38 is infinite already, so that the first centroid is one of the nearest


class Products(TorchDispatchMode):
    """Record the shape and dtype of every product."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.addmm.default:
            self.seen.append((tuple(args[1].shape), args[1].dtype))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_definition_works_in_slices(dtype, monkeypatch):
    x, centroids = torch.randn(5, 21, 12).to(dtype), torch.randn(9, 12)
    expected = ops.unit_argmin_eager(x.double(), centroids.double())
    monkeypatch.setattr(importlib.import_module("hubert_fast.ops.unit_argmin"), "SLICE_BYTES", 4 * (12 + 9) * 50)
    with Products() as products:
        actual = ops.unit_argmin_eager(x, centroids)
    assert torch.equal(actual, expected) and actual.dtype == torch.int32
    assert products.seen == [((rows, 12), torch.float32) for rows in (50, 50, 5)]
    monkeypatch.setattr(importlib.import_module("hubert_fast.ops.unit_argmin"), "SLICE_BYTES", 1)
    assert torch.equal(ops.unit_argmin_eager(x, centroids), expected)  # a slice has one frame at least


def test_the_definition_compiles_and_exports_for_any_number_of_frames():
    class Call(torch.nn.Module):
        def forward(self, x, centroids):
            return ops.unit_argmin(x, centroids, backend="eager")

    x, centroids = torch.randn(30, 12), torch.randn(9, 12)
    frames = torch.export.Dim("frames", min=2)
    exported = torch.export.export(Call(), (x, centroids), dynamic_shapes=({0: frames}, None)).module()
    compiled = torch.compile(Call(), fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (30, 7, 50):
        x = torch.randn(rows, 12)
        expected = ops.unit_argmin_eager(x.double(), centroids.double())
        assert torch.equal(exported(x, centroids), expected) and torch.equal(compiled(x, centroids), expected)


@BACKENDS
def test_frames_that_require_a_gradient(backend):
    """An index has no gradient, so nothing stands in the way of the kernel."""
    x, centroids = torch.randn(20, 12, requires_grad=True), torch.randn(9, 12, requires_grad=True)
    units = ops.unit_argmin(x, centroids, backend=backend)
    assert torch.equal(units, ops.unit_argmin_eager(x.double(), centroids.double())) and not units.requires_grad


@BACKENDS
def test_autocast_changes_nothing(backend):
    x, centroids = random_frames()
    expected = ops.unit_argmin(x, centroids, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.unit_argmin(x, centroids, backend=backend), expected)


@pytest.mark.parametrize("setting", ["legacy high", "legacy medium", "matmul", "all"])
def test_products_are_never_rounded(setting):
    """Where PyTorch may round float32 products, the definition's are in float64. Settings cannot be mixed in one process."""
    if not setting.startswith("legacy") and not hasattr(torch.backends.mkldnn, "matmul"):
        pytest.skip("this PyTorch has only the legacy setting")
    statement = {
        "matmul": "torch.backends.mkldnn.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "all": "torch.backends.fp32_precision = 'tf32'",
    }.get(setting, f"torch.set_float32_matmul_precision({setting.rpartition(' ')[2]!r})")
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_unit_argmin import Products, ops, torch
from hubert_fast.ops.precision import may_round_products
def product():
    with Products() as products:
        ops.unit_argmin_eager(torch.randn(5, 12), torch.randn(9, 12))
    return products.seen[0][1]
assert product() == torch.float32 and not may_round_products("cuda")
{statement}
assert product() == torch.float64 and may_round_products("cuda")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
