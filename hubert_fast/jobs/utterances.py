"""Define utterances, each an audio file or a part of one, and shards, which divide utterances among machines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from ..audio.contained import Contained


@dataclass(frozen=True, slots=True)
class Utterance:
    """An audio file, or a part of one, to transcribe.

    Attributes:
        id: The id that the list gives or else the path, followed by `#from-to` in seconds for a part of a file.
        audio: A local path, a URL, or a `Contained`, whose bytes were read already.
        offset_seconds: Where the part begins.
        duration_seconds: The length of the part; `None` means to the end of the file.
        reference: The reference text of the audio, if known.
        name: Path of the utterance's own output file below the output folder, without a suffix.
        error: Why the utterance cannot be transcribed, if that is known before its file is opened.
        channel: The channel to transcribe, counted from 0; `None` means all of them.
        token: Random text that distinguishes the audio in a pipe from what an earlier run read from it; `""` for other audio.
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
        """16 bytes that identify the utterance."""
        parts = [self.id, self.audio, repr(self.offset_seconds), repr(self.duration_seconds)]
        parts += [] if self.channel is None else [f"channel {self.channel}"]
        parts += [self.token] if self.token else []
        return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def without_content(self) -> Utterance:
        """Return the utterance without the bytes of its audio, if they were read already."""
        return replace(self, audio=str(self.audio)) if isinstance(self.audio, Contained) else self


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of the inputs; `index` counts from 1.

    The key of an utterance determines its shard, so utterances stay in their shards when others are added.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse text such as `"2/16"`.

        Raises:
            ValueError: If the text is not I/N with 1 <= I <= N.
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise ValueError(f"a shard must be I/N with I from 1 to N, such as 2/16, but is {text!r}")

    def __contains__(self, utterance: Utterance) -> bool:
        return self.holds(utterance.key)

    def holds(self, key: bytes) -> bool:
        """Return whether this part holds the item with a key."""
        return int.from_bytes(key[:8], "big") % self.count == self.index - 1
