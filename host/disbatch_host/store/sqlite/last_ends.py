"""When the last tasks of a queue ended, in two indexes that are there only where somebody has asked.

Responsible for: these statements and their indexes. Must not know: who asks, and for what.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from disbatch_host.documents.records import QueueId
from disbatch_host.store.sqlite import moments
from disbatch_protocol.status import Status

_NUMBER_MAX = 2**63 - 1  # a text, which somebody else may have written, is greater than every number


class _Kind(NamedTuple):
    name: str  # of the index
    condition: str  # of its tasks; SQLite uses it only for a statement that says the same


_FAILED = _Kind(
    "tasks_failed_at",
    f"((status >= {int(Status.FAILED)} AND status <= {_NUMBER_MAX}) OR status = {int(Status.TERMINATED)})",
)
_CONCLUDED = _Kind("tasks_concluded_at", f"status = {int(Status.CONCLUDED)}")


def is_ready(connection: sqlite3.Connection, *, failed: bool) -> bool:
    """Whether the index is there."""
    name = (_FAILED if failed else _CONCLUDED).name
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", (name,)).fetchone()
    return found is not None


def make_ready(*, failed: bool) -> Callable[[sqlite3.Connection], object]:
    """Create the index."""
    kind = _FAILED if failed else _CONCLUDED
    statement = f"CREATE INDEX IF NOT EXISTS {kind.name} ON tasks (queue, mtime) WHERE {kind.condition}"
    return lambda connection: connection.execute(statement)


def statement(*, failed: bool) -> str:
    """Takes the queue, the first `mtime` and the limit."""
    kind = _FAILED if failed else _CONCLUDED
    return f"""SELECT mtime FROM tasks INDEXED BY {kind.name}
        WHERE queue = ? AND mtime >= ? AND mtime <= {_NUMBER_MAX} AND {kind.condition} ORDER BY mtime DESC LIMIT ?"""


def find(
    connection: sqlite3.Connection, queue: QueueId, *, failed: bool, since: datetime | None, limit: int
) -> list[datetime]:
    """As `Store.last_ends` wants it, once the index is there."""
    first = 0 if since is None else moments.to_milliseconds(since)
    rows = connection.execute(statement(failed=failed), (queue, first, limit))
    return [at for (mtime,) in rows if (at := _moment_of(mtime)) is not None]


def _moment_of(mtime: object) -> datetime | None:
    try:
        return moments.from_milliseconds(mtime) if isinstance(mtime, int) else None
    except (ValueError, OverflowError):  # no date
        return None
