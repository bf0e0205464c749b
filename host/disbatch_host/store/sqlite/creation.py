"""The creation of tasks: from documents to rows, and from rows into the file.

Responsible for: the content of a new row, and never inserting a task whose key an unfinished one has. Must not know:
who creates, where a transaction begins and ends.
"""

from __future__ import annotations

import itertools
import operator
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import NOBODY, Document, TaskId
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.sqlite import conditions, fields, json_text, moments
from disbatch_host.store.sqlite.ids import IdSource
from disbatch_protocol.status import Status

DOCUMENT_MAX = 16 * 2**20  # bytes of a task's JSON, as in MongoDB: a task that fits one store fits the other
# The unfinished task that has a key in a queue, other than the one that wants it.
FIND_HOLDER = f"""SELECT id FROM tasks
    WHERE unique_key = ? AND queue = ? AND status IN ({conditions.UNFINISHED_SQL}) AND id IS NOT ? LIMIT 1"""

# For most new tasks: all other columns are NULL, and binding a NULL costs the driver more than a value.
_PLAIN_COLUMNS = (
    "id", "queue", "status", "node", "priority", "ctime", "mtime", "parameters", "stdout", "stderr", "rest",
)  # fmt: skip
# Likewise, for those of a batch, and those of which it is known who created them.
_MADE_COLUMNS = (*_PLAIN_COLUMNS, "batch", "created_by")
_INSERT_TASK = {
    len(columns): f"INSERT INTO tasks ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for columns in (_PLAIN_COLUMNS, _MADE_COLUMNS, fields.COLUMNS)
}
_AGAIN = " ON CONFLICT (id) DO NOTHING"

_NEW_PLAIN_ROW: Mapping[str, Any] = {
    **dict.fromkeys(_PLAIN_COLUMNS),
    "status": int(Status.CREATED),
    "node": str(NOBODY),
    "priority": 0,
    "parameters": "{}",
    "stdout": "",
    "stderr": "",
    "rest": "{}",
}
_MADE_FIELDS = frozenset({"batch", "created_by"})
_NEW_MADE_ROW: Mapping[str, Any] = {**dict.fromkeys(_MADE_COLUMNS), **_NEW_PLAIN_ROW}
_NEW_ROW: Mapping[str, Any] = {**dict.fromkeys(fields.COLUMNS), **_NEW_PLAIN_ROW}
_ROW_ORDER = operator.itemgetter(*fields.COLUMNS)
_PLAIN_ROW_ORDER, _MADE_ROW_ORDER = operator.itemgetter(*_PLAIN_COLUMNS), operator.itemgetter(*_MADE_COLUMNS)
_ID_AT, _QUEUE_AT, _AFTER_AT, _UNIQUE_KEY_AT = (
    fields.COLUMNS.index(name) for name in ("id", "queue", "after", "unique_key")
)
# With one of these, a new task has a column that is among neither.
_RARE_FIELDS = fields.IN_COLUMNS - {"_id", *_MADE_COLUMNS}


def rows_of(documents: Sequence[Document], ids: IdSource, now: datetime) -> list[tuple[Any, ...]]:
    """The rows of new tasks. Raises StoreRefusedError if a document cannot be stored."""
    at = moments.to_milliseconds(now)
    new_ids = ids.take(len(documents))
    rows = []
    for new_id, document in zip(new_ids, documents, strict=True):
        is_plain = _RARE_FIELDS.isdisjoint(document)
        new_row = _NEW_MADE_ROW if is_plain else _NEW_ROW
        values = {**new_row, "ctime": at, "mtime": at, **fields.columns_of(document)}
        task_id = document.get("_id")
        values["id"] = new_id if task_id is None else fields.text_id(task_id)
        fields.text_id(values["queue"])
        if not document.keys() <= fields.IN_COLUMNS:
            values["rest"] = json_text.encode({n: value for n, value in document.items() if n not in fields.IN_COLUMNS})
        size = len(values["parameters"]) + len(values["stdout"]) + len(values["stderr"]) + len(values["rest"])
        if not is_plain:
            size += len(values["after"] or "")
        if size > DOCUMENT_MAX:
            raise StoreRefusedError(
                f"expected a task document of at most {DOCUMENT_MAX} bytes, found {size}; "
                "put large data into a file and its path into the parameters"
            )
        if not is_plain:
            rows.append(_ROW_ORDER(values))
        else:
            rows.append(_PLAIN_ROW_ORDER(values) if _MADE_FIELDS.isdisjoint(document) else _MADE_ROW_ORDER(values))
    return rows


def insert(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], *, again: bool = False) -> list[TaskId]:
    """Insert new tasks, in this order, except those whose key is held; returns the ids as `Store.insert_tasks` does."""
    ids: list[TaskId] = []
    after: list[str] = []
    for (length, has_key), group in itertools.groupby(rows, key=_kind_of_row):
        batch = list(group)
        statement = f"{_INSERT_TASK[length]}{_AGAIN if again else ''}"
        if has_key:
            ids += [_insert_with_key(connection, statement, row, again=again) for row in batch]
        else:
            connection.executemany(statement, batch)
            ids += [row[_ID_AT] for row in batch]
        if length == len(fields.COLUMNS):
            after += [row[_AFTER_AT] for row in batch if row[_AFTER_AT] is not None]
    if after:  # the trigger does this too, but not for tasks that come later in these rows
        waited_for = "SELECT one.value FROM json_each(?) AS list, json_each(list.value) AS one"
        connection.execute(
            f"UPDATE tasks SET awaited = 1 WHERE id IN ({waited_for}) AND awaited IS NOT 1", (f"[{','.join(after)}]",)
        )
    return ids


def _kind_of_row(row: tuple[Any, ...]) -> tuple[int, bool]:
    """How many columns it has, and whether it has a unique key."""
    return len(row), len(row) == len(fields.COLUMNS) and row[_UNIQUE_KEY_AT] is not None


def _insert_with_key(connection: sqlite3.Connection, statement: str, row: tuple[Any, ...], *, again: bool) -> TaskId:
    task_id, key = row[_ID_AT], row[_UNIQUE_KEY_AT]
    is_there = again and connection.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if not is_there:
        holder = connection.execute(FIND_HOLDER, (key, row[_QUEUE_AT], None)).fetchone()
        if holder is not None:
            return holder[0]
    connection.execute(statement, row)
    return task_id
