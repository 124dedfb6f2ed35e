"""The results of an `Encoder`: for each utterance, the frames of some layers or the units of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..jobs.utterances import Utterance


@dataclass(frozen=True, eq=False)
class Encoding:
    """The frames or units of an audio file, or of one of its channels.

    Attributes:
        duration_seconds: Duration of the audio.
        frames: The frames `[T, C]` of each layer, by the number of the layer; if they are pooled, their mean, `[1, C]`. Empty
            if units are computed.
        units: The unit of each frame, int32 `[T]`, or of each run of equal units if they are merged; `None` if frames are
            computed.
        durations: The number of frames of each run, int32, if units are merged; otherwise `None`.
    """

    duration_seconds: float
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    units: np.ndarray | None = None
    durations: np.ndarray | None = None


@dataclass(frozen=True)
class EncodingResult:
    """The outcome for an utterance: an encoding, an encoding for each channel, or the error that prevented it.

    Attributes:
        utterance: The utterance that was encoded.
        encodings: One encoding, or one for each channel; empty after an error.
        error: Why there is no encoding.
        notes: Faults in the file that decoding worked around, such as a wrong header. Each note begins with the file's name.
        frame_count: The number of frames in all encodings, before they are pooled or merged.
    """

    utterance: Utterance
    encodings: tuple[Encoding, ...]
    error: str | None = None
    notes: tuple[str, ...] = ()
    frame_count: int = 0

    @property
    def channels(self) -> int:
        """The number of encodings."""
        return len(self.encodings)

    @property
    def audio_seconds(self) -> float:
        """Duration of the audio; 0 after an error."""
        return max((encoding.duration_seconds for encoding in self.encodings), default=0.0)


def merged(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit and the number of frames of each run of equal units, int32 each."""
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    return units[starts], np.diff(starts, append=len(units)).astype(np.int32)
