"""Calls back after a delay that is the same for all who ask: with one timer of the event loop, however many wait.

Most who wait are cancelled before their time: a run that is short never writes news.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Waiting:
    """Somebody who is called back, unless that is cancelled before."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancelling twice, or afterwards, is fine."""
        self.callback = None


class SameDelay:
    """Used in the thread of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()  # in the order of their times
        self._timer: asyncio.TimerHandle | None = None

    def after(self, seconds: float, callback: Callable[[], None]) -> Waiting:
        """Call back in so many seconds, which never changes."""
        loop = asyncio.get_running_loop()
        one = Waiting(loop.time() + seconds, callback)
        self._waiting.append(one)
        if self._timer is None:
            self._timer = loop.call_at(one.when, self._call_back)
        return one

    def _call_back(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        try:
            while self._waiting and (self._waiting[0].callback is None or self._waiting[0].when <= now):
                callback = self._waiting.popleft().callback
                if callback is not None:
                    callback()
        finally:
            if self._waiting:
                self._timer = loop.call_at(self._waiting[0].when, self._call_back)
