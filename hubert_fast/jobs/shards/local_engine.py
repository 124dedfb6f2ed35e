"""Work on shards in this process, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ..outcomes import Outcome
from ..runner import Runner
from .engine import ShardEngine, ShardResult, ShardWork
from .finding import Found


class LocalShards:
    """A pass over shards in this process. Call `results` once.

    Args:
        runner: The runner.
        work: What is done with each shard.
        listener: Function called with the result of each utterance.

    Attributes:
        says: What to tell the user when it is stopped.
    """

    says = "finishing the shards in work; a second signal stops at once"

    def __init__(self, runner: Runner, work: ShardWork, listener: Callable[[Outcome], None]):
        self._work, self._stopped = work, False
        self._engine = ShardEngine(runner, work, listener)

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio in a batch."""
        return self._engine.run.batch_seconds

    def stop(self) -> None:
        """Begin no more shards."""
        self._stopped = True

    def results(self, shards: Iterable[Found]) -> Generator[ShardResult, None, None]:
        """Yield the result of each shard.

        Raises:
            OutputError: If an output cannot be written. Exceptions of the runner are raised unchanged.
        """
        waiting, running = iter(shards), set[Future[ShardResult]]()
        pool = ThreadPoolExecutor(self._work.readers, thread_name_prefix="shard")
        try:
            while True:
                while not self._stopped and len(running) < self._work.readers and (shard := next(waiting, None)) is not None:
                    running.add(pool.submit(self._engine.process, shard))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            self._engine.close()  # ends shards that are still in work
            pool.shutdown(cancel_futures=True)
