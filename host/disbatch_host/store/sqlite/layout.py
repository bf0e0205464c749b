"""The layout that this program expects of a file: tables, indexes and triggers, their version, the connection's
settings.

Responsible for: giving a new file this layout, and migrating an older one to it. Must not know: the content, how the
file was opened.

Rules:
1. WAL, so that readers and the writer do not stop each other; synchronous FULL, so that a committed task is on disk.
2. Fields that queries look at are columns; `parameters`, `stdout` and `stderr` are columns because they are large,
   `run` because every run writes it; every other field of a task is in `rest`, as JSON. Fields that few tasks have
   (`after`, `unique_key`, `expires`, `cancel`, `awaited`, `parent`) are NULL in all others, and their indexes hold only
   those few.
3. The defaults of the columns make a row that a person inserts with the sqlite3 tool a conforming task.
4. Triggers keep track of which task waits for which, so that this is true even of rows that people write, and even of
   those that cannot be read.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from disbatch_host import suggested
from disbatch_host.documents.records import NOBODY
from disbatch_host.errors import StoreRefusedError, StoreTooNewError
from disbatch_host.store.contract import SCHEMA_VERSION
from disbatch_host.store.sqlite import conditions, connections
from disbatch_protocol.status import Status

_NEW_AFTER, _OLD_AFTER = (f"CASE WHEN json_valid({row}.after) THEN {row}.after END" for row in ("NEW", "OLD"))
# For fields that few tasks have. To all others each index costs only the check for a NULL.
_CONTROL_LAYOUT = f"""
CREATE INDEX tasks_due ON tasks (not_before) WHERE {conditions.WAITS_FOR_TIME};
CREATE INDEX tasks_delayed ON tasks (queue) WHERE {conditions.WAITS_FOR_TIME};
CREATE INDEX tasks_unique ON tasks (unique_key, queue, status) WHERE unique_key IS NOT NULL;
CREATE INDEX tasks_expiring ON tasks (expires) WHERE expires IS NOT NULL AND status IN ({conditions.WAITING_SQL});
CREATE INDEX tasks_cancelled ON tasks (status, node) WHERE cancel IS NOT NULL;
CREATE INDEX tasks_awaited ON tasks (queue) WHERE awaited = 1 AND status NOT IN ({conditions.UNFINISHED_SQL});
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
# What this layout has gained without changing what was there: a file that lacks it gets it, and older programs, which
# do not know it, go on with the file. By an object that each part creates, to see which are there.
_ADDITIONS: Mapping[str, Sequence[str]] = {
    "batches_watched": (
        "ALTER TABLE tasks ADD COLUMN batch TEXT",
        "ALTER TABLE tasks ADD COLUMN created_by TEXT",
        *(
            f"""UPDATE tasks SET {name} = json_extract(rest, '$.{name}'), rest = json_remove(rest, '$.{name}')
                WHERE CASE WHEN rest != '{{}}' AND json_valid(rest) THEN json_type(rest, '$.{name}') = 'text' END"""
            for name in ("batch", "created_by")
        ),
        "CREATE INDEX tasks_batch ON tasks (batch, status) WHERE batch IS NOT NULL",
        """CREATE TABLE batches (
               id TEXT PRIMARY KEY NOT NULL,
               state TEXT,
               watched INTEGER,
               created INTEGER,
               document TEXT NOT NULL
           ) WITHOUT ROWID""",
        "CREATE INDEX batches_created ON batches (created, id)",
        "CREATE INDEX batches_watched ON batches (id) WHERE watched = 1",
    ),
    # Tasks that failed, by their cause, with all that is counted; by their number within each, as they are listed.
    "tasks_failure": (
        f"""CREATE INDEX tasks_failure ON tasks ({conditions.GROUP_KEY}, seq, mtime, queue, status, node, batch,
            {conditions.RAN_CLASS}, {conditions.RAN_VERSION}) WHERE {conditions.HAS_GROUP}""",
    ),
}
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
    2: (  # the store was not yet asked what waits for what, is cancelled, expires or has a key
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


def prepare(connection: sqlite3.Connection, where: str) -> None:
    """Set up a connection, and the file if it is new or has an older layout. Raises StoreTooNewError, and
    StoreRefusedError if the file is another program's."""
    _check_version(connection, where)
    can_only_read = connection.execute("PRAGMA query_only").fetchone()[0]
    is_whole = _version(connection) == SCHEMA_VERSION and not _lacking(connection)
    if can_only_read and is_whole:
        return
    if can_only_read:
        raise StoreRefusedError(
            f"{where} has the layout of an older version, and cannot be written here; run a command of this version "
            f"once where it can, such as {suggested.hint('status')}"
        )
    _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"))
    connection.execute("PRAGMA synchronous = FULL")
    if is_whole:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version == 0:  # nobody else was faster
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StoreRefusedError(f"{where} is a database of some other program; name another file")
            for statement in _LAYOUT.split(";\n"):
                connection.execute(statement)
        elif version < SCHEMA_VERSION:
            for older in range(version, SCHEMA_VERSION):
                for statement in _MIGRATIONS[older]:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for name in _lacking(connection):
            for statement in _ADDITIONS[name]:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    _check_version(connection, where)


def version_of(connection: sqlite3.Connection, where: str) -> int | None:
    """The version of the layout that a file has; None for an empty one. Raises StoreRefusedError if the file is
    another program's."""
    version = _version(connection)
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreRefusedError(f"{where} is a database of some other program; name another file")
    return version or None


def missing_parts(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The tables, indexes and triggers of this layout that somebody has removed from a file."""
    fresh = sqlite3.connect(":memory:")
    try:
        for statement in (*_LAYOUT.split(";\n"), *itertools.chain.from_iterable(_ADDITIONS.values())):
            fresh.execute(statement)
        wanted = _named_parts(fresh)
    finally:
        fresh.close()
    return tuple(sorted(wanted - _named_parts(connection)))


def _named_parts(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'")
    return {str(name) for (name,) in found}


def _check_version(connection: sqlite3.Connection, where: str) -> None:
    version = _version(connection)
    if version > SCHEMA_VERSION:
        raise StoreTooNewError(
            f"{where} has layout {version}, this program knows {SCHEMA_VERSION} at most; install a newer disbatch-host"
        )


def _lacking(connection: sqlite3.Connection) -> list[str]:
    """The parts of `_ADDITIONS` that the file does not have."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
    there = {name for (name,) in rows}
    return [name for name in _ADDITIONS if name not in there]


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _retry_while_locked(action: Callable[[], Any]) -> None:
    """The switch to WAL does not wait for its turn as other statements do, so two first opens may collide."""
    deadline = time.monotonic() + connections.BUSY_SECONDS
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
