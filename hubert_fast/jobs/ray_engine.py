"""Run a job on many machines with Ray Data: actors hold the model and work on blocks of the inputs.

Ray sends blocks to actors and results back; if an actor dies, its block goes to another one. Only the process that started
the run writes, so every result is written once and there is a single journal. Actors read the audio, so paths must be valid
on every machine.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import re
import socket
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
import torch

from .. import cpus
from ..hub import first_line
from .options import Options
from .runner import Runner
from .utterances import Utterance

BLOCK_UTTERANCES = 64  # the unit of an actor's work, which is repeated if the actor dies
WAVE_UTTERANCES = 16_384  # passed to Ray at a time, so that the inputs are never all in memory
CORES = 4  # of an actor on the CPU
CONNECT_SECONDS = 10.0
MOST_RETRIES = 3  # of a block whose actor died
MOST_RETRIES_OF_SHARDS = 20  # which take longer, so that nodes are more often preempted meanwhile


def why_not() -> str | None:
    """Return why Ray cannot be used, `None` if it can."""
    return None if find_spec("ray") else "Ray is not installed: pip install 'hubert_fast[ray]'"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the part of it to use.

    Attributes:
        address: As for `ray.init`; `None` uses the running cluster or starts a local one.
        actors: Number of actors, as its least and its greatest value, between which Ray Data chooses as there is work and room
            for; by default both are one for each GPU, or for every four cores if there is none.
        threads: Threads with which an actor computes on a CPU, and the cores that Ray reserves for an actor without a GPU: at
            most those of the largest node. By default Ray reserves up to four cores and sets `OMP_NUM_THREADS` to their
            number, unless the node sets it; actors compute with that many threads.
        gpus_per_actor: The share of a GPU, or the number of GPUs, that Ray reserves for each actor where there are any.
    """

    address: str | None = None
    actors: tuple[int, int] | None = None
    threads: int | None = None
    gpus_per_actor: float = 1.0


def connect(cluster: Cluster, device: str) -> bool:
    """Connect to the cluster; return False if this process was connected already.

    Raises:
        ValueError: If actors cannot use the device.
        RuntimeError: If no cluster can be reached, or the device is cuda and the cluster has no GPU.
    """
    import ray

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"on Ray each actor has its own GPU: device must be auto, cpu or cuda, but is {device!r}")
    is_new = not ray.is_initialized()
    if is_new:
        _check_reachable(cluster.address)
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise RuntimeError(f"cannot connect to a Ray cluster: {first_line(error)}") from None
    if device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise RuntimeError("device is cuda, but no node of the Ray cluster has a GPU")
    return is_new


def _check_reachable(address: str | None) -> None:
    """Raise `RuntimeError` if nothing answers at an address such as `HEAD:6379`: Ray would try for a quarter of an hour."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # auto, local, or none
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:  # a port may be too large
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RuntimeError(f"cannot connect to a Ray cluster: nothing answers at {address}: {reason}") from None


def failure(error: Exception) -> RuntimeError:
    """Return the error for an exception of Ray: its first line, and the exception in an actor that a traceback ends with."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    cause = f": {lines[-1].strip()}" if len(lines) > 1 and re.match(r"[\w.]+: ", lines[-1]) else ""
    return RuntimeError(f"Ray: {first_line(RuntimeError(lines[0]) if lines else error)}{cause}")


def _retries(count: int) -> dict[str, int]:
    return {"max_restarts": -1, "max_task_retries": count}


