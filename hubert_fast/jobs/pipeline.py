"""Turn utterances into frames in stages that run concurrently, each in its own threads, with bounded queues in between.

    utterances -> [decode and cut: workers] -> pieces -> [pack and run: lanes] -> arrays -> [stitch, and so on: caller]

Threads suffice, because libsndfile, soxr and PyTorch release the interpreter lock while they work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..audio import AudioError
from ..devices import is_out_of_memory
from ..hub import first_line
from .cutting import Cutter
from .lanes import Arrays, Flight, Lane, run_smaller
from .queues import WeightedQueue
from .utterances import Utterance

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.25  # how long a partial batch waits for more pieces: a slow file must not hold up the others
MOST_HELD_BYTES = 1 << 30
JOIN_SECONDS = 10.0  # how long to wait for threads at the end: a worker may hang on a network file

Decode = Callable[[Utterance, Callable[[str], None]], Iterable[np.ndarray]]


@dataclass(eq=False)
class Ticket:
    """An utterance in progress.

    Attributes:
        number: Position among the inputs.
        utterance: The utterance to process.
        channels: For each channel, the first frame of each piece that has run, and the arrays that the lane returned for it.
        samples: Samples per channel decoded so far.
        pending: Number of pieces in progress.
        notes: Faults in the file that decoding worked around.
        error: Why the utterance failed.
        is_cut: Whether all pieces have been cut.
        bytes: The size of all arrays in `channels`.
    """

    number: int
    utterance: Utterance
    channels: list[list[tuple[int, Arrays]]] = field(default_factory=list)
    samples: int = 0
    pending: int = 0
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    is_cut: bool = False
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, channel: int, start: int, arrays: Arrays, count: int) -> None:
        """Add what the lane returned for a piece, `count` bytes."""
        with self.lock:
            self.channels[channel].append((start, arrays))
            self.bytes += count

    def update(self, *, pending: int = 0, error: str | None = None, is_cut: bool = False) -> bool:
        """Add `pending` pieces, record an error or the end of cutting; return whether this completes the ticket."""
        with self.lock:
            before = self.is_cut and not self.pending
            self.pending += pending
            self.error = self.error or error
            self.is_cut |= is_cut
            return not before and self.is_cut and not self.pending


@dataclass(frozen=True)
class Piece:
    """A waveform `[S]` to run, with the number of its channel and its first frame in the recording."""

    ticket: Ticket
    channel: int
    start: int
    samples: np.ndarray


class Pipeline:
    """Passes utterances through the stages; `run`, which may be called once, yields them as they are completed.

    Args:
        lanes: The lanes that run the batches, each in its own thread.
        decode: Function that yields the blocks `[C, S]` of an utterance. It passes notes to its second argument, and raises
            `AudioError` for audio that cannot be decoded.
        cutter: Cuts recordings into pieces.
        workers: Number of threads that decode.
        batch_samples: Samples in a batch; halved when memory runs out.
        window: Most utterances in progress at a time.

    What the lanes have returned and the caller has not passed on is held in memory. Above `MOST_HELD_BYTES` of it, no further
    utterance begins. Those in progress, which the queues bound, are completed, so a caller who waits for one of them gets it.
    """

    def __init__(self, lanes: Sequence[Lane], decode: Decode, cutter: Cutter, *, workers: int, batch_samples: int, window: int):
        self.lanes, self.decode, self.cutter = lanes, decode, cutter
        self.batch_samples = batch_samples
        self._waiting: WeightedQueue[Ticket] = WeightedQueue(2 * workers)
        self._pieces: WeightedQueue[Piece] = WeightedQueue(2 * batch_samples * len(lanes), takers=len(lanes))
        self._complete: WeightedQueue[Ticket] = WeightedQueue(window)
        self._room = threading.Semaphore(window)
        self._held_bytes, self._passed_on = 0, threading.Condition()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads_left = {"decode": workers, "run": len(lanes)}
        self._busy = 0

    def run(self, utterances: Iterable[Utterance]) -> Iterator[list[Ticket]]:
        """Yield completed tickets, several at a time, in the order of completion.

        If `utterances` or a lane raises an exception, yield the tickets completed by then and raise it.
        """
        threads = [self._start(self._feed, utterances)]
        threads += [self._start(self._decode_all) for _ in range(self._threads_left["decode"])]
        threads += [self._start(self._run_all, lane) for lane in self.lanes]
        try:
            while (tickets := self._complete.take(self._complete.capacity)) is not None:
                yield tickets
        finally:
            self.stop()
            self._complete.close(drop=True)
            deadline = time.monotonic() + JOIN_SECONDS
            for thread in threads[1:]:  # the first thread may wait for standard input forever
                thread.join(max(deadline - time.monotonic(), 0))
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Start no more batches. Tickets that the running batches complete are still yielded."""
        self._stopped.set()
        self._waiting.close(drop=True)
        self._pieces.close(drop=True)

    def release(self, ticket: Ticket) -> None:
        """Admit another utterance, after the caller has passed on the result of a ticket."""
        self._hold(-ticket.bytes)
        self._room.release()

    def _hold(self, count: int) -> None:
        """Count bytes that are held, or no longer if negative."""
        with self._passed_on:
            self._held_bytes += count
            self._passed_on.notify_all()

    def _start(self, target: Callable, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(target, *arguments), daemon=True)
        thread.start()
        return thread

    def _guarded(self, target: Callable, *arguments: object) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            logger.debug("a stage failed", exc_info=True)
            with self._lock:
                self._error = self._error or error
            self.stop()
        finally:
            self._ended(target)

    def _ended(self, target: Callable) -> None:
        """Close the queue that a stage feeds when the last thread of the stage ends."""
        if target == self._feed:
            self._waiting.close()
            return
        stage = "decode" if target == self._decode_all else "run"
        with self._lock:
            self._threads_left[stage] -= 1
            is_last = not self._threads_left[stage]
        if is_last:
            (self._pieces if stage == "decode" else self._complete).close()

    def _feed(self, utterances: Iterable[Utterance]) -> None:
        for number, utterance in enumerate(utterances):
            while not self._room.acquire(timeout=0.2):
                if self._stopped.is_set():
                    return
            while not self._has_memory(timeout_seconds=0.2):
                if self._stopped.is_set():
                    return
            if not self._waiting.put(Ticket(number, utterance)):
                return

    def _has_memory(self, timeout_seconds: float) -> bool:
        """Wait until less than `MOST_HELD_BYTES` are held; return whether that is so."""
        with self._passed_on:
            return self._passed_on.wait_for(lambda: self._held_bytes < MOST_HELD_BYTES, timeout_seconds)

    def _decode_all(self) -> None:
        while (tickets := self._waiting.take()) is not None:
            for ticket in tickets:
                self._decode_one(ticket)

    def _decode_one(self, ticket: Ticket) -> None:
        error = ticket.utterance.error
        if error is None:
            try:
                self._cut(ticket)
            except AudioError as failure:
                error = str(failure)
            except MemoryError:
                error = f"{ticket.utterance.audio}: not enough memory to decode it"
            except Exception as failure:  # whatever a library raises about a file is an error of that file
                error = f"{ticket.utterance.audio}: {type(failure).__name__}: {first_line(failure)}"
        ticket.utterance = ticket.utterance.without_content()  # it may wait long for its results to be passed on
        if ticket.update(error=error, is_cut=True):
            self._complete.put(ticket)

    def _cut(self, ticket: Ticket) -> None:
        def counted() -> Iterator[np.ndarray]:
            for block in self.decode(ticket.utterance, ticket.notes.append):
                ticket.samples += block.shape[1]
                yield block

        for start, waveforms in self.cutter.cut(counted()):
            length, needed = waveforms.shape[1], self.cutter.field
            if length < needed:
                raise AudioError(
                    f"{ticket.utterance.audio}: too short: {length} samples at {self.cutter.sample_rate_hz} Hz, "
                    f"but one frame needs {needed}"
                )
            ticket.channels = ticket.channels or [[] for _ in waveforms]
            for channel, samples in enumerate(waveforms):
                if ticket.error is not None:
                    return  # another piece of the utterance failed
                ticket.update(pending=1)
                if not self._pieces.put(Piece(ticket, channel, start, samples), len(samples)):
                    return  # stopped: the ticket stays incomplete

    def _run_all(self, lane: Lane) -> None:
        flights: deque[tuple[list[Piece], Flight]] = deque()
        while True:
            pieces = self._pieces.take(self.batch_samples, wait=not flights, linger_seconds=LINGER_SECONDS)
            if pieces and (flight := self._launch(lane, pieces, flights)) is not None:
                flights.append((pieces, flight))
            while flights and (len(flights) > lane.depth or not pieces):
                self._land(*flights.popleft())
            if pieces is None:
                return

    def _launch(self, lane: Lane, pieces: list[Piece], flights: deque[tuple[list[Piece], Flight]]) -> Flight | None:
        """Start a batch. If memory runs out, wait for the batches in progress, then run this one in parts."""

        def launch(part: list[Piece]) -> Flight:
            lane.recover()
            return lane.launch([piece.samples for piece in part])

        with self._lock:
            self._busy += 1
        try:
            alone = self._busy == 1 and self._pieces.is_drained
            return lane.launch([piece.samples for piece in pieces], alone)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            batch, longest = sum(len(piece.samples) for piece in pieces), max(len(piece.samples) for piece in pieces)
            with self._lock:
                self.batch_samples = max(min(self.batch_samples, batch // 2), min(self.batch_samples, longest))
            logger.warning("out of memory: halving batches to %d samples", self.batch_samples)
        finally:
            with self._lock:
                self._busy -= 1
        while flights:
            self._land(*flights.popleft())
        landed, failed = run_smaller(launch, pieces)
        for part, results in landed:
            self._deliver(part, results)
        for part, reason in failed:
            self._deliver(part, [None], f"{part[0].ticket.utterance.audio}: {reason}")
        return None

    def _land(self, pieces: list[Piece], flight: Flight) -> None:
        self._deliver(pieces, flight.land())

    def _deliver(self, pieces: list[Piece], results: Sequence[Arrays | None], error: str | None = None) -> None:
        for piece, arrays in zip(pieces, results):
            if arrays is not None:
                count = sum(array.nbytes for array in arrays)
                piece.ticket.add(piece.channel, piece.start, arrays, count)
                self._hold(count)
            if piece.ticket.update(pending=-1, error=error):
                self._complete.put(piece.ticket)
