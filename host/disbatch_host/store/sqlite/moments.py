"""Dates as the numbers that columns and JSON hold: since 1970, in milliseconds; for rates in microseconds.

Responsible for: these numbers. Must not know: what a date is for. Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from disbatch_host.errors import StoreRefusedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_milliseconds(moment: Any) -> int | None:
    """Cut to whole ones; a date without a time zone is in UTC. Raises StoreRefusedError if it is not a date."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise StoreRefusedError(f"expected a date, found {moment!r:.60}")
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def from_milliseconds(milliseconds: int | None) -> datetime | None:
    """The date of a column. Raises TypeError or OverflowError if the column does not hold one."""
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


def to_microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
