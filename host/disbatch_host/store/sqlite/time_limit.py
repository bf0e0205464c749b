"""Statements that may take only so long.

Responsible for: interrupting them, and counting as far as there is time. Must not know: what is asked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from disbatch_host.store.contract.answers import Counted

_STEPS = 2000  # of SQLite's machine between two looks at the clock
_FIRST, _TIMES = 1000, 10  # how many are counted first, and how many times as many with each further attempt


class TimeLimit:
    """Interrupts a statement that takes longer than there is time."""

    def __init__(self, connection: sqlite3.Connection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self.is_over = False

    def __enter__(self) -> TimeLimit:
        self._connection.set_progress_handler(self._look, _STEPS)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.set_progress_handler(None, 0)

    def _look(self) -> int:
        self.is_over = time.monotonic() > self._deadline
        return int(self.is_over)


def count_within(connection: sqlite3.Connection, condition: str, values: Sequence[Any], seconds: float) -> Counted:
    """How many rows of `tasks` meet a condition: all of them, or as many as were counted in time."""
    deadline = time.monotonic() + seconds
    known, most = 0, _FIRST
    while True:
        statement = f"SELECT count(*) FROM (SELECT 1 FROM tasks WHERE {condition} LIMIT ?)"
        with TimeLimit(connection, deadline) as limit:
            try:
                found = int(connection.execute(statement, (*values, most)).fetchone()[0])
            except sqlite3.OperationalError:
                if not limit.is_over:
                    raise
                return Counted(value=known, is_exact=False)
        if found < most:
            return Counted(value=found, is_exact=True)
        known, most = found, most * _TIMES
