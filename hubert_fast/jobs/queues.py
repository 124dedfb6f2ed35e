"""Define a bounded queue from which items are taken in batches of a given weight."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class WeightedQueue(Generic[Item]):
    """A first-in, first-out queue between threads, bounded by the total weight of its items.

    An item heavier than `capacity` is accepted when the queue is empty.

    Args:
        capacity: The greatest total weight of the items.
        takers: Number of threads among which the remaining items are divided once the queue is closed.
    """

    def __init__(self, capacity: float, takers: int = 1):
        self.capacity, self.takers = capacity, takers
        self._items: deque[tuple[Item, float]] = deque()
        self._held, self._closed, self._share = 0.0, False, math.inf
        self._changed = threading.Condition()

    def put(self, item: Item, weight: float = 1) -> bool:
        """Wait for room and append the item. Return False, without appending it, if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._items or self._held + weight <= self.capacity)
            if self._closed:
                return False
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def take(self, weight: float = 1, *, wait: bool = True, linger_seconds: float = 0.0) -> list[Item] | None:
        """Take items of up to `weight` in total, but at least one; return `None` if the queue is closed and empty.

        Args:
            weight: The greatest total weight of the items to take.
            wait: Wait for the first item; otherwise return an empty list if the queue holds less than `weight`.
            linger_seconds: Once there is an item, wait this long for the rest of the weight.
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
                return None if self._closed else []  # another thread took them
            weight = min(weight, self._share)
            taken: list[Item] = []
            total = 0.0
            while self._items and (not taken or total + self._items[0][1] <= weight):
                item, item_weight = self._items.popleft()
                taken.append(item)
                total += item_weight
            self._held -= total
            self._changed.notify_all()
            return taken

    def close(self, drop: bool = False) -> None:
        """Accept no more items. Items in the queue can still be taken, unless `drop` discards them."""
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
        """Whether the queue is closed and empty."""
        return self._closed and not self._items
