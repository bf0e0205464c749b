"""One epoll for the descriptors of all runs, and one heap for their timers.

Responsible for: calling back when a descriptor can be read or written, or a time has come. Must not know: whose it is.

A short run has a pidfd that is watched for a few milliseconds, and one timer that nearly always is cancelled: here that
is an entry in a dictionary, an item in a heap, and a system call.
"""

from __future__ import annotations

import heapq
import logging
import select
from collections.abc import Callable

log = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 256  # then the rest of the thread has its turn


class Timer:
    """A time at which something is to be done, unless it is cancelled before."""

    __slots__ = ("_callback", "_when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._when = when
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return self._when < other._when

    @property
    def when(self) -> float:
        """By the clock of its `Watching`."""
        return self._when

    @property
    def is_cancelled(self) -> bool:
        return self._callback is None

    def cancel(self) -> None:
        """Cancelling twice, or after it was called back, is fine."""
        self._callback = None

    def call(self) -> None:
        """Call back, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Watching:
    """Used in one thread. A callback that fails is logged and does not stop the others."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._timers: list[Timer] = []

    def fileno(self) -> int:
        """Readable when a watched descriptor has something."""
        return self._epoll.fileno()

    def readable(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call back whenever it can be read, has ended, or is broken, until `forget`."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor] = callback

    def writable(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call back whenever it can be written, or nobody reads it any more, until `forget`."""
        self._epoll.register(descriptor, select.EPOLLOUT)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Call this before closing it. A child that is being started may hold a copy for a moment, so that closing it
        alone would not take it out of the epoll."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back in so many seconds, once."""
        timer = Timer(self.now() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def due_seconds(self) -> float | None:
        """Until the next timer; None without one."""
        while self._timers and self._timers[0].is_cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].when - self.now()) if self._timers else None

    def work(self) -> None:
        """Call back for everything that is there and due now. Returns at once."""
        for descriptor, _ in self._epoll.poll(0, _EVENTS_AT_ONCE):
            callback = self._callbacks.get(descriptor)
            if callback is not None:  # else forgotten by a callback before it in this turn
                self._call(callback)
        if self._timers:
            now = self.now()
            while self._timers and (self._timers[0].is_cancelled or self._timers[0].when <= now):
                self._call(heapq.heappop(self._timers).call)

    def close(self) -> None:
        """Closing twice is fine."""
        self._epoll.close()
        self._callbacks.clear()
        self._timers.clear()

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            log.exception("a callback of a child process failed")
