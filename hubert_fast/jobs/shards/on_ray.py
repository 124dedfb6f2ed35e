"""Work on shards on a Ray cluster: each shard is a block of Ray Data, and actors read it, run the model and write its output.

The process that started the run receives only counts. If an actor or its node dies, the shards that it had in work are done
again by another actor. Their outputs appear whole or not at all, so no row is lost or written twice. A shard whose actors keep
dying fails, and the others go on.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ... import cpus
from ...hub import first_line
from ..job import OutputError
from ..ray_engine import MOST_RETRIES, MOST_RETRIES_OF_SHARDS, Cluster, connect, failure, quiet_context, resources
from ..runner import Runner
from .engine import ShardEngine, ShardResult, ShardWork
from .finding import Found

MOST_LOST = 16  # shards whose actors keep dying; more of them end the run


class ShardWorker:
    """An actor that holds a model and processes shards, several at a time."""

    def __init__(self, load: Callable[[], Runner], work: ShardWork, threads: int | None):
        torch.set_num_threads(cpus.thread_count(threads))  # the actor's process is ours
        self._engine = ShardEngine(load(), work)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Process the shard in a block. An exception, such as that of an output or a device, is returned and ends the run."""
        (shard,) = (pickle.loads(each) for each in block["shard"])
        try:
            result: Any = self._engine.process(shard)
        except OutputError as error:
            result = error
        except Exception as error:  # which may not be picklable
            result = RuntimeError(f"{shard.url}: {type(error).__name__}: {first_line(error)}")
        return {"result": np.array([pickle.dumps(result)], dtype=object)}


class RayShards:
    """A pass over shards on a Ray cluster. Call `results` once.

    Args:
        load: Function that each actor calls to load the model. It must be picklable.
        device: The device that `load` chooses: auto, cpu or cuda.
        work: What is done with each shard.
        cluster: The cluster, and the part of it to use.

    Attributes:
        says: What to tell the user when it is stopped.
    """

    says = "stopping after the next shard that is finished; a second signal stops at once"

    def __init__(self, load: Callable[[], Runner], device: str, work: ShardWork, cluster: Cluster):
        self._load, self._device, self._work, self._cluster = load, device, work, cluster
        self._stopped = False
        self.batch_seconds = work.options.batch_seconds or 0.0  # 0: each actor chooses its own

    def stop(self) -> None:
        """End `results` after the next shard that is finished."""
        self._stopped = True

    def results(self, shards: Iterable[Found]) -> Generator[ShardResult, None, None]:
        """Yield the result of each shard.

        Raises:
            OutputError: If an output cannot be written.
            RuntimeError: If the runner fails, the actors of many shards keep dying, or the cluster is lost.
        """
        import ray

        waiting = {shard.name: shard for shard in shards}
        if not waiting:
            return
        is_new = connect(self._cluster, self._device)
        try:
            for result in self._pass([*waiting.values()], MOST_RETRIES_OF_SHARDS, MOST_LOST):
                if waiting.pop(result.shard.name, None) is not None:
                    yield result
            for shard in waiting.values():  # once more, each alone: others may have been lost with the one that kills actors
                if self._stopped:
                    return
                results = [*self._pass([shard], MOST_RETRIES, 1)]
                yield from results or [_lost(shard)]
        except ray.exceptions.RayError as error:
            raise failure(error) from error
        finally:
            if is_new:
                ray.shutdown()

    def _pass(self, shards: list[Found], retries: int, most_lost: int) -> Iterator[ShardResult]:
        """Yield the results of shards, but none for shards whose actors die more than `retries` times: `most_lost` of them."""
        import ray

        quiet_context(ordered=False, most_lost=most_lost)
        items = [{"shard": pickle.dumps(shard)} for shard in shards]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about limiting retries, which has no replacement yet
            results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                ShardWorker,
                fn_constructor_args=(self._load, self._work, self._cluster.threads),
                batch_size=1,
                **resources(self._cluster, self._device, len(items), self._work.readers, retries),
            )
        for block in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for pickled in block["result"]:
                result = pickle.loads(pickled)
                if isinstance(result, Exception):
                    raise result
                yield result
            if self._stopped:
                return


def _lost(shard: Found) -> ShardResult:
    reason = "the process that worked on it died each time: a decoder may crash, or memory may run out"
    return ShardResult(shard, error=f"{shard.url}: {reason}", is_final=True)
