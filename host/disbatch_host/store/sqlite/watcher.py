"""Wakes a thread that waits for something to do, once another connection has committed."""

from __future__ import annotations

import select
import sqlite3
import threading
import time
from pathlib import Path

from disbatch_host.store.contract.answers import Look
from disbatch_host.store.sqlite import connections
from disbatch_host.store.sqlite.foreign_commits import ForeignCommits, MakeEvents
from disbatch_host.store.sqlite.write_events import WriteEvents


class SqliteWatcher:
    """Looks through a connection of its own, which its own thread uses."""

    def __init__(self, path: Path, make_events: MakeEvents = WriteEvents) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._commits = ForeignCommits(path, make_events)
        self._has_looked = False
        self._is_closed = threading.Event()
        self._in_use = threading.Lock()

    @property
    def is_listening(self) -> bool:
        return False  # a change may be found a second late

    def wait(self, timeout_seconds: float) -> bool:
        with self._in_use:
            has_changed = self._wait(time.monotonic() + timeout_seconds)
        if self._is_closed.is_set():
            self.close()
        return has_changed

    def close(self) -> None:
        self._is_closed.set()
        # A waiting thread still uses the connection; it closes it once it sees that it should end.
        if self._in_use.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._in_use.release()
        else:
            self._commits.stop()

    def _wait(self, deadline: float) -> bool:
        while not self._is_closed.is_set():
            look = self._look()
            if look is not None:
                is_first, self._has_looked = not self._has_looked, True
                if look.has_changed and not is_first:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._pause(look, left)
        return False

    def _look(self) -> Look | None:
        """None if it cannot be known now."""
        try:
            if self._connection is None:
                self._connection = connections.connect(self._path)
            return self._commits.look(self._connection)
        except sqlite3.Error:
            return None

    def _pause(self, look: Look | None, most_seconds: float) -> None:
        seconds = most_seconds if look is None else min(look.again_seconds, most_seconds)
        if look is None or look.announced_on is None:
            self._is_closed.wait(seconds)
            return
        announced = select.poll()
        announced.register(look.announced_on, select.POLLIN)
        announced.poll(seconds * 1000)

    def _drop(self) -> None:
        self._commits.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
