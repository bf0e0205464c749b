"""Documents and rows of every shape, as any program or person may write them into a database of ours.

Responsible for: random values of all types that a store can hold, in all fields of tasks, queues and nodes. Must not
know: what becomes of them.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import bson
import pymongo
import pymongo.errors
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.timestamp import Timestamp

from disbatch_host.documents.records import Document

TASK_FIELDS = (
    "_id", "queue", "ctime", "mtime", "parameters", "stdout", "stderr", "status", "node", "claim", "run", "attempts",
    "log", "progress", "result", "error", "follow_ups", "parent", "not_before", "after", "after_any", "awaited",
    "priority", "unique_key", "expires", "cancel", "retried", "secrets", "telling", "note",
)  # fmt: skip
RUN_FIELDS = ("attempt", "attempt_used", "token", "pid", "pid_started", "started", "idempotent", "node", "reason")
QUEUE_FIELDS = (
    "_id", "class", "name", "plugin", "threads", "maxthreads", "maxtotal", "rate", "sort", "keep", "paused",
    "keep_attempts", "pause_on_failures", "resumed_at",
    "nodes_pin", "nodes_ignore", "ctime", "description",
)  # fmt: skip
NODE_FIELDS = (
    "_id", "node", "timestamp", "version", "session", "host", "heartbeat", "settings", "queuetypes", "broken",
    "set_aside", "requests", "state", "pid_started", "passed_over", "troubles", "queues_read",
    "home", "away",
)  # fmt: skip
WORDS = (
    "",
    "a",
    "1",
    "-1",
    "true",
    "mail/2026/1",
    "a\0b",
    "é\u200d",
    "$x",
    "a.b",
    "[1]",
    "{}",
    "z" * 300,
    "q" * 70_000,
)


class Thrower(Protocol):
    """Throws odd documents at one store."""

    def throw(self) -> None:
        """Write one odd document, or change one; what the server itself refuses does not count."""

    def forget(self) -> None:
        """Remove all that was thrown, so that it does not become more and more."""

    def close(self) -> None:
        """Forget, and end."""


class Values:
    """Random values of the types that every store can hold, and of those in `more`."""

    def __init__(self, chance: random.Random, *more: Callable[[], Any]) -> None:
        self.chance = chance
        self._scalars: list[Callable[[], Any]] = [
            lambda: None,
            lambda: chance.random() < 0.5,
            lambda: chance.choice([0, 1, -1, 2, -4, -2, 17, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]),
            lambda: chance.choice([0.0, -0.0, 1.0, 0.5, -2.0, 1e300, 1.7e308, float("inf"), float("nan")]),
            lambda: chance.choice(WORDS),
            lambda: "".join(chance.choices("abcxyz/.$-_ 0189", k=chance.randrange(40))),
            *more,
        ]

    def any(self, depth: int = 3) -> Any:
        """Of any type."""
        if depth and self.chance.random() < 0.35:
            if self.chance.random() < 0.5:
                return [self.any(depth - 1) for _ in range(self.chance.randrange(4))]
            return {self.name(): self.any(depth - 1) for _ in range(self.chance.randrange(4))}
        return self.chance.choice(self._scalars)()

    def name(self) -> str:
        return self.chance.choice(["a", "n", "at", "by", "token", "attempt", "x_secret", "$x", "a.b", "", "é", "1"])

    def deep(self, levels: int) -> Any:
        """Nested so many levels deep."""
        value = self.any(0)
        for _ in range(levels):
            value = {"a": value} if self.chance.random() < 0.7 else [value]
        return value

    def some(self, fields: tuple[str, ...], count: int = 3) -> Document:
        """Values of any type in a few of these fields."""
        return {name: self.any() for name in self.chance.sample(fields, self.chance.randrange(count + 1))}

    def moment(self) -> datetime:
        seconds = self.chance.choice([-(10**9), -1, 0, 1, 10**9])
        return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)

    def run(self) -> Any:
        if self.chance.random() < 0.3:
            return self.any()
        return {"attempt": 1, "token": "t", "idempotent": True, "started": self.moment(), **self.some(RUN_FIELDS)}


class MongoThrower:
    """See `Thrower`. `queues`: ids of queues that are good."""

    def __init__(self, url: str, chance: random.Random, queues: list[str]) -> None:
        self._client: pymongo.MongoClient[Document] = pymongo.MongoClient(url, tz_aware=True)
        self._database = self._client.get_default_database()
        self._chance = chance
        self._queues = queues
        self._values = Values(chance, *self._of_bson())
        self._thrown: list[tuple[str, Any]] = []

    def _of_bson(self) -> Iterator[Callable[[], Any]]:
        chance = self._chance
        yield lambda: self._values.moment()  # noqa: PLW0108  (it is not there yet)
        yield lambda: DatetimeMS(chance.choice([2**62, -(2**62), 10**15, 0]))
        yield lambda: Int64(chance.choice([2**63 - 1, -(2**63), 0, 2**40]))
        yield lambda: Decimal128(chance.choice(["1", "-2", "NaN", "Infinity", "1E6000", "0"]))
        yield ObjectId
        yield lambda: Binary.from_uuid(uuid.UUID(int=chance.getrandbits(128)))
        yield lambda: Binary(chance.randbytes(4), chance.choice([0, 2, 3, 4, 5, 6, 128]))
        yield lambda: Regex(chance.choice([".*", "(", "^([a-z]+)*$"]), chance.choice(["", "i", "mx"]))
        yield lambda: Code("return 1")
        yield lambda: Code("return x", {"x": 1})
        yield lambda: Timestamp(1, 1)
        yield MinKey
        yield MaxKey
        yield lambda: DBRef("tasks", ObjectId())
        yield lambda: self._values.deep(80)

    def throw(self) -> None:
        chance = self._chance
        with contextlib.suppress(pymongo.errors.PyMongoError, bson.errors.BSONError, OverflowError, ValueError):
            if self._thrown and chance.random() < 0.15:
                kind, key = chance.choice(self._thrown)
                fields = {"task": TASK_FIELDS, "queue": QUEUE_FIELDS, "node": NODE_FIELDS}[kind]
                name = chance.choice([one for one in fields if one != "_id"])
                self._database[f"{kind}s"].update_one({"_id": key}, {"$set": {name: self._values.any()}})
                return
            kind = chance.choices(["task", "queue", "node"], [8, 1, 1])[0]
            document = {"task": self._task, "queue": self._queue, "node": self._node}[kind]()
            raw = bson.encode(document)
            if chance.random() < 0.1 and b"odd-text" in raw:
                raw = raw.replace(b"odd-text", b"odd\xff\xfetxt"[:8])
            self._database[f"{kind}s"].insert_one(RawBSONDocument(raw) if chance.random() < 0.3 else document)
            self._thrown.append((kind, document["_id"]))

    def _task(self) -> Document:
        values, chance = self._values, self._chance
        now = datetime.now(UTC)
        document: Document = {
            "_id": ObjectId() if chance.random() < 0.5 else values.any(),
            "queue": chance.choice(self._queues) if chance.random() < 0.85 else values.any(),
            "ctime": now, "mtime": now, "parameters": {"n": values.any(), "x_secret": "odd-text"}, "stdout": "",
            "stderr": "", "status": chance.choices([-2, -4, -1, 0, 1, -5, -6, 2], [10, 4, 1, 1, 1, 1, 1, 1])[0],
            "node": -1,
        }  # fmt: skip
        if chance.random() < 0.2:
            document |= {"expires": values.moment()}
        if chance.random() < 0.1:
            document |= {"run": values.run(), "claim": values.any()}
        if chance.random() < 0.1:
            document |= {"cancel": {"by": "x", "at": now}}
        if chance.random() < 0.1:
            document |= {"awaited": True}
        if chance.random() < 0.05:
            document |= {"node": chance.choice(["n1", "gone", "n2"]), "claim": {"token": values.any(), "at": now}}
        document |= values.some(TASK_FIELDS[1:])
        if chance.random() < 0.1:  # a list matches a condition of one of its values
            name = chance.choice(["queue", "status", "node", "priority", "unique_key", "expires", "cancel"])
            document[name] = [document.get(name)]
        for name in chance.sample(sorted(document), chance.randrange(2)):
            if name != "_id":
                del document[name]
        return document

    def _queue(self) -> Document:
        values, chance = self._values, self._chance
        name = f"odd{chance.randrange(10**9)}"
        document: Document = {
            "_id": name if chance.random() < 0.6 else values.any(),
            "class": chance.choice(["Good", "Worker", "Strict"]),
        }  # fmt: skip
        return document | values.some(QUEUE_FIELDS[1:])

    def _node(self) -> Document:
        values, chance = self._values, self._chance
        document: Document = {
            "_id": chance.choice([f"o{chance.randrange(10**6)}", "gone"]) if chance.random() < 0.7 else values.any(),
            "version": chance.choice(["disbatch-host 0.1.0", "perl"]), "session": "x",
            "heartbeat": {"datetime": values.moment(), "queues": [values.any()], "pid": values.any()},
            "settings": {"heartbeat_seconds": values.any(), "dead_after_seconds": values.any()},
        }  # fmt: skip
        return document | values.some(NODE_FIELDS[1:])

    def forget(self) -> None:
        for kind, key in self._thrown:
            with contextlib.suppress(pymongo.errors.PyMongoError):
                self._database[f"{kind}s"].delete_one({"_id": key})
        self._thrown.clear()

    def close(self) -> None:
        self.forget()
        self._client.close()


class SqliteThrower:
    """See `Thrower`."""

    def __init__(self, path: Path, chance: random.Random, queues: list[str]) -> None:
        self._connection = sqlite3.connect(path, timeout=20, isolation_level=None)
        self._chance = chance
        self._queues = queues
        self._values = Values(chance)
        self._columns = [row[1] for row in self._connection.execute("PRAGMA table_info(tasks)")]
        self._thrown: list[tuple[str, str, int | str | bytes]] = []  # table, column, key

    def throw(self) -> None:
        chance = self._chance
        with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeError, RecursionError):
            tasks = [key for table, _, key in self._thrown if table == "tasks"]
            if tasks and chance.random() < 0.15:
                column = chance.choice([one for one in self._columns if one != "seq"])
                self._execute(f"UPDATE tasks SET {column} = ? WHERE seq = ?", self._cell(), chance.choice(tasks))
                return
            chance.choices([self._task, self._queue, self._node], [8, 1, 1])[0]()

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Bytes are written as text in one of two cases: that is how text that is not UTF-8 comes into a file."""
        parts = statement.split("?")
        for number, value in enumerate(values):
            is_text = isinstance(value, bytes) and self._chance.random() < 0.5
            parts[number] += "CAST(? AS TEXT)" if is_text else "?"
        return self._connection.execute("".join(parts), values)

    def _cell(self) -> Any:
        """A value for any column."""
        chance = self._chance
        return chance.choice(
            [
                lambda: None,
                lambda: chance.choice([0, 1, -1, -2, 5, 2**31, 2**63 - 1, -(2**63)]),
                lambda: chance.choice([0.5, -2.0, 1e300, float("inf")]),
                lambda: chance.choice([*WORDS, "{", "nul", '{"a":1}', "[]", '"x"', "5", '{"$date":1e400}']),
                lambda: chance.randbytes(chance.randrange(4)),
                self._json,
            ]
        )()

    def _json(self) -> str:
        """JSON of any shape."""
        levels = self._chance.choice([0, 0, 0, 0, 5, 200, 400, 1000, 3000])
        if levels:
            return '{"a":' * levels + "1" + "}" * levels
        return json.dumps(self._values.any(), default=str)

    def _task(self) -> None:
        chance, now = self._chance, int(datetime.now(UTC).timestamp() * 1000)
        row: Document = {
            "queue": chance.choice(self._queues) if chance.random() < 0.9 else self._cell(),
            "status": chance.choices([-2, -4, -1, 0, 1, -5, -6, 2], [10, 4, 1, 1, 1, 1, 1, 1])[0],
            "ctime": now, "mtime": now, "parameters": f'{{"n":{json.dumps(self._values.any(2), default=str)}}}',
        }  # fmt: skip
        if chance.random() < 0.2:
            row |= {"expires": now + chance.choice([-5, 5, 10**9])}
        if chance.random() < 0.1:
            row |= {"run": json.dumps(self._values.run(), default=str)}
        if chance.random() < 0.1:
            row |= {"cancel": '{"by":"x"}'}
        if chance.random() < 0.1:
            row |= {"awaited": 1}
        if chance.random() < 0.05:
            row |= {"node": chance.choice(["n1", "gone", "n2"]), "claim_token": "x", "claimed_at": now}
        others = [one for one in self._columns if one != "seq"]
        row |= {name: self._cell() for name in chance.sample(others, chance.randrange(3))}
        found = self._execute(
            f"INSERT INTO tasks ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values()
        )
        assert found.lastrowid is not None
        self._thrown.append(("tasks", "seq", found.lastrowid))

    def _queue(self) -> None:
        chance = self._chance
        document = {"class": chance.choice(["Good", "Worker", "Strict"]), **self._values.some(QUEUE_FIELDS[1:])}
        text = json.dumps(document, default=str) if chance.random() < 0.7 else self._cell()
        self._insert("queues", f"odd{chance.randrange(10**9)}" if chance.random() < 0.7 else self._cell(), text)

    def _node(self) -> None:
        chance = self._chance
        document = {"version": "disbatch-host 0.1.0", **self._values.some(NODE_FIELDS[1:])}
        text = json.dumps(document, default=str) if chance.random() < 0.7 else self._cell()
        key = chance.choice([f"o{chance.randrange(10**6)}", "gone"]) if chance.random() < 0.7 else self._cell()
        self._insert("nodes", key, text, session=self._cell(), heartbeat_at=self._cell())

    def _insert(self, table: str, key: Any, text: Any, **more: Any) -> None:
        row = {"id": key, "document": text, **more}
        self._execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())
        self._thrown.append((table, "id", key))

    def forget(self) -> None:
        for table, column, key in self._thrown:
            value = f"{column} = ?1 OR {column} = CAST(?1 AS TEXT)"
            self._connection.execute(f"DELETE FROM {table} WHERE {value}", (key,))
        self._thrown.clear()

    def close(self) -> None:
        self.forget()
        self._connection.close()
