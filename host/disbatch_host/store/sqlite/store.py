"""The embedded store: one SQLite file, any number of processes of one machine.

Responsible for: the protocols of `contract` on tables, and documents that look as they would in MongoDB. Must not know:
who calls, what a change means.

Rules:
1. Everything is read and written through `session`: a read, or one transaction.
2. People also write rows. One that cannot be read costs only itself (`records`, `passed_over`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from disbatch_host.clock import Clock
from disbatch_host.documents import steps
from disbatch_host.documents.changes import OutputChunk, PassedOver, RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.failure_counts import FailureCounts
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task, TaskId, whole_number
from disbatch_host.errors import StoreError, StoreRefusedError
from disbatch_host.store import paging
from disbatch_host.store.contract import SCHEMA_VERSION, OnClaim
from disbatch_host.store.contract.answers import Access, BatchCounts, Counted, Look, StoreCondition
from disbatch_host.store.sqlite import (
    batches,
    claims,
    conditions,
    connections,
    creation,
    due,
    failures,
    fields,
    guarded_changes,
    json_text,
    last_ends,
    layout,
    moments,
    pages,
    promotion,
    records,
    time_limit,
)
from disbatch_host.store.sqlite.claims import Claims
from disbatch_host.store.sqlite.foreign_commits import WATCH_SECONDS, MakeEvents
from disbatch_host.store.sqlite.gates import Gates
from disbatch_host.store.sqlite.ids import IdSource
from disbatch_host.store.sqlite.passed_over import PassedOverRows
from disbatch_host.store.sqlite.session import Session
from disbatch_host.store.sqlite.watcher import SqliteWatcher
from disbatch_host.store.sqlite.write_events import WriteEvents
from disbatch_protocol.status import ENDED, Status

# Tasks read in one go: the first page, and the last and largest. SQLite goes through all of a large row.
_FIRST_PAGE, _PAGE = 20, 500
_YOUNG_MAX = 100  # ended tasks seen that are too young before all after them count as too young: a few may be misdated


class SqliteStore(Session):
    """A store in one file."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        access: Access = Access.CREATE,
        *,
        make_events: MakeEvents = WriteEvents,
    ) -> None:
        """`make_events` may raise OSError where the system does not announce writes."""
        super().__init__(path, access, make_events)
        self._clock = clock
        self._ids = IdSource(clock)
        self._passed_over = PassedOverRows(records.SELECT)  # by claims
        self._never_due = PassedOverRows(records.SELECT_LIGHT)
        self._gates = Gates()
        self._claims = Claims(self._passed_over, self._gates)

    @property
    def is_clock_local(self) -> bool:
        return True  # one machine, one clock

    @property
    def may_act_late(self) -> bool:
        return False  # a transaction that was not committed is rolled back

    @property
    def claims_read_queues(self) -> bool:
        return True  # see `gates`

    @property
    def finds_by_parent(self) -> bool:
        return True

    def now(self) -> datetime:
        return self._clock.now()

    def parse_id(self, text: str) -> TaskId | None:
        return text or None

    def condition(self) -> StoreCondition:
        began = time.monotonic()
        version = self._look(lambda connection: layout.version_of(connection, self.description))
        answer_seconds = time.monotonic() - began
        is_known = version == SCHEMA_VERSION
        why_not = connections.why_not_writable(self._path)
        if why_not is None and not os.access(self._path.parent, os.W_OK | os.X_OK, effective_ids=True):
            why_not = PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)} in its directory")
        refused = None if why_not is None else f"{self._path}: {why_not.strerror}"
        return StoreCondition(
            product=f"SQLite {sqlite3.sqlite_version}", form="file", layout=version,
            missing_indexes=self._look(layout.missing_parts) if is_known else (),
            why_not_write=refused, why_not_index=refused, answer_seconds=answer_seconds, file=self._path,
        )  # fmt: skip

    def extended_json(self, value: object) -> object:
        raise TypeError(f"no value of this store is a {type(value).__name__}")

    def queues(self) -> list[Queue]:
        return [records.queue_of(*row) for row in self._read("SELECT id, document FROM queues ORDER BY id")]

    def find_queue(self, text: str) -> Queue | None:
        rows = self._read("SELECT id, document FROM queues WHERE id = ?", (text,))
        return records.queue_of(*rows[0]) if rows else None

    def insert_queue(self, document: Document) -> QueueId:
        queue_id = document.get("_id") or self._ids.take(1)[0]
        encoded = json_text.encode({**document, "_id": queue_id})

        def insert(connection: sqlite3.Connection) -> QueueId:
            connection.execute("INSERT INTO queues (id, document) VALUES (?, ?)", (fields.text_id(queue_id), encoded))
            return queue_id

        self._gates.forget()
        return self._write(insert, duplicate=f"queue {queue_id!r} exists already; choose another id")

    def update_queue(
        self,
        queue: QueueId,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any] | None = None,
    ) -> bool:
        def update(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT document FROM queues WHERE id = ?", (queue,)).fetchone()
            if row is None:
                return False
            try:
                before = json_text.as_object(json_text.decode(row[0]))
            except records.UNREADABLE as error:
                raise StoreRefusedError(
                    f"queue {queue!r} cannot be changed: {records.why_unreadable(error)}; delete it and create it again"
                ) from error
            if not all(json_text.is_same(before.get(name), value) for name, value in (only_if or {}).items()):
                return False
            document = {**before, **set}
            for name in unset:
                document.pop(name, None)
            connection.execute("UPDATE queues SET document = ? WHERE id = ?", (json_text.encode(document), queue))
            return True

        self._gates.forget()
        return self._write(update)

    def delete_queue(self, queue: QueueId) -> bool:
        self._gates.forget()
        return self._write(lambda c: c.execute("DELETE FROM queues WHERE id = ?", (queue,)).rowcount > 0)

    def new_ids(self, count: int) -> list[TaskId]:
        return list(self._ids.take(count))

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        rows = creation.rows_of(documents, self._ids, self.now())
        return self._write(
            lambda connection: creation.insert(connection, rows, again=again),
            duplicate="a task with one of these ids exists already",
        )

    def change_tasks(self, changes: Sequence[TaskChange], *, one_by_one: bool = False) -> set[TaskId]:
        self._note_changes()
        return self._write(lambda connection: guarded_changes.apply_to_tasks(connection, changes))

    def get_task(self, task: TaskId) -> Task | None:
        rows = self._read(f"SELECT {records.SELECT} FROM tasks WHERE id = ?", (task,))
        return records.task_of(rows[0]) if rows else None

    def find_tasks(
        self,
        which: TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = True,
        with_parameters: bool = True,
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        columns = records.selected(with_output=with_output, with_parameters=with_parameters)
        is_of_one_status = which.statuses is not None and len(which.statuses) == 1 and not which.or_failed
        is_of_one = which.queue is not None or which.batch is not None  # queue or batch
        # Tasks of one status are in the index on queue, or batch, and status in the order of creation. In any order,
        # those of several go in the order of that index, so that the place where each page goes on is found at once.
        has_runs = pages.has_runs(which) and not (is_of_one and is_of_one_status)
        if has_runs and not in_any_order:
            yield from pages.in_order(
                self._read, which, columns, newest_first=newest_first, limit=limit, sizes=(_FIRST_PAGE, _PAGE)
            )
            return
        is_by_status = has_runs and in_any_order and is_of_one
        condition, values = conditions.where(which, status="+status" if is_by_status else "status")
        last: tuple[Any, ...]
        if is_by_status:
            beyond, order, last = "(status, seq) > (?, ?)", "status, seq", (-(2**63), -1)
        elif newest_first and not in_any_order:
            beyond, order, last = "seq < ?", "seq DESC", (2**63 - 1,)
        else:
            beyond, order, last = "seq > ?", "seq", (-1,)
        statement = f"SELECT seq, {columns} FROM tasks WHERE {condition} AND {beyond} ORDER BY {order} LIMIT ?"
        left = 2**62 if limit is None else limit
        page = _FIRST_PAGE
        while left > 0:
            rows = self._read(statement, (*values, *last, min(page, left)))
            for row in rows:
                yield records.task_of(row[1:])
            if len(rows) < min(page, left):
                return
            seq, _, _, status, *_ = rows[-1]
            last, left = (seq,) if len(last) == 1 else (status, seq), left - len(rows)
            page = min(2 * page, _PAGE)

    def find_page(
        self,
        which: TaskFilter,
        *,
        limit: int,
        newest_first: bool = True,
        cursor: str | None = None,
        with_parameters: bool = True,
        budget_seconds: float = PAGE_SECONDS,
    ) -> Page:
        columns = records.selected(with_output=False, with_parameters=with_parameters)
        after = paging.position_of(cursor, pages.read_position)
        descending = newest_first is not paging.is_backward(cursor)
        rows = pages.Rows(self._read, which, columns, descending=descending, after=after)
        look = paging.Look(
            limit=limit, is_selective=rows.is_selective, budget_seconds=budget_seconds, cursor=cursor, write=str
        )
        return look.page(rows)

    def ids_beginning(self, text: str, limit: int = 2) -> list[TaskId]:
        return list(pages.ids_beginning(self._read, text, limit))

    def count_tasks(self, which: TaskFilter) -> int:
        condition, values = conditions.where(which)
        return int(self._read(f"SELECT count(*) FROM tasks WHERE {condition}", values)[0][0])

    def count_within(self, which: TaskFilter, *, budget_seconds: float) -> Counted:
        condition, values = conditions.where(which)
        return self._look(lambda connection: time_limit.count_within(connection, condition, values, budget_seconds))

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        counts: dict[QueueId, dict[int, int]] = {}
        for queue, value, count in self._read("SELECT queue, status, count(*) FROM tasks GROUP BY queue, status"):
            number = whole_number(value)
            status = int(Status.BLOCKED) if number is None else number  # as `Task.from_document` counts it
            of_queue = counts.setdefault(records.shown_id(queue), {})
            of_queue[status] = of_queue.get(status, 0) + count
        return counts

    def count_failures(self, which: TaskFilter, *, seconds: float, by_hour: bool = False) -> FailureCounts:
        return self._look(lambda connection: failures.count(connection, which, seconds, by_hour=by_hour))

    def last_ends(self, queue: QueueId, *, failed: bool, since: datetime | None, limit: int) -> list[datetime]:
        if not self._look(lambda connection: last_ends.is_ready(connection, failed=failed)):
            self._write(last_ends.make_ready(failed=failed))
        return self._look(lambda one: last_ends.find(one, queue, failed=failed, since=since, limit=limit))

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, or_failed: bool = False
    ) -> int:
        condition = "" if statuses is None else f"AND {conditions.status_is(statuses, or_failed=or_failed)}"

        def delete(connection: sqlite3.Connection) -> int:
            deleted = [
                (task,)
                for task in tasks
                if connection.execute(
                    f"DELETE FROM tasks WHERE id = ? AND awaited IS NOT 1 AND {batches.NOT_OF_UNFINISHED_BATCH} "
                    f"{condition}",
                    (task,),
                ).rowcount
            ]
            connection.executemany("DELETE FROM output WHERE task = ?", deleted)
            return len(deleted)

        self._note_changes()
        return self._write(delete)

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        before = moments.to_milliseconds(moment) or 0
        ids: list[TaskId] = []
        for status in (*sorted(ENDED), *self._own_failures(queue)):
            # In the order of creation, so after some tasks that are too young all others are too young as well.
            # Followers of a failed task may still wait for it to be run again.
            is_free = "awaited IS NOT 1" if status == Status.CONCLUDED else "awaited IS NULL"
            statement = f"""SELECT id, ctime, mtime, {is_free} FROM tasks
                WHERE queue = ? AND status = ? AND typeof(ctime) = 'integer' AND typeof(mtime) = 'integer'
                AND typeof(id) = 'text' AND {batches.NOT_OF_UNFINISHED_BATCH} ORDER BY seq"""
            find_old = partial(_find_old, statement, (queue, int(status)), before, limit - len(ids))
            ids += self._look(find_old)
        return ids

    def _own_failures(self, queue: QueueId) -> Iterator[int]:
        """The statuses above 2 that tasks of the queue have, found by steps through the index."""
        status: int | None = int(Status.FAILED)
        while status is not None:
            # Up to the last whole number: a text is greater than every number.
            statement = f"SELECT min(status) FROM tasks WHERE queue = ? AND status > ? AND status <= {2**63 - 1}"
            ((status,),) = self._read(statement, (queue, status))
            if isinstance(status, int):
                yield status

    def oldest_waiting(self) -> dict[QueueId, datetime]:
        oldest = {}
        for queue in self.waiting_queues():
            firsts = [
                row
                for (priority,) in self._read(claims.FIND_PRIORITIES, (queue,))
                for row in self._read(claims.FIND_OLDEST, (queue, priority))
            ]
            if not firsts:
                continue  # the last one was claimed meanwhile
            with contextlib.suppress(*records.UNREADABLE):  # which a person has to fix; `get_task` reports it
                moment = moments.from_milliseconds(min(firsts)[1])
                if moment is not None:
                    oldest[queue] = moment
        return oldest

    def documents_of(self, collection: str, condition: Document, limit: int | None = None) -> Iterator[Document]:
        raise StoreRefusedError(
            f"expected a store with collections, found the file {self.description}; name the tasks' parameters "
            "themselves, or use a store at mongodb://"
        )

    def read_note(self, name: str) -> Document | None:
        rows = self._read("SELECT document FROM notes WHERE name = ?", (name,))
        try:
            return json_text.as_object(json_text.decode(rows[0][0])) if rows else None
        except records.UNREADABLE as error:
            raise StoreRefusedError(
                f'the note "{name}" in {self.description} cannot be read: {records.why_unreadable(error)}; '
                "delete its row"
            ) from error

    def note_names(self, prefix: str, limit: int = 1000) -> list[str]:
        statement = (
            "SELECT name FROM notes WHERE name >= ? AND name < ? AND typeof(name) = 'text' ORDER BY name LIMIT ?"
        )
        rows = self._read(statement, (prefix, f"{prefix}{chr(0x10FFFF)}", limit))
        return [name for (name,) in rows if isinstance(name, str)]

    def write_note(
        self,
        name: str,
        document: Document | None,
        *,
        is_new: bool = False,
        replacing: Mapping[str, Any] | None = None,
    ) -> bool:
        statement, values = "DELETE FROM notes WHERE name = ?", [name]
        if document is not None:
            statement = f"INSERT OR {'IGNORE' if is_new else 'REPLACE'} INTO notes (name, document) VALUES (?, ?)"
            values.append(json_text.encode(document))

        def write(connection: sqlite3.Connection) -> bool:
            if replacing is not None:
                found = self.read_note(name)
                if found is None or any(found.get(field) != value for field, value in replacing.items()):
                    return False
            return connection.execute(statement, values).rowcount > 0

        return self._write(write)

    def read_output(self, task: TaskId, token: str, stream: str, *, first: int = 0) -> Iterator[bytes]:
        for number in itertools.count(first):
            rows = self._read(
                "SELECT data FROM output WHERE task = ? AND token = ? AND stream = ? AND number = ?",
                (task, token, stream, number),
            )
            if not rows:
                return
            data = rows[0][0]
            yield data if isinstance(data, bytes) else str(data).encode()

    def insert_batch(self, document: Document) -> bool:
        return self._write(lambda connection: batches.insert(connection, document))

    def get_batch(self, batch_id: str) -> Document | None:
        return self._look(lambda connection: batches.get(connection, batch_id))

    def find_batches(
        self,
        *,
        states: Collection[str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Document]:
        return self._look(lambda one: batches.find(one, states, prefix, limit, newest_first=newest_first))

    def batch_ids(self, states: Collection[str] | None = None) -> list[tuple[datetime | None, str]]:
        return self._look(lambda connection: batches.ids(connection, states))

    def watched_batches(self, limit: int) -> list[Document]:
        return self._look(lambda connection: batches.watched(connection, limit))

    def change_batch(
        self,
        batch_id: str,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any],
    ) -> bool:
        return self._write(lambda connection: batches.change(connection, batch_id, set, unset, only_if))

    def delete_batch(self, batch_id: str, *, only_if: Mapping[str, Any]) -> bool:
        return self._write(lambda connection: batches.delete(connection, batch_id, only_if))

    def count_batch(self, batch_id: str, *, budget_seconds: float | None = None) -> BatchCounts:
        return self._look(lambda connection: batches.counts(connection, batch_id, budget_seconds))

    def is_batch_unfinished(self, batch_id: str) -> bool:
        return self._look(lambda connection: batches.is_unfinished(connection, batch_id))

    def nodes(self) -> list[NodeRecord]:
        rows = self._read("SELECT id, session, heartbeat_at, document FROM nodes ORDER BY id")
        return [records.node_of(row, self.now()) for row in rows]

    def get_node(self, node_id: str) -> NodeRecord | None:
        rows = self._read("SELECT id, session, heartbeat_at, document FROM nodes WHERE id = ?", (node_id,))
        return records.node_of(rows[0], self.now()) if rows else None

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        node_id, session, encoded = document["_id"], document.get("session"), json_text.encode(document)

        def put(connection: sqlite3.Connection) -> bool:
            at = moments.to_milliseconds(self.now())
            if replacing is None:
                statement = "INSERT OR IGNORE INTO nodes (id, session, heartbeat_at, document) VALUES (?, ?, ?, ?)"
                return connection.execute(statement, (node_id, session, at, encoded)).rowcount > 0
            statement = "UPDATE nodes SET session = ?, heartbeat_at = ?, document = ? WHERE id = ? AND session IS ?"
            return connection.execute(statement, (session, at, encoded, node_id, replacing.session)).rowcount > 0

        self._gates.forget()
        return self._write(put)

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        def beat(connection: sqlite3.Connection) -> Mapping[str, Any] | None:
            key = (node_id, session)
            row = connection.execute("SELECT document FROM nodes WHERE id = ? AND session IS ?", key).fetchone()
            if row is None:
                return None
            # If it cannot be read: the fields that stay the same for its whole life come back with its next start.
            before = records.node_document(node_id, row[0])
            at = moments.to_milliseconds(self.now())
            try:
                document = json_text.encode({**before, **set})
            except StoreRefusedError:  # somebody has written something into it that is read but cannot be written
                document = json_text.encode({"_id": node_id, "session": session, **set})
            connection.execute("UPDATE nodes SET heartbeat_at = ?, document = ? WHERE id = ?", (at, document, node_id))
            return records.requests_of(before)

        return self._write(beat)

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        def request(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT document FROM nodes WHERE id = ?", (node_id,)).fetchone()
            if row is None:
                return False
            document = records.node_document(node_id, row[0])
            requests = {**records.requests_of(document), name: value}
            if value is None:
                del requests[name]
            encoded = json_text.encode({**document, "requests": requests})
            connection.execute("UPDATE nodes SET document = ? WHERE id = ?", (encoded, node_id))
            return True

        self._gates.forget()
        return self._write(request)

    def remove_node(self, node_id: str, session: str | None) -> bool:
        statement = "DELETE FROM nodes WHERE id = ? AND session IS ?"
        self._gates.forget()
        return self._write(lambda c: c.execute(statement, (node_id, session)).rowcount > 0)

    def waiting_queues(self) -> set[QueueId]:
        # A step through the index from queue to queue, so the cost depends on the queues, not on the tasks.
        status = int(Status.CREATED)
        rows = self._read(
            f"""WITH RECURSIVE waiting (queue) AS (
                    SELECT min(queue) FROM tasks WHERE status = {status}
                    UNION ALL
                    SELECT (SELECT min(queue) FROM tasks WHERE status = {status} AND queue > waiting.queue)
                    FROM waiting WHERE waiting.queue IS NOT NULL)
                SELECT queue FROM waiting WHERE queue IS NOT NULL"""
        )
        waiting = {queue for (queue,) in rows if isinstance(queue, str)}
        if self._passed_over:
            self._look(self._passed_over.look_again)
            waiting -= {queue for queue in self._passed_over.queues() & waiting if not self._has_others_waiting(queue)}
        return waiting

    def _has_others_waiting(self, queue: QueueId) -> bool:
        """Whether a queue has waiting tasks that are not passed over."""
        but_not_these, left_out = self._passed_over.but_not_these(queue)
        statement = f"SELECT 1 FROM tasks WHERE queue = ? AND status = {int(Status.CREATED)} {but_not_these} LIMIT 1"
        return bool(self._read(statement, (queue, *left_out)))

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, on_claim: OnClaim | None = None) -> list[Task]:
        return self._write(
            # The time within the transaction: one from before the wait for it would let a rate be exceeded.
            lambda connection: self._claims.carry_out(connection, node_id, wanted, token, on_claim, self.now())
        )

    def passed_over(self) -> list[PassedOver]:
        return self._passed_over.summary()

    def _note_changes(self) -> None:
        """Tasks are changed here, so perhaps some of those passed over."""
        self._passed_over.note_own_write()
        self._never_due.note_own_write()

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        def carry_out(connection: sqlite3.Connection) -> set[RunKey]:
            if chunks:
                guarded_changes.write_output(connection, chunks)
            refused = set()
            for group in guarded_changes.alike(changes):
                if len(group) > 1 and guarded_changes.apply_together(connection, group):
                    continue
                for change in group:
                    if guarded_changes.apply(connection, change):
                        if change.creates:
                            creation.insert(connection, created[id(change)])
                        guarded_changes.sort_out_outputs(connection, change)
                    # Carried out before, and its answer was lost: the tasks in `creates` were created with it.
                    elif not guarded_changes.is_done_already(connection, change):
                        refused.add(change.key)
            return refused

        # Before the transaction: a change that cannot be stored costs nobody their turn.
        created = {id(one): creation.rows_of(one.creates, self._ids, self.now()) for one in changes if one.creates}
        return self._write(carry_out)

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        """Nothing to do: each claim counts the tasks in hand in its own transaction."""

    def promote_due(self, limit: int = 1000) -> int:
        now = self.now()
        at = moments.to_milliseconds(now)
        but_not_these, left_out = self._never_due.but_not_these()
        is_due = f"{conditions.WAITS_FOR_TIME} AND not_before <= ? {but_not_these}"
        values = (at, *left_out)
        if not self._read(f"SELECT 1 FROM tasks INDEXED BY tasks_due WHERE {is_due} LIMIT 1", values):
            return 0  # without a write transaction, as nearly always
        columns = fields.columns_of(steps.promoted_fields(now=now))
        return self._write(
            lambda connection: promotion.promote(connection, columns, is_due, (*values, limit), self._never_due)
        )

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        now = self.now()
        return self._look(lambda connection: due.find(connection, node_id, now, limit, self._never_due))

    def has_unfinished(
        self, queues: Sequence[QueueId], *, due_before: datetime | None = None, besides: Collection[TaskId] = ()
    ) -> bool:
        active = f"{int(Status.CREATED)}, {conditions.IN_HAND_SQL}"
        # A task that cannot be claimed waits for a person, not for a node.
        other, damaged = self._passed_over.but_not_these()
        if besides:
            other += " AND id NOT IN (SELECT value FROM json_each(?))"
            damaged = (*damaged, json_text.encode(list(besides)))
        claimable = f"(status != {int(Status.CREATED)} OR {conditions.NOBODY_SQL})"
        return any(
            self._read(
                f"SELECT 1 FROM tasks WHERE queue = ? AND status IN ({active}) AND {claimable} {other} LIMIT 1",
                (queue, *damaged),
            )
            or self._has_delayed(queue, due_before)
            for queue in queues
        )

    def _has_delayed(self, queue: QueueId, due_before: datetime | None) -> bool:
        delayed = f"queue = ? AND {conditions.WAITS_FOR_TIME}"
        if due_before is None:
            return bool(self._read(f"SELECT 1 FROM tasks INDEXED BY tasks_delayed WHERE {delayed} LIMIT 1", (queue,)))
        # By the time: a queue may hold very many tasks for much later.
        statement = f"SELECT 1 FROM tasks INDEXED BY tasks_due WHERE {delayed} AND not_before <= ? LIMIT 1"
        return bool(self._read(statement, (queue, moments.to_milliseconds(due_before))))

    def written_by_others(self) -> Look:
        try:
            return self._foreign_commits.look(self._opened())
        except (sqlite3.Error, StoreError):
            return Look(has_changed=False, again_seconds=WATCH_SECONDS)  # the next read or write finds out why

    def watch(self, *, ends: bool = True) -> SqliteWatcher:
        return SqliteWatcher(self._path, self._make_events)


def _find_old(
    statement: str, values: Sequence[Any], before: int, limit: int, connection: sqlite3.Connection
) -> list[TaskId]:
    """The first tasks of those that a statement finds which ended before this time, as `Store.ended_before` wants."""
    ids: list[TaskId] = []
    young = 0
    with contextlib.closing(connection.execute(statement, values)) as rows:
        for task_id, ctime, mtime, may_go in rows:
            young += ctime >= before
            if young > _YOUNG_MAX or len(ids) == limit:
                break
            if ctime < before and mtime < before and may_go and isinstance(task_id, str):
                ids.append(task_id)
    return ids
