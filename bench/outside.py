"""A store as another program sees it: rows and documents by SQL and pymongo, as docs/disbatch.md has them.

Responsible for: what a bench has to read and write while a node of any revision runs on the store. Must not know: any
module of the project except the status values of its protocol.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import pymongo

from disbatch_protocol.status import UNFINISHED, Status

_UNFINISHED = sorted(int(status) for status in UNFINISHED)
_LOCK_SECONDS = 30.0  # for which SQLite waits while the node writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a task's document says about it and its run."""

    status: int
    started: datetime | None  # None: not yet
    ended: datetime | None


class OutsideStore(Protocol):
    def heartbeat(self, node_id: str) -> Any:
        """`heartbeat` of a node's document; None where there is none."""

    def set_maxthreads(self, queue: str, limit: int) -> None:
        """Change the queue as a person with a database shell does: no command runs beside the node."""

    def split(self, queue: str, parts: int) -> list[str]:
        """Deal out the waiting tasks of a queue to new queues like it; their ids. Only before a node is there."""

    def insert(self, queue: str, number: int) -> Any:
        """Create a task with the parameters {"n": number}; its id. It is on disk then."""

    def has_unfinished(self, queue: str) -> bool:
        """Whether a task of the queue waits or runs. Costs as little with many tasks as with few."""

    def run_of(self, task_id: Any) -> Run: ...

    def runs(self, queue: str) -> list[Run]: ...


class OutsideSqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def heartbeat(self, node_id: str) -> Any:
        row = self._connection.execute("SELECT document FROM nodes WHERE id = ?", (node_id,)).fetchone()
        return None if row is None else json.loads(row[0]).get("heartbeat")

    def set_maxthreads(self, queue: str, limit: int) -> None:
        self._connection.execute(
            "UPDATE queues SET document = json_set(document, '$.maxthreads', ?) WHERE id = ?", (limit, queue)
        )

    def split(self, queue: str, parts: int) -> list[str]:
        names = [f"{queue}{number}" for number in range(parts)]
        self._connection.execute("BEGIN IMMEDIATE")
        new_queue = "INSERT INTO queues SELECT ?1, json_set(document, '$._id', ?1) FROM queues WHERE id = ?2"
        for number, name in enumerate(names):
            self._connection.execute(new_queue, (name, queue))
            which = (name, queue, parts, number)
            self._connection.execute("UPDATE tasks SET queue = ? WHERE queue = ? AND seq % ? = ?", which)
        self._connection.execute("COMMIT")
        return names

    def insert(self, queue: str, number: int) -> Any:
        statement = "INSERT INTO tasks (queue, parameters) VALUES (?, ?) RETURNING id"
        ((task_id,),) = self._connection.execute(statement, (queue, json.dumps({"n": number}))).fetchall()
        return task_id

    def has_unfinished(self, queue: str) -> bool:
        places = ", ".join("?" for _ in _UNFINISHED)
        statement = f"SELECT 1 FROM tasks WHERE queue = ? AND status IN ({places}) LIMIT 1"
        return bool(self._connection.execute(statement, (queue, *_UNFINISHED)).fetchall())

    def run_of(self, task_id: Any) -> Run:
        statement = "SELECT status, run FROM tasks WHERE id = ?"
        return self._run(*self._connection.execute(statement, (task_id,)).fetchone())

    def runs(self, queue: str) -> list[Run]:
        found = self._connection.execute("SELECT status, run FROM tasks WHERE queue = ?", (queue,))
        return [self._run(*row) for row in found]

    def _run(self, status: int, text: str | None) -> Run:
        run = {} if text is None else json.loads(text)
        return Run(status=status, started=_date(run.get("started")), ended=_date(run.get("ended")))


class OutsideMongo:
    def __init__(self, database: Any) -> None:
        self._database = database

    def heartbeat(self, node_id: str) -> Any:
        found = self._database.nodes.find_one({"_id": node_id}, {"heartbeat": 1})
        return None if found is None else found.get("heartbeat")

    def set_maxthreads(self, queue: str, limit: int) -> None:
        self._database.queues.update_one({"_id": queue}, {"$set": {"maxthreads": limit}})

    def split(self, queue: str, parts: int) -> list[str]:
        names = [f"{queue}{number}" for number in range(parts)]
        document = self._database.queues.find_one({"_id": queue})
        ids = [task["_id"] for task in self._database.tasks.find({"queue": queue}, {"_id": 1}).sort("_id")]
        for number, name in enumerate(names):
            self._database.queues.insert_one({**document, "_id": name})
            self._database.tasks.update_many({"_id": {"$in": ids[number::parts]}}, {"$set": {"queue": name}})
        return names

    def insert(self, queue: str, number: int) -> Any:
        now = datetime.now(UTC)
        document = {
            "queue": queue, "parameters": {"n": number}, "status": int(Status.CREATED), "node": -1,
            "ctime": now, "mtime": now, "stdout": "", "stderr": "",
        }  # fmt: skip
        return self._database.tasks.insert_one(document).inserted_id

    def has_unfinished(self, queue: str) -> bool:
        which = {"queue": queue, "status": {"$in": _UNFINISHED}}
        return self._database.tasks.find_one(which, {"_id": 1}) is not None

    def run_of(self, task_id: Any) -> Run:
        return self._run(self._database.tasks.find_one({"_id": task_id}, _RUN_FIELDS))

    def runs(self, queue: str) -> list[Run]:
        return [self._run(document) for document in self._database.tasks.find({"queue": queue}, _RUN_FIELDS)]

    def _run(self, document: Mapping[str, Any]) -> Run:
        run = document.get("run") or {}
        return Run(status=document["status"], started=run.get("started"), ended=run.get("ended"))


_RUN_FIELDS = {"status": 1, "run.started": 1, "run.ended": 1}


@contextlib.contextmanager
def opened(url: str) -> Iterator[OutsideStore]:
    """The store of a URL, which must have been created before."""
    if url.startswith("sqlite://"):
        connection = sqlite3.connect(url.removeprefix("sqlite://"), timeout=_LOCK_SECONDS, isolation_level=None)
        with contextlib.closing(connection):
            yield OutsideSqlite(connection)
        return
    with pymongo.MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        yield OutsideMongo(client.get_default_database())


def _date(value: Any) -> datetime | None:
    """A date as SQLite's JSON has it: {"$date": milliseconds}."""
    return None if value is None else datetime.fromtimestamp(value["$date"] / 1000, UTC)
