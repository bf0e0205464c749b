"""The embedded store: one SQLite file, any number of processes of one machine.

Responsible for: the interface of `base` on tables, and documents that look as they would in MongoDB. Must not know: who
calls, what a change means.

Rules:
1. Every write is one `BEGIN IMMEDIATE` transaction. A transaction that begins by reading and then writes fails with
   "database is locked" whatever the busy timeout; one that asks for the write lock at once waits for its turn.
2. WAL, so that readers and the writer do not stop each other; synchronous FULL, so that a committed task is on disk.
3. What queries look at are columns; `parameters`, `stdout` and `stderr` are columns because they are large, `run`
   because every run writes it; every other field of a task is in `rest`, as JSON. What few tasks have (`after`,
   `unique_key`, `expires`, `cancel`, `awaited`, `parent`) is NULL in all others, and its indexes hold only those few.
   In JSON, dates are {"$date": milliseconds} and keys of the user that begin with "$" are written with one more, so
   that whatever was put in comes out again.
4. The defaults of the columns make a row that a person inserts with the sqlite3 tool a conforming task.
5. People also write rows that cannot be read. Such a row costs only itself: it comes back as a record with `fault`, and
   a task of that kind is never claimed. What a column says wins over the same field in a JSON text. Who waits for whom
   is kept by triggers, so that it is true of such rows as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import math
import operator
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from disbatch_host.clock import Clock
from disbatch_host.errors import (
    DuplicateIdError,
    StoreError,
    StoreRefusedError,
    StoreTooNewError,
    StoreUnreachableError,
    StoreUnwritableError,
)
from disbatch_host.model import (
    NOBODY,
    Document,
    NodeRecord,
    OutputChunk,
    Queue,
    QueueId,
    RunChange,
    RunKey,
    Task,
    TaskChange,
    TaskFilter,
    TaskId,
    Want,
    whole_number,
)
from disbatch_host.store.base import SCHEMA_VERSION, Access, Begin
from disbatch_protocol.faults import kind_of
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import ENDED, UNFINISHED, Status

log = logging.getLogger(__name__)

Result = TypeVar("Result")

BUSY_SECONDS = 30.0  # how long a writer waits for its turn; a commit of the largest batch takes well under one
_TURN_SECONDS = 0.5  # of it at a time, so that `hurry` is heard
WATCH_SECONDS = 0.01  # between two looks of a watcher: 5 µs each, so under 0.1 % of a core
DOCUMENT_MAX = 16 * 2**20  # bytes of a task's JSON, as in MongoDB: what works on one store works on the other
_PAGE = 500  # tasks read in one go

_UNFINISHED = ", ".join(str(int(status)) for status in sorted(UNFINISHED))
_WAITING = f"{int(Status.BLOCKED)}, {int(Status.CREATED)}"
_WAITS_FOR_TIME = f"status = {int(Status.BLOCKED)} AND not_before IS NOT NULL AND (after IS NULL OR after = '[]')"

_NEW_AFTER, _OLD_AFTER = (f"CASE WHEN json_valid({row}.after) THEN {row}.after END" for row in ("NEW", "OLD"))

# Of what few tasks have. Each index costs the others only the look at a NULL.
_CONTROL_LAYOUT = f"""
CREATE INDEX tasks_due ON tasks (not_before) WHERE {_WAITS_FOR_TIME};
CREATE INDEX tasks_delayed ON tasks (queue) WHERE {_WAITS_FOR_TIME};
CREATE INDEX tasks_unique ON tasks (unique_key, queue, status) WHERE unique_key IS NOT NULL;
CREATE INDEX tasks_expiring ON tasks (expires) WHERE expires IS NOT NULL AND status IN ({_WAITING});
CREATE INDEX tasks_cancelled ON tasks (status, node) WHERE cancel IS NOT NULL;
CREATE INDEX tasks_awaited ON tasks (queue) WHERE awaited = 1 AND status NOT IN ({_UNFINISHED});
CREATE INDEX tasks_parent ON tasks (parent) WHERE parent IS NOT NULL;
-- Which tasks (by `seq`) name this one in their `after`.
CREATE TABLE followers (
    task TEXT NOT NULL,
    follower INTEGER NOT NULL,
    PRIMARY KEY (task, follower)
) WITHOUT ROWID;
CREATE TRIGGER follower_made AFTER INSERT ON tasks WHEN NEW.after IS NOT NULL BEGIN
    INSERT INTO followers SELECT DISTINCT value, NEW.seq FROM json_each({_NEW_AFTER}) WHERE value IS NOT NULL; \
    UPDATE tasks SET awaited = 1 WHERE id IN (SELECT value FROM json_each({_NEW_AFTER})) AND awaited IS NOT 1; END;
CREATE TRIGGER follower_changed AFTER UPDATE OF after ON tasks BEGIN
    DELETE FROM followers WHERE follower = OLD.seq AND task IN (SELECT value FROM json_each({_OLD_AFTER})); \
    INSERT INTO followers SELECT DISTINCT value, NEW.seq FROM json_each({_NEW_AFTER}) WHERE value IS NOT NULL; END;
CREATE TRIGGER follower_gone AFTER DELETE ON tasks WHEN OLD.after IS NOT NULL BEGIN
    DELETE FROM followers WHERE follower = OLD.seq AND task IN (SELECT value FROM json_each({_OLD_AFTER})); END;
-- Up to when the rate of a queue is used up, in microseconds.
CREATE TABLE rates (
    queue TEXT PRIMARY KEY NOT NULL,
    used_until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE notes (
    name TEXT PRIMARY KEY NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID;
"""

_CONTROL_COLUMNS = (
    "after TEXT", "unique_key TEXT", "expires INTEGER", "cancel TEXT", "awaited INTEGER", "parent TEXT",
)  # fmt: skip
_LAYOUT = f"""
CREATE TABLE queues (
    id TEXT PRIMARY KEY NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY NOT NULL,
    session TEXT,
    heartbeat_at INTEGER,
    document TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(12)))),
    queue TEXT NOT NULL,
    status INTEGER NOT NULL DEFAULT {int(Status.CREATED)},
    node TEXT DEFAULT '{NOBODY}',
    priority INTEGER NOT NULL DEFAULT 0,
    ctime INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    mtime INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    not_before INTEGER,
    claim_token TEXT,
    claimed_at INTEGER,
    parameters TEXT NOT NULL DEFAULT '{{}}',
    stdout TEXT NOT NULL DEFAULT '',
    stderr TEXT NOT NULL DEFAULT '',
    rest TEXT NOT NULL DEFAULT '{{}}',
    run TEXT,
    {", ".join(_CONTROL_COLUMNS)}
);
-- What a claim looks for, in its order; holds waiting tasks only, so finished ones cost it nothing.
CREATE INDEX tasks_waiting ON tasks (queue, priority DESC, seq) WHERE status = {int(Status.CREATED)};
-- What a node has in hand: clean-up, sweeps, verification.
CREATE INDEX tasks_in_hand ON tasks (node, status)
    WHERE status IN ({int(Status.CLAIMED)}, {int(Status.RUNNING)});
