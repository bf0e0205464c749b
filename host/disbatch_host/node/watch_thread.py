"""The thread that waits for the store to say that something may have changed, and wakes the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Watcher


class WatchThread:
    """Calls `wake` in the event loop soon after each change of the store, and at most once for many."""

    def __init__(self, watcher: Watcher, wake: Callable[[], None], *, pace: Pace = Pace()) -> None:
        self._watcher = watcher
        self._wake = wake
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Stopping twice is fine."""
        self._is_stopping.set()
        self._watcher.close()
        if self._thread.is_alive():
            await self._loop.run_in_executor(None, self._thread.join)

    def _work(self) -> None:
        while not self._is_stopping.is_set():
            try:
                has_changed = self._watcher.wait(self._pace.watcher_seconds)
            except Exception:  # the queues are read once a second anyway
                self._is_stopping.wait(self._pace.watcher_seconds)
                continue
            if has_changed and not self._is_stopping.is_set():
                try:
                    self._loop.call_soon_threadsafe(self._wake)
                except RuntimeError:
                    return  # the event loop is closed: nobody is left to wake
