"""The tasks that a node has to look at now: cancelled, awaited and ended, expired.

Responsible for: finding them by the indexes that hold only such tasks, within a short time. Must not know: what is done
with them.

Rules:
1. Parameters and output are not read: five hundred tasks with 8 MiB each may be due at once.
2. Even so SQLite goes through all pages of a large row, and any change writes it again. So rows are read for a short
   time only, at least one; the rest comes with the next look.
3. A row with which nothing can be done is passed over, so that it keeps no other one from being found.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from disbatch_host.documents.records import Task
from disbatch_host.store.sqlite import conditions, moments, records
from disbatch_host.store.sqlite.passed_over import PassedOverRows
from disbatch_protocol.status import WAITING, Status, is_finished

READ_SECONDS = 0.05  # spent on rows in one look: some twenty of 8 MiB, or all of any usual size

_FIND = f"""SELECT seq, {records.SELECT_LIGHT} FROM tasks WHERE seq IN (
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status = {int(Status.RUNNING)} AND node = ?1 %s LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status IN ({conditions.WAITING_SQL}, {int(Status.ORPHANED)}) %s LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_awaited
        WHERE awaited = 1 AND status NOT IN ({conditions.UNFINISHED_SQL}) %s LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_expiring
        WHERE expires IS NOT NULL AND status IN ({conditions.WAITING_SQL}) AND expires <= ?2 %s
        ORDER BY expires LIMIT ?3))"""


def find(
    connection: sqlite3.Connection, node_id: str, now: datetime, limit: int, passed_over: PassedOverRows
) -> list[Task]:
    """See `Store.due`."""
    passed_over.look_again(connection)
    but_not_these, left_out = passed_over.but_not_these()
    values = (node_id, moments.to_milliseconds(now), limit, *left_out)
    statement = _FIND % ((but_not_these.replace("?", "?4"),) * _FIND.count("%s"))
    tasks: list[Task] = []
    began = time.monotonic()
    # One statement, so that each row is as it was when it was found; the rows are read one by one.
    with contextlib.closing(connection.execute(statement, values)) as rows:
        for seq, *row in rows:
            task = records.task_of(row)
            if _is_due(task, row, node_id, now):
                tasks.append(task)
            else:
                why = task.fault or "its fields are not what they should be"
                words = f"task {task.id} of queue {task.queue} is due, but nothing can be done: {why}"
                passed_over.add(seq, row, task.queue, records.damage_in_short(row), words=words)
            if time.monotonic() - began > READ_SECONDS:
                break
    return tasks


def _is_due(task: Task, row: Sequence[Any], node_id: str, now: datetime) -> bool:
    """Whether it is what its index says, and can be named in a change."""
    task_id, _, status, *_ = row
    if not isinstance(task_id, str) or not isinstance(status, int):
        return False
    if task.cancel is not None:
        return task.node == node_id if status == Status.RUNNING else status in WAITING or status == Status.ORPHANED
    if task.document.get("awaited") is True and is_finished(status):
        return True
    expires = task.document.get("expires")
    return isinstance(expires, datetime) and expires <= now and status in WAITING
