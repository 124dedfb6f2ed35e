"""Decode with libsndfile, which is fast, releases the GIL and keeps 16-bit samples, but trusts headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile

BLOCK_SAMPLES = 1 << 19  # in a block, over all channels: 2 MB of float32
SMALL_FRAMES = 4096  # read at a time beyond the length that the header states
RAW_SUBTYPES = frozenset({"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
BIG_ENDIAN = frozenset({"AIFF", "AU", "CAF"})


class SoundFile(soundfile.SoundFile):
    """A sound file that is read from beginning to end without a seek after each read.

    soundfile seeks after reads so that files can also be written. Formats of unknown length, GSM and FLAC in Ogg cannot seek.
    """

    def seekable(self) -> bool:
        return False


def blocks_of(sound: SoundFile, dtype: str, start: int = 0) -> Iterator[np.ndarray]:
    """Yield blocks `[S_i, channels]` up to the end.

    Args:
        sound: The open file.
        dtype: `"int16"` or `"float32"`.
        start: The sample that the file is positioned at.

    Raises:
        LibsndfileError: If decoding fails.
    """
    block_frames = max(BLOCK_SAMPLES // sound.channels, 1)
    left = sound.frames - start  # according to the header, which may be wrong
    while True:
        count = min(block_frames, max(left, SMALL_FRAMES))
        block = sound.read(count, dtype, always_2d=True)
        if not len(block):
            return
        left -= len(block)
        yield block if 2 * len(block) >= count else block.copy()  # not a view that keeps a much larger array alive


def raw_arguments(sound: SoundFile) -> dict[str, Any] | None:
    """Return arguments for `open_raw` that read an open file's samples without its header; `None` if compressed."""
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


def open_raw(file: BinaryIO | bytes, arguments: dict[str, Any]) -> SoundFile:
    """Open a file object or a path as headerless samples, with arguments as from `raw_arguments`."""
    return SoundFile(file, "r", **arguments)
