"""Run `hubert-fast label`: features of a random sample, k-means, and the units of everything, one after the other."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..jobs.sinks import replace
from ..jobs.target import Paths
from .centroids import Centroids
from .command import run_features, run_kmeans, run_units
from .formats import UNITS

FINISHED = (EXIT_OK, EXIT_SOME_FAILED)


def run_label(options: argparse.Namespace) -> int:
    """Write the labels of the inputs; return the exit status."""
    if len(options.layer) != 1:
        raise CannotRunError(f"labels are the units of one layer, but --layer names {len(options.layer)}")
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise CannotRunError(f"{folder} is a file: name a folder")
    if options.shard is not None:
        raise CannotRunError(
            "--shard divides the inputs, but all labels need the same centroids: run label on one machine until "
            "kmeans.safetensors is there, then hubert-fast units --kmeans with --shard"
        )
    folder.mkdir(parents=True, exist_ok=True)
    sample, kmeans, labels = (
        folder / "sample",
        folder / "kmeans.safetensors",
        folder / f"labels.{UNITS.formats[options.format].suffix}",
    )
    if not options.overwrite and kmeans.exists():
        _check_clusters(kmeans, options.clusters)
    else:
        status = _learn(options, sample, kmeans)
        if status not in FINISHED:
            return status
    _tell(options, f"3 of 3: units of all inputs, in {labels}")
    status = run_units(_with(options, output=str(labels), kmeans=str(kmeans), speaker=None))
    if status not in FINISHED:
        return status
    if options.format == "km":  # fairseq reads the number of labels from it; the counts are not used
        replace(folder / "dict.km.txt", "".join(f"{unit} 1\n" for unit in range(options.clusters)))
    if not options.keep_sample:
        _remove(sample)
    return status


def _learn(options: argparse.Namespace, sample: Path, kmeans: Path) -> int:
    """Write the features of the sample and the centroids, or whatever is missing of them; return the exit status."""
    if options.overwrite:
        kmeans.unlink(missing_ok=True)
    if options.overwrite or not _is_complete(sample):
        _tell(options, f"1 of 3: features of a sample of {options.frames:,} frames, in {sample}")
        status = run_features(
            _with(
                options, output=str(sample), format="shards", frame_dtype="float16", pool="frames", shard_megabytes=1000.0,
                sample_frames=options.frames, ordered=False,
            )
        )  # fmt: skip
        if status not in FINISHED:
            return status
    _tell(options, f"2 of 3: {options.clusters} centroids, in {kmeans}")
    return run_kmeans(_with(options, frames_paths=[str(sample)], output=str(kmeans), frames=None, layer=None))


def _with(options: argparse.Namespace, **values: object) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **values})


def _tell(options: argparse.Namespace, message: str) -> None:
    if not options.quiet:
        say(message)


def _is_complete(sample: Path) -> bool:
    try:
        return bool(json.loads(Paths(sample).summary.read_text(encoding="utf-8"))["complete"])
    except (OSError, ValueError, KeyError):
        return False


def _check_clusters(kmeans: Path, clusters: int) -> None:
    try:
        found = Centroids.load(kmeans).clusters
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    if found != clusters:
        raise CannotRunError(f"{kmeans} has {found} centroids, but --clusters is {clusters}: --overwrite begins anew")


def _remove(sample: Path) -> None:
    paths = Paths(sample)
    for path in (paths.journal, paths.errors, paths.summary):
        path.unlink(missing_ok=True)
    shutil.rmtree(sample, ignore_errors=True)
