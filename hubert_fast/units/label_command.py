"""Run `hubert-fast label`: features of a random sample, k-means, and the units of everything, one after the other."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..console import EXIT_OK, EXIT_SOME_FAILED, CannotRunError, say
from ..jobs.formats import check_format
from ..jobs.sinks import replace
from ..jobs.target import Paths
from .centroids import Centroids
from .command import NO_DURATIONS, run_features, run_kmeans, run_units
from .formats import UNITS
from .kmeans import check_arguments

DICTIONARY = "dict.km.txt"
FINISHED = (EXIT_OK, EXIT_SOME_FAILED)


def run_label(options: argparse.Namespace) -> int:
    """Write the labels of the inputs; return the exit status."""
    _check(options)
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise CannotRunError(f"{folder} is a file: name a folder")
    sample, kmeans, labels = folder / "sample", folder / "kmeans.safetensors", _labels(folder, options.format)
    folder.mkdir(parents=True, exist_ok=True)
    if options.overwrite:  # of all steps, so that the next run, without --overwrite, finds only what this one has written
        for output in (sample, *(_labels(folder, format) for format in UNITS.formats)):
            _remove(output)
        for path in (kmeans, kmeans.with_name(f"{kmeans.name}.state"), folder / DICTIONARY):
            path.unlink(missing_ok=True)
    if kmeans.exists():
        _check_centroids(kmeans, options)
        _tell(options, f"1 and 2 of 3 are done: the centroids in {kmeans} are used")
    else:
        status = _learn(options, sample, kmeans)
        if status not in FINISHED:
            return status
    _tell(options, f"3 of 3: units of all inputs, in {labels}")
    status = run_units(_with(options, output=str(labels), kmeans=str(kmeans), speaker=None))
    if status not in FINISHED:
        return status
    if options.format == "km":  # fairseq reads the number of labels from it; the counts are not used
        replace(folder / DICTIONARY, "".join(f"{unit} 1\n" for unit in range(options.clusters)))
    if not options.keep_sample:
        _remove(sample)
    return status


def _labels(folder: Path, format: str) -> Path:
    suffix = UNITS.formats[format].suffix
    return folder / (f"labels.{suffix}" if suffix else "labels")


def _check(options: argparse.Namespace) -> None:
    """Raise `CannotRunError` for what the last step would refuse, hours later."""
    if len(options.layer) != 1:
        raise CannotRunError(f"labels are the units of one layer, but --layer names {len(options.layer)}")
    if options.shard is not None:
        raise CannotRunError(
            "--shard divides the inputs, but all labels need the same centroids: run label on one machine until "
            "kmeans.safetensors is there, then hubert-fast units --kmeans with --shard"
        )
    if options.format == "km" and options.merge:
        raise CannotRunError(NO_DURATIONS)
    try:
        check_arguments(options.clusters, options.seed, options.epochs)
        check_format(options.format, UNITS.formats[options.format], options.channels, options.retry_failed)
    except ValueError as error:
        raise CannotRunError(str(error)) from None


def _learn(options: argparse.Namespace, sample: Path, kmeans: Path) -> int:
    """Write the features of the sample and the centroids, or whatever is missing of them; return the exit status."""
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


def _check_centroids(kmeans: Path, options: argparse.Namespace) -> None:
    try:
        centroids = Centroids.load(kmeans)
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    seed = centroids.training.get("seed", str(options.seed))
    if centroids.clusters != options.clusters:
        reason = f"has {centroids.clusters} centroids, but --clusters is {options.clusters}"
    elif seed != str(options.seed):
        reason = f"was learnt with --seed {seed}, but --seed is {options.seed}"
    else:
        return
    raise CannotRunError(f"{kmeans} {reason}: --overwrite begins anew")


def _remove(output: Path) -> None:
    """Remove an output and the files beside it."""
    paths = Paths(output)
    for path in (paths.journal, paths.errors, paths.summary):
        path.unlink(missing_ok=True)
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
