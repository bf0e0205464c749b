"""Moments and lengths of time as people type them: `90`, `1h30m`, `2026-11-25T14:00:00Z`, `2026-11-25 14:00`, `14:00`.

Raises UsageError, beginning with `where`, for whatever cannot be one. Local time is that of this machine (TZ).
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from disbatch_host.clock import to_milliseconds
from disbatch_host.errors import UsageError
from disbatch_protocol.quantities import parse_duration

_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)? ?(?:[Zz]|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)
_TIMES = 'a time like "2026-11-25T14:00:00Z", or in local time "2026-11-25 14:00" or "14:00"'
_DURATIONS = 'a duration in seconds or like "90s" or "1h30m"'


def duration(where: str, text: str) -> timedelta:
    """`90`, `"90s"`, `"1h30m"`."""
    try:
        return timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def moment(where: str, text: str, now: datetime) -> datetime:
    """A point in time; only an hour stands for the next time that it is so late."""
    found = _moment(text, now)
    if found is None:
        raise UsageError(f"{where}: expected {_TIMES}, found {text!r:.60}")
    return found


def moment_to_come(where: str, text: str, now: datetime) -> datetime:
    """A point in time, or how long it is until then."""
    found = _moment(text, now)
    return _by_duration(where, text, now, 1) if found is None else found


def moment_gone_by(where: str, text: str, now: datetime) -> datetime:
    """A point in time, or how long ago that was; only an hour stands for the last time that it was so late."""
    found = _moment(text, now, -1)
    return _by_duration(where, text, now, -1) if found is None else found


def _by_duration(where: str, text: str, now: datetime, sign: int) -> datetime:
    try:
        return to_milliseconds(now + sign * timedelta(seconds=parse_duration(text)))
    except ValueError as error:
        raise UsageError(f"{where}: expected {_DURATIONS}, or {_TIMES}, found {text!r:.60}") from error


def _moment(text: str, now: datetime, direction: int = 1) -> datetime | None:
    text = text.strip()
    if _TIME_OF_DAY.fullmatch(text):
        return _time_of_day(text, now, direction)
    if _DATE.fullmatch(text) is None:
        return None
    try:
        day, rest = text[:10], text[11:].upper().replace(" ", "")
        found = datetime.fromisoformat(f"{day}T{rest}" if rest else day)
        return to_milliseconds(found.astimezone(now.tzinfo))
    except (ValueError, OverflowError, OSError):  # a 31st of February, or a year that no clock of a machine knows
        return None


def _time_of_day(text: str, now: datetime, direction: int) -> datetime | None:
    """The nearest one after now, or before it where `direction` is -1."""
    hour, minute, second = (int(part) for part in f"{text}:0".split(":")[:3])
    try:
        wanted = time(hour, minute, second)
    except ValueError:  # 25:00
        return None
    today = now.astimezone().date()
    # By the calendar, not by 24 hours: a day on which the clocks are set has others.
    days = (today + timedelta(days=direction * number) for number in range(3))
    moments = (datetime.combine(day, wanted).astimezone(now.tzinfo) for day in days)
    return next(one for one in moments if (one > now if direction > 0 else one <= now))