-- Counts and lists by queue and status.
CREATE INDEX tasks_status ON tasks (queue, status);
CREATE TABLE output (
    task TEXT NOT NULL,
    token TEXT NOT NULL,
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (task, token, stream, number)
);
{_CONTROL_LAYOUT}
PRAGMA user_version = {SCHEMA_VERSION};
"""

# From each older layout to the next one, statement by statement, in one transaction.
_MIGRATIONS: Mapping[int, Sequence[str]] = {
    1: (  # `run` had no column of its own
        "ALTER TABLE tasks ADD COLUMN run TEXT",
        """UPDATE tasks SET run = json_extract(rest, '$.run'), rest = json_remove(rest, '$.run')
           WHERE CASE WHEN json_valid(rest) THEN json_type(rest, '$.run') = 'object' END""",
    ),
    2: (  # nobody asked the store for what waits for what, is cancelled, expires or has a key
        *(f"ALTER TABLE tasks ADD COLUMN {column}" for column in _CONTROL_COLUMNS),
        "DROP INDEX tasks_due",
        *_CONTROL_LAYOUT.split(";\n"),
        *(
            f"""UPDATE tasks SET {name} = json_extract(rest, '{path}'), rest = json_remove(rest, '$.{name}')
                WHERE CASE WHEN rest != '{{}}' AND json_valid(rest) THEN json_type(rest, '{path}') IN ({kinds}) END"""
            for name, path, kinds in (
                ("after", "$.after", "'array'"),
                ("unique_key", "$.unique_key", "'text'"),
                ("expires", '$.expires."$date"', "'integer'"),
                ("cancel", "$.cancel", "'object'"),
                ("awaited", "$.awaited", "'true', 'false'"),
                ("parent", "$.parent", "'text'"),
            )
        ),
        "UPDATE tasks SET awaited = 1 WHERE id IN (SELECT task FROM followers)",
    ),
}

_COLUMNS = (
    "id", "queue", "status", "node", "priority", "ctime", "mtime", "not_before", "claim_token", "claimed_at",
    "parameters", "stdout", "stderr", "run", "after", "unique_key", "expires", "cancel", "awaited", "parent", "rest",
)  # fmt: skip
_SELECT = ", ".join(_COLUMNS)
_SELECT_WITHOUT_OUTPUT = _SELECT.replace("stdout, stderr", "NULL, NULL")
_INSERT_TASK = f"INSERT INTO tasks ({_SELECT}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_NOBODY_SQL = f"(node IS NULL OR node = '{NOBODY}')"
# Of most new tasks: what else there is, is NULL, and to bind a NULL costs the driver more than a value.
_PLAIN_COLUMNS = (
    "id", "queue", "status", "node", "priority", "ctime", "mtime", "parameters", "stdout", "stderr", "rest",
)  # fmt: skip
_INSERT_PLAIN_TASK = f"INSERT INTO tasks ({', '.join(_PLAIN_COLUMNS)}) VALUES ({', '.join('?' * len(_PLAIN_COLUMNS))})"
_AGAIN = " ON CONFLICT (id) DO NOTHING"
_FIND_WAITING = f"""SELECT seq, {_SELECT} FROM tasks
    WHERE queue = ? AND status = {int(Status.CREATED)} AND {_NOBODY_SQL} ORDER BY priority DESC, seq"""
_FIND_NEWEST_WAITING = f"""SELECT seq, {_SELECT} FROM tasks INDEXED BY tasks_waiting
    WHERE queue = ? AND status = {int(Status.CREATED)} AND priority = ? AND {_NOBODY_SQL} ORDER BY seq DESC"""
# A step through the index from priority to priority, so the cost is that of the priorities, not of the tasks.
_FIND_PRIORITIES = f"""WITH RECURSIVE waiting (priority) AS (
        SELECT max(priority) FROM tasks WHERE queue = ?1 AND status = {int(Status.CREATED)}
        UNION ALL
        SELECT (SELECT max(priority) FROM tasks
                WHERE queue = ?1 AND status = {int(Status.CREATED)} AND priority < waiting.priority)
        FROM waiting WHERE waiting.priority IS NOT NULL)
    SELECT priority FROM waiting WHERE priority IS NOT NULL"""
_FIND_OLDEST = f"""SELECT seq, ctime FROM tasks INDEXED BY tasks_waiting
    WHERE queue = ? AND status = {int(Status.CREATED)} AND priority = ? ORDER BY seq LIMIT 1"""
_COUNT_IN_HAND = f"""SELECT count(*) FROM tasks
    WHERE queue = ? AND status IN ({int(Status.CLAIMED)}, {int(Status.RUNNING)})"""
_FIND_HOLDER = f"""SELECT id FROM tasks
    WHERE unique_key = ? AND queue = ? AND status IN ({_UNFINISHED}) AND id IS NOT ? LIMIT 1"""
_FIND_DUE = f"""SELECT {_SELECT_WITHOUT_OUTPUT} FROM tasks WHERE seq IN (
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status = {int(Status.RUNNING)} AND node = ?1 LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_cancelled
        WHERE cancel IS NOT NULL AND status IN ({_WAITING}, {int(Status.ORPHANED)}) LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_awaited
        WHERE awaited = 1 AND status NOT IN ({_UNFINISHED}) LIMIT ?3)
    UNION ALL
    SELECT seq FROM (SELECT seq FROM tasks INDEXED BY tasks_expiring
        WHERE expires IS NOT NULL AND status IN ({_WAITING}) AND expires <= ?2 ORDER BY expires LIMIT ?3))"""


class SqliteStore:
    """A store in one file."""

    def __init__(self, path: Path, clock: Clock, access: Access = Access.CREATE) -> None:
        self._path = path
        self._clock = clock
        self._access = access
        self._connection: sqlite3.Connection | None = None
        self._ids = _IdSource(clock)
        self._seen_version = 0  # which tells of the commits of other connections
        self._is_together = False  # a transaction is open, and what is written belongs to it
        self._shall_hurry = threading.Event()
        self._damaged: set[int] = set()  # `seq` of waiting tasks that cannot be read, and have been told of

    @property
    def description(self) -> str:
        return f"sqlite://{self._path}"

    @property
    def is_clock_local(self) -> bool:
        return True  # one machine, one clock

    def open(self) -> None:
        if self._connection is not None:
            return
        with _translated(self._path):
            connection = self._connect()
            try:
                self._prepare(connection)
                connection.execute(f"PRAGMA busy_timeout = {int(_TURN_SECONDS * 1000)}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection

    def _connect(self) -> sqlite3.Connection:
        if self._access is not Access.CREATE and not self._path.exists():
            if self._access is Access.OR_EMPTY:
                return _connect(Path(":memory:"))
            raise StoreRefusedError(
                f"{self.description} is not there; check the path, or make it with `disbatch-host queue create`"
            )
        try:
            if self._access is Access.CREATE:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made by us where it is new: SQLite would give it to everybody, and tasks hold secrets.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if self._access is not Access.CREATE and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                connection = _connect_for_reading(self._path)
                if connection is not None:
                    return connection
            hint = _OPEN_HINTS.get(error.errno or 0, "name another file")
            raise StoreUnwritableError(f"{self.description} cannot be opened: {error.strerror}; {hint}") from error
        return _connect(self._path)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._check_version(connection)
        if _version(connection) == SCHEMA_VERSION and connection.execute("PRAGMA query_only").fetchone()[0]:
            return
        _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute("PRAGMA synchronous = FULL")
        if _version(connection) == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _version(connection)
            if version == 0:  # nobody else was faster
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise StoreRefusedError(
                        f"{self.description} is a database of some other program; name another file"
                    )
                for statement in _LAYOUT.split(";\n"):
                    connection.execute(statement)
            elif version < SCHEMA_VERSION:
                for older in range(version, SCHEMA_VERSION):
                    for statement in _MIGRATIONS[older]:
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._check_version(connection)

    def _check_version(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.description} has layout {version}, this program knows {SCHEMA_VERSION} at most; "
                "install a newer disbatch-host"
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with _translated(self._path), self._transaction():
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False

    def hurry(self) -> None:
        self._shall_hurry.set()

    def now(self) -> datetime:
        return self._clock.now()

    def parse_id(self, text: str) -> TaskId | None:
        return text or None

    def extended_json(self, value: object) -> object:
        raise TypeError(f"no value of this store is a {type(value).__name__}")

    # --- queues

    def queues(self) -> list[Queue]:
        return [_queue_of(*row) for row in self._read("SELECT id, document FROM queues ORDER BY id")]

    def find_queue(self, text: str) -> Queue | None:
        rows = self._read("SELECT id, document FROM queues WHERE id = ?", (text,))
        return _queue_of(*rows[0]) if rows else None

    def insert_queue(self, document: Document) -> QueueId:
        queue_id = document.get("_id") or self._ids.take(1)[0]
        encoded = _encode({**document, "_id": queue_id})

        def insert(connection: sqlite3.Connection) -> QueueId:
            connection.execute("INSERT INTO queues (id, document) VALUES (?, ?)", (_text_id(queue_id), encoded))
            return queue_id

        return self._write(insert, duplicate=f"queue {queue_id!r} exists already; choose another id")

    def update_queue(self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str] = ()) -> bool:
        def update(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT document FROM queues WHERE id = ?", (queue,)).fetchone()
            if row is None:
                return False
            try:
                document = {**_object(_decode(row[0])), **set}
            except _UNREADABLE as error:
                raise StoreRefusedError(
                    f"queue {queue!r} cannot be changed: {_why_unreadable(error)}; delete it and create it again"
                ) from error
            for name in unset:
                document.pop(name, None)
            connection.execute("UPDATE queues SET document = ? WHERE id = ?", (_encode(document), queue))
            return True

        return self._write(update)

    def delete_queue(self, queue: QueueId) -> bool:
        return self._write(lambda c: c.execute("DELETE FROM queues WHERE id = ?", (queue,)).rowcount > 0)

    # --- tasks, as people and command nodes use them

    def new_ids(self, count: int) -> list[TaskId]:
        return list(self._ids.take(count))

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        rows = self._rows_of(documents)
        return self._write(
            lambda connection: _insert(connection, rows, again=again),
            duplicate="a task with one of these ids exists already",
        )

    def change_tasks(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        def carry_out(connection: sqlite3.Connection) -> set[TaskId]:
            return {change.task_id for change in changes if not _apply_to_task(connection, change)}

        return self._write(carry_out)

    def _rows_of(self, documents: Sequence[Document]) -> list[tuple[Any, ...]]:
        now = _milliseconds(self.now())
        new_ids = self._ids.take(len(documents))
        rows = []
        for new_id, document in zip(new_ids, documents, strict=True):
            is_plain = _RARE_FIELDS.isdisjoint(document)
            new_row = _NEW_PLAIN_ROW if is_plain else _NEW_ROW
            values = {**new_row, "ctime": now, "mtime": now, **_columns_of(document)}
            task_id = document.get("_id")
            values["id"] = new_id if task_id is None else _text_id(task_id)
            _text_id(values["queue"])
            if not document.keys() <= _IN_COLUMNS:
                values["rest"] = _encode({n: value for n, value in document.items() if n not in _IN_COLUMNS})
            size = len(values["parameters"]) + len(values["stdout"]) + len(values["stderr"]) + len(values["rest"])
            if not is_plain:
                size += len(values["after"] or "")
            if size > DOCUMENT_MAX:
                raise StoreRefusedError(
                    f"expected a task document of at most {DOCUMENT_MAX} bytes, found {size}; "
                    "put large data into a file and its path into the parameters"
                )
            rows.append(_PLAIN_ROW_ORDER(values) if is_plain else _ROW_ORDER(values))
        return rows

    def get_task(self, task: TaskId) -> Task | None:
        rows = self._read(f"SELECT {_SELECT} FROM tasks WHERE id = ?", (task,))
        return _task_of(rows[0]) if rows else None

    def find_tasks(
        self,
        which: TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = True,
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        columns = _SELECT if with_output else _SELECT_WITHOUT_OUTPUT
        is_of_one_status = which.statuses is not None and len(which.statuses) == 1 and not which.failed_too
        # As the index on queue and status has them: where each page goes on is found at once. Those of one status are
        # there in the order of creation.
        is_by_status = in_any_order and which.queue is not None and not is_of_one_status
        condition, values = _where(which, status="+status" if is_by_status else "status")
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
                yield _task_of(row[1:], with_output=with_output)
            if len(rows) < min(_PAGE, left):
                return
            seq, _, _, status, *_ = rows[-1]
            last, left = (seq,) if len(last) == 1 else (status, seq), left - len(rows)

    def count_tasks(self, which: TaskFilter) -> int:
        condition, values = _where(which)
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
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, failed_too: bool = False
    ) -> int:
        condition = "" if statuses is None else f"AND {_status_is(statuses, failed_too=failed_too)}"

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
        before = _milliseconds(moment)
        ids: list[TaskId] = []
        for status in (*sorted(ENDED), *self._own_failures(queue)):
            # In the order of creation, so what comes after the first one that is too young is as well.
            # Followers of what has failed may still wait for its being run again.
            is_free = "awaited IS NOT 1" if status == Status.CONCLUDED else "awaited IS NULL"
            statement = f"""SELECT id, ctime, mtime, {is_free} FROM tasks
                WHERE queue = ? AND status = ? AND typeof(ctime) = 'integer' AND typeof(mtime) = 'integer'
                ORDER BY seq"""
            with _translated(self._path):
                for task_id, ctime, mtime, may_go in self._opened().execute(statement, (queue, int(status))):
                    if ctime >= before or len(ids) == limit:
                        break
                    if mtime < before and may_go:
                        ids.append(task_id)
        return ids

    def _own_failures(self, queue: QueueId) -> Iterator[int]:
        """The statuses above 2 that tasks of the queue have, by steps through the index."""
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
                for (priority,) in self._read(_FIND_PRIORITIES, (queue,))
                for row in self._read(_FIND_OLDEST, (queue, priority))
            ]
            if not firsts:
                continue  # the last one was claimed meanwhile
            with contextlib.suppress(*_UNREADABLE):  # which a person has to mend, and `get_task` tells
                moment = _moment(min(firsts)[1])
                if moment is not None:
                    oldest[queue] = moment
        return oldest

    def documents_of(self, collection: str, condition: Document, limit: int | None = None) -> Iterator[Document]:
        raise StoreRefusedError(
            f"expected a store with collections, found the file {self.description}; name the tasks' parameters "
            "themselves, or use a store at mongodb://"
        )

    # --- notes

    def read_note(self, name: str) -> Document | None:
        rows = self._read("SELECT document FROM notes WHERE name = ?", (name,))
        try:
            return _object(_decode(rows[0][0])) if rows else None
        except _UNREADABLE as error:
            raise StoreRefusedError(
                f'the note "{name}" in {self.description} cannot be read: {_why_unreadable(error)}; delete its row'
            ) from error

    def write_note(self, name: str, document: Document | None, *, is_new: bool = False) -> bool:
        if document is None:
            return self._write(lambda c: c.execute("DELETE FROM notes WHERE name = ?", (name,)).rowcount > 0)
        statement = f"INSERT OR {'IGNORE' if is_new else 'REPLACE'} INTO notes (name, document) VALUES (?, ?)"
        encoded = _encode(document)
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

    # --- nodes

    def nodes(self) -> list[NodeRecord]:
        rows = self._read("SELECT id, session, heartbeat_at, document FROM nodes ORDER BY id")
        return [self._node_of(row) for row in rows]

    def get_node(self, node_id: str) -> NodeRecord | None:
        rows = self._read("SELECT id, session, heartbeat_at, document FROM nodes WHERE id = ?", (node_id,))
        return self._node_of(rows[0]) if rows else None

    def _node_of(self, row: Sequence[Any]) -> NodeRecord:
        node_id, session, heartbeat_at, encoded = row
        age_seconds = None
        try:
            document = {**_object(_decode(encoded)), "_id": node_id}
            if heartbeat_at is not None:
                document["heartbeat"] = {"datetime": _moment(heartbeat_at), **(document.get("heartbeat") or {})}
                age_seconds = max(0.0, (_milliseconds(self.now()) - heartbeat_at) / 1000)
        except _UNREADABLE:
            document = {"_id": node_id}  # of no program that is known here
        return NodeRecord(id=node_id, session=session, age_seconds=age_seconds, document=document)

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        node_id, session, encoded = document["_id"], document.get("session"), _encode(document)

        def put(connection: sqlite3.Connection) -> bool:
            at = _milliseconds(self.now())
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
            # Where it cannot be read: what is the same for its whole life comes back with its next start.
            before = _node_document(node_id, row[0])
            document, at = _encode({**before, **set}), _milliseconds(self.now())
            connection.execute("UPDATE nodes SET heartbeat_at = ?, document = ? WHERE id = ?", (at, document, node_id))
            return _requests_of(before)

        return self._write(beat)

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        def request(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT document FROM nodes WHERE id = ?", (node_id,)).fetchone()
            if row is None:
                return False
            document = _node_document(node_id, row[0])
            requests = {**_requests_of(document), name: value}
            if value is None:
                del requests[name]
            encoded = _encode({**document, "requests": requests})
            connection.execute("UPDATE nodes SET document = ? WHERE id = ?", (encoded, node_id))
            return True

        return self._write(request)

    def remove_node(self, node_id: str, session: str | None) -> bool:
        statement = "DELETE FROM nodes WHERE id = ? AND session IS ?"
        return self._write(lambda c: c.execute(statement, (node_id, session)).rowcount > 0)

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        # A step through the index from queue to queue, so the cost is that of the queues, not of the tasks.
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

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, begin: Begin | None = None) -> list[Task]:
        def claim(connection: sqlite3.Connection) -> list[Task]:
            now = self.now()  # in the transaction: a time from before the wait for it would let a rate be exceeded
            claimed = {
                "status": int(Status.CLAIMED), "node": node_id, "mtime": now, "claim": {"token": token, "at": now},
            }  # fmt: skip
            tasks = []
            for want in wanted:
                count = want.count
                if want.maxtotal is not None and count > 0:
                    (in_hand,) = connection.execute(_COUNT_IN_HAND, (want.queue,)).fetchone()
                    count = min(count, want.maxtotal - in_hand)
                if want.rate is not None and count > 0:
                    count = min(count, _granted(connection, want.queue, want.rate, now))
                # The rows are this transaction's alone, so the updates need no guard.
                found = self._find_waiting(connection, want, count)
                if want.rate is not None and found:
                    _use_up(connection, want.queue, want.rate, now, len(found))
                for seq, row, document in found:
                    task = Task.from_document({**document, **claimed})
                    columns = _columns_of(claimed)
                    change = begin(task) if begin is not None else None
                    if change is not None:
                        columns |= _changed_columns(change, row[-1])
                        _forget_output(connection, change)
                    assignments = ", ".join([f"{name} = ?" for name in columns])
                    connection.execute(f"UPDATE tasks SET {assignments} WHERE seq = ?", (*columns.values(), seq))
                    tasks.append(task)
            return tasks

        return self._write(claim)

    def _find_waiting(
        self, connection: sqlite3.Connection, want: Want, count: int
    ) -> list[tuple[int, Sequence[Any], Document]]:
        """The first tasks of a queue that can be claimed, with their rows; what is damaged is passed over (rule 5)."""

        def find() -> list[tuple[int, Sequence[Any], Document]]:
            found: list[tuple[int, Sequence[Any], Document]] = []
            if count <= 0:
                return found
            # No LIMIT: how many of the rows are damaged is not known before. Rows are read one by one, and no more.
            waiting = _newest_waiting(connection, want.queue) if want.newest_first else None
            for seq, *row in waiting or connection.execute(_FIND_WAITING, (want.queue,)):
                try:
                    found.append((seq, row, _document_of(row)))
                except _UNREADABLE:
                    self._tell_of_damaged(seq, row)
                    continue
                if self._damaged:
                    self._damaged.discard(seq)  # somebody has mended it
                if len(found) == count:
                    break
            return found

        return _with_odd_text(connection, find)

    def _tell_of_damaged(self, seq: int, row: Sequence[Any]) -> None:
        if seq not in self._damaged:
            task = _damaged_task(row)
            self._damaged.add(seq)
            log.error("task %s of queue %s is not claimed: %s", task.id, task.queue, task.fault)

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        def carry_out(connection: sqlite3.Connection) -> set[RunKey]:
            if chunks:
                connection.executemany(
                    "INSERT OR REPLACE INTO output (task, token, stream, number, data) VALUES (?, ?, ?, ?, ?)",
                    [(c.key.task_id, c.key.token or "", c.stream, c.number, c.data) for c in chunks],
                )
            refused = set()
            for change, new_rows in zip(changes, created, strict=True):
                if _apply(connection, change):
                    if new_rows:
                        _insert(connection, new_rows)
                    _forget_output(connection, change)
                # Carried out before, and its answer was lost: what it creates was created with it.
                elif not _is_done_already(connection, change):
                    refused.add(change.key)
            return refused

        created = [self._rows_of(change.creates) if change.creates else () for change in changes]
        return self._write(carry_out)

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        """Nothing to do: each claim counts, in its own transaction, what is in hand."""

    def promote_due(self, limit: int = 1000) -> int:
        now = _milliseconds(self.now())
        due = f"{_WAITS_FOR_TIME} AND not_before <= ?"
        if not self._read(f"SELECT 1 FROM tasks INDEXED BY tasks_due WHERE {due} LIMIT 1", (now,)):
            return 0  # without a write transaction, as nearly always
        statement = f"""UPDATE tasks SET status = {int(Status.CREATED)}, node = '{NOBODY}', mtime = ?, not_before = NULL
            WHERE seq IN (SELECT seq FROM tasks INDEXED BY tasks_due WHERE {due} ORDER BY not_before LIMIT ?)"""
        return self._write(lambda c: c.execute(statement, (now, now, limit)).rowcount)

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        rows = self._read(_FIND_DUE, (node_id, _milliseconds(self.now()), limit))
        return [_task_of(row, with_output=False) for row in rows]

    def has_unfinished(self, queues: Sequence[QueueId]) -> bool:
        statuses = ", ".join(str(int(s)) for s in (Status.CREATED, Status.CLAIMED, Status.RUNNING))
        # What cannot be read waits for a person, not for a node.
        damaged = [orjson.dumps([*self._damaged]).decode()] if self._damaged else []
        other = "AND seq NOT IN (SELECT value FROM json_each(?))" if damaged else ""
        return any(
            self._read(
                f"SELECT 1 FROM tasks WHERE queue = ? AND status IN ({statuses}) {other} LIMIT 1", (queue, *damaged)
            )
            or self._read(
                f"SELECT 1 FROM tasks INDEXED BY tasks_delayed WHERE queue = ? AND {_WAITS_FOR_TIME} LIMIT 1", (queue,)
            )
            for queue in queues
        )

    def written_by_others(self) -> bool:
        try:
            version = int(self._opened().execute("PRAGMA data_version").fetchone()[0])
        except (sqlite3.Error, StoreError):
            return False  # whoever reads or writes next finds out why
        has_changed, self._seen_version = version != self._seen_version, version
        return has_changed

    def watch(self, *, ends: bool = True) -> SqliteWatcher:
        return SqliteWatcher(self._path)

    # --- how everything is read and written

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnreachableError(f"{self.description} is not open")
        return self._connection

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with _translated(self._path):
            connection = self._opened()
            return self._in_turn(
                lambda: _with_odd_text(connection, lambda: connection.execute(statement, values).fetchall())
            )

    def _write(self, action: Callable[[sqlite3.Connection], Result], *, duplicate: str = "") -> Result:
        """One transaction (rule 1), whole or not at all."""
        with _translated(self._path, duplicate):
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
        """What may have to wait for other processes; gives up after BUSY_SECONDS, or when told to hurry."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return statement()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or self._shall_hurry.is_set() or time.monotonic() > deadline:
                    raise


