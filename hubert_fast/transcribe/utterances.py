"""An utterance, which is a file or a part of one, and how many of them are shared out over machines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Utterance:
    """A file, or a part of one, to be transcribed.

    id: the manifest's, or the path, with ``#from-to`` seconds behind it for a part.
    audio: local path or URL.
    offset_seconds, duration_seconds: of the part; ``None`` is up to the end.
    reference: what is said in it, if known.
    name: where its own file of text goes below an output folder, without suffix.
    error: why it cannot be transcribed, if that is known before it is opened.
    channel: the one to take, from 0; ``None`` is all of them.
    token: tells what comes through a pipe from what came through it before.
    """

    id: str
    audio: str
    offset_seconds: float = 0.0
    duration_seconds: float | None = None
    reference: str | None = None
    name: str = ""
    error: str | None = None
    channel: int | None = None
    token: str = ""

    @property
    def key(self) -> bytes:
        """What tells it from every other, as 16 bytes."""
        parts = [self.id, self.audio, repr(self.offset_seconds), repr(self.duration_seconds)]
        parts += [] if self.channel is None else [f"channel {self.channel}"]
        parts += [self.token] if self.token else []
        return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Shard(NamedTuple):
    """The ``index``-th, from 1, of ``count`` parts of the inputs. An utterance's key says which one it belongs to."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"2/16"``. Raises ``ValueError`` unless it is I/N with 1 <= I <= N."""
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise ValueError(f"a shard must be I/N with I from 1 to N, such as 2/16, but is {text!r}")

    def __contains__(self, utterance: Utterance) -> bool:
        return int.from_bytes(utterance.key[:8], "big") % self.count == self.index - 1
