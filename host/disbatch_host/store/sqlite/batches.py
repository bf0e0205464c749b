"""The documents of batches, and counts of their tasks.

Responsible for: the table `batches` and what `tasks_batch`, the index, tells. Must not know: what a state means, who
asks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Document, whole_number
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.contract.answers import BatchCounts
from disbatch_host.store.sqlite import conditions, json_text, moments, records
from disbatch_protocol.status import Status

# A task of a batch that is not done is not deleted: its batch could no longer say what became of all of its tasks.
NOT_OF_UNFINISHED_BATCH = (
    "(batch IS NULL OR NOT EXISTS (SELECT 1 FROM batches WHERE batches.id = tasks.batch AND state IS NOT 'done'))"
)
_STEPS = 10_000  # of SQLite's machine between two looks at the clock


def insert(connection: sqlite3.Connection, document: Document) -> bool:
    values = (document["_id"], *_columns(document))
    statement = "INSERT OR IGNORE INTO batches (id, state, watched, created, document) VALUES (?, ?, ?, ?, ?)"
    return connection.execute(statement, values).rowcount > 0


def find(
    connection: sqlite3.Connection,
    states: Collection[str] | None,
    prefix: str,
    limit: int | None,
    *,
    newest_first: bool,
) -> list[Document]:
    condition, values = "1", list[Any]()
    if states is not None:
        condition += f" AND state IN ({', '.join('?' * len(states))})"
        values += states
    if prefix:  # the last character is greater than any that an id may hold
        condition += " AND id >= ? AND id < ?"
        values += [prefix, f"{prefix}\U0010ffff"]
    order = "DESC" if newest_first else "ASC"
    statement = f"""SELECT id, document FROM batches INDEXED BY batches_created WHERE {condition}
        ORDER BY created {order}, id {order} LIMIT ?"""
    rows = connection.execute(statement, (*values, -1 if limit is None else limit)).fetchall()
    return [_document_of(*row) for row in rows]


def ids(connection: sqlite3.Connection, states: Collection[str] | None) -> list[tuple[datetime | None, str]]:
    condition = "typeof(id) = 'text'"
    if states is not None:
        condition += f" AND state IN ({', '.join('?' * len(states))})"
    statement = f"SELECT created, id FROM batches INDEXED BY batches_created WHERE {condition} ORDER BY created, id"
    rows = connection.execute(statement, tuple(states or ()))
    return [(moments.from_milliseconds(created), batch_id) for created, batch_id in rows]


def watched(connection: sqlite3.Connection, limit: int) -> list[Document]:
    statement = "SELECT id, document FROM batches INDEXED BY batches_watched WHERE watched = 1 LIMIT ?"
    return [_document_of(*row) for row in connection.execute(statement, (limit,)).fetchall()]


def get(connection: sqlite3.Connection, batch_id: str) -> Document | None:
    row = connection.execute("SELECT id, document FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return None if row is None else _document_of(*row)


def change(
    connection: sqlite3.Connection,
    batch_id: str,
    set: Mapping[str, Any],
    unset: Sequence[str],
    only_if: Mapping[str, Any],
) -> bool:
    before = get(connection, batch_id)
    if before is None or any(before.get(name) != value for name, value in only_if.items()):
        return False
    if "fault" in before:
        raise StoreRefusedError(f"batch {batch_id!r} cannot be changed: {before['fault']}; delete its row")
    document = {name: value for name, value in {**before, **set}.items() if name not in unset}
    statement = "UPDATE batches SET state = ?, watched = ?, created = ?, document = ? WHERE id = ?"
    connection.execute(statement, (*_columns(document), batch_id))
    return True


def counts(connection: sqlite3.Connection, batch_id: str, budget_seconds: float | None) -> BatchCounts:
    """One statement for all statuses, so that it is of one moment; given up once the time is over."""
    rows = _count(connection, batch_id, budget_seconds)
    if rows is None:
        return BatchCounts(by_status=_few(connection, batch_id), is_whole=False)
    by_status: dict[int, int] = {}
    for value, count in rows:
        number = whole_number(value)
        status = int(Status.BLOCKED) if number is None else number  # as `Task.from_document` counts it
        by_status[status] = by_status.get(status, 0) + count
    return BatchCounts(by_status=by_status, is_whole=True)


def _count(connection: sqlite3.Connection, batch_id: str, budget_seconds: float | None) -> list[Any] | None:
    """The statuses, and how many tasks have each; None if the time was over."""
    statement = "SELECT status, count(*) FROM tasks INDEXED BY tasks_batch WHERE batch = ? GROUP BY status"
    if budget_seconds is None:
        return connection.execute(statement, (batch_id,)).fetchall()
    deadline = time.monotonic() + budget_seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        return connection.execute(statement, (batch_id,)).fetchall()
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)


def _few(connection: sqlite3.Connection, batch_id: str) -> dict[int, int]:
    """The counts of the statuses that few tasks have; of the others the most that is looked at."""
    statement = "SELECT count(*) FROM (SELECT 1 FROM tasks WHERE batch = ? AND status = ? LIMIT ?)"
    found = {}
    for status in Status:
        ((count,),) = connection.execute(statement, (batch_id, int(status), BatchCounts.SEEN_MAX)).fetchall()
        if count:
            found[int(status)] = count
    return found


def is_unfinished(connection: sqlite3.Connection, batch_id: str) -> bool:
    statement = f"SELECT 1 FROM tasks WHERE batch = ? AND status IN ({conditions.UNFINISHED_SQL}) LIMIT 1"
    return connection.execute(statement, (batch_id,)).fetchone() is not None


def delete(connection: sqlite3.Connection, batch_id: str, only_if: Mapping[str, Any]) -> bool:
    before = get(connection, batch_id)
    if before is None or any(before.get(name) != value for name, value in only_if.items()):
        return False
    return connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,)).rowcount > 0


def _columns(document: Document) -> tuple[Any, ...]:
    state, ctime = document.get("state"), document.get("ctime")
    return (
        state if isinstance(state, str) else None,
        document.get("watched") is True,
        moments.to_milliseconds(ctime) if isinstance(ctime, datetime) else None,
        json_text.encode(document),
    )


def _document_of(batch_id: Any, encoded: Any) -> Document:
    """The document of a row; one with `fault` if it cannot be read."""
    shown = records.shown_id(batch_id)
    try:
        return {**json_text.as_object(json_text.decode(encoded)), "_id": shown}
    except records.UNREADABLE as error:
        return {"_id": shown, "fault": f"its document cannot be read: {records.why_unreadable(error)}"}
