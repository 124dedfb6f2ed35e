"""Parse the offset and duration that a row of a list gives, in the formats that lists use for times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

OFFSETS, DURATIONS = ("offset", "offset_seconds"), ("duration", "duration_seconds")
STARTS, ENDS = ("start", "start_seconds", "start_time", "begin", "begin_time"), ("end", "end_seconds", "end_time", "stop")
UNITS_PER_SECOND = (1.0, 1000.0, 8000.0, 16000.0, 22050.0, 24000.0, 32000.0, 44100.0, 48000.0)
MIN_TIMESTAMP = 1e9  # a start or end from here on is a date, in seconds since 1970
MISSING = frozenset(("", "nan", "n/a", "na", "#n/a", "<na>", "nat", "null", "none", "-", "?"))  # lower-case
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")  # 0:01:02.5, 00:01.5
NUMBER = re.compile(r"(-?\d+)(?:,(\d+))?\s*(?:s|sec|seconds)?")  # 12, 12s, and 0,5 with a decimal comma
DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{4}")


class InvalidRow(Exception):
    """A row cannot be used. The message is meant to follow the number of the row."""


def is_missing(value: Any) -> bool:
    """Return whether a value stands for a missing one: null, NaN, an empty string, "nan" or "N/A"."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def part_of(fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return offset and duration in seconds, each `None` if the row does not give it.

    Dates as start and end are ignored: they say when a recording was made.

    Raises:
        InvalidRow: If a time cannot be parsed, or the end is not after the start.
    """
    offset = offset_of(fields, OFFSETS)
    duration = duration_of(fields, DURATIONS)
    start, end = (_time(fields, names) for names in (STARTS, ENDS))
    if end == -1:  # in Kaldi, the end of the file
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
    units_per_second = _units_per_second(length, duration)
    return start / units_per_second, length / units_per_second


def offset_of(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Return the first of the named fields that has a value, in seconds. Raise `InvalidRow` if it is not a time."""
    name, value = _first(fields, names)
    return None if value is None else _seconds(name, value)


def duration_of(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Return the first of the named fields that has a value, in seconds. Raise `InvalidRow` if it is not a time.

    The values 0, which NeMo writes, and -1 mean that the duration is unknown.
    """
    name, value = _first(fields, names)
    if value is None or _number(value) == -1:
        return None
    return _seconds(name, value) or None


def _time(fields: Mapping[str, Any], names: Iterable[str]) -> float | None:
    name, value = _first(fields, names)
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, str) and DATE.search(value)):
        return None  # a list holds the times of words
    number = _number(value)
    if number is not None and MIN_TIMESTAMP <= number < math.inf:
        return None
    return -1.0 if number == -1 and names is ENDS else _seconds(name, value)


def _length(start: float, end: float) -> float:
    if end <= start:
        raise InvalidRow(f"must end after it starts, but runs from {start:.10g} to {end:.10g} s")
    return end - start


def _units_per_second(length: float, seconds: float | None) -> float:
    """Return the number of units of start and end in a second.

    A duration in seconds beside them shows whether they count seconds, milliseconds or samples. Without one, they are seconds.
    """
    if not seconds:
        return 1.0
    return next((rate for rate in UNITS_PER_SECOND if abs(length / seconds / rate - 1) < 0.01), 1.0)


def _seconds(name: str, value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number < math.inf:
        raise InvalidRow(f"{name} must be a number of seconds or a time such as 0:01:02.5, but is {value!r}"[:300])
    return number


def _number(value: Any) -> float | None:
    """Return a number, or the seconds of a time such as `0:01:02.5`; `None` for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if clock := CLOCK.fullmatch(text):
            hours, minutes, seconds = (float((digits or "0").replace(",", ".")) for digits in clock.groups())
            return 3600 * hours + 60 * minutes + seconds if seconds < 60 and (minutes < 60 or clock[1] is None) else None
        if (number := NUMBER.fullmatch(text.lower())) and not _is_ambiguous(*number.groups()):
            value = f"{number[1]}.{number[2] or 0}"
        elif text.lower().endswith("s"):
            value = text.lower().removesuffix("s")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_ambiguous(whole: str, decimals: str | None) -> bool:
    """Return whether a comma may separate thousands, as in 1,500 but not in 0,500 or 1,5."""
    return decimals is not None and len(decimals) == 3 and whole.lstrip("-0") != ""


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> tuple[str, Any]:
    """Return the name and value of the first field that is not missing, or `("", None)`."""
    return next(((name, fields[name]) for name in names if name in fields and not is_missing(fields[name])), ("", None))
