"""Work on shards in this process, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue

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
        waiting, finished, running = iter(shards), SimpleQueue[ShardResult | BaseException](), 0

        def work_on(shard: Found) -> None:
            try:
                finished.put(self._engine.process(shard))
            except BaseException as error:
                finished.put(error)

        try:
            while True:
                while not self._stopped and running < self._work.readers and (shard := next(waiting, None)) is not None:
                    # a daemon: a reader that hangs on a network file must not keep the process from ending
                    threading.Thread(target=work_on, args=(shard,), daemon=True).start()
                    running += 1
                if not running:
                    return
                result = finished.get()
                running -= 1
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self._engine.close()  # ends shards that are still in work
