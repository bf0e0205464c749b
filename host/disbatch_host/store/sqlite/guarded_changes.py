"""Changes of tasks, each made only if its guard holds.

Responsible for: the effect of a change on a row, and whether it is allowed. Must not know: what a change means, who
makes it, where a transaction begins and ends.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from disbatch_host.documents.changes import OutputChunk, RunChange, TaskChange
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.sqlite import conditions, creation, driver_errors, fields, json_text, moments, records
from disbatch_protocol.status import UNFINISHED, Status

log = logging.getLogger(__name__)


def apply(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Carry out one guarded change; False if its guard does not hold."""
    rest = "{}"
    if not _is_in_columns(change):
        row = connection.execute(f"SELECT rest FROM tasks WHERE {_guard(change)}", _guarded(change)).fetchone()
        if row is None:
            return False
        rest = row[0]
    columns = changed_columns(change, rest)
    statement = f"UPDATE tasks SET {conditions.assignments(columns)} WHERE {_guard(change)}"
    return connection.execute(statement, (*columns.values(), *_guarded(change))).rowcount > 0


def apply_together(connection: sqlite3.Connection, changes: Sequence[RunChange]) -> bool:
    """Carry out changes that are alike (`alike`), which costs less than one after the other; False if the guard of
    one or more does not hold: the others are carried out (`is_done_already`)."""
    rows = []
    for change in changes:
        columns = changed_columns(change, "{}")
        rows.append((*columns.values(), *_guarded(change)))
    statement = f"UPDATE tasks SET {conditions.assignments(columns)} WHERE {_guard(changes[0])}"
    return connection.executemany(statement, rows).rowcount == len(changes)


def alike(changes: Sequence[RunChange]) -> Iterator[list[RunChange]]:
    """The changes in their order, in groups. Those of a group of more than one are of different tasks, write the same
    columns, and need nothing else to be done."""
    group: list[RunChange] = []
    tasks: set[TaskId] = set()
    last: object = None
    for change in changes:
        is_plain = not (change.creates or change.keeps or change.forgets) and _is_in_columns(change)
        kind = (change.statuses, *change.set, None, *change.unset) if is_plain else None
        if group and (kind is None or kind != last or change.key.task_id in tasks):
            yield group
            group, tasks = [], set()
        group.append(change)
        tasks.add(change.key.task_id)
        last = kind
    if group:
        yield group


def _is_in_columns(change: RunChange) -> bool:
    return fields.IN_COLUMNS.issuperset(change.set) and fields.IN_COLUMNS.issuperset(change.unset)


def _guard(change: RunChange) -> str:
    statuses = ", ".join([str(int(one)) for one in change.statuses])
    return f"id = ? AND node = ? AND claim_token IS ? AND status IN ({statuses})"


def _guarded(change: RunChange) -> tuple[Any, ...]:
    return change.key.task_id, change.key.node, change.key.token


