"""Write Praat's TextGrid in its long text format, with words as the intervals of a tier."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import Transcript

UNITS_PER_SECOND = 100_000  # boundaries are whole multiples of 10 us, so that each interval starts exactly where the last ended
SHORTEST = 100  # units: Praat refuses an interval of no length


def _intervals(transcript: Transcript, offset_seconds: float) -> list[tuple[int, int, str]]:
    """Return start, end and text of intervals that cover the time from 0 without gaps or overlaps, in units."""
    intervals, position = [], 0
    for word in transcript.words:
        start = max(round(UNITS_PER_SECOND * word.start_seconds), position)
        end = max(round(UNITS_PER_SECOND * word.end_seconds), start + SHORTEST)
        if 0 < start - position < SHORTEST:  # a pause too short for an interval: the word begins where the previous one ends
            start = position
        if start > position:
            intervals.append((position, start, ""))
        intervals.append((start, end, word.word))
        position = end
    until = round(UNITS_PER_SECOND * (offset_seconds + transcript.duration_seconds))
    if until - position >= SHORTEST or not intervals:
        intervals.append((position, max(until, position + SHORTEST), ""))
    return intervals


def _seconds(units: int) -> str:
    whole, rest = divmod(units, UNITS_PER_SECOND)
    return f"{whole}.{rest:05d}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def textgrid(transcript: Transcript, offset_seconds: float = 0.0) -> str:
    """Return a TextGrid with a single tier, `words`, whose pauses are intervals without text.

    Times are relative to the whole file, even if the transcript is of a part that begins at `offset_seconds`: the tier
    begins at 0 and ends with the part.
    """
    intervals = _intervals(transcript, offset_seconds)
    until = _seconds(intervals[-1][1])
    head = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0 \nxmax = {until} \ntiers? <exists> \nsize = 1 \nitem []: \n"
        f'    item [1]:\n        class = "IntervalTier" \n        name = "words" \n        xmin = 0 \n        xmax = {until} \n'
        f"        intervals: size = {len(intervals)} \n"
    )
    return head + "".join(
        f"        intervals [{number}]:\n            xmin = {_seconds(start)} \n            xmax = {_seconds(end)} \n"
        f"            text = {_quoted(text)} \n"
        for number, (start, end, text) in enumerate(intervals, 1)
    )
