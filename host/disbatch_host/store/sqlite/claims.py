"""The claims of waiting tasks by nodes.

Responsible for: finding them in the order of a claim, as many as `maxtotal` and `rate` of their queue allow, and making
them the node's. Must not know: who claims, where a transaction begins and ends.

Rules:
1. A task whose row cannot be read is never claimed: it is skipped, and logged once.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.documents import steps
from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Document, QueueId, Task
from disbatch_host.documents.steps import CLAIM
from disbatch_host.store.contract import OnClaim
from disbatch_host.store.sqlite import conditions, connections, fields, guarded_changes, rates, records

log = logging.getLogger(__name__)

_FIND_WAITING = f"""SELECT seq, {records.SELECT} FROM tasks
    WHERE queue = ? AND status = {int(CLAIM.left)} AND {conditions.NOBODY_SQL} ORDER BY priority DESC, seq"""
_FIND_NEWEST_WAITING = f"""SELECT seq, {records.SELECT} FROM tasks INDEXED BY tasks_waiting
    WHERE queue = ? AND status = {int(CLAIM.left)} AND priority = ? AND {conditions.NOBODY_SQL} ORDER BY seq DESC"""
# A step through the index from priority to priority, so the cost depends on the priorities, not on the tasks.
FIND_PRIORITIES = f"""WITH RECURSIVE waiting (priority) AS (
        SELECT max(priority) FROM tasks WHERE queue = ?1 AND status = {int(CLAIM.left)}
        UNION ALL
        SELECT (SELECT max(priority) FROM tasks
                WHERE queue = ?1 AND status = {int(CLAIM.left)} AND priority < waiting.priority)
        FROM waiting WHERE waiting.priority IS NOT NULL)
    SELECT priority FROM waiting WHERE priority IS NOT NULL"""
FIND_OLDEST = f"""SELECT seq, ctime FROM tasks INDEXED BY tasks_waiting
    WHERE queue = ? AND status = {int(CLAIM.left)} AND priority = ? ORDER BY seq LIMIT 1"""
_COUNT_IN_HAND = f"SELECT count(*) FROM tasks WHERE queue = ? AND status IN ({conditions.IN_HAND_SQL})"


class Claims:
    """The claims that one store makes, and the damaged tasks that it found meanwhile."""

    def __init__(self) -> None:
        self.damaged: set[int] = set()  # `seq` of waiting tasks that cannot be read, and have been logged

    def carry_out(
        self,
        connection: sqlite3.Connection,
        node_id: str,
        wanted: Sequence[Want],
        token: str,
        on_claim: OnClaim | None,
        now: datetime,
    ) -> list[Task]:
        """One claim, as `Store.claim` promises, in a transaction; `now` is a time in it."""
        claimed = steps.claimed_fields(node_id, token, at=now, now=now)
        tasks = []
        for want in wanted:
            count = want.count
            if want.maxtotal is not None and count > 0:
                (in_hand,) = connection.execute(_COUNT_IN_HAND, (want.queue,)).fetchone()
                count = min(count, want.maxtotal - in_hand)
            if want.rate is not None and count > 0:
                count = min(count, rates.granted(connection, want.queue, want.rate, now))
            # The rows are this transaction's alone, so the updates need no guard.
            found = self._find_waiting(connection, want, count)
            if want.rate is not None and found:
                rates.use_up(connection, want.queue, want.rate, now, len(found))
            writes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}  # by the columns that are written
            for seq, row, document in found:
                task = Task.from_document({**document, **claimed})
                columns = fields.columns_of(claimed)
                change = on_claim(task) if on_claim is not None else None
                if change is not None:
                    columns |= guarded_changes.changed_columns(change, row[-1])
                    guarded_changes.forget_output(connection, change)
                writes.setdefault(tuple(columns), []).append((*columns.values(), seq))
                tasks.append(task)
            for names, rows in writes.items():
                connection.executemany(f"UPDATE tasks SET {conditions.assignments(names)} WHERE seq = ?", rows)
        return tasks

    def _find_waiting(
        self, connection: sqlite3.Connection, want: Want, count: int
    ) -> list[tuple[int, Sequence[Any], Document]]:
        """The first tasks of a queue that can be claimed, with their rows; damaged ones are skipped (rule 1)."""

        def find() -> list[tuple[int, Sequence[Any], Document]]:
            found: list[tuple[int, Sequence[Any], Document]] = []
            if count <= 0:
                return found
            # No LIMIT: it is not known beforehand how many rows are damaged. Rows are read one by one, and no more than
            # needed.
            waiting = _newest_waiting(connection, want.queue) if want.newest_first else None
            for seq, *row in waiting or connection.execute(_FIND_WAITING, (want.queue,)):
                try:
                    found.append((seq, row, records.document_of(row)))
                except records.UNREADABLE:
                    self._tell_of_damaged(seq, row)
                    continue
                if self.damaged:
                    self.damaged.discard(seq)  # somebody has fixed it
                if len(found) == count:
                    break
            return found

        return connections.with_odd_text(connection, find)

    def _tell_of_damaged(self, seq: int, row: Sequence[Any]) -> None:
        if seq not in self.damaged:
            task = records.damaged_task(row)
            self.damaged.add(seq)
            log.error("task %s of queue %s is not claimed: %s", task.id, task.queue, task.fault)


def _newest_waiting(connection: sqlite3.Connection, queue: QueueId) -> Iterator[tuple[Any, ...]]:
    """The tasks of a queue that can be claimed, the highest priority first, within each the last created first."""
    for (priority,) in connection.execute(FIND_PRIORITIES, (queue,)).fetchall():
        yield from connection.execute(_FIND_NEWEST_WAITING, (queue, priority))
