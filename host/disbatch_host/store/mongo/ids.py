"""The ids of new tasks. See `IdSource`."""

from __future__ import annotations

import os

from bson.objectid import ObjectId

from disbatch_host.store.mongo.server_clock import ServerClock

_TICKS = 2**16  # in a second: how fine ids are dated


class IdSource:
    """Ids that sort after all made before, by any process: tasks are first in, first out.

    The driver's own are in order within one process only; those of two that push within one second are mixed. So here:
    seconds, as in any ObjectId, and their fraction, by the server's clock; then 3 random bytes, then a counter.
    """

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self._last_tick = 0

    def take(self, count: int) -> list[ObjectId]:
        self._last_tick = max(int(self._clock.now().timestamp() * _TICKS), self._last_tick + 1)
        prefix = self._last_tick.to_bytes(6, "big") + os.urandom(3)
        return [ObjectId(prefix + number.to_bytes(3, "big")) for number in range(count)]