class SqliteWatcher:
    """Looks at the file's change counter through a connection of its own, which is used by its own thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._is_closed = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._is_closed.is_set():
            version = self._data_version()
            if version is not None and version != self._seen:
                is_first, self._seen = self._seen is None, version
                if not is_first:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._is_closed.wait(min(WATCH_SECONDS if version is not None else left, left))
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return False

    def close(self) -> None:
        self._is_closed.set()

    def _data_version(self) -> int | None:
        """A number that changes when another connection has committed; None where it cannot be known now."""
        try:
            if self._connection is None:
                self._connection = _connect(self._path)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None


class _IdSource:
    """Task ids: 24 hexadecimal digits, as MongoDB's, that begin with the time: seconds, milliseconds, which one of
    that millisecond, process. They rise within a process whatever its clock does, and over processes as the
    milliseconds do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process = f"{int.from_bytes(os.urandom(5), 'big') & 0xF_FFFF_FFFF:09x}"
        self._next = 0  # milliseconds * _IDS_A_MILLISECOND + number

    def take(self, count: int) -> list[str]:
        first = max(self._next, (_milliseconds(self._clock.now()) or 0) * _IDS_A_MILLISECOND)
        self._next = first + count
        ids: list[str] = []
        while first < self._next:
            # Those of the same millisecond differ in their number only. More than it has are of the next one.
            at, number = divmod(first, _IDS_A_MILLISECOND)
            seconds, milliseconds = divmod(at, 1000)
            start, process = f"{seconds & 0xFFFFFFFF:08x}{milliseconds:03x}", self._process
            end = min(_IDS_A_MILLISECOND, number + self._next - first)
            ids.extend([f"{start}{one:04x}{process}" for one in range(number, end)])
            first += end - number
        return ids


