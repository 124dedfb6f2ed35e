"""Decode with libsndfile, which is fast, releases the interpreter and keeps 16 bits, and which believes headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

BLOCK_SAMPLES = 1 << 19  # of all channels together: 2 MB of float32
SMALL_FRAMES = 4096
RAW_SUBTYPES = frozenset({"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
BIG_ENDIAN = frozenset({"AIFF", "AU", "CAF"})


class SoundFile(soundfile.SoundFile):
    """A sound file that is read from its beginning to its end without a seek after each read.

    soundfile seeks so that it may be written to, which formats of unknown length, GSM and FLAC in Ogg cannot do.
    """

    def seekable(self) -> bool:
        return False


def blocks_of(sound: SoundFile, dtype: str, start: int = 0) -> Iterator[np.ndarray]:
    """Read ``[S_i, channels]`` up to the end. Raises ``LibsndfileError`` where the decoder gives up.

    start: the sample that the file is at.
    """
    at_once = max(BLOCK_SAMPLES // sound.channels, 1)
    ahead = sound.frames - start  # by the header, which need not be right
    while True:
        count = min(at_once, max(ahead, SMALL_FRAMES))
        block = sound.read(count, dtype, always_2d=True)
        if not len(block):
            return
        ahead -= len(block)
        yield block if 2 * len(block) >= count else block.copy()  # not a view into a much larger array


def as_raw(sound: SoundFile) -> dict[str, object] | None:
    """Return how to read the samples of an open file without its header, ``None`` when they are compressed."""
    if sound.subtype not in RAW_SUBTYPES:
        return None
    endian = sound.endian
    if endian == "FILE":
        endian = "BIG" if sound.format in BIG_ENDIAN else "LITTLE"
    return {
        "samplerate": sound.samplerate,
        "channels": sound.channels,
        "subtype": sound.subtype,
        "endian": endian,
        "format": "RAW",
    }


def open_raw(file: BinaryIO, raw: dict[str, object]) -> SoundFile:
    """Open samples without a header, as :func:`as_raw` describes them."""
    return SoundFile(file, "r", **raw)
