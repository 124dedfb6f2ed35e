"""Run `hubert-fast features`, `kmeans` and `units`."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..console import EXIT_OK, CannotRunError, say
from ..interrupts import keyboard_interrupts
from ..jobs import batch_command, command
from . import kmeans
from .centroids import Centroids
from .encoder import DEMO, Encoder
from .formats import FEATURES, UNITS
from .frame_files import FrameReader
from .frames import joined

NO_DURATIONS = "km has no place for durations: use jsonl, tsv or parquet with --merge"
CHOICES = {"auto": None, "yes": True, "no": False}


def run_features(options: argparse.Namespace) -> int:
    """Write the frames of some layers of the inputs; return the exit status."""
    if not 0 < options.shard_megabytes < math.inf:
        raise CannotRunError(f"shard megabytes must be a number above 0, but are {options.shard_megabytes:g}")
    if options.sample_frames is not None and not 0 <= options.seed <= kmeans.MOST_SEED:
        raise CannotRunError(f"seed must be from 0 to {kmeans.MOST_SEED}, but is {options.seed}")
    load = partial(Encoder.from_pretrained, frame_dtype=options.frame_dtype, pool=options.pool)
    sample = options.sample_frames
    settings = {"sample seed": None if sample is None else options.seed}
    return command.run(
        batch_command.BatchCommand(
            FEATURES, _with_options(load, options), settings=settings, sample_frames=sample, sample_seed=options.seed
        ),
        options,
    )


def run_kmeans(options: argparse.Namespace) -> int:
    """Learn centroids from frames and write them; return the exit status."""
    out = Path(options.output)
    state = out.with_name(f"{out.name}.state")
    if out.is_dir():
        raise CannotRunError(f"{out} is a folder: name a file for the centroids")
    if out.exists() and not options.overwrite:
        raise CannotRunError(f"{out} exists already; --overwrite replaces it")
    if not out.absolute().parent.is_dir():
        raise CannotRunError(f"{out} cannot be written: there is no folder {out.parent}")
    twice = [path for path, count in Counter(map(os.path.realpath, options.frames_paths)).items() if count > 1]
    if twice:
        raise CannotRunError(f"{twice[0]} is named twice, and its frames would count twice: name it once")
    try:
        if options.overwrite:
            state.unlink(missing_ok=True)
        frames = joined([FrameReader(path, options.layer) for path in options.frames_paths])
        with LearningProgress(options.quiet) as progress, keyboard_interrupts():
            centroids = kmeans.learn(
                frames,
                options.clusters,
                seed=options.seed,
                epochs=options.epochs,
                limit=options.frames,
                progress=progress.step,
                state=state,
            )
        centroids.save(out)
        state.unlink(missing_ok=True)
    except KeyboardInterrupt:
        if state.exists():
            say(
                f"the same command{' without --overwrite' if options.overwrite else ''} continues after the last complete epoch"
            )
        raise
    except ValueError as error:  # CentroidsError among them
        raise CannotRunError(str(error)) from None
    except OSError as error:
        raise CannotRunError(f"{error.filename or out}: {error.strerror or error}") from None
    if not options.quiet:
        training = centroids.training
        say(
            f"{out}: {centroids.clusters} centroids of {centroids.channels} channels, learnt from {training['frames']} frames "
            f"in {training['epochs']} epochs, inertia {training['inertia per frame']} per frame"
        )
    return EXIT_OK


class LearningProgress(contextlib.AbstractContextManager["LearningProgress"]):
    """Shows how far learning is: as a bar on a terminal, or else as a line after each epoch."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._bar = tqdm(unit=" frames", unit_scale=True, file=sys.stderr, disable=quiet or not sys.stderr.isatty())

    def step(self, step: kmeans.Step) -> None:
        """Receive the state of learning."""
        if step.inertia is not None and not self._quiet:
            say(f"epoch {step.epoch}: inertia {step.inertia:.6g} per frame")
        self._bar.total = step.total
        self._bar.set_description("choosing first centroids" if not step.epoch else f"epoch {step.epoch}", refresh=False)
        self._bar.n = step.frames
        self._bar.refresh()

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def run_units(options: argparse.Namespace) -> int:
    """Write the units of the inputs; return the exit status."""
    if options.merge and (options.format == "km" or (options.format is None and str(options.output).lower().endswith(".km"))):
        raise CannotRunError(NO_DURATIONS)
    if options.output is not None and os.path.exists(options.output) and os.path.samefile(options.output, options.kmeans):
        raise CannotRunError(f"{options.output} is the file of centroids, and would be overwritten")
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
        if not centroids.source.model:  # of an `Encoder` that was given none
            raise CannotRunError(f"{options.kmeans} does not name the model of its centroids: name it with --model")
        options.model = centroids.source.model
    load = partial(Encoder.from_pretrained, kmeans=centroids, merge=options.merge)
    return command.run(batch_command.BatchCommand(UNITS, _with_options(load, options)), options)


def _with_options(load: partial[Encoder], options: argparse.Namespace) -> partial[Encoder]:
    """Add the options that both commands have."""
    return partial(
        load,
        layers=options.layer,
        final_norm=CHOICES[options.final_norm],
        normalize=CHOICES[options.normalize],
        project=options.project,
    )
