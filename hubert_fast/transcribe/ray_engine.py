"""Many machines: the same run with Ray Data as its engine. Actors hold the model, blocks of the inputs are their work.

Ray brings blocks to actors, results back, and a block to another actor when one dies with it. The process that started the run
writes: so every result is written once, and its journal is the one journal. Audio is read by the actors: paths must mean
the same on every machine.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from ..hub import first_line
from .inputs import Utterance
from .transcriber import Options, Result, Transcriber

BLOCK_UTTERANCES = 64  # what an actor does at once, and what is done again when it dies
WAVE_UTTERANCES = 16_384  # what Ray is told of at once: the inputs are never all in memory
MOST_RETRIES = 3  # of a block whose actor died


def why_not() -> str | None:
    """Return why Ray cannot be used, ``None`` when it can."""
    return None if find_spec("ray") else "Ray is not installed: pip install 'hubert_fast[ray]'"


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it.

    address: as ``ray.init`` takes it; ``None`` is the cluster there is, or a local one. actors: how many; by default one for
    each GPU, or on a CPU one for each four cores. cpus: of an actor on a CPU.
    """

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None


def connect(cluster: Cluster, device: str) -> bool:
    """Find the cluster; return whether it was not connected before.

    Raises ``ValueError`` for a device that actors cannot have, ``RuntimeError`` when there is no cluster, or none with a GPU.
    """
    import ray

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"on Ray each actor has a GPU of its own: device must be auto, cpu or cuda, but is {device!r}")
    begins = not ray.is_initialized()
    if begins:
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise RuntimeError(f"no Ray cluster to be had: {first_line(error)}") from None
    if device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise RuntimeError("device cuda was asked for, but no node of the Ray cluster has a GPU")
    return begins


def _retries() -> dict[str, int]:
    return {"max_restarts": -1, "max_task_retries": MOST_RETRIES}


class Worker:
    """An actor: a model that transcribes blocks of utterances."""

    def __init__(self, model: str, device: str, dtype: str, options: Options):
        self._transcriber = Transcriber.from_pretrained(model, device=device, dtype=dtype)
        self._options = options

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        utterances = [pickle.loads(utterance) for utterance in block["utterance"]]
        results = self._transcriber.run(utterances, self._options).results()
        return {"result": np.array([pickle.dumps(result) for result in results], dtype=object)}


class RayRun:
    """Utterances on a cluster, once. Raises what Ray raises when a block's actors keep dying, or the cluster is gone."""

    def __init__(
        self, model: str, device: str, dtype: str, utterances: Iterable[Utterance], options: Options, cluster: Cluster
    ):
        self._model, self._device, self._dtype = model, device, dtype
        self._utterances, self._options, self._cluster = utterances, options, cluster
        self._stopped = False
        self.batch_seconds = options.batch_seconds or 0.0  # each actor has its own

    def stop(self) -> None:
        """Give no more results: :meth:`results` ends with the block it is at."""
        self._stopped = True

    def results(self) -> Iterator[Result]:
        """Give each utterance's result, once."""
        import ray

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        began = connect(self._cluster, self._device)
        try:
            utterances = iter(self._utterances)
            while not self._stopped and (wave := list(islice(utterances, WAVE_UTTERANCES))):
                yield from self._wave(wave)
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray: {first_line(error)}") from error
        finally:
            if began:
                ray.shutdown()

    def _wave(self, wave: list[Utterance]) -> Iterator[Result]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = self._options.ordered
        items = [{"utterance": pickle.dumps(utterance)} for utterance in wave]
        blocks = -(-len(items) // BLOCK_UTTERANCES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the limit of retries, for which nothing else is there yet
            results = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
                Worker,
                fn_constructor_args=(self._model, self._device, self._dtype, self._options),
                batch_size=BLOCK_UTTERANCES,
                **self._resources(blocks),
            )
        for block in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for result in block["result"]:
                yield pickle.loads(result)
            if self._stopped:
                return

    def _resources(self, blocks: int) -> dict[str, Any]:
        """What each actor takes, and how many there are: no more than blocks."""
        import ray

        there = ray.cluster_resources()
        if self._device.startswith("cuda") or (self._device == "auto" and there.get("GPU", 0) >= 1):
            count, each = int(there.get("GPU", 0)), {"num_gpus": 1}
        else:
            cpus = self._cluster.cpus or min(4, max(int(there.get("CPU", 1)), 1))
            count, each = int(there.get("CPU", 1)) // cpus, {"num_cpus": cpus}
        actors = min(self._cluster.actors or max(count, 1), blocks)
        if "ray_remote_args_fn" in inspect.signature(ray.data.Dataset.map_batches).parameters:  # until Ray 2.64
            each["ray_remote_args_fn"] = _retries
        return each | {"compute": ray.data.ActorPoolStrategy(size=actors)}
