"""The part of a file that a row of a list names: its offset and duration, in the spellings that lists have for times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

OFFSETS, DURATIONS = ("offset", "offset_seconds"), ("duration", "duration_seconds")
STARTS, ENDS = ("start", "start_seconds", "start_time", "begin", "begin_time"), ("end", "end_seconds", "end_time", "stop")
UNITS_PER_SECOND = (1.0, 1000.0, 8000.0, 16000.0, 22050.0, 24000.0, 32000.0, 44100.0, 48000.0)
MOST_PART = 1e9  # a larger start is a date in seconds since 1970
UNKNOWN = frozenset(("", "nan", "n/a", "na", "#n/a", "<na>", "nat", "null", "none", "-", "?"))  # as tables spell no value
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")  # 0:01:02.5, 00:01.5
COUNT = re.compile(r"(-?\d+)(?:,(\d+))?\s*(?:s|sec|seconds)?")  # 12, 12s, and 0,5 as half of Europe writes it
DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{4}")


class WrongRow(Exception):
    """A row cannot be used; the message goes after its number."""


def is_unknown(value: Any) -> bool:
    """Return whether a value stands for one that is not known: null, NaN, an empty text, "nan", "N/A"."""
    if isinstance(value, str):
        return value.strip().lower() in UNKNOWN
    return value is None or (isinstance(value, float) and math.isnan(value))


def part_of(fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return offset and duration in seconds, ``None`` where a row does not say.

    Raises :class:`WrongRow` for times that cannot be read. Dates in start and end say when a recording was made: no part.
    """
    offset = offset_of(fields, OFFSETS)
    duration = duration_of(fields, DURATIONS)
    start, end = (_time(fields, names) for names in (STARTS, ENDS))
    if end == -1:  # as Kaldi writes: up to the end
        end = None
    if start is None and offset is None and end == 0:
        end = None
    if offset is not None:
        if duration is None and end is not None:
            duration = _length(offset, end)
        return offset, duration
    if start is None:
        return None, end if duration is None else duration
    if end is None or (start == end == 0):
        return (start, duration) if start or end is None else (None, duration)
    length = _length(start, end)
    each = _units_per_second(length, duration)
    return start / each, length / each


def offset_of(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Return the first of some fields that is known, in seconds. Raises :class:`WrongRow`."""
    name, value = _first(fields, names)
    return None if value is None else _seconds(name, value)


def duration_of(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Return the first of some fields that is known, in seconds; 0 (NeMo's) and -1 are not. Raises :class:`WrongRow`."""
    name, value = _first(fields, names)
    if value is None or _number(value) == -1:
        return None
    return _seconds(name, value) or None


def _time(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    name, value = _first(fields, names)
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, str) and DATE.search(value)):
        return None  # a list has the times of words
    number = _number(value)
    if number is not None and MOST_PART <= number < math.inf:
        return None
    return -1.0 if number == -1 and names is ENDS else _seconds(name, value)


def _length(start: float, end: float) -> float:
    if end <= start:
        raise WrongRow(f"must end after it starts, but is from {start:.10g} to {end:.10g} s")
    return end - start


def _units_per_second(length: float, seconds: float | None) -> float:
    """Return what a part's start and end count: seconds, milliseconds, or samples where its duration shows their rate."""
    if not seconds:
        return 1.0
    return next((each for each in UNITS_PER_SECOND if abs(length / seconds / each - 1) < 0.01), 1.0)


def _seconds(name: str, value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number < math.inf:
        raise WrongRow(f"{name} must be a number of seconds or a time as 0:01:02.5, but is {value!r}"[:300])
    return number


def _number(value: Any) -> float | None:
    """Return a number, or the seconds of a time such as ``0:01:02.5``; ``None`` for what is neither."""
    if isinstance(value, str):
        text = value.strip()
        if clock := CLOCK.fullmatch(text):
            hours, minutes, seconds = (float((each or "0").replace(",", ".")) for each in clock.groups())
            return 3600 * hours + 60 * minutes + seconds if seconds < 60 and (minutes < 60 or clock[1] is None) else None
        if (count := COUNT.fullmatch(text.lower())) and not _is_ambiguous(*count.groups()):
            value = f"{count[1]}.{count[2] or 0}"
        elif text.lower().endswith("s"):
            value = text.lower().removesuffix("s")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_ambiguous(whole: str, decimals: str | None) -> bool:
    """Return whether a comma may be one between thousands: 1,500 and not 0,500 or 1,5."""
    return decimals is not None and len(decimals) == 3 and whole.lstrip("-0") != ""


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> tuple[str, Any]:
    """Return the first field that is known, with its name."""
    return next(((name, fields[name]) for name in names if name in fields and not is_unknown(fields[name])), ("", None))
