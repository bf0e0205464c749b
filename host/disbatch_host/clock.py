"""Time, passed in wherever it is needed, so that tests can decide what time it is.

`now` is for documents (aware UTC, cut to milliseconds as BSON does it, so that both stores give back what was
written); `monotonic` is for deadlines, which must not jump when the wall clock does; `since_boot` also counts the time
that the machine was asleep, for what others may have done meanwhile.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The readings that the host needs of a clock."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    def since_boot(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return to_milliseconds(datetime.now(UTC))

    def monotonic(self) -> float:
        return time.monotonic()

    def since_boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class StoreClock:
    """The clock of a remote store, as this machine knows it: its last reading, plus the time that has passed since.

    Nodes compare the times that other nodes write into documents. All of them come from this one clock, so it does not
    matter that the nodes' own clocks differ by minutes, or jump: the monotonic clock measures the time since the
    reading.
    """

    def __init__(self, local: Clock) -> None:
        self._local = local
        self._seen: tuple[datetime, float] | None = None  # the store's time, and the monotonic time of that reading

    def now(self) -> datetime:
        if self._seen is None:
            return self._local.now()
        moment, at = self._seen
        return to_milliseconds(moment + timedelta(seconds=self._local.monotonic() - at))

    def monotonic(self) -> float:
        return self._local.monotonic()

    def since_boot(self) -> float:
        return self._local.since_boot()

    def adjust(self, moment: datetime, *, at: float) -> None:
        """Take note that the store's clock read `moment` at `at` of the monotonic clock."""
        self._seen = (moment, at)


def to_milliseconds(moment: datetime) -> datetime:
    """Cut a moment to the resolution of a BSON date."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
