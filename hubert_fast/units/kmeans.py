"""Learn centroids from more frames than fit in memory, with scikit-learn's `MiniBatchKMeans`.

k-means++ on a uniform sample gives the first centroids. Then each epoch passes over all frames in mini-batches (Sculley 2010,
"Web-scale k-means clustering"), each of which consists of blocks from random places, since consecutive frames are alike.

Differences to fairseq's `learn_kmeans.py`, which loads everything and calls `fit`:

- Each epoch begins with new counts, so that it averages the frames that it assigns and forgets those that earlier epochs
  assigned to worse centroids. From the same start, inertia falls further per epoch, and the state between epochs is nothing
  but the centroids.
- One start of greedy k-means++, as is scikit-learn's default; fairseq takes the best of 20.
- As in fairseq, `reassignment_ratio` is 0, so that rare centroids are kept: speech has rare sounds, and much silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..jobs.sinks import replace
from .centroids import Centroids
from .codebook import CentroidsError, digest
from .frame_source import FrameSource
from .frames import ArrayFrames, Frames

BLOCK_ROWS = 1024  # 20 s of audio: 1.5 MB in float16
BATCH_ROWS = 16 * BLOCK_ROWS  # fairseq: 10,000
BATCH_ROWS_PER_CLUSTER = 20  # at least: the first batch of an epoch replaces the centroids
SAMPLE_ROWS = 32_768  # fairseq: 30,000
SAMPLE_ROWS_PER_CLUSTER = 32
MOST_SEED = 2**32 - 1  # NumPy's RandomState, and so scikit-learn, takes no larger one
LARGEST_VALUE = 1e15  # the sum of the squares of 1e6 of them is far from float32's largest number, 3e38
SAMPLE = "sample of frames"  # its digest in the state of learning
INSTALL = "learning centroids needs scikit-learn: pip install 'hubert_fast[units]'"


class Step(NamedTuple):
    """What learning has done, for a display.

    Attributes:
        epoch: The number of the current epoch, beginning at 1; 0 while the first centroids are chosen.
        frames: The frames of this epoch that have been processed.
        total: The frames of an epoch.
        inertia: The mean squared distance of a sampled frame to its centroid, at the end of an epoch; otherwise `None`.
    """

    epoch: int
    frames: int
    total: int
    inertia: float | None = None


def learn(
    frames: Frames | np.ndarray,
    clusters: int,
    *,
    seed: int = 0,
    epochs: int = 20,
    tolerance: float = 1e-3,
    limit: int | None = None,
    progress: Callable[[Step], None] | None = None,
    state: Path | None = None,
    source: FrameSource | None = None,
) -> Centroids:
    """Learn centroids. The result is the same for the same frames, arguments, versions and machine.

    Memory is bounded by a sample of 32,768 frames or 32 per cluster and a batch of 16,384 frames or 20 per cluster.

    Args:
        frames: The frames: a `FrameReader`, or an array `[N, C]`.
        clusters: The number of centroids, K.
        seed: The seed of all random choices, from 0 to 2**32 - 1.
        epochs: The largest number of passes over the frames.
        tolerance: Learning ends when an epoch lowers the inertia of the sample by less than this share.
        limit: The least number of frames that the epochs use, chosen at random in blocks of 1,024; `None` for all.
        progress: Called after each batch and each epoch.
        state: A file that receives the state after each epoch. If it exists, learning continues from there.
        source: Where the frames come from, to be kept with the centroids; by default what the frames say.

    Raises:
        CentroidsError: There are fewer frames than clusters, frames are not finite or too large for float32, the state is of
            another run, or scikit-learn is not installed.
        TypeError: A number that must be an integer is not.
        ValueError: An argument is out of range.
    """
    check_arguments(clusters, seed, epochs, tolerance, limit)
    frames = frames if isinstance(frames, Frames) else ArrayFrames(frames)
    available = frames.count if limit is None else min(limit, frames.count)
    if available < clusters:
        raise CentroidsError(
            f"{clusters} clusters need at least as many frames, but there are only {available}: use fewer clusters"
        )
    _, total = frames.chosen(BLOCK_ROWS, seed, limit)
    report = progress or (lambda step: None)
    sample = frames.sample(max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * clusters), seed)
    largest = float(np.abs(sample).max())
    if largest > LARGEST_VALUE:
        raise CentroidsError(f"values must be at most {LARGEST_VALUE:g}, whose squares fit float32, but one is {largest:g}")
    source = source or frames.source
    settings = {
        "clusters": str(clusters),
        "frames": str(total),
        "seed": str(seed),
        "algorithm": "MiniBatchKMeans, counts per epoch",
        "scikit-learn": _scikit_learn_version(),
    }
    identity = {**settings, "frames' origin": _origin(source), SAMPLE: digest(sample)}
    learnt = _State.load(state, identity, (clusters, frames.channels))
    if learnt is None:
        report(Step(0, 0, total))
        values = _first_centroids(sample, clusters, seed)
        learnt = _State(values, [_inertia(sample, values)])
    while learnt.epoch < epochs and not learnt.has_converged(tolerance):
        values = _run_epoch(frames, learnt, seed, limit, total, report)
        inertia = _inertia(sample, values)
        if inertia < learnt.inertias[-1]:
            learnt = _State(values, [*learnt.inertias, inertia])
        else:  # the order of an epoch can make centroids slightly worse: the better ones are kept, and learning ends
            learnt = _State(learnt.values, [*learnt.inertias, learnt.inertias[-1]])
        learnt.save(state, identity)
        report(Step(learnt.epoch, total, total, learnt.inertias[-1]))
    training = {
        **settings,
        "epochs": str(learnt.epoch),
        "inertia per frame": f"{learnt.inertias[-1]:.6g}",
        "numpy": np.__version__,
        "hubert_fast": _own_version(),
    }
    return Centroids(learnt.values, source, training=training)


def check_arguments(clusters: int, seed: int, epochs: int, tolerance: float = 0.0, limit: int | None = None) -> None:
    """Check the arguments of `learn`. Raises `TypeError` or `ValueError`, which says what was expected and what came."""
    for name, value, least in (("clusters", clusters, 1), ("epochs", epochs, 1), ("limit", limit, 1), ("seed", seed, 0)):
        if value is not None and not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, but is {value!r}")
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, but is {value}")
    if seed > MOST_SEED:
        raise ValueError(f"seed must be at most {MOST_SEED}, but is {seed}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, but is {tolerance}")


def _origin(source: FrameSource | None) -> str:
    if source is None:
        return "unknown"
    return f"layer {source.layer} of {source.model}, {digest(json.dumps(source.to_metadata()).encode())}"


class _State(NamedTuple):
    """The centroids after an epoch, and the inertia of the sample before the first epoch and after each."""

    values: np.ndarray
    inertias: list[float]

    @property
    def epoch(self) -> int:
        return len(self.inertias) - 1

    def has_converged(self, tolerance: float) -> bool:
        return self.epoch > 0 and self.inertias[-1] >= self.inertias[-2] * (1 - tolerance)

    def save(self, path: Path | None, settings: dict[str, str]) -> None:
        if path is not None:
            from safetensors.numpy import save

            metadata = {"settings": json.dumps(settings), "inertias": json.dumps(self.inertias)}
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, save({"centroids": self.values}, metadata=metadata), is_synced=True)

    @classmethod
    def load(cls, path: Path | None, settings: dict[str, str], shape: tuple[int, int]) -> _State | None:
        """Return the state in a file, or `None` without one. Raises `CentroidsError` if it is of another run or damaged."""
        if path is None or not path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata, values = file.metadata() or {}, file.get_tensor("centroids")
            found, inertias = json.loads(metadata["settings"]), json.loads(metadata["inertias"])
        except (SafetensorError, OSError, ValueError, KeyError):
            raise CentroidsError(f"{path} is not a complete state of learning: remove it to begin anew") from None
        changes = {
            key: f"{key} is {value} (was {found.get(key)})" for key, value in settings.items() if found.get(key) != value
        }
        of_sample = changes.pop(SAMPLE, None)
        differing = [*changes.values()]
        if values.shape[1] != shape[1]:
            differing.insert(0, f"the frames have {shape[1]} channels (had {values.shape[1]})")
        if not differing and of_sample is not None:  # otherwise a consequence of another seed, and the like
            differing.append(of_sample)
        if differing:
            raise CentroidsError(f"{path} is the state of another run: {', '.join(differing)}: remove it to begin anew")
        return cls(values, inertias)


def _first_centroids(sample: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Return frames that greedy k-means++ chooses of the sample (Arthur and Vassilvitskii 2007).

    Each is the best of a few that are drawn with probabilities proportional to the squared distance to the nearest chosen one.
    scikit-learn's `kmeans_plusplus` converts the sample to float64 at each step, which takes several times longer.
    """
    rng = np.random.default_rng([seed, clusters])
    norms = np.einsum("nc,nc->n", sample, sample)
    nearest = np.full(len(sample), np.inf, np.float32)  # squared distances
    candidates = rng.integers(len(sample), size=1)
    chosen = np.empty(clusters, np.int64)
    for k in range(clusters):
        distances = norms[:, None] - 2 * (sample @ sample[candidates].T) + norms[candidates]
        np.minimum(np.maximum(distances, 0, out=distances), nearest[:, None], out=distances)
        best = int(distances.sum(axis=0, dtype=np.float64).argmin())
        chosen[k], nearest = candidates[best], distances[:, best].copy()
        cumulative = np.cumsum(nearest, dtype=np.float64)
        draws = rng.random(2 + int(np.log(clusters))) * cumulative[-1]
        candidates = np.searchsorted(cumulative, draws, side="right").clip(max=len(sample) - 1)
    return sample[chosen]


