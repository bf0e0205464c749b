"""One epoll for the descriptors of all children of an event loop.

Responsible for: calling back when a descriptor can be read or written. Must not know: whose it is.

A short run has five descriptors that are watched for a few milliseconds. The event loop's own `add_reader` and its
counterpart keep a handle, a key and a callback in a queue for each; here it is one entry in a dictionary and one system
call, and the event loop itself watches a single descriptor: this epoll's.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

_EVENTS_AT_ONCE = 256  # then the rest of the event loop has its turn


class Poller:
    """Made anywhere, used in the thread of one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], object]] = {}

    def watch_readable(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call back whenever it can be read, has ended, or is broken, until `forget`."""
        self._opened().register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor] = callback

    def watch_writable(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call back whenever it can be written, or nobody reads it any more, until `forget`."""
        self._opened().register(descriptor, select.EPOLLOUT)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Call this before closing it. A child that is being started may hold a copy for a moment, so that closing it
        alone would not take it out of the epoll."""
        if self._callbacks.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Closing twice is fine."""
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = self._loop = None
            self._callbacks.clear()

    def _opened(self) -> select.epoll:
        if self._epoll is None:
            self._loop = asyncio.get_running_loop()
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._call_back)
        return self._epoll

    def _call_back(self) -> None:
        assert self._epoll is not None and self._loop is not None
        for descriptor, _ in self._epoll.poll(0, _EVENTS_AT_ONCE):
            callback = self._callbacks.get(descriptor)
            if callback is None:
                continue  # forgotten by a callback before it in this turn
            try:
                callback()
            except Exception as error:  # a failure with one child must not stop the others from being read
                context = {"message": "a callback of a child process failed", "exception": error}
                self._loop.call_exception_handler(context)
