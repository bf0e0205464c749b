"""The thread that waits for the store to say that something may have changed, and wakes the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from disbatch_host.node.pace import Pace
from disbatch_host.store.contract.looking import Watcher


class WatchThread:
    """Calls `wake` in the event loop soon after each change of the store, and at most once for many."""

    def __init__(self, watcher: Watcher, wake: Callable[[], None], *, pace: Pace = Pace()) -> None:
        self._watcher = watcher
        self._wake = wake
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._is_stopping = threading.Event()
        self._has_failed = False  # the last wait
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_listening(self) -> bool:
        """Whether every change is announced to `wake`."""
        return self._watcher.is_listening and not self._has_failed and not self._is_stopping.is_set()

    def stop(self) -> None:
        """Wake nobody any more. The thread ends with the server's next answer, for which nobody has to wait. Stopping
        twice is fine."""
        self._is_stopping.set()
        self._watcher.close()

    def _work(self) -> None:
        while not self._is_stopping.is_set():
            try:
                has_changed = self._watcher.wait(self._pace.watcher_seconds)
                self._has_failed = False
            except Exception:  # then the queues are read once a second
                self._has_failed = True
                self._is_stopping.wait(self._pace.watcher_seconds)
                continue
            if has_changed and not self._is_stopping.is_set():
                try:
                    self._loop.call_soon_threadsafe(self._wake)
                except RuntimeError:
                    return  # the event loop is closed: nobody is left to wake
