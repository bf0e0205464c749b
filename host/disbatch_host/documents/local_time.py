"""Local time: the moment that a person means by it, and a moment as people read it.

Responsible for: both directions, by this machine's time zone (TZ). Must not know: what a moment is for.

Rules:
1. A local time that the clocks skip is never before it: it means the moment that the clock before the jump would have
   shown so, 2:30 being 3:30 where the hour from 2:00 to 3:00 is missing.
2. Of a local time that comes twice the first is meant.
3. Every moment that a document can hold can be shown: what has no local time (the last hours of the year 9999 in
   Berlin, the first of the year 1 in New York) is shown in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(local: datetime) -> datetime:
    """The moment, in UTC, that a date without a zone means. Raises OverflowError where it has no place in the calendar
    of the years 1 to 9999."""
    whole = local.replace(microsecond=0)
    found = _shifted(whole) + timedelta(microseconds=local.microsecond)
    while (reading := _reading(found)) is not None and reading < local:
        found += local - reading
    return found


def shown(moment: datetime, timespec: str = "milliseconds") -> str:
    """A moment in full: local time with its offset, else UTC."""
    try:
        local = moment.astimezone()
    except (ValueError, OverflowError):  # the local year would be 0 or 10000
        local = moment.astimezone(UTC)
    return local.isoformat(sep=" ", timespec=timespec)


def _shifted(local: datetime) -> datetime:
    """By the offset of the moment; at either end of the calendar by the offset of the day beside it."""
    try:
        return _EPOCH + timedelta(seconds=local.timestamp())  # of whole seconds, so nothing is rounded
    except ValueError:
        beside = local - _DAY if local.year > _EPOCH.year else local + _DAY
        return local.replace(tzinfo=UTC) + (_EPOCH + timedelta(seconds=beside.timestamp()) - beside.replace(tzinfo=UTC))


def _reading(moment: datetime) -> datetime | None:
    """What a clock on the wall shows then; None where it has no date for it."""
    try:
        return moment.astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
