"""Changes of tasks, each made only where its guard holds.

Responsible for: what a change makes of a row, and whether it may. Must not know: what a change means, who makes it,
where a transaction begins and ends.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from disbatch_host.model import RunChange, TaskChange, TaskId
from disbatch_host.store.sqlite import conditions, creation, fields, json_text, moments, records
from disbatch_protocol.status import UNFINISHED, Status


def apply(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Carry out one guarded change; False where its guard does not hold."""
    key = change.key
    guard = (
        f"id = ? AND node = ? AND claim_token IS ? AND status IN ({', '.join([str(int(s)) for s in change.statuses])})"
    )
    guarded = (key.task_id, key.node, key.token)
    rest = "{}"
    if not {*change.set, *change.unset} <= fields.IN_COLUMNS:
        row = connection.execute(f"SELECT rest FROM tasks WHERE {guard}", guarded).fetchone()
        if row is None:
            return False
        rest = row[0]
    columns = changed_columns(change, rest)
    assignments = ", ".join([f"{name} = ?" for name in columns]) or "id = id"
    done = connection.execute(f"UPDATE tasks SET {assignments} WHERE {guard}", (*columns.values(), *guarded))
    return done.rowcount > 0


def is_done_already(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Whether the task shows what the change would have made of it: it was carried out, and its answer was lost."""
    row = connection.execute(f"SELECT {records.SELECT} FROM tasks WHERE id = ?", (change.key.task_id,)).fetchone()
    if row is None:
        return False
    document = records.task_of(row).document
    return all(name in document and document[name] == value for name, value in change.set.items()) and all(
        name not in document for name in change.unset
    ) and "status" in change.set  # fmt: skip


def apply_to_task(connection: sqlite3.Connection, change: TaskChange) -> bool:
    """Carry out one guarded change that no run makes; False where its guard does not hold, or a key is held."""
    guard = f"id = ? AND {conditions.status_is(change.statuses, failed_too=change.failed_too)}"
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
    assignments = [f"{name} = ?" for name in columns]
    is_awaited_anew = new_status in (Status.CREATED, Status.BLOCKED) or status == Status.ORPHANED
    if "status" in columns and is_awaited_anew and "awaited" not in columns:
        assignments.append("awaited = CASE WHEN awaited IS NOT NULL THEN 1 END")
    connection.execute(
        f"UPDATE tasks SET {', '.join(assignments) or 'id = id'} WHERE seq = ?", (*columns.values(), seq)
    )
    return True


def changed_columns(change: RunChange | TaskChange, rest: str) -> dict[str, Any]:
    """What a change makes of a row. `rest` as it is now: read only where the change names a field that is in it."""
    columns = fields.columns_of(change.set)
    for name in change.unset:
        columns |= fields.EMPTY_COLUMNS.get(name, {})
    added = {name: value for name, value in change.set.items() if name not in fields.IN_COLUMNS}
    removed = [name for name in change.unset if name not in fields.EMPTY_COLUMNS] if rest != "{}" else []
    if added or removed:
        try:
            document = {**json_text.as_object(json_text.decode(rest))}
        except records.UNREADABLE:  # since the task was claimed; the end of a run is recorded all the same
            document = {"damaged_rest": rest if isinstance(rest, str) else repr(rest)}
        for name in removed:
            document.pop(name, None)
        columns["rest"] = json_text.encode({**document, **added})
    return columns


def forget_output(connection: sqlite3.Connection, change: RunChange) -> None:
    """Delete the output pieces of an earlier attempt that go with the change, if any."""
    if change.forget_output_of is not None:
        forgotten = (change.key.task_id, change.forget_output_of)
        connection.execute("DELETE FROM output WHERE task = ? AND token = ?", forgotten)


def _has_untold_followers(connection: sqlite3.Connection, task: TaskId, status: int) -> bool:
    """Whether a task waits for this one and does not know how it has ended: it may have come while others were told."""
    knows = "json_valid(rest) AND json_extract(rest, '$.error.code') = 'after_failed'"
    if status == Status.CONCLUDED:
        knows = "0"  # who knows does not wait for it any more
    elif status != Status.ORPHANED:
        knows = f"{knows} AND json_extract(rest, '$.after_any') IS NOT 1"  # who does not mind waits no more either
    return bool(
        connection.execute(
            f"""SELECT 1 FROM tasks WHERE seq IN (SELECT follower FROM followers WHERE task = ?)
                AND status = {int(Status.BLOCKED)} AND ({knows}) IS NOT 1 LIMIT 1""",
            (task,),
        ).fetchone()
    )
