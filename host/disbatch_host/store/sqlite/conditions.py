"""Conditions on tasks as SQL, and the values for their placeholders.

Responsible for: these texts. Must not know: a connection, who asks, and for what. Pure.

Rules:
1. The WHERE of an index in `layout` is written here, once: SQLite uses such an index only for a statement that says
   the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import NOBODY
from disbatch_host.documents.steps import PROMOTE
from disbatch_host.store.sqlite import field_conditions, moments
from disbatch_protocol.status import IN_HAND, UNFINISHED, WAITING, Status

UNFINISHED_SQL, WAITING_SQL, IN_HAND_SQL = (
    ", ".join(str(int(status)) for status in sorted(statuses)) for statuses in (UNFINISHED, WAITING, IN_HAND)
)
WAITS_FOR_TIME = f"status = {int(PROMOTE.left)} AND not_before IS NOT NULL AND (after IS NULL OR after = '[]')"
NOBODY_SQL = f"(node IS NULL OR node = '{NOBODY}')"
# Of tasks with a cause of failure. The first is cheap: it is asked of every task that is written. Compared as it stands
# here, the second is read from the index.
HAS_GROUP = """instr(rest, '"group"') > 0"""
GROUP_KEY = "CASE WHEN json_valid(rest) THEN json_extract(rest, '$.error.group.key') END"
RAN_CLASS, RAN_VERSION = (
    f"CASE WHEN json_valid(run) THEN json_extract(run, '$.plugin.{name}') END" for name in ("class", "version")
)


def where(which: TaskFilter, *, status: str = "status", is_of_group: bool = False) -> tuple[str, list[Any]]:
    """The condition, and the values of its placeholders. `status` as "+status": no index is chosen for it.
    `is_of_group`: only tasks with a cause of failure, found by it, as always where one is named."""
    conditions, values = ["1"], []
    queue, batch, node = "queue", "batch", "node"
    if is_of_group or which.failure is not None:
        conditions.append(HAS_GROUP)
        # The indexes on these have more tasks in them.
        status, queue, batch, node = "+status", "+queue", "+batch", "+node"
    if which.queue is not None:
        conditions.append(f"{queue} = ?")
        values.append(which.queue)
    if which.queues is not None:
        conditions.append(f"{queue} IN (SELECT value FROM json_each(?))")
        values.append(orjson.dumps([str(one) for one in which.queues]).decode())
    if which.node is not None:
        conditions.append(f"{node} = ?")
        values.append(which.node)
    if which.ids is not None:
        # One value for any number of ids: SQLite limits how many a statement may have.
        conditions.append("id IN (SELECT value FROM json_each(?))")
        values.append(orjson.dumps([str(one) for one in which.ids]).decode())
    if which.statuses is not None:
        conditions.append(status_is(which.statuses, or_failed=which.or_failed, status=status))
    for condition, moment in (
        ("ctime >= ?", which.created_since),
        ("ctime < ?", which.created_before),
        ("mtime >= ?", which.changed_since),
        ("mtime < ?", which.changed_before),
    ):
        if moment is not None:
            conditions.append(condition)
            values.append(moments.to_milliseconds(moment))
    for condition, value in (
        ("unique_key = ?", which.unique_key),
        ("parent = ?", which.parent),
        (f"{batch} = ?", which.batch),
        ("seq IN (SELECT follower FROM followers WHERE task = ?)", which.after),
        ("CASE WHEN rest != '{}' AND json_valid(rest) THEN json_extract(rest, '$.error.code') END = ?",
         which.error_code),
        (f"{GROUP_KEY} = ?", which.failure),
        (f"{RAN_CLASS} = ?", which.class_name),
        (f"{RAN_VERSION} = ?", which.version),
    ):  # fmt: skip
        if value is not None:
            conditions.append(condition)
            values.append(value)
    # Last: these read JSON, of those rows only that all else is true of.
    grep = [] if which.grep is None else [field_conditions.grep_condition(which.grep)]
    for condition, more in (*map(field_conditions.condition_of, which.where), *grep):
        conditions.append(condition)
        values += more
    return " AND ".join(conditions), values


def status_is(statuses: frozenset[int], *, or_failed: bool, status: str = "status") -> str:
    """The condition on a status alone; `or_failed`: or any above 2."""
    exact = f"{status} IN ({', '.join(str(int(one)) for one in sorted(statuses)) or 'NULL'})"
    return f"({exact} OR {status} > {int(Status.FAILED)})" if or_failed else exact


def assignments(columns: Iterable[str]) -> str:
    """The part after SET, with a placeholder for each value."""
    return ", ".join([f"{name} = ?" for name in columns]) or "id = id"
