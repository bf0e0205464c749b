"""Time, passed in wherever it is needed, so that tests can decide what time it is.

`now` is for documents (aware UTC, cut to milliseconds as BSON does it, so that both stores give back what was
written); `monotonic` is for deadlines, which must not jump when the wall clock does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
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


class StoreClock:
    """The store's clock as this machine knows it: its own, and how far the store's is from it.

    What nodes write into documents is compared by other nodes; taken from one clock, it does not matter that theirs
    differ by minutes.
    """

    # Below this, the difference is the time that asking took.
    _NOISE = timedelta(milliseconds=20)

    def __init__(self, local: Clock) -> None:
        self._local = local
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return self._local.now() + self._ahead

    def monotonic(self) -> float:
        return self._local.monotonic()

    def adjust(self, ahead: timedelta) -> None:
        """The store's clock was seen to be `ahead` of the local one (behind where negative)."""
        self._ahead = to_whole_milliseconds(ahead) if abs(ahead) > self._NOISE else timedelta(0)


def to_milliseconds(moment: datetime) -> datetime:
    """Cut a moment to the resolution of a BSON date."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_whole_milliseconds(span: timedelta) -> timedelta:
    """Cut a span likewise."""
    return timedelta(milliseconds=span // timedelta(milliseconds=1))