def is_done_already(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Whether the task is as the change would have left it: it was carried out, and its answer was lost. Not if
    somebody has taken the task from that run since: everything that the change leaves alone must be as its guard
    requires."""
    row = connection.execute(f"SELECT {records.SELECT} FROM tasks WHERE id = ?", (change.key.task_id,)).fetchone()
    if row is None or "status" not in change.set:
        return False
    task = records.task_of(row)
    touched = {*change.set, *change.unset}
    if ("node" not in touched and task.node != change.key.node) or (
        "claim" not in touched and task.token != change.key.token
    ):
        return False
    document = task.document
    return all(name in document and document[name] == value for name, value in change.set.items()) and all(
        name not in document for name in change.unset
    )


def apply_to_tasks(connection: sqlite3.Connection, changes: Sequence[TaskChange]) -> set[TaskId]:
    """Carry out each change by itself; returns the ids of those that were refused. One that the file does not take, for
    an index or a value, costs only itself: it is refused too, and logged; it is raised only if it is the only one."""
    refused = set()
    for change in changes:
        try:
            is_done = apply_to_task(connection, change)
        except (sqlite3.DatabaseError, StoreRefusedError) as error:
            is_its_own = isinstance(error, StoreRefusedError) or driver_errors.is_of_one_row(error, connection)
            if not is_its_own or len(changes) == 1:
                raise
            log.error("task %s cannot be changed: %s", change.task_id, error)
            is_done = False
        if not is_done:
            refused.add(change.task_id)
    return refused


def apply_to_task(connection: sqlite3.Connection, change: TaskChange) -> bool:
    """Carry out one guarded change that is not made by a run; False if its guard does not hold, or a key is held."""
    guard = f"id = ? AND {conditions.status_is(change.statuses, or_failed=change.or_failed)}"
    guarded = [change.task_id]
    if change.mtime is not None:
        guard, guarded = f"{guard} AND mtime = ?", [*guarded, moments.to_milliseconds(change.mtime)]
    row = connection.execute(
        f"SELECT seq, queue, status, unique_key, rest FROM tasks WHERE {guard}", guarded
    ).fetchone()
    if row is None:
        return False
    seq, queue, status, unique_key, rest = row
    columns = changed_columns(change, rest)
    new_status = columns.get("status", status)
    key = columns.get("unique_key", unique_key)
    if key is not None and new_status in UNFINISHED and (status not in UNFINISHED or key != unique_key):
        holder = connection.execute(creation.FIND_HOLDER, (key, columns.get("queue", queue), change.task_id)).fetchone()
        if holder is not None:
            return False
    if change.set.get("awaited") is False and _has_untold_followers(connection, change.task_id, status):
        return False
    assignments = [conditions.assignments(columns)]
    is_awaited_again = new_status in (Status.CREATED, Status.BLOCKED) or status == Status.ORPHANED
    if "status" in columns and is_awaited_again and "awaited" not in columns:
        assignments.append("awaited = CASE WHEN awaited IS NOT NULL THEN 1 END")
    connection.execute(f"UPDATE tasks SET {', '.join(assignments)} WHERE seq = ?", (*columns.values(), seq))
    return True


def changed_columns(change: RunChange | TaskChange, rest: str) -> dict[str, Any]:
    """The columns that a change writes. `rest` as it is now: read only if the change names a field that is in it."""
    columns = fields.columns_of(change.set)
    for name in change.unset:
        if name in fields.EMPTY_COLUMNS:
            columns |= fields.EMPTY_COLUMNS[name]
    added: dict[str, Any] = {}
    if not fields.IN_COLUMNS.issuperset(change.set):
        added = {name: value for name, value in change.set.items() if name not in fields.IN_COLUMNS}
    removed = [name for name in change.unset if name not in fields.EMPTY_COLUMNS] if rest != "{}" else []
    if added or removed:
        try:
            document = {**json_text.as_object(json_text.decode(rest))}
        except records.UNREADABLE:  # damaged since the task was claimed; the end of a run is recorded all the same
            document = {"damaged_rest": rest if isinstance(rest, str) else repr(rest)}
        for name in removed:
            document.pop(name, None)
        columns["rest"] = json_text.encode({**document, **added})
    return columns


def write_output(connection: sqlite3.Connection, chunks: Sequence[OutputChunk]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO output (task, token, stream, number, data) VALUES (?, ?, ?, ?, ?)",
        [(one.key.task_id, one.key.token or "", one.stream, one.number, one.data) for one in chunks],
    )


def sort_out_outputs(connection: sqlite3.Connection, change: RunChange) -> None:
    """Write and delete the output pieces of earlier attempts that go with the change, if any."""
    if change.keeps:
        write_output(connection, change.keeps)
    for token in change.forgets:
        connection.execute("DELETE FROM output WHERE task = ? AND token = ?", (change.key.task_id, token))


def _has_untold_followers(connection: sqlite3.Connection, task: TaskId, status: int) -> bool:
    """Whether a task waits for this one and does not know how it ended: it may have come while others were told."""
    knows = "json_valid(rest) AND json_extract(rest, '$.error.code') = 'after_failed'"
    if status == Status.CONCLUDED:
        knows = "0"  # a follower that knows no longer waits for it
    elif status != Status.ORPHANED:
        knows = f"{knows} AND json_extract(rest, '$.after_any') IS NOT 1"  # nor does one for which any end will do
    return bool(
        connection.execute(
            f"""SELECT 1 FROM tasks WHERE seq IN (SELECT follower FROM followers WHERE task = ?)
                AND status = {int(Status.BLOCKED)} AND ({knows}) IS NOT 1 LIMIT 1""",
            (task,),
        ).fetchone()
    )