def resources(cluster: Cluster, device: str, blocks: int, calls: int = 1, retries: int = MOST_RETRIES) -> dict[str, Any]:
    """Return the arguments of `map_batches` for the resources of each actor and their number, at most one for each block.

    Args:
        cluster: The cluster, and the part of it to use.
        device: The device that actors use.
        blocks: The number of blocks.
        calls: The number of blocks that an actor works on at a time, each in its own thread.
        retries: How often a block is given to another actor after its actor has died.
    """
    import ray

    available = ray.cluster_resources()
    arguments: dict[str, Any]
    if device.startswith("cuda") or (device == "auto" and available.get("GPU", 0) > 0):
        count = int(available.get("GPU", 0) / cluster.gpus_per_actor)
        arguments = {"num_gpus": cluster.gpus_per_actor}
    else:
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        # an actor that needs more cores than the largest node has would never start
        cores = min(cluster.threads or CORES, max([1, *nodes]))
        count, arguments = sum(node // cores for node in nodes), {"num_cpus": cores}
    least, most = (max(min(number, blocks), 1) for number in cluster.actors or (max(count, 1), max(count, 1)))
    if "ray_remote_args_fn" in inspect.signature(ray.data.Dataset.map_batches).parameters:  # until Ray 2.64
        arguments["ray_remote_args_fn"] = partial(_retries, retries)
    strategy = ray.data.ActorPoolStrategy
    threads = {"enable_true_multi_threading": True} if calls > 1 else {}  # without it, calls wait for each other
    known = inspect.signature(strategy.__init__).parameters
    compute = strategy(min_size=least, max_size=most, **{name: value for name, value in threads.items() if name in known})
    return arguments | {"compute": compute} | ({"max_concurrency": calls} if calls > 1 else {})


def quiet_context(ordered: bool, most_lost: int = 0) -> None:
    """Set Ray Data's options for the datasets that follow: no bars and no messages, except in Ray's log files.

    Args:
        ordered: Whether order is kept.
        most_lost: Number of blocks that may be lost since their actors keep dying.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = ordered
    context.max_errored_blocks = most_lost
    for handler in logging.getLogger("ray.data").handlers:  # which the import of ray.data has added
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL if most_lost else logging.ERROR)


class Worker:
    """An actor that holds a model and processes blocks of utterances."""

    def __init__(self, load: Callable[[], Runner], options: Options, threads: int | None):
        torch.set_num_threads(cpus.thread_count(threads))  # the actor's process is ours
        self._runner, self._options = load(), options

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        utterances = [pickle.loads(utterance) for utterance in block["utterance"]]
        results = self._runner.run(utterances, self._options).results()
        return {"result": np.array([pickle.dumps(result) for result in results], dtype=object)}


class RayRun:
    """A pass over utterances on a Ray cluster. Call `results` once.

    Args:
        load: Function that each actor calls to load the model. It must be picklable.
        device: The device that `load` chooses: auto, cpu or cuda.
        utterances: The utterances to process.
        options: Options of the job.
        cluster: The cluster, and the part of it to use.
    """

    def __init__(
        self, load: Callable[[], Runner], device: str, utterances: Iterable[Utterance], options: Options, cluster: Cluster
    ):
        self._load, self._device = load, device
        self._utterances, self._options, self._cluster = utterances, options, cluster
        self._stopped = False
        self.batch_seconds = options.batch_seconds or 0.0  # 0: each actor chooses its own

    def stop(self) -> None:
        """End `results` after the current block."""
        self._stopped = True

    def results(self) -> Generator[Any, None, None]:
        """Yield a result for each utterance.

        Raises:
            RuntimeError: If the actors of a block keep dying, or the cluster is lost.
        """
        import ray

        is_new = connect(self._cluster, self._device)
        try:
            utterances = iter(self._utterances)
            while not self._stopped and (wave := list(islice(utterances, WAVE_UTTERANCES))):
                yield from self._wave(wave)
        except ray.exceptions.RayError as error:
            raise failure(error) from error
        finally:
            if is_new:
                ray.shutdown()

    def _wave(self, wave: list[Utterance]) -> Iterator[Any]:
        import ray

        quiet_context(self._options.ordered)
        items = [{"utterance": pickle.dumps(utterance)} for utterance in wave]
        blocks = -(-len(items) // BLOCK_UTTERANCES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about limiting retries, for which Ray has no replacement yet
            results = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
                Worker,
                fn_constructor_args=(self._load, self._options, self._cluster.threads),
                batch_size=BLOCK_UTTERANCES,
                **resources(self._cluster, self._device, blocks),
            )
        for block in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for result in block["result"]:
                yield pickle.loads(result)
            if self._stopped:
                return
