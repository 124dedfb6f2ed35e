"""Draw utterances at random from inputs of any number, without holding all of them in memory."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterator

from .folders import FolderWalk
from .inputs import Inputs
from .shards import finding, kinds, lhotse_shar
from .utterances import Utterance

AT_ONCE = 200_000  # utterances held in memory, about 100 MB


class SampledInputs(Inputs):
    """Inputs in a random order, which is that of a hash of the seed and of each utterance's key.

    The order does not depend on that of the inputs. Each pass over the inputs yields the next `AT_ONCE` utterances of it, so
    the inputs must be repeatable. Shards are read from front to back, so their order alone is random.

    Attributes:
        seed: The seed of the order.

    Raises:
        ValueError: If some of the inputs are shards and others are not.
        StorageError: If a remote folder cannot be listed.
    """

    seed = 0

    def __iter__(self) -> Iterator[Utterance]:
        shards = self._shards()
        for shard in sorted(shards, key=lambda url: self._hash(Utterance(url, url))):
            yield from (each for each in self._from_source(shard) if self.shard is None or each in self.shard)
        if shards:
            return
        after = -1
        while chosen := self._next(after):
            yield from (utterance for _, _, utterance in chosen)
            after = chosen[-1][0]

    def _shards(self) -> list[str]:
        """Return the shards, if the inputs are shards."""
        found = [url for source in self.sources for url in _files_or_shards(source)]
        shards = [url for url in dict.fromkeys(found) if kinds.is_shard(url) or lhotse_shar.is_shar(url)]
        others = [*dict.fromkeys(found).keys() - shards]
        if shards and others:
            which = f"{shards[0]} is a shard and {others[0]} is not"
            raise ValueError(f"a random sample is drawn either from shards or from files, but {which}")
        return shards

    def _next(self, after: int) -> list[tuple[int, int, Utterance]]:
        """Return hash, position and utterance of those with the least hashes above `after`."""
        hashed = ((self._hash(each), position, each) for position, each in enumerate(super().__iter__()))
        return heapq.nsmallest(AT_ONCE, (entry for entry in hashed if entry[0] > after))

    def _hash(self, utterance: Utterance) -> int:
        salted = utterance.key + self.seed.to_bytes(8, "big", signed=True)
        return int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest(), "big")


def _files_or_shards(source: str) -> list[str]:
    """Return the shards that a source stands for, or a folder itself if it has audio files, as for `Inputs`."""
    if os.path.isdir(source) and any(file.error is None for file in FolderWalk().files(source)):
        return [source]
    return [shard.url for shard in finding.find(source)]