def _run_epoch(
    frames: Frames, learnt: _State, seed: int, limit: int | None, total: int, report: Callable[[Step], None]
) -> np.ndarray:
    """Return the centroids after another pass over the frames."""
    estimator = _scikit_learn().MiniBatchKMeans(
        len(learnt.values), init=learnt.values, n_init=1, reassignment_ratio=0.0, compute_labels=False, random_state=seed
    )
    done, epoch = 0, learnt.epoch + 1
    batch_rows = max(BATCH_ROWS, BATCH_ROWS_PER_CLUSTER * len(learnt.values))
    for batch in _batches(frames.blocks(BLOCK_ROWS, seed, epoch, limit), batch_rows, frames.channels):
        estimator.partial_fit(batch)
        done += len(batch)
        report(Step(epoch, min(done, total), total))
    return np.ascontiguousarray(estimator.cluster_centers_, dtype=np.float32)


def _batches(blocks: Iterator[np.ndarray], rows: int, channels: int) -> Iterator[np.ndarray]:
    """Yield batches of at least `rows` frames, the last one excepted, each valid until the next one."""
    buffer, filled = np.empty((rows + BLOCK_ROWS, channels), np.float32), 0
    for block in blocks:
        buffer[filled : filled + len(block)] = block
        filled += len(block)
        if filled >= rows:
            yield buffer[:filled]
            filled = 0
    if filled:
        yield buffer[:filled]


def _inertia(sample: np.ndarray, values: np.ndarray) -> float:
    """Return the mean squared distance of a frame to its nearest centroid."""
    centre = values.mean(axis=0)  # distances stay the same, and lose fewer digits if all frames have a common offset
    values = values - centre
    norms = np.einsum("kc,kc->k", values, values)
    total = 0.0
    for start in range(0, len(sample), 4096):
        part = sample[start : start + 4096] - centre
        nearest = (norms - 2 * part @ values.T).min(axis=1) + np.einsum("nc,nc->n", part, part)
        total += float(np.maximum(nearest, 0).sum(dtype=np.float64))
    return total / len(sample)


def _scikit_learn() -> Any:
    try:
        from sklearn import cluster
    except ImportError:
        raise CentroidsError(INSTALL) from None
    return cluster


def _scikit_learn_version() -> str:
    _scikit_learn()
    return version("scikit-learn")


def _own_version() -> str:
    from .. import __version__

    return __version__
