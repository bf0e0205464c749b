"""Back-pressure: bounds the output that is buffered in memory on its way into the store.

Responsible for: letting runs make their large records one after the other, as memory becomes free. Must not know:
the content of the records.

Without it every run would hand over its next pieces of output, and all of them would stay in memory while the store is
away; in the spool files of the runs they take up none.
"""

from __future__ import annotations

import asyncio
from typing import Any


class WriteBudget:
    """A number of bytes that are taken and released. Used in the thread of the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._turn = asyncio.Lock()
        self._has_room = asyncio.Event()

    def take(self, size: int, until: asyncio.Future[Any]) -> None:
        """`size` bytes are in memory until the future is done, whether the budget had room for them or not."""
        self._taken_bytes += size
        until.add_done_callback(lambda _: self._release(size))

    async def wait_for_room(self) -> None:
        """Returns once there is room, to each caller in its turn. The caller takes what it needs before it awaits
        anything else: the next one sees that, so the bound is exceeded by one record at most."""
        async with self._turn:
            while self._taken_bytes >= self._max_bytes:
                self._has_room.clear()
                await self._has_room.wait()

    def _release(self, size: int) -> None:
        self._taken_bytes -= size
        self._has_room.set()
