"""How much of what runs have said may be in memory at once on its way into the store.

Responsible for: letting one large record after the other be made, as room comes free. Must not know: what is recorded.

Without it every run would hand over its next pieces, and while the store is away all of them would stay in memory; in
the spool files of the runs they take none.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Room:
    """A number of bytes, taken and given back. Used in the thread of the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._turn = asyncio.Lock()
        self._has_some = asyncio.Event()

    def take(self, size: int, until: asyncio.Future[Any]) -> None:
        """`size` bytes are in memory until the future is done, whether there was room for them or not."""
        self._taken_bytes += size
        until.add_done_callback(lambda _: self._give_back(size))

    async def some(self) -> None:
        """Returns when there is some, to each in the order in which they came. Who asks takes what it needs before it
        awaits anything else: the next one sees that, so the bound is exceeded by one record at most."""
        async with self._turn:
            while self._taken_bytes >= self._max_bytes:
                self._has_some.clear()
                await self._has_some.wait()

    def _give_back(self, size: int) -> None:
        self._taken_bytes -= size
        self._has_some.set()
