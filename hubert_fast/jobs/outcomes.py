"""Define what a job needs to know about the outcome for an utterance, whatever the job computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from .utterances import Utterance

Value = TypeVar("Value")


class Outcome(Protocol):
    """The outcome for an utterance: a value for each channel, or the error that prevented it.

    Attributes:
        utterance: The utterance that was processed.
        error: Why there is no value.
        notes: Faults in the file that decoding worked around, such as a wrong header. Each note begins with the file's name.
        channels: The number of values: 1, or one for each channel if channels are processed separately; 0 after an error.
        audio_seconds: Duration of the audio; 0 after an error.
        frame_count: The number of frames that were computed, in all channels together; 0 if the job does not count them.
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

    @property
    def frame_count(self) -> int: ...


def by_channel(utterance: Utterance, values: Sequence[Value]) -> Iterator[tuple[str, int | None, Value]]:
    """Yield id, channel and value for each value; the channel counts from 1, and is `None` unless there are several values."""
    if len(values) == 1:
        yield utterance.id, None, values[0]
        return
    for channel, value in enumerate(values, 1):
        yield f"{utterance.id}#{channel}", channel, value
