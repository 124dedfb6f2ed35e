"""The results of a transcription: one for each utterance, with its transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ctc import Word
    from ..jobs.utterances import Utterance


@dataclass(frozen=True)
class Transcript:
    """The text of an audio file, or of one of its channels, as `Transcriber` returns it.

    It differs from `hubert_fast.ctc.Transcript`, which is decoded from the model's outputs alone: it has the duration of the
    audio, and times are relative to the file.

    Attributes:
        text: The recognised text.
        duration_seconds: Duration of the audio.
        confidence: Geometric mean of the tokens' probabilities over their frames; `None` if there are no tokens.
        words: Words with times in seconds from the beginning of the file.
    """

    text: str
    duration_seconds: float
    confidence: float | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Result:
    """The outcome for an utterance: a transcript, a transcript for each channel, or the error that prevented it.

    Attributes:
        utterance: The utterance that was transcribed.
        transcripts: One transcript, or one for each channel; empty after an error.
        error: Why there is no transcript.
        notes: Faults in the file that decoding worked around, such as a wrong header. Each note begins with the file's name.
    """

    utterance: Utterance
    transcripts: tuple[Transcript, ...]
    error: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of transcripts."""
        return len(self.transcripts)

    @property
    def frame_count(self) -> int:
        """Frames are not counted."""
        return 0

    @property
    def audio_seconds(self) -> float:
        """Duration of the audio; 0 after an error."""
        return max((transcript.duration_seconds for transcript in self.transcripts), default=0.0)