_IDS_A_MILLISECOND = 0x10000


# --- creation


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], *, again: bool = False) -> list[TaskId]:
    """Insert new tasks, in this order, but those whose key is held; the ids as `Store.insert_tasks` gives them."""
    ids: list[TaskId] = []
    after: list[str] = []
    for (is_plain, has_key), group in itertools.groupby(rows, key=_kind_of_row):
        batch = list(group)
        statement = f"{_INSERT_PLAIN_TASK if is_plain else _INSERT_TASK}{_AGAIN if again else ''}"
        if has_key:
            ids += [_insert_with_key(connection, statement, row, again=again) for row in batch]
        else:
            connection.executemany(statement, batch)
            ids += [row[_ID_AT] for row in batch]
        if not is_plain:
            after += [row[_AFTER_AT] for row in batch if row[_AFTER_AT] is not None]
    if after:  # by the trigger as well, but not what comes later in these rows
        waited_for = "SELECT one.value FROM json_each(?) AS list, json_each(list.value) AS one"
        connection.execute(
            f"UPDATE tasks SET awaited = 1 WHERE id IN ({waited_for}) AND awaited IS NOT 1", (f"[{','.join(after)}]",)
        )
    return ids


def _kind_of_row(row: tuple[Any, ...]) -> tuple[bool, bool]:
    if len(row) == len(_PLAIN_COLUMNS):
        return True, False
    return False, row[_UNIQUE_KEY_AT] is not None


