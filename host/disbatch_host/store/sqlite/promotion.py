"""The promotion of Blocked tasks that are due.

Responsible for: all of them in one statement, and in one for each if the file refuses one of them. Must not know: when
a task is due, where a transaction begins and ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from disbatch_host.store.sqlite import conditions, driver_errors, records
from disbatch_host.store.sqlite.passed_over import PassedOverRows


def promote(
    connection: sqlite3.Connection,
    columns: Mapping[str, Any],
    is_due: str,
    values: Sequence[Any],
    refused: PassedOverRows,
) -> int:
    """Write these columns into the tasks that are due; returns how many there were, with those that the file does not
    take, which `refused` remembers. `values` of the condition, then the limit."""
    found = f"SELECT seq FROM tasks INDEXED BY tasks_due WHERE {is_due} ORDER BY not_before LIMIT ?"
    update = f"UPDATE tasks SET {conditions.assignments(columns)}, not_before = NULL"
    try:
        return connection.execute(f"{update} WHERE seq IN ({found})", (*columns.values(), *values)).rowcount
    except sqlite3.DatabaseError as error:
        if not driver_errors.is_of_one_row(error, connection):
            raise
    due = connection.execute(found, values).fetchall()
    for (seq,) in due:
        try:
            connection.execute(f"{update} WHERE seq = ?", (*columns.values(), seq))
        except sqlite3.DatabaseError as error:
            if not driver_errors.is_of_one_row(error, connection):
                raise
            row = connection.execute(f"SELECT {refused.columns} FROM tasks WHERE seq = ?", (seq,)).fetchone()
            task = records.task_of(row)
            why = f"the file refuses it: {error}"
            words = f"task {task.id} of queue {task.queue} is due, but cannot go on: {why}"
            refused.add(seq, row, task.queue, why, words=words)
    return len(due)
