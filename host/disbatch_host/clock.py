"""Time, passed in wherever it is needed, so that tests can decide what time it is.

`now` is for documents (aware UTC, cut to milliseconds as BSON does it, so that both stores give back what was
written); `monotonic` is for deadlines, which must not jump when the wall clock does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the host asks of a clock."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return to_milliseconds(datetime.now(UTC))

    def monotonic(self) -> float:
        return time.monotonic()


def to_milliseconds(moment: datetime) -> datetime:
    """Cut a moment to the resolution of a BSON date."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