def _insert_with_key(connection: sqlite3.Connection, statement: str, row: tuple[Any, ...], *, again: bool) -> TaskId:
    task_id, key = row[_ID_AT], row[_UNIQUE_KEY_AT]
    is_there = again and connection.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if not is_there:
        holder = connection.execute(_FIND_HOLDER, (key, row[_QUEUE_AT], None)).fetchone()
        if holder is not None:
            return holder[0]
    connection.execute(statement, row)
    return task_id


_ID_AT, _QUEUE_AT, _AFTER_AT, _UNIQUE_KEY_AT = (_COLUMNS.index(name) for name in ("id", "queue", "after", "unique_key"))


# --- claims


def _newest_waiting(connection: sqlite3.Connection, queue: QueueId) -> Iterator[tuple[Any, ...]]:
    """The tasks of a queue that can be claimed, the highest priority first, of each the last created first."""
    for (priority,) in connection.execute(_FIND_PRIORITIES, (queue,)).fetchall():
        yield from connection.execute(_FIND_NEWEST_WAITING, (queue, priority))


def _granted(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime) -> int:
    """How many the rate of a queue lets claim now. Each one uses up an interval, from now or from where those before it
    end; what is used up may lie a burst ahead of now."""
    interval = _interval(rate)
    ahead = max(0, _used_until(connection, queue, rate, now) - _microseconds(now))
    return (rate.burst * interval - ahead) // interval


