"""Everything that is followed: one thread that hears of changes, one reader for each task that somebody follows.

Responsible for: waking readers, and how much of the stores they take. Must not know: what a reader reads, HTTP.

Rules:
1. A reader lives as long as somebody follows its task.
2. All readers together take at most `_AT_ONCE` of the clients: the page stays quick, whatever is followed.
3. A change wakes every reader, at most every `_SETTLE_SECONDS`; how often each of them reads is its own rule.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from disbatch_host.client import Client
from disbatch_host.documents.records import TaskId
from disbatch_host.web.feed import Feed
from disbatch_host.web.figures import Figures
from disbatch_host.web.looks import Together
from disbatch_host.web.pool import ClientPool

_AT_ONCE = 2
_SETTLE_SECONDS = 0.05
_WAIT_SECONDS = 1.0
_BY = "web"

T = TypeVar("T")


class Watcher(Protocol):
    """What `store.watch` makes."""

    def wait(self, timeout_seconds: float) -> bool: ...

    def close(self) -> None: ...


class Hub:
    """Made in the event loop that uses it. `watch` makes a watcher of the store."""

    def __init__(self, pool: ClientPool, watch: Callable[[], Watcher], figures: Figures) -> None:
        self._pool = pool
        self._watch = watch
        self.figures = figures
        self.batches: Together[Any] = Together()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._feeds: dict[str, Feed] = {}
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None
        self._watcher: Watcher | None = None
        self._is_wanted = threading.Event()
        self._is_closed = threading.Event()

    @property
    def followed(self) -> int:
        """How many tasks."""
        return len(self._feeds)

    async def call(self, do: Callable[[Client], T]) -> T:
        """What `do` returns; waits until its turn. Raises what it raises, and Problem if no client is free in time."""
        async with self._places:
            return await self._pool.run(do, _BY)

    def join(self, task_id: TaskId, base: str) -> Feed:
        """The reader of a task, which somebody follows from now on, until `leave`. `base`: of its links."""
        name = str(task_id)
        feed = self._feeds.get(name)
        if feed is None or feed.is_over:
            feed = self._feeds[name] = Feed(task_id, self.call, base)
            feed.start()
        feed.followers += 1
        self._listen()
        return feed

    def leave(self, feed: Feed) -> None:
        feed.followers -= 1
        if not feed.followers:
            feed.stop()
            name = str(feed.task_id)
            if self._feeds.get(name) is feed:
                del self._feeds[name]
            if not self._feeds:
                self._is_wanted.clear()

    def _listen(self) -> None:
        self._is_wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._hear, name="hub", daemon=True)
            self._thread.start()

    def _hear(self) -> None:
        watcher = self._watcher = self._watch()
        try:
            while not self._is_closed.is_set():
                if not self._is_wanted.wait(_WAIT_SECONDS):
                    continue
                if watcher.wait(_WAIT_SECONDS) and not self._is_closed.wait(_SETTLE_SECONDS):
                    self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop has ended
            pass
        finally:
            watcher.close()

    def _wake(self) -> None:
        for feed in self._feeds.values():
            feed.wake()

    async def close(self) -> None:
        """Let go of all readers, and of the thread."""
        self._is_closed.set()
        self._is_wanted.set()
        if self._watcher is not None:
            self._watcher.close()
        for feed in list(self._feeds.values()):
            feed.stop()
        if self._thread is not None:
            await self._loop.run_in_executor(None, self._thread.join, 2 * _WAIT_SECONDS)
