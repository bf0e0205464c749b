"""Moments and durations, as programs pass them and as people type them: `1h30m`, `2026-11-25T14:00:00Z`,
`2026-11-25 14:00`, `14:00`.

A duration that is a number means seconds. One that is a text has a unit: a person who types `keep=30` may mean days,
and would lose tasks that are 30 seconds old.

Each function takes the field's name for its FieldError. Texts and datetimes without a zone mean local time
on this machine (TZ), as `documents.local_time` reads it: one that the clocks skip is never before it.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from disbatch_host.clock import to_milliseconds
from disbatch_host.documents import local_time
from disbatch_host.errors import FieldError
from disbatch_host.settings.forms import lacks_unit
from disbatch_protocol.quantities import parse_duration

Duration = str | float | timedelta  # a number is seconds, a text has a unit
Moment = str | datetime

_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)? ?(?:[Zz]|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)
_TIMES = 'a time like "2026-11-25T14:00:00Z", or in local time "2026-11-25 14:00" or "14:00"'
_DURATIONS = 'a duration like "90s", "1h30m" or "30d"'
_NUMBER_SHOWN_MAX = 10


def duration(field: str, value: Duration) -> timedelta:
    """`90`, `"90s"`, `"1h30m"`."""
    try:
        return _length(value)
    except ValueError as error:
        if isinstance(value, str):
            raise FieldError(field, f"expected {_expected(value)}, found {value!r:.60}") from error
        raise FieldError(field, str(error)) from error


def is_duration(text: str) -> bool:
    """Whether it is one, rather than a point in time."""
    try:
        parse_duration(text)
    except ValueError:
        return False
    return True


def moment(field: str, value: Moment, now: datetime) -> datetime:
    """A point in time; a time of day alone is its next occurrence."""
    found = _moment(value, now)
    if found is None:
        raise FieldError(field, f"expected {_TIMES}, found {value!r:.60}")
    return found


def moment_to_come(field: str, value: Moment | Duration, now: datetime) -> datetime:
    """A point in time, or a duration from now."""
    if isinstance(value, datetime):
        return moment(field, value, now)
    found = _moment(value, now)
    return _by_duration(field, value, now, 1) if found is None else found


def moment_gone_by(field: str, value: Moment | Duration, now: datetime) -> datetime:
    """A point in time, or a duration before now; a time of day alone is its last occurrence."""
    if isinstance(value, datetime):
        return moment(field, value, now)
    found = _moment(value, now, -1)
    return _by_duration(field, value, now, -1) if found is None else found


def _by_duration(field: str, value: Duration, now: datetime, sign: int) -> datetime:
    try:
        return to_milliseconds(now + sign * _length(value))
    except ValueError as error:
        raise FieldError(field, f"expected {_expected(value)}, or {_TIMES}, found {value!r:.60}") from error


def _expected(value: Duration) -> str:
    if not isinstance(value, str) or not lacks_unit(value) or len(number := value.strip()) > _NUMBER_SHOWN_MAX:
        return _DURATIONS
    return f'a duration with its unit, such as "{number}s", "{number}m", "{number}h" or "{number}d"'


def _length(value: Duration) -> timedelta:
    """Raises ValueError."""
    if isinstance(value, str) and lacks_unit(value):
        raise ValueError("expected a unit")
    return timedelta(seconds=parse_duration(value.total_seconds() if isinstance(value, timedelta) else value))


def _moment(value: object, now: datetime, direction: int = 1) -> datetime | None:
    if isinstance(value, datetime):
        return _aware(value, now)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _TIME_OF_DAY.fullmatch(text):
        return _time_of_day(text, now, direction)
    if _DATE.fullmatch(text) is None:
        return None
    try:
        day, rest = text[:10], text[11:].upper().replace(" ", "")
        return _aware(datetime.fromisoformat(f"{day}T{rest}" if rest else day), now)
    except ValueError:  # February 31
        return None


def _aware(value: datetime, now: datetime) -> datetime | None:
    """None: in UTC it is not in the years 1 to 9999, the only ones that a document can hold."""
    try:
        found = local_time.moment_of(value) if value.tzinfo is None else value
        return to_milliseconds(found.astimezone(now.tzinfo))
    except OverflowError:
        return None


def _time_of_day(text: str, now: datetime, direction: int) -> datetime | None:
    """The next occurrence after now, or the last one before it if `direction` is -1."""
    hour, minute, second = (int(part) for part in f"{text}:0".split(":")[:3])
    try:
        wanted = time(hour, minute, second)
    except ValueError:  # 25:00
        return None
    today = now.astimezone().date()
    # By the calendar, not by 24 hours: days on which the clocks change are longer or shorter.
    days = (today + timedelta(days=direction * number) for number in range(3))
    moments = (local_time.moment_of(datetime.combine(day, wanted)) for day in days)
    return next(one for one in moments if (one > now if direction > 0 else one <= now))