def _use_up(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime, count: int) -> None:
    until = max(_used_until(connection, queue, rate, now), _microseconds(now)) + count * _interval(rate)
    connection.execute("INSERT OR REPLACE INTO rates (queue, used_until) VALUES (?, ?)", (queue, until))


def _used_until(connection: sqlite3.Connection, queue: QueueId, rate: Rate, now: datetime) -> int:
    row = connection.execute("SELECT used_until FROM rates WHERE queue = ?", (queue,)).fetchone()
    if row is None:
        return 0
    until, furthest = int(row[0]), _microseconds(now) + rate.burst * _interval(rate)
    if until > furthest:
        # The clock was set back, or the rate was another one. From now on it is as if a whole burst had come just now.
        until = furthest
        connection.execute("UPDATE rates SET used_until = ? WHERE queue = ?", (until, queue))
    return until


def _interval(rate: Rate) -> int:
    """Microseconds, rounded up: never more than the rate allows."""
    return math.ceil(rate.interval_seconds * 1_000_000)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


# --- changes


def _apply(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Carry out one guarded change; False where its guard does not hold."""
    key = change.key
    guard = (
        f"id = ? AND node = ? AND claim_token IS ? AND status IN ({', '.join([str(int(s)) for s in change.statuses])})"
    )
    guarded = (key.task_id, key.node, key.token)
    rest = "{}"
    if not {*change.set, *change.unset} <= _IN_COLUMNS:
        row = connection.execute(f"SELECT rest FROM tasks WHERE {guard}", guarded).fetchone()
        if row is None:
            return False
        rest = row[0]
    columns = _changed_columns(change, rest)
    assignments = ", ".join([f"{name} = ?" for name in columns]) or "id = id"
    done = connection.execute(f"UPDATE tasks SET {assignments} WHERE {guard}", (*columns.values(), *guarded))
    return done.rowcount > 0


def _apply_to_task(connection: sqlite3.Connection, change: TaskChange) -> bool:
    """Carry out one guarded change that no run makes; False where its guard does not hold, or a key is held."""
    guard, guarded = f"id = ? AND {_status_is(change.statuses, failed_too=change.failed_too)}", [change.task_id]
    if change.mtime is not None:
        guard, guarded = f"{guard} AND mtime = ?", [*guarded, _milliseconds(change.mtime)]
    row = connection.execute(
        f"SELECT seq, queue, status, unique_key, rest FROM tasks WHERE {guard}", guarded
    ).fetchone()
    if row is None:
        return False
    seq, queue, status, unique_key, rest = row
    columns = _changed_columns(change, rest)
    new_status = columns.get("status", status)
    key = columns.get("unique_key", unique_key)
    if key is not None and new_status in UNFINISHED and (status not in UNFINISHED or key != unique_key):
        holder = connection.execute(_FIND_HOLDER, (key, columns.get("queue", queue), change.task_id)).fetchone()
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


def _changed_columns(change: RunChange | TaskChange, rest: str) -> dict[str, Any]:
    """What a change makes of a row. `rest` as it is now: read only where the change names a field that is in it."""
    columns = _columns_of(change.set)
    for name in change.unset:
        columns |= _EMPTY_COLUMNS.get(name, {})
    added = {name: value for name, value in change.set.items() if name not in _IN_COLUMNS}
    removed = [name for name in change.unset if name not in _EMPTY_COLUMNS] if rest != "{}" else []
    if added or removed:
        try:
            document = {**_object(_decode(rest))}
        except _UNREADABLE:  # since the task was claimed; the end of a run is recorded all the same
            document = {"damaged_rest": rest if isinstance(rest, str) else repr(rest)}
        for name in removed:
            document.pop(name, None)
        columns["rest"] = _encode({**document, **added})
    return columns


def _forget_output(connection: sqlite3.Connection, change: RunChange) -> None:
    if change.forget_output_of is not None:
        forgotten = (change.key.task_id, change.forget_output_of)
        connection.execute("DELETE FROM output WHERE task = ? AND token = ?", forgotten)


def _is_done_already(connection: sqlite3.Connection, change: RunChange) -> bool:
    """Whether the task shows what the change would have made of it: it was carried out, and its answer was lost."""
    row = connection.execute(f"SELECT {_SELECT} FROM tasks WHERE id = ?", (change.key.task_id,)).fetchone()
    if row is None:
        return False
    document = _task_of(row).document
    return all(name in document and document[name] == value for name, value in change.set.items()) and all(
        name not in document for name in change.unset
    ) and "status" in change.set  # fmt: skip


# --- documents and rows


def _columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold these fields."""
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        write = _FIELD_WRITERS.get(name)
        if write is not None:
            columns[name] = write(value)
        elif name == "claim":
            claim = value if isinstance(value, Mapping) else {}
            columns["claim_token"], columns["claimed_at"] = claim.get("token"), _milliseconds(claim.get("at"))
    return columns


def _node_column(value: Any) -> str | None:
    return None if value is None else str(NOBODY) if value == NOBODY else str(value)


def _status_column(value: Any) -> int:
    number = whole_number(value)
    if number is None:
        raise StoreRefusedError(f'expected a whole number as "status", found {value!r:.40}')
    return number


def _text_column(value: Any) -> str:
    return "" if value is None else str(value)


def _flag_column(value: Any) -> int | None:
    return None if value is None else int(bool(value))


def _object_column(value: Any) -> str | None:
    return None if value is None else _encode(value)


def _list_column(name: str) -> Callable[[Any], str | None]:
    def write(value: Any) -> str | None:
        if value is not None and not isinstance(value, (list, tuple)):
            raise StoreRefusedError(f'expected a list as "{name}", found {kind_of(value)}')
        return None if value is None else _encode(value)

    return write


def _optional_text_column(name: str) -> Callable[[Any], str | None]:
    def write(value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise StoreRefusedError(f'expected a text as "{name}", found {kind_of(value)}')
        return value

    return write


def _node_document(node_id: str, encoded: Any) -> Document:
    try:
        return _object(_decode(encoded))
    except _UNREADABLE:
        return {"_id": node_id}


def _requests_of(document: Document) -> Document:
    requests = document.get("requests")
    return requests if isinstance(requests, dict) else {}


def _queue_of(queue_id: QueueId, encoded: str) -> Queue:
    try:
        return Queue.from_document({**_object(_decode(encoded)), "_id": queue_id})
    except _UNREADABLE as error:
        fault = f"its document cannot be read: {_why_unreadable(error)}"
        return Queue(id=queue_id, class_name="", fault=fault, document={"_id": queue_id})


def _task_of(row: Sequence[Any], *, with_output: bool = True) -> Task:
    try:
        return Task.from_document(_document_of(row, with_output=with_output))
    except _UNREADABLE:
        return _damaged_task(row, with_output=with_output)


def _damaged_task(row: Sequence[Any], *, with_output: bool = True) -> Task:
    """What can be read of a row, and in words what cannot. Says nothing of what stands in JSON: that may be secret."""
    faults, readable = [], dict(zip(_COLUMNS, row, strict=True))
    for name, harmless in _HARMLESS.items():
        try:
            if name in _DATE_COLUMNS:
                _moment(readable[name])
            elif name == "rest":
                _without_columns(_decode(readable[name]))
            elif readable[name] is not None:
                _decode(readable[name])
        except _UNREADABLE as error:
            why = f"it holds {readable[name]!r:.40}" if name in _DATE_COLUMNS else _why_unreadable(error)
            faults.append(f'the column "{name}" of its row cannot be read: {why}')
            readable[name] = harmless
    document = _document_of(tuple(readable.values()), with_output=with_output)
    return dataclasses.replace(Task.from_document(document), fault="; ".join(faults) or "its row cannot be read")


def _document_of(row: Sequence[Any], *, with_output: bool = True) -> Document:
    """The document of a row. Raises one of `_UNREADABLE` where a column holds what it must not."""
    (
        task_id, queue, status, node, priority, ctime, mtime, not_before, token, claimed_at, parameters, stdout, stderr,
        run, after, unique_key, expires, cancel, awaited, parent, rest,
    ) = row  # fmt: skip
    document: Document = {
        "_id": task_id,
        "queue": queue,
        "ctime": _moment(ctime),
        "mtime": _moment(mtime),
        "parameters": _decode(parameters),
        "status": status,
        "node": NOBODY if node in (None, str(NOBODY)) else node,
    }
    if with_output:
        document |= {"stdout": stdout, "stderr": stderr}
    if priority:
        document["priority"] = priority
    if not_before is not None:
        document["not_before"] = _moment(not_before)
    if token is not None:
        document["claim"] = {"token": token, "at": _moment(claimed_at)}
    if run is not None:
        document["run"] = _decode(run)
    if after is not None:
        document["after"] = _decode(after)
    if unique_key is not None:
        document["unique_key"] = unique_key
    if expires is not None:
        document["expires"] = _moment(expires)
    if cancel is not None:
        document["cancel"] = _decode(cancel)
    if awaited is not None:
        document["awaited"] = bool(awaited)
    if parent is not None:
        document["parent"] = parent
    return {**document, **_without_columns(_decode(rest))} if rest != "{}" else document


def _without_columns(fields: Any) -> Document:
    """The fields that have no column; others that a person has put there do not count."""
    document = _object(fields)
    if _FIELDS_OF_COLUMNS.isdisjoint(document):
        return document
    return {name: value for name, value in document.items() if name not in _FIELDS_OF_COLUMNS}


def _object(value: Any) -> Document:
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, found {kind_of(value)}")
    return value


def _why_unreadable(error: Exception) -> str:
    if isinstance(error, orjson.JSONDecodeError):
        return f"it is no JSON ({error})"
    return str(error) if str(error).startswith("expected ") else "expected a text of JSON"


# What reading a row raises where a column holds what it must not: no JSON, another type, a date out of range.
_UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)
_FIELDS_OF_COLUMNS = frozenset(
    {
        "_id", "queue", "status", "node", "priority", "ctime", "mtime", "not_before", "claim", "parameters", "stdout",
        "stderr", "run", "after", "unique_key", "expires", "cancel", "awaited", "parent",
    }
)  # fmt: skip
_DATE_COLUMNS = frozenset({"ctime", "mtime", "not_before", "claimed_at", "expires"})
# What stands in for a column that cannot be read.
_HARMLESS: Mapping[str, str | None] = {
    **dict.fromkeys(sorted(_DATE_COLUMNS)), "parameters": "null", "run": None, "after": None, "cancel": None,
    "rest": "{}",
}  # fmt: skip


def _where(which: TaskFilter, *, status: str = "status") -> tuple[str, list[Any]]:
    """The condition, and what its places stand for. `status` as "+status": no index is chosen for its sake."""
    conditions, values = ["1"], []
    if which.queue is not None:
        conditions.append("queue = ?")
        values.append(which.queue)
    if which.node is not None:
        conditions.append("node = ?")
        values.append(which.node)
    if which.ids is not None:
        # One value for any number of ids: SQLite bounds how many a statement may have.
        conditions.append("id IN (SELECT value FROM json_each(?))")
        values.append(orjson.dumps([str(one) for one in which.ids]).decode())
    if which.statuses is not None:
        conditions.append(_status_is(which.statuses, failed_too=which.failed_too, status=status))
    for condition, moment in (
        ("ctime >= ?", which.created_since),
        ("ctime < ?", which.created_before),
        ("mtime >= ?", which.changed_since),
        ("mtime < ?", which.changed_before),
    ):
        if moment is not None:
            conditions.append(condition)
            values.append(_milliseconds(moment))
    for condition, value in (
        ("unique_key = ?", which.unique_key),
        ("parent = ?", which.parent),
        ("seq IN (SELECT follower FROM followers WHERE task = ?)", which.after),
        ("CASE WHEN rest != '{}' AND json_valid(rest) THEN json_extract(rest, '$.error.code') END = ?",
         which.error_code),
    ):  # fmt: skip
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return " AND ".join(conditions), values


def _status_is(statuses: frozenset[int], *, failed_too: bool, status: str = "status") -> str:
    exact = f"{status} IN ({', '.join(str(int(one)) for one in sorted(statuses)) or 'NULL'})"
    return f"({exact} OR {status} > {int(Status.FAILED)})" if failed_too else exact


def _text_id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise StoreRefusedError(f"expected an id that is a text, found {value!r:.60}")
    return value


def _milliseconds(moment: Any) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise StoreRefusedError(f"expected a date, found {moment!r:.60}")
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- JSON that gives back what was put in (rule 3)


def _encode(value: Any) -> str:
    return _encoded_quickly(value) or _encoded_carefully(value)


def _encoded_quickly(value: Any) -> str | None:
    """The same as the careful way, in one call; None where what came out does not show that it is the same: a null may
    have been a number that JSON does not have, and a "$" may need one more."""
    dates = 0

    def write(other: Any) -> Any:
        nonlocal dates
        if isinstance(other, datetime):
            dates += 1
            return {"$date": _milliseconds(other)}
        raise TypeError

    try:
        text = orjson.dumps(value, default=write, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        return None
    return text.decode() if text.count(b'"$') == dates and b"null" not in text else None


def _encoded_carefully(value: Any) -> str:
    try:
        return orjson.dumps(_escaped(value), option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, orjson.JSONEncodeError) as error:
        raise StoreRefusedError(f"a value cannot be stored as JSON: {error}") from error


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"${name}" if str(name).startswith("$") else name: _escaped(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(one) for one in value]
    if isinstance(value, datetime):
        return {"$date": _milliseconds(value)}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        raise StoreRefusedError(f"the number {value} has no JSON form")
    return value


def _decode(text: str) -> Any:
    value = orjson.loads(text)
    return _unescaped(value) if "$" in text else value


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("$date"), int):
            return _moment(value["$date"])
        return {name[1:] if name.startswith("$$") else name: _unescaped(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_unescaped(one) for one in value]
    return value


# --- fields and columns

# The fields that have a column of their own name, and how each is written; `claim` has two columns.
_FIELD_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "queue": _text_id,
    "status": _status_column,
    "node": _node_column,
    "priority": lambda value: whole_number(value) or 0,
    "ctime": _milliseconds,
    "mtime": _milliseconds,
    "not_before": _milliseconds,
    "parameters": _encode,
    "run": _encode,
    "stdout": _text_column,
    "stderr": _text_column,
    "after": _list_column("after"),
    "unique_key": _optional_text_column("unique_key"),
    "expires": _milliseconds,
    "cancel": _object_column,
    "awaited": _flag_column,
    "parent": _optional_text_column("parent"),
}
_IN_COLUMNS = frozenset({*_FIELD_WRITERS, "claim", "_id"})
_EMPTY_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "claim": {"claim_token": None, "claimed_at": None},
    "not_before": {"not_before": None},
    "priority": {"priority": 0},
    "run": {"run": None},
    **{name: {name: None} for name in ("after", "unique_key", "expires", "cancel", "awaited", "parent")},
}
_NEW_PLAIN_ROW: Mapping[str, Any] = {
    **dict.fromkeys(_PLAIN_COLUMNS),
    "status": int(Status.CREATED),
    "node": str(NOBODY),
    "priority": 0,
    "parameters": "{}",
    "stdout": "",
    "stderr": "",
    "rest": "{}",
}
_NEW_ROW: Mapping[str, Any] = {**dict.fromkeys(_COLUMNS), **_NEW_PLAIN_ROW}
_ROW_ORDER, _PLAIN_ROW_ORDER = operator.itemgetter(*_COLUMNS), operator.itemgetter(*_PLAIN_COLUMNS)
# With one of these, a new task has a column that is not among the plain ones.
_RARE_FIELDS = _IN_COLUMNS - {"_id", *_PLAIN_COLUMNS}


