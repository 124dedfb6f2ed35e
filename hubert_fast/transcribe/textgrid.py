"""Praat's TextGrid: words as intervals of a tier, in the long text format."""

from __future__ import annotations

from .transcriber import Transcript

UNIT = 100_000  # boundaries are whole tens of microseconds, so that the end of an interval is exactly the start of the next
SHORTEST = 100  # units: Praat refuses an interval without a length


def _intervals(transcript: Transcript, offset_seconds: float) -> list[tuple[int, int, str]]:
    """Return start, end and text of intervals that cover the time from 0 without holes and overlaps, in units."""
    intervals, at = [], 0
    for word in transcript.words:
        start = max(round(UNIT * word.start_seconds), at)
        end = max(round(UNIT * word.end_seconds), start + SHORTEST)
        if 0 < start - at < SHORTEST:  # too short for an interval: the word begins where the one before ends
            start = at
        if start > at:
            intervals.append((at, start, ""))
        intervals.append((start, end, word.word))
        at = end
    until = round(UNIT * (offset_seconds + transcript.duration_seconds))
    if until - at >= SHORTEST or not intervals:
        intervals.append((at, max(until, at + SHORTEST), ""))
    return intervals


def _seconds(units: int) -> str:
    whole, rest = divmod(units, UNIT)
    return f"{whole}.{rest:05d}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def textgrid(transcript: Transcript, offset_seconds: float = 0.0) -> str:
    """Return a TextGrid of one tier, ``words``; pauses are intervals without text.

    Times are those of the whole file, also where the transcript is of a part that begins at ``offset_seconds``: the tier
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
