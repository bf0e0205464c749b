"""The claims of waiting tasks by nodes.

Responsible for: finding them in the order of a claim, as many as the `gates` and `maxtotal` and `rate` of their queue
allow, and making them the node's. Must not know: who claims, where a transaction begins and ends.

Rule: a task that cannot be claimed is passed over (`passed_over`) and takes no place: its row cannot be read, its
change cannot be stored, or the file refuses it because of an index or trigger that somebody has added.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from disbatch_host.documents import steps
from disbatch_host.documents.changes import RunChange, Want
from disbatch_host.documents.records import Document, Task
from disbatch_host.documents.steps import CLAIM
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.contract import OnClaim
from disbatch_host.store.sqlite import conditions, connections, driver_errors, fields, guarded_changes, rates, records
from disbatch_host.store.sqlite.gates import Gates
from disbatch_host.store.sqlite.passed_over import PassedOverRows

# The condition that leaves out those passed over comes before the order.
_FIND_WAITING = f"""SELECT seq, {records.SELECT} FROM tasks
    WHERE queue = ? AND status = {int(CLAIM.left)} AND {conditions.NOBODY_SQL}"""
_FIND_NEWEST_WAITING = f"""SELECT seq, {records.SELECT} FROM tasks INDEXED BY tasks_waiting
    WHERE queue = ? AND status = {int(CLAIM.left)} AND priority = ? AND {conditions.NOBODY_SQL}"""
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


class _Found(NamedTuple):  # both are made for each task, at a quarter of what a frozen dataclass costs
    """A waiting task that can be read."""

    seq: int
    row: Sequence[Any]
    document: Document


class _Claimed(NamedTuple):
    """A task that is about to be claimed: the values of its columns, and what goes with them."""

    found: _Found
    task: Task
    columns: Mapping[str, Any]
    change: RunChange | None


class Claims:
    """The claims that one store makes."""

    def __init__(self, passed_over: PassedOverRows, gates: Gates) -> None:
        self._passed_over = passed_over
        self._gates = gates

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
        self._gates.look(connection)
        if self._gates.is_drained(connection, node_id):
            return []
        self._passed_over.look_again(connection)
        set_by_claim = steps.claimed_fields(node_id, token, at=now, now=now)
        columns = fields.columns_of(set_by_claim)
        tasks: list[Task] = []
        for want in wanted:
            count = self._gates.narrowed(connection, node_id, want)
            if want.maxtotal is not None and count > 0:
                (in_hand,) = connection.execute(_COUNT_IN_HAND, (want.queue,)).fetchone()
                count = min(count, want.maxtotal - in_hand)
            if want.rate is not None and count > 0:
                count = min(count, rates.granted(connection, want.queue, want.rate, now))
            claimed = []
            for found in self._find_waiting(connection, want, count):
                task = Task.from_document({**found.document, **set_by_claim})
                change = on_claim(task) if on_claim is not None else None
                try:
                    own = columns
                    if change is not None:
                        own = {**columns, **guarded_changes.changed_columns(change, found.row[-1])}
                except StoreRefusedError as error:
                    self._pass_over(found, f"its run cannot be stored: {error}")
                    continue
                claimed.append(_Claimed(found, task, own, change))
            if claimed:
                claimed = self._write(connection, claimed)
            if want.rate is not None and claimed:
                rates.use_up(connection, want.queue, want.rate, now, len(claimed))
            tasks += [one.task for one in claimed]
        return tasks

    def _write(self, connection: sqlite3.Connection, claimed: list[_Claimed]) -> list[_Claimed]:
        """Write them; returns those that were."""
        by_columns: dict[tuple[str, ...], list[_Claimed]] = {}
        for one in claimed:
            by_columns.setdefault(tuple(one.columns), []).append(one)
        refused: list[_Claimed] = []
        for names, group in by_columns.items():
            # The rows are this transaction's alone, so the updates need no guard.
            statement = f"UPDATE tasks SET {conditions.assignments(names)} WHERE seq = ?"
            try:
                connection.executemany(statement, [(*one.columns.values(), one.found.seq) for one in group])
            except sqlite3.DatabaseError as error:
                if not driver_errors.is_of_one_row(error, connection):
                    raise
                refused += self._write_one_by_one(connection, statement, group)
        won = [one for one in claimed if not any(one is other for other in refused)] if refused else claimed
        for one in won:
            if one.change is not None and (one.change.keeps or one.change.forgets):
                guarded_changes.sort_out_outputs(connection, one.change)
        return won

    def _write_one_by_one(
        self, connection: sqlite3.Connection, statement: str, group: Sequence[_Claimed]
    ) -> list[_Claimed]:
        """The same for each by itself, since one of them is refused, whatever the others are; returns the refused."""
        refused = []
        for one in group:
            try:
                connection.execute(statement, (*one.columns.values(), one.found.seq))
            except sqlite3.DatabaseError as error:
                if not driver_errors.is_of_one_row(error, connection):
                    raise
                self._pass_over(one.found, f"the file refuses its claim: {error}")
                refused.append(one)
        return refused

    def _find_waiting(self, connection: sqlite3.Connection, want: Want, count: int) -> list[_Found]:
        """The first tasks of a queue that can be claimed; rows that cannot be read are passed over."""

        def find() -> list[_Found]:
            found: list[_Found] = []
            if count <= 0:
                return found
            # No LIMIT: it is not known beforehand how many rows are damaged. Rows are read one by one, and no more than
            # needed.
            for seq, *row in self._waiting(connection, want):
                try:
                    found.append(_Found(seq, row, records.document_of(row)))
                except records.UNREADABLE:
                    self._pass_over_damaged(seq, row, want)
                    continue
                if len(found) == count:
                    break
            return found

        return connections.with_odd_text(connection, find)

    def _waiting(self, connection: sqlite3.Connection, want: Want) -> Iterator[tuple[Any, ...]]:
        """The rows of tasks that can be claimed, the highest priority first, within each by creation."""
        but_not_these, left_out = self._passed_over.but_not_these(want.queue)
        if not want.newest_first:
            statement = f"{_FIND_WAITING} {but_not_these} ORDER BY priority DESC, seq"
            return connection.execute(statement, (want.queue, *left_out))
        statement = f"{_FIND_NEWEST_WAITING} {but_not_these} ORDER BY seq DESC"
        priorities = connection.execute(FIND_PRIORITIES, (want.queue,)).fetchall()
        return chain.from_iterable(
            connection.execute(statement, (want.queue, priority, *left_out)) for (priority,) in priorities
        )

    def _pass_over_damaged(self, seq: int, row: Sequence[Any], want: Want) -> None:
        task = records.damaged_task(row)
        words = f"task {task.id} of queue {task.queue} is not claimed: {task.fault}"
        self._passed_over.add(seq, row, want.queue, records.damage_in_short(row), words=words)

    def _pass_over(self, found: _Found, why: str) -> None:
        task_id, queue = found.document["_id"], found.document["queue"]
        words = f"task {task_id} of queue {queue} is not claimed: {why}"
        self._passed_over.add(found.seq, found.row, queue, why, words=words)