# --- the driver


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions are begun and ended here, not by the driver.
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _connect_for_reading(path: Path) -> sqlite3.Connection | None:
    """A connection to a file that may only be read; None where not even that."""
    if not os.access(path, os.R_OK):
        return None
    # Where there is no journal and none can be made, nobody else is at it either, or SQLite would have made one.
    modes = ["mode=ro"] if Path(f"{path}-wal").exists() else ["mode=ro", "mode=ro&immutable=1"]
    for mode in modes:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            connection.close()
        else:
            return connection
    return None


_OPEN_HINTS = {
    errno.EACCES: "check its permissions and those of its directory, or name another file",
    errno.EPERM: "check its permissions and those of its directory, or name another file",
    errno.EROFS: "name a file on a disk that can be written",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "a part of its path is a file, not a directory",
    errno.ENOTDIR: "a part of its path is a file, not a directory",
    errno.ENOSPC: "make room, or name a file on another disk",
}


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _retry_while_locked(action: Callable[[], Any]) -> None:
    """The switch to WAL does not wait for its turn as other statements do: two first opens at once."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _with_odd_text(connection: sqlite3.Connection, read: Callable[[], Result]) -> Result:
    """What `read` gives; where a text is no UTF-8, it is read once more and such texts come as bytes."""
    try:
        return read()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = _text_or_bytes
    try:
        return read()
    finally:
        connection.text_factory = str


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


@contextlib.contextmanager
def _translated(path: Path, duplicate: str = "") -> Iterator[None]:
    """The driver's exceptions as the host's (base, rule 3)."""
    where = f"sqlite://{path}"
    try:
        yield
    except StoreError:
        raise
    except sqlite3.IntegrityError as error:
        if "UNIQUE" in str(error) and duplicate:
            raise DuplicateIdError(duplicate) from error
        raise StoreRefusedError(f"{where} refuses a value: {error}") from error
    except sqlite3.OperationalError as error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = sqlite3.SQLITE_FULL if extended in _ALSO_FULL else extended & _PRIMARY_CODE
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreUnreachableError(
                f"{where} is locked by another process, which did not end its transaction within {BUSY_SECONDS:.0f} s"
            ) from error
        if code in _MENDABLE:
            raise StoreUnwritableError(f"{where} cannot be written: {_MENDABLE[code]} ({error})") from error
        raise StoreRefusedError(f"{where}: {error}") from error
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error):
            raise StoreRefusedError(
                f"{where} is damaged ({error}); put back a copy, or save what can be read with "
                f"`sqlite3 {path} .recover`"
            ) from error
        raise StoreRefusedError(f"{where} is not a database of this program: {error}; name another file") from error
    except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
        raise StoreRefusedError(f"{where} refuses: {error}") from error


_PRIMARY_CODE = 0xFF  # of an extended result code
# What a full disk makes of the file that SQLite shares between processes (-shm), and no other cause is known of.
_ALSO_FULL = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP})

# What is the file system's trouble and not this change's: it passes when somebody has mended it (promise 6). SQLite has
# undone the transaction. The words say what to do.
_MENDABLE = {
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; check permissions and mount",
    sqlite3.SQLITE_IOERR: "the disk or file system fails; check both",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that its directory is there and may be written",
}
