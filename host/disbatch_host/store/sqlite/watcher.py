"""A periodic look at the file's change counter: wakes a thread that waits for something to do."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from disbatch_host.store.sqlite import connections

WATCH_SECONDS = 0.01  # between two looks of a watcher: 5 µs each, so under 0.1 % of a core


class SqliteWatcher:
    """Reads the file's change counter through a connection of its own, which its own thread uses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._is_closed = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._is_closed.is_set():
            version = self._data_version()
            if version is not None and version != self._seen:
                is_first, self._seen = self._seen is None, version
                if not is_first:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._is_closed.wait(min(WATCH_SECONDS if version is not None else left, left))
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return False

    def close(self) -> None:
        self._is_closed.set()

    def _data_version(self) -> int | None:
        """A number that changes when another connection commits; None if it cannot be known now."""
        try:
            if self._connection is None:
                self._connection = connections.connect(self._path)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None
