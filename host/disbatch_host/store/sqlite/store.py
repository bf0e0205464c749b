"""The embedded store: one SQLite file, any number of processes of one machine.

Responsible for: the protocols of `contract` on tables, and documents that look as they would in MongoDB. Must not know:
who calls, what a change means.

Rules:
1. Every write is one `BEGIN IMMEDIATE` transaction. A transaction that begins by reading and then writes fails with
   "database is locked" whatever the busy timeout; one that asks for the write lock at once waits for its turn.
2. The driver's exceptions end in `driver_errors.translated`; none of its types leaves this package.
3. People also write rows. One that cannot be read costs only itself (`records`, `claims`).
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from disbatch_host.clock import Clock
from disbatch_host.documents import steps
from disbatch_host.documents.changes import OutputChunk, PassedOver, RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task, TaskId, whole_number
from disbatch_host.errors import StoreError, StoreRefusedError, StoreUnreachableError
from disbatch_host.store.contract import Access, OnClaim
from disbatch_host.store.sqlite import (
    claims,
    conditions,
    connections,
    creation,
    driver_errors,
    fields,
    guarded_changes,
    json_text,
    layout,
    moments,
    records,
)
from disbatch_host.store.sqlite.claims import Claims
from disbatch_host.store.sqlite.ids import IdSource
from disbatch_host.store.sqlite.watcher import SqliteWatcher
from disbatch_protocol.status import ENDED, Status

Result = TypeVar("Result")

_TURN_SECONDS = 0.5  # of `connections.BUSY_SECONDS` at a time, so that `hurry` takes effect
_PAGE = 500  # tasks read in one go

_FIND_DUE = f"""SELECT {records.SELECT_WITHOUT_OUTPUT} FROM tasks WHERE seq IN (
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status = {int(Status.RUNNING)} AND node = ?1 LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status IN ({conditions.WAITING_SQL}, {int(Status.ORPHANED)}) LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_awaited
        WHERE awaited = 1 AND status NOT IN ({conditions.UNFINISHED_SQL}) LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_expiring
        WHERE expires IS NOT NULL AND status IN ({conditions.WAITING_SQL}) AND expires <= ?2
        ORDER BY expires LIMIT ?3))"""


class SqliteStore:
    """A store in one file."""

    def __init__(self, path: Path, clock: Clock, access: Access = Access.CREATE) -> None:
        self._path = path
        self._clock = clock
        self._access = access
        self._connection: sqlite3.Connection | None = None
        self._ids = IdSource(clock)
        self._seen_version = 0  # changes with the commits of other connections
        self._is_together = False  # a transaction is open, and all writes belong to it
        self._is_hurried = threading.Event()
        self._claims = Claims()

    @property
    def description(self) -> str:
        return f"sqlite://{self._path}"

    @property
    def is_clock_local(self) -> bool:
        return True  # one machine, one clock

    @property
    def may_act_late(self) -> bool:
        return False  # a transaction that was not committed is rolled back

    @property
    def claims_read_queues(self) -> bool:
        return False

    def open(self) -> None:
        if self._connection is not None:
            return
        with driver_errors.translated(self._path):
            connection = connections.open_file(self._path, self._access)
            try:
                layout.prepare(connection, self.description)
                connection.execute(f"PRAGMA busy_timeout = {int(_TURN_SECONDS * 1000)}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with driver_errors.translated(self._path), self._transaction():
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False

    def hurry(self) -> None:
        self._is_hurried.set()

    def now(self) -> datetime:
        return self._clock.now()

    def parse_id(self, text: str) -> TaskId | None:
        return text or None

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

        return self._write(insert, duplicate=f"queue {queue_id!r} exists already; choose another id")

    def update_queue(self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str] = ()) -> bool:
        def update(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT document FROM queues WHERE id = ?", (queue,)).fetchone()
            if row is None:
                return False
            try:
                document = {**json_text.as_object(json_text.decode(row[0])), **set}
            except records.UNREADABLE as error:
                raise StoreRefusedError(
                    f"queue {queue!r} cannot be changed: {records.why_unreadable(error)}; delete it and create it again"
                ) from error
            for name in unset:
                document.pop(name, None)
            connection.execute("UPDATE queues SET document = ? WHERE id = ?", (json_text.encode(document), queue))
            return True

        return self._write(update)

    def delete_queue(self, queue: QueueId) -> bool:
        return self._write(lambda c: c.execute("DELETE FROM queues WHERE id = ?", (queue,)).rowcount > 0)

    def new_ids(self, count: int) -> list[TaskId]:
        return list(self._ids.take(count))

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        rows = creation.rows_of(documents, self._ids, self.now())
        return self._write(
            lambda connection: creation.insert(connection, rows, again=again),
            duplicate="a task with one of these ids exists already",
        )

    def change_tasks(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        def carry_out(connection: sqlite3.Connection) -> set[TaskId]:
            return {change.task_id for change in changes if not guarded_changes.apply_to_task(connection, change)}

        return self._write(carry_out)

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
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        columns = records.SELECT if with_output else records.SELECT_WITHOUT_OUTPUT
        is_of_one_status = which.statuses is not None and len(which.statuses) == 1 and not which.or_failed
        # In the order of the index on queue and status, so that the place where each page goes on is found at once.
        # Tasks of one status are there in the order of creation.
        is_by_status = in_any_order and which.queue is not None and not is_of_one_status
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
        while left > 0:
            rows = self._read(statement, (*values, *last, min(_PAGE, left)))
            for row in rows:
                yield records.task_of(row[1:], with_output=with_output)
            if len(rows) < min(_PAGE, left):
                return
            seq, _, _, status, *_ = rows[-1]
            last, left = (seq,) if len(last) == 1 else (status, seq), left - len(rows)

    def count_tasks(self, which: TaskFilter) -> int:
        condition, values = conditions.where(which)
        return int(self._read(f"SELECT count(*) FROM tasks WHERE {condition}", values)[0][0])

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        counts: dict[QueueId, dict[int, int]] = {}
        for queue, value, count in self._read("SELECT queue, status, count(*) FROM tasks GROUP BY queue, status"):
            number = whole_number(value)
            status = int(Status.BLOCKED) if number is None else number  # as `Task.from_document` counts it
            of_queue = counts.setdefault(queue, {})
            of_queue[status] = of_queue.get(status, 0) + count
        return counts

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, or_failed: bool = False
    ) -> int:
        condition = "" if statuses is None else f"AND {conditions.status_is(statuses, or_failed=or_failed)}"

        def delete(connection: sqlite3.Connection) -> int:
            deleted = [
                (task,)
                for task in tasks
                if connection.execute(
                    f"DELETE FROM tasks WHERE id = ? AND awaited IS NOT 1 {condition}", (task,)
                ).rowcount
            ]
            connection.executemany("DELETE FROM output WHERE task = ?", deleted)
            return len(deleted)

        return self._write(delete)

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        before = moments.to_milliseconds(moment)
        ids: list[TaskId] = []
        for status in (*sorted(ENDED), *self._own_failures(queue)):
            # In the order of creation, so everything after the first task that is too young is too young as well.
            # Followers of a failed task may still wait for it to be run again.
            is_free = "awaited IS NOT 1" if status == Status.CONCLUDED else "awaited IS NULL"
            statement = f"""SELECT id, ctime, mtime, {is_free} FROM tasks
                WHERE queue = ? AND status = ? AND typeof(ctime) = 'integer' AND typeof(mtime) = 'integer'
                ORDER BY seq"""
            with driver_errors.translated(self._path):
                for task_id, ctime, mtime, may_go in self._opened().execute(statement, (queue, int(status))):
                    if ctime >= before or len(ids) == limit:
                        break
                    if mtime < before and may_go:
                        ids.append(task_id)
        return ids

    def _own_failures(self, queue: QueueId) -> Iterator[int]:
        """The statuses above 2 that tasks of the queue have, found by steps through the index."""
        status: int | None = int(Status.FAILED)
        while status is not None:
            ((status,),) = self._read("SELECT min(status) FROM tasks WHERE queue = ? AND status > ?", (queue, status))
            if status is not None:
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

    def write_note(self, name: str, document: Document | None, *, is_new: bool = False) -> bool:
        if document is None:
            return self._write(lambda c: c.execute("DELETE FROM notes WHERE name = ?", (name,)).rowcount > 0)
        statement = f"INSERT OR {'IGNORE' if is_new else 'REPLACE'} INTO notes (name, document) VALUES (?, ?)"
        encoded = json_text.encode(document)
        return self._write(lambda c: c.execute(statement, (name, encoded)).rowcount > 0)

    def read_output(self, task: TaskId, token: str, stream: str) -> Iterator[bytes]:
        for number in itertools.count():
            rows = self._read(
                "SELECT data FROM output WHERE task = ? AND token = ? AND stream = ? AND number = ?",
                (task, token, stream, number),
            )
            if not rows:
                return
            yield rows[0][0]

    def delete_output(self, task: TaskId, token: str) -> None:
        self._write(lambda c: c.execute("DELETE FROM output WHERE task = ? AND token = ?", (task, token)))

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

        return self._write(put)

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        def beat(connection: sqlite3.Connection) -> Mapping[str, Any] | None:
            key = (node_id, session)
            row = connection.execute("SELECT document FROM nodes WHERE id = ? AND session IS ?", key).fetchone()
            if row is None:
                return None
            # If it cannot be read: the fields that stay the same for its whole life come back with its next start.
            before = records.node_document(node_id, row[0])
            document, at = json_text.encode({**before, **set}), moments.to_milliseconds(self.now())
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

        return self._write(request)

    def remove_node(self, node_id: str, session: str | None) -> bool:
        statement = "DELETE FROM nodes WHERE id = ? AND session IS ?"
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
        return {queue for (queue,) in rows}

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, on_claim: OnClaim | None = None) -> list[Task]:
        return self._write(
            # The time within the transaction: one from before the wait for it would let a rate be exceeded.
            lambda connection: self._claims.carry_out(connection, node_id, wanted, token, on_claim, self.now())
        )

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        def carry_out(connection: sqlite3.Connection) -> set[RunKey]:
            if chunks:
                connection.executemany(
                    "INSERT OR REPLACE INTO output (task, token, stream, number, data) VALUES (?, ?, ?, ?, ?)",
                    [(c.key.task_id, c.key.token or "", c.stream, c.number, c.data) for c in chunks],
                )
            refused = set()
            for group in guarded_changes.alike(changes):
                if len(group) > 1 and guarded_changes.apply_together(connection, group):
                    continue
                for change in group:
                    if guarded_changes.apply(connection, change):
                        if change.creates:
                            creation.insert(connection, created[id(change)])
                        guarded_changes.forget_output(connection, change)
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
        due = f"{conditions.WAITS_FOR_TIME} AND not_before <= ?"
        if not self._read(f"SELECT 1 FROM tasks INDEXED BY tasks_due WHERE {due} LIMIT 1", (at,)):
            return 0  # without a write transaction, as nearly always
        columns = fields.columns_of(steps.promoted_fields(now=now))
        statement = f"""UPDATE tasks SET {conditions.assignments(columns)}, not_before = NULL
            WHERE seq IN (SELECT seq FROM tasks INDEXED BY tasks_due WHERE {due} ORDER BY not_before LIMIT ?)"""
        return self._write(lambda c: c.execute(statement, (*columns.values(), at, limit)).rowcount)

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        rows = self._read(_FIND_DUE, (node_id, moments.to_milliseconds(self.now()), limit))
        return [records.task_of(row, with_output=False) for row in rows]

    def passed_over(self) -> list[PassedOver]:
        return []

    def has_unfinished(self, queues: Sequence[QueueId], *, due_before: datetime | None = None) -> bool:
        active = f"{int(Status.CREATED)}, {conditions.IN_HAND_SQL}"
        # A task that cannot be read waits for a person, not for a node.
        damaged = [orjson.dumps([*self._claims.damaged]).decode()] if self._claims.damaged else []
        other = "AND seq NOT IN (SELECT value FROM json_each(?))" if damaged else ""
        return any(
            self._read(
                f"SELECT 1 FROM tasks WHERE queue = ? AND status IN ({active}) {other} LIMIT 1", (queue, *damaged)
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

    def written_by_others(self) -> bool:
        try:
            version = int(self._opened().execute("PRAGMA data_version").fetchone()[0])
        except (sqlite3.Error, StoreError):
            return False  # the next read or write finds out why
        has_changed, self._seen_version = version != self._seen_version, version
        return has_changed

    def watch(self, *, ends: bool = True) -> SqliteWatcher:
        return SqliteWatcher(self._path)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnreachableError(f"{self.description} is not open")
        return self._connection

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with driver_errors.translated(self._path):
            connection = self._opened()
            return self._in_turn(
                lambda: connections.with_odd_text(connection, lambda: connection.execute(statement, values).fetchall())
            )

    def _write(self, action: Callable[[sqlite3.Connection], Result], *, duplicate: str = "") -> Result:
        """One transaction (rule 1), all or nothing."""
        with driver_errors.translated(self._path, duplicate):
            if self._is_together:
                return action(self._opened())
            with self._transaction() as connection:
                return action(connection)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        self._in_turn(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _in_turn(self, statement: Callable[[], Result]) -> Result:
        """Something that may have to wait for other processes; gives up after `BUSY_SECONDS`, or when told to hurry."""
        deadline = time.monotonic() + connections.BUSY_SECONDS
        while True:
            try:
                return statement()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or self._is_hurried.is_set() or time.monotonic() > deadline:
                    raise
