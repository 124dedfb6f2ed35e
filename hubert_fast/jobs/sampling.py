"""Draw utterances at random from inputs of any number, without holding all of them in memory."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator

from .inputs import Inputs
from .utterances import Utterance

AT_ONCE = 200_000  # utterances held in memory, about 100 MB


class SampledInputs(Inputs):
    """Inputs in a random order, which is that of a hash of the seed and of each utterance's key.

    The order does not depend on that of the inputs. Each pass over the inputs yields the next `AT_ONCE` utterances of it, so
    the inputs must be repeatable.

    Attributes:
        seed: The seed of the order.
    """

    seed = 0

    def __iter__(self) -> Iterator[Utterance]:
        after = -1
        while chosen := self._next(after):
            yield from (utterance for _, _, utterance in chosen)
            after = chosen[-1][0]

    def _next(self, after: int) -> list[tuple[int, int, Utterance]]:
        """Return hash, position and utterance of those with the least hashes above `after`."""
        hashed = ((self._hash(each), position, each) for position, each in enumerate(super().__iter__()))
        return heapq.nsmallest(AT_ONCE, (entry for entry in hashed if entry[0] > after))

    def _hash(self, utterance: Utterance) -> int:
        salted = utterance.key + self.seed.to_bytes(8, "big", signed=True)
        return int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest(), "big")
