"""Run `hubert-fast features` and `hubert-fast units`."""

from __future__ import annotations

import argparse
from functools import partial

from ..console import CannotRunError, say
from ..jobs import command
from .centroids import Centroids
from .encoder import DEMO, Encoder
from .formats import FEATURES, UNITS

CHOICES = {"auto": None, "yes": True, "no": False}


def run_features(options: argparse.Namespace) -> int:
    """Write the frames of some layers of the inputs; return the exit status."""
    if not options.shard_megabytes > 0:
        raise CannotRunError(f"shard megabytes must be above 0, but are {options.shard_megabytes:g}")
    load = partial(Encoder.from_pretrained, frame_dtype=options.frame_dtype, pool=options.pool)
    return command.run(command.BatchCommand(FEATURES, _with_options(load, options)), options)


def run_units(options: argparse.Namespace) -> int:
    """Write the units of the inputs; return the exit status."""
    try:
        centroids = Centroids.load(options.kmeans, options.speaker)
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    if centroids.source is None:
        if options.layer is None:
            raise CannotRunError(f"{options.kmeans} does not name the layer of its centroids: name it with --layer")
        if not options.quiet:
            say(f"{options.kmeans} does not name the model and layer of its centroids: make sure that --model and --layer fit")
    elif options.model is None and centroids.source.model != DEMO:
        options.model = centroids.source.model
    load = partial(Encoder.from_pretrained, kmeans=centroids, merge=options.merge)
    return command.run(command.BatchCommand(UNITS, _with_options(load, options)), options)


def _with_options(load: partial[Encoder], options: argparse.Namespace) -> partial[Encoder]:
    """Add the options that both commands have."""
    return partial(
        load,
        layers=options.layer,
        final_norm=CHOICES[options.final_norm],
        normalize=CHOICES[options.normalize],
        project=options.project,
    )
