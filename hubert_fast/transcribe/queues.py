"""A bounded queue that hands out as many items at once as are worth a batch."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class WeightedQueue(Generic[Item]):
    """First in, first out between threads, bounded by the weight of what it holds.

    One item may be heavier than ``capacity``: it then goes in when nothing else is there. takers: threads that share what is
    left at the end.
    """

    def __init__(self, capacity: float, takers: int = 1):
        self.capacity, self.takers = capacity, takers
        self._items: deque[tuple[Item, float]] = deque()
        self._held, self._closed, self._share = 0.0, False, math.inf
        self._changed = threading.Condition()

    def put(self, item: Item, weight: float = 1) -> bool:
        """Wait for room and put the item in. Returns False when the queue was closed meanwhile: the item is not in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._items or self._held + weight <= self.capacity)
            if self._closed:
                return False
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def take(self, weight: float = 1, *, wait: bool = True, linger_seconds: float = 0.0) -> list[Item] | None:
        """Take items worth up to ``weight``, at least one; ``None`` when there will be no more.

        wait: for the first one; without it, an empty list when there is too little. linger_seconds: wait so much longer for the
        rest of the weight.
        """
        with self._changed:
            if not wait and self._held < min(weight, self.capacity) and not self._closed:
                return []
            self._changed.wait_for(lambda: self._closed or self._items)
            until = time.monotonic() + linger_seconds
            enough = min(weight, self.capacity / 2)
            while not self._closed and self._held < enough and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if not self._items:
                return None if self._closed else []  # another thread was faster
            weight = min(weight, self._share)
            taken, total = [], 0.0
            while self._items and (not taken or total + self._items[0][1] <= weight):
                item, its_weight = self._items.popleft()
                taken.append(item)
                total += its_weight
            self._held -= total
            self._changed.notify_all()
            return taken

    def close(self, drop: bool = False) -> None:
        """Let nothing more in; what is there can still be taken, unless it is to be dropped."""
        with self._changed:
            if not self._closed:
                self._share = self._held / self.takers
            self._closed = True
            if drop:
                self._items.clear()
                self._held = 0.0
            self._changed.notify_all()

    @property
    def is_drained(self) -> bool:
        """Return whether nothing is left and nothing will come."""
        return self._closed and not self._items
