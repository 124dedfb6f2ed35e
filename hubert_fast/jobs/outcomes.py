"""Define what a job needs to know about the outcome for an utterance, whatever the job computes."""

from __future__ import annotations

from typing import Protocol

from .utterances import Utterance


class Outcome(Protocol):
    """The outcome for an utterance: a value for each channel, or the error that prevented it.

    Attributes:
        utterance: The utterance that was processed.
        error: Why there is no value.
        notes: Faults in the file that decoding worked around, such as a wrong header. Each note begins with the file's name.
        channels: The number of values: 1, or one for each channel if channels are processed separately; 0 after an error.
        audio_seconds: Duration of the audio; 0 after an error.
    """

    @property
    def utterance(self) -> Utterance: ...

    @property
    def error(self) -> str | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def channels(self) -> int: ...

    @property
    def audio_seconds(self) -> float: ...
