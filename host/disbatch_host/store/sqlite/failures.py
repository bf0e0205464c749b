"""Counting failures by their cause, in the index that holds only tasks with a cause.

Responsible for: these statements, and the time that they may take. Must not know: what a group means.

Rule: `layout` has the index `tasks_failure`. A file that an earlier version wrote, and that cannot be written now, has
none: then the same statements read all tasks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.failure_counts import ROWS_MAX, SAMPLE, FailureCount, FailureCounts
from disbatch_host.documents.records import NOBODY, whole_number
from disbatch_host.store.sqlite import conditions, moments, records
from disbatch_host.store.sqlite.time_limit import TimeLimit
from disbatch_protocol.status import FAILURES, Status

_CODE = "CASE WHEN json_valid(rest) THEN json_extract(rest, '$.error.code') END"
_HOUR = ", mtime / 3600000"
_ENDS = frozenset(int(one) for one in (*FAILURES, Status.CANCELLED))  # of tasks with a group: those that expired
_FAILED = frozenset(int(one) for one in FAILURES)


def count(connection: sqlite3.Connection, which: TaskFilter, seconds: float, *, by_hour: bool) -> FailureCounts:
    """As `Store.count_failures` wants it."""
    deadline = time.monotonic() + seconds
    grouped = _in_time(connection, _statement(which, is_grouped=True, by_hour=by_hour), deadline)
    plain = FailureCounts()
    if _has_others(connection, which, deadline):
        plain = _in_time(connection, _statement(which, is_grouped=False, by_hour=by_hour), deadline)
    return FailureCounts(rows=[*grouped.rows, *plain.rows], is_complete=grouped.is_complete and plain.is_complete)


Statement = tuple[str, list[Any]]  # with `{limit}` where a limit of the tasks may stand, and the values


def _statement(which: TaskFilter, *, is_grouped: bool, by_hour: bool) -> Statement:
    if which.statuses is None:
        which = replace(which, statuses=_ENDS if is_grouped else _FAILED, or_failed=True)
    key, code = (conditions.GROUP_KEY, "NULL") if is_grouped else ("NULL", _CODE)
    fields = f"{key} AS key, {code} AS code, queue, status, node, {conditions.RAN_VERSION} AS version, mtime"
    if is_grouped:
        condition, values = conditions.where(which, status="+status", is_of_group=True)
        tasks = f"SELECT {fields} FROM tasks WHERE {condition} AND {conditions.GROUP_KEY} >= '' {{limit}}"
    else:
        tasks, values = _plain_tasks(which, fields)
    statement = f"""SELECT key, code, queue, status, node, version, count(*), min(mtime), max(mtime) FROM ({tasks})
        GROUP BY key, code, queue, status, node, version{_HOUR if by_hour else ""} LIMIT {ROWS_MAX + 1}"""
    return statement, values


def _plain_tasks(which: TaskFilter, fields: str) -> Statement:
    """Failed tasks without a group, queue by queue and status by status, as the index has them."""
    statuses, values = sorted(which.statuses or ()), []
    parts = []
    for condition_of_status in (conditions.status_is(frozenset(statuses), or_failed=False), _ABOVE)[
        : 1 + which.or_failed
    ]:
        rest, more = conditions.where(replace(which, statuses=None, or_failed=False))
        queues = "" if which.queue is not None else f"queue IN ({_QUEUES}) AND"
        parts.append(
            f"SELECT {fields} FROM tasks WHERE {queues} {condition_of_status} AND {rest}"
            f" AND ({conditions.HAS_GROUP} AND typeof({conditions.GROUP_KEY}) = 'text') IS NOT 1"
        )
        values += more
    return f"SELECT * FROM ({' UNION ALL '.join(parts)}) {{limit}}", values


_ABOVE = f"status > {int(Status.FAILED)}"
# Step by step through the index on queue and status.
_QUEUES = """WITH RECURSIVE known (queue) AS (
    SELECT min(queue) FROM tasks
    UNION ALL
    SELECT (SELECT min(queue) FROM tasks WHERE queue > known.queue) FROM known WHERE known.queue IS NOT NULL)
    SELECT queue FROM known WHERE queue IS NOT NULL"""


def _has_others(connection: sqlite3.Connection, which: TaskFilter, deadline: float) -> bool:
    """Whether there are failed tasks without a group: both counts need nothing but an index."""
    if which.failure is not None:
        return False
    queue = [] if which.queue is None else [which.queue]
    queues = "queue = ?" if queue else f"queue IN ({_QUEUES})"
    failed = conditions.status_is(_FAILED, or_failed=False)
    is_failed = conditions.status_is(_FAILED, or_failed=True, status="+status")
    statement = f"""SELECT (SELECT count(*) FROM tasks WHERE {queues} AND {failed})
        + (SELECT count(*) FROM tasks WHERE {queues} AND {_ABOVE})
        > (SELECT count(*) FROM tasks WHERE {conditions.HAS_GROUP} AND {conditions.GROUP_KEY} >= ''
            {"AND +queue = ?" if queue else ""} AND {is_failed})"""
    with TimeLimit(connection, deadline) as limit:
        try:
            return bool(connection.execute(statement, queue * 3).fetchone()[0])
        except sqlite3.OperationalError:
            if not limit.is_over:
                raise
    return True


def _in_time(connection: sqlite3.Connection, statement: Statement, deadline: float) -> FailureCounts:
    """All of them, else some."""
    text, values = statement
    # With a limit of its own the inner statement stands alone, and takes everything from the index.
    with TimeLimit(connection, deadline) as limit:
        try:
            rows = connection.execute(text.replace("{limit}", "LIMIT -1"), values).fetchall()
            return FailureCounts(rows=list(_counts_of(rows[:ROWS_MAX])), is_complete=len(rows) <= ROWS_MAX)
        except sqlite3.OperationalError:
            if not limit.is_over:
                raise
    rows = connection.execute(text.replace("{limit}", f"LIMIT {SAMPLE}"), values).fetchall()
    return FailureCounts(rows=list(_counts_of(rows)), is_complete=False)


def _counts_of(rows: Sequence[Sequence[Any]]) -> Iterator[FailureCount]:
    for key, code, queue, status, node, version, count_, first, last in rows:
        if not (isinstance(queue, str) and whole_number(status) is not None):
            continue  # a damaged row
        yield FailureCount(
            key=key if isinstance(key, str) else None,
            code=code if isinstance(code, str) else None,
            queue=queue,
            status=status,
            node=None if node in (None, str(NOBODY)) else records.shown_id(node),
            version=version if isinstance(version, str) else None,
            count=count_,
            first=moments.from_milliseconds(first) if isinstance(first, int) else None,
            last=moments.from_milliseconds(last) if isinstance(last, int) else None,
        )
