"""The rates of queues: how many tasks each allows to be claimed.

Responsible for: the time until which each rate is used up, kept in the table `rates`. Must not know: a task, how many
`maxtotal` allows, where a transaction begins and ends.
"""

from __future__ import annotations

import math
import sqlite3
from datetime import datetime

from disbatch_host.documents.records import QueueId
from disbatch_host.store.sqlite import moments
from disbatch_protocol.quantities import Rate


def granted(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime) -> int:
    """How many may be claimed now by the rate of a queue. Each one uses up an interval, from now or from the end of
    those before it; the used-up time may lie a burst ahead of now."""
    interval = _interval(rate)
    ahead = max(0, _used_until(connection, queue, rate, now) - moments.to_microseconds(now))
    return (rate.burst * interval - ahead) // interval


def use_up(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime, count: int) -> None:
    """Record that `count` are claimed now."""
    until = max(_used_until(connection, queue, rate, now), moments.to_microseconds(now)) + count * _interval(rate)
    connection.execute("INSERT OR REPLACE INTO rates (queue, used_until) VALUES (?, ?)", (queue, until))


def _used_until(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime) -> int:
    row = connection.execute("SELECT used_until FROM rates WHERE queue = ?", (queue,)).fetchone()
    if row is None:
        return 0
    until, furthest = row[0], moments.to_microseconds(now) + rate.burst * _interval(rate)
    if not isinstance(until, int) or until > furthest:
        # The clock was set back, the rate was a different one, or somebody has written something else here. From now on
        # it is as if a whole burst had just come.
        until = furthest
        connection.execute("UPDATE rates SET used_until = ? WHERE queue = ?", (until, queue))
    return until


def _interval(rate: Rate) -> int:
    """Microseconds, rounded up: never more than the rate allows."""
    return math.ceil(rate.interval_seconds * 1_000_000)
