"""The cluster's store: any MongoDB that users have, in the documents of den-1.0.

Responsible for: the interface of `base` on collections `queues`, `tasks`, `nodes` and the GridFS bucket `tasks`. Must
not know: who calls, what a change means. The only module that imports pymongo.

Rules:
1. Writes are acknowledged by a majority and journaled; a claim reads from the primary what it has just written.
2. Every hot query is covered by an index of `_INDEXES` (tests hold their plans), and there are few of them: each costs
   every write.
3. A write whose answer was lost is sent again by the driver once, and by our callers as often as needed: every write
   here can be made twice.
4. Time is the server's: heartbeats are dated by it, and `now` follows it, so that the clocks of nodes do not matter.
5. The driver's exceptions end in `_translated`; none of its types leaves this module, but for ids and values that are
   in documents.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import orjson
import pymongo
from bson import json_util
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING, UpdateOne, WriteConcern
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern

from disbatch_host import __version__
from disbatch_host.clock import Clock, to_milliseconds
from disbatch_host.errors import (
    DuplicateIdError,
    StoreError,
    StoreRefusedError,
    StoreTooNewError,
    StoreUnreachableError,
    UsageError,
)
from disbatch_host.model import (
    NOBODY,
    OUTPUT_CHUNK_SIZE,
    Document,
    NodeRecord,
    OutputChunk,
    Queue,
    QueueId,
    RunChange,
    RunKey,
    Task,
    TaskFilter,
    TaskId,
)
from disbatch_host.store.base import SCHEMA_VERSION
from disbatch_host.store.open import redact
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

DEFAULT_DATABASE = "disbatch"
SELECT_SECONDS = 3.5  # for a server to be found; contract: an unreachable MongoDB is said within 5 s of the command
SOCKET_SECONDS = 30.0  # for one answer; a server that is stopped must not hold a node for ever
CLOCK_SECONDS = 30.0  # for how long the server's clock is followed without asking again
FALLBACK_SECONDS = 0.5  # between two wake-ups where the server has no change streams (standalone)
_SETTLE_SECONDS = 0.005  # changes within it make one wake-up
_LAYOUT_COLLECTION = "disbatch_host"
_BULK_BYTES = 32 * 2**20  # of one write; the server takes 48 MB
_PAGE = 500

_UNCLAIMED = {"$in": [NOBODY, None]}  # null matches a missing field as well (den-1.0, claim rule)
_IN_HAND = [int(Status.CLAIMED), int(Status.RUNNING)]

# (keys, options) of `tasks`; see rule 2.
_INDEXES: Sequence[tuple[Sequence[tuple[str, int]], dict[str, Any]]] = (
    # The claim (equality, equality, then its order), which queues have waiting tasks, counts by queue and status.
    ((("status", ASCENDING), ("queue", ASCENDING), ("priority", DESCENDING), ("_id", ASCENDING)), {}),
    # What a node has in hand; only unfinished tasks are in it, so finished ones cost nothing.
    (
        (("node", ASCENDING), ("status", ASCENDING)),
        {"partialFilterExpression": {"status": {"$gte": int(Status.CLAIMED), "$lte": int(Status.RUNNING)}}},
    ),
    # What is due.
    ((("not_before", ASCENDING),), {"partialFilterExpression": {"not_before": {"$exists": True}}}),
)


class MongoStore:
    """A store in a database of a MongoDB server, replica set or sharded cluster."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._description = redact(url)
        self._client: pymongo.MongoClient[Document] | None = None
        self._clock_ahead = timedelta(0)
        self._clock_checked = float("-inf")
        try:
            parsed = pymongo.uri_parser.parse_uri(url, validate=True, warn=False) if "+srv" not in url else {}
        except (driver.InvalidURI, driver.ConfigurationError, ValueError) as error:
            raise UsageError(
                f"expected mongodb://host/database, found {self._description}: {_harmless(error, url)}"
            ) from None
        self._database_name = parsed.get("database") or _path_of(url) or DEFAULT_DATABASE

    @property
    def description(self) -> str:
        return self._description

    def open(self) -> None:
        if self._client is not None:
            return
        with _translated(self):
            self._client = client = self._connect()
            try:
                self._database = client.get_database(
                    self._database_name,
                    codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
                    write_concern=WriteConcern(w="majority", j=True),
                    read_concern=ReadConcern("local"),
                )
                self._tasks, self._queues = self._database["tasks"], self._database["queues"]
                self._nodes = self._database["nodes"]
                self._files, self._chunks = self._database["tasks.files"], self._database["tasks.chunks"]
                self._check_layout()
                self._create_indexes()
                self._follow_clock()
            except BaseException:
                self.close()
                raise

    def _connect(self) -> pymongo.MongoClient[Document]:
        return pymongo.MongoClient(
            self._url,
            appname=f"disbatch-host {__version__}",
            serverSelectionTimeoutMS=int(SELECT_SECONDS * 1000),
            connectTimeoutMS=int(SELECT_SECONDS * 1000),
            socketTimeoutMS=int(SOCKET_SECONDS * 1000),
            retryWrites=True,
            tz_aware=True,
        )

    def _check_layout(self) -> None:
        found = self._database[_LAYOUT_COLLECTION].find_one({"_id": "layout"})
        if found is None:
            # A race with another first node is harmless: both want the same document.
            with contextlib.suppress(driver.DuplicateKeyError):
                self._database[_LAYOUT_COLLECTION].insert_one({"_id": "layout", "version": SCHEMA_VERSION})
            return
        version = found.get("version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.description} has layout {version}, this program knows {SCHEMA_VERSION} at most; "
                "install a newer disbatch-host"
            )

    def _create_indexes(self) -> None:
        try:
            for keys, options in _INDEXES:
                self._tasks.create_index(list(keys), **options)
            self._chunks.create_index([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)
            self._files.create_index([("metadata.task_id", ASCENDING)])
        except driver.OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            # Somebody who may only read looks at a cluster; the nodes make the indexes.
            log.debug("indexes are not created: %s", error)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def now(self) -> datetime:
        if time.monotonic() - self._clock_checked > CLOCK_SECONDS:
            with _translated(self):
                self._follow_clock()
        return to_milliseconds(self._clock.now() + self._clock_ahead)

    def _follow_clock(self) -> None:
        assert self._client is not None
        before = self._clock.now()
        server: datetime = self._client.admin.command("hello")["localTime"]
        aware = server if server.tzinfo is not None else server.replace(tzinfo=UTC)
        after = self._clock.now()
        self._clock_ahead = aware - (before + (after - before) / 2)
        self._clock_checked = time.monotonic()

    def parse_id(self, text: str) -> TaskId | None:
        return _object_id(text) or text or None

    def extended_json(self, value: object) -> object:
        """Relaxed Extended JSON, as MongoDB's own tools write it."""
        return orjson.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))

    # --- queues

    def queues(self) -> list[Queue]:
        with _translated(self):
            found = [Queue.from_document(document) for document in self._queues.find()]
        return sorted(found, key=lambda queue: str(queue.id))

    def find_queue(self, text: str) -> Queue | None:
        with _translated(self):
            found = self._queues.find_one({"_id": text})
            object_id = _object_id(text)
            if found is None and object_id is not None:
                found = self._queues.find_one({"_id": object_id})
        return None if found is None else Queue.from_document(found)

    def insert_queue(self, document: Document) -> QueueId:
        with _translated(self, duplicate=f"queue {document.get('_id')!r} exists already; choose another id"):
            return self._queues.insert_one(dict(document)).inserted_id

    def update_queue(self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str] = ()) -> bool:
        with _translated(self):
            return self._queues.update_one({"_id": queue}, _update(set, unset)).matched_count > 0

    def delete_queue(self, queue: QueueId) -> bool:
        with _translated(self):
            return self._queues.delete_one({"_id": queue}).deleted_count > 0

    # --- tasks, as people and command nodes use them

    def insert_tasks(self, documents: Sequence[Document]) -> list[TaskId]:
        if not documents:
            return []
        copies = [{"_id": ObjectId(), **document} for document in documents]
        with _translated(self, duplicate="a task with one of these ids exists already"):
            self._tasks.insert_many(copies)
        return [copy["_id"] for copy in copies]

    def get_task(self, task: TaskId) -> Task | None:
        with _translated(self):
            found = self._tasks.find_one({"_id": task})
        return None if found is None else Task.from_document(found)

    def find_tasks(
        self, which: TaskFilter, *, limit: int | None = None, newest_first: bool = False, with_output: bool = True
    ) -> Iterator[Task]:
        condition = _condition(which)
        projection = None if with_output else {"stdout": 0, "stderr": 0}
        order, compare = (DESCENDING, "$lt") if newest_first else (ASCENDING, "$gt")
        left = 2**62 if limit is None else limit
        last: Any = None
        while left > 0:
            page = condition if last is None else {"$and": [condition, {"_id": {compare: last}}]}
            with _translated(self):
                found = list(self._tasks.find(page, projection).sort("_id", order).limit(min(_PAGE, left)))
            yield from (Task.from_document(document) for document in found)
            if len(found) < min(_PAGE, left):
                return
            last, left = found[-1]["_id"], left - len(found)

    def count_tasks(self, which: TaskFilter) -> int:
        with _translated(self):
            return self._tasks.count_documents(_condition(which))

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        # The sort makes the server walk the index, which has all that is asked for.
        pipeline: list[Document] = [
            {"$sort": {"status": 1, "queue": 1}},
            {"$group": {"_id": {"queue": "$queue", "status": "$status"}, "count": {"$sum": 1}}},
        ]
        counts: dict[QueueId, dict[int, int]] = {}
        with _translated(self):
            for group in self._tasks.aggregate(pipeline):
                key = group["_id"]
                status = key.get("status")
                if isinstance(status, (int, float)):
                    of_queue = counts.setdefault(key.get("queue"), {})
                    of_queue[int(status)] = of_queue.get(int(status), 0) + group["count"]
        return counts

    def delete_tasks(self, tasks: Sequence[TaskId]) -> int:
        ids = list(tasks)
        with _translated(self):
            files = [file["_id"] for file in self._files.find({"metadata.task_id": {"$in": ids}}, {"_id": 1})]
            self._delete_files(files)
            return self._tasks.delete_many({"_id": {"$in": ids}}).deleted_count

    def read_output(self, task: TaskId, token: str, stream: str) -> Iterator[bytes]:
        file_id = _file_id(task, token, stream)
        for number in itertools.count():
            with _translated(self):
                found = self._chunks.find_one({"files_id": file_id, "n": number})
            if found is None:
                return
            yield bytes(found["data"])

    def delete_output(self, task: TaskId, token: str) -> None:
        with _translated(self):
            self._delete_files([_file_id(task, token, stream) for stream in ("stdout", "stderr")])

    def _delete_files(self, files: Sequence[str]) -> None:
        if files:
            self._chunks.delete_many({"files_id": {"$in": list(files)}})
            self._files.delete_many({"_id": {"$in": list(files)}})

    # --- nodes

    def nodes(self) -> list[NodeRecord]:
        now = self.now()
        with _translated(self):
            found = [_node_record(document, now) for document in self._nodes.find()]
        return sorted(found, key=lambda node: node.id)

    def get_node(self, node_id: str) -> NodeRecord | None:
        now = self.now()
        with _translated(self):
            found = self._nodes.find_one({"_id": node_id})
        return None if found is None else _node_record(found, now)

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        node_id = document["_id"]
        with _translated(self):
            if replacing is None:
                try:
                    self._nodes.insert_one(self._dated(document))
                except driver.DuplicateKeyError:
                    # Ours, where the answer to an earlier try was lost.
                    session = document.get("session")
                    return session is not None and self._nodes.count_documents({"_id": node_id, "session": session}) > 0
                return True
            # A session that is null stands for the missing one of another program's node.
            key = {"_id": node_id, "session": {"$in": [replacing.session, document.get("session")]}}
            return self._nodes.replace_one(key, self._dated(document)).matched_count > 0

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> bool:
        with _translated(self):
            update = {"$set": self._dated(set)}
            return self._nodes.update_one({"_id": node_id, "session": session}, update).matched_count > 0

    def _dated(self, fields: Mapping[str, Any]) -> Document:
        """With `heartbeat.datetime` at the server's time."""
        heartbeat = fields.get("heartbeat")
        if not isinstance(heartbeat, Mapping):
            return dict(fields)
        return {**fields, "heartbeat": {"datetime": self.now(), **heartbeat}}

    def remove_node(self, node_id: str, session: str | None) -> bool:
        with _translated(self):
            return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        with _translated(self):
            return set(self._tasks.distinct("queue", {"status": int(Status.CREATED)}))

    def claim(self, node_id: str, wanted: Sequence[tuple[QueueId, int]], token: str) -> list[Task]:
        # The spec's second way, in batches: find, update those still free with a mark, read back what carries the mark.
        # Where another node was faster for some, the next round gets the next ones; nothing is lost by not asking on.
        with _translated(self):
            ids = [task_id for queue, count in wanted for task_id in self._waiting_ids(queue, count)]
            if not ids:
                return []
            now = self.now()
            claimed = {
                "status": int(Status.CLAIMED), "node": node_id, "mtime": now, "claim": {"token": token, "at": now}
            }  # fmt: skip
            free = {"_id": {"$in": ids}, "status": int(Status.CREATED), "node": _UNCLAIMED}
            won = self._tasks.update_many(free, {"$set": claimed}).modified_count
            if not won:
                return []
            found = {
                document["_id"]: Task.from_document(document)
                for document in self._tasks.find({"_id": {"$in": ids}, "claim.token": token})
            }
        return [found[task_id] for task_id in ids if task_id in found]

    def _waiting_ids(self, queue: QueueId, count: int) -> list[TaskId]:
        waiting = {"status": int(Status.CREATED), "queue": queue, "node": _UNCLAIMED}
        order = [("priority", DESCENDING), ("_id", ASCENDING)]
        return [document["_id"] for document in self._tasks.find(waiting, {"_id": 1}).sort(order).limit(count)]

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        with _translated(self):
            self._write_chunks(chunks)
            refused: set[RunKey] = set()
            for part in _in_parts(changes):
                writes = [UpdateOne(_guard(change), _update(change.set, change.unset)) for change in part]
                result = self._tasks.bulk_write(writes, ordered=True)
                if result.matched_count < len(part):
                    refused |= self._refused(part)
            self._delete_files(
                [
                    _file_id(change.key.task_id, change.forget_output_of, stream)
                    for change in changes
                    if change.forget_output_of is not None and change.key not in refused
                    for stream in ("stdout", "stderr")
                ]
            )
            return refused

    def _refused(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Which of a batch were not carried out: the server tells only how many."""
        ids = list({change.key.task_id for change in changes})
        documents = {document["_id"]: document for document in self._tasks.find({"_id": {"$in": ids}})}
        # Of several changes of one run the last one decides: what it has left is what can be seen.
        last = {change.key: change for change in changes}
        return {key for key, change in last.items() if not _shows(documents.get(key.task_id), change)}

    def _write_chunks(self, chunks: Sequence[OutputChunk]) -> None:
        """As GridFS keeps files, so that any GridFS reader can read them. Written twice is written once."""
        if not chunks:
            return
        writes: list[UpdateOne] = []
        files: dict[str, UpdateOne] = {}
        for chunk in chunks:
            token = chunk.key.token or ""
            file_id = _file_id(chunk.key.task_id, token, chunk.stream)
            key = {"files_id": file_id, "n": chunk.number}
            writes.append(UpdateOne(key, {"$set": {"data": bson.Binary(chunk.data)}}, upsert=True))
            fields = {
                "length": chunk.number * OUTPUT_CHUNK_SIZE + len(chunk.data),
                "chunkSize": OUTPUT_CHUNK_SIZE,
                "filename": f"{chunk.key.task_id}/{chunk.stream}",
                "metadata": {"task_id": chunk.key.task_id, "token": token, "stream": chunk.stream},
            }
            files[file_id] = UpdateOne(
                {"_id": file_id}, {"$set": fields, "$setOnInsert": {"uploadDate": self.now()}}, upsert=True
            )
        per_write = _BULK_BYTES // OUTPUT_CHUNK_SIZE
        for start in range(0, len(writes), per_write):
            self._chunks.bulk_write(writes[start : start + per_write], ordered=False)
        self._files.bulk_write(list(files.values()), ordered=False)

    def promote_due(self, limit: int = 1000) -> int:
        now = self.now()
        due = {"status": int(Status.BLOCKED), "not_before": {"$lte": now}}
        with _translated(self):
            ids = [one["_id"] for one in self._tasks.find(due, {"_id": 1}).sort("not_before").limit(limit)]
            if not ids:
                return 0
            update = {
                "$set": {"status": int(Status.CREATED), "node": NOBODY, "mtime": now},
                "$unset": {"not_before": ""},
            }
            return self._tasks.update_many({"_id": {"$in": ids}, **due}, update).modified_count

    def has_unfinished(self, queues: Sequence[QueueId]) -> bool:
        active = [int(Status.CREATED), *_IN_HAND]
        with _translated(self):
            for queue in queues:
                if self._tasks.find_one({"status": {"$in": active}, "queue": queue}, {"_id": 1}) is not None:
                    return True
                blocked = {"status": int(Status.BLOCKED), "queue": queue, "not_before": {"$exists": True}}
                if self._tasks.find_one(blocked, {"_id": 1}) is not None:
                    return True
        return False

    def watch(self) -> MongoWatcher:
        return MongoWatcher(self._connect, self._database_name)


class MongoWatcher:
    """A change stream over tasks that become claimable, queues, and the ends of tasks; used by its own thread."""

    # What wakes: something to claim, something that has ended (who waits for it), a queue that has changed. The steps
    # in between, and heartbeats, wake nobody.
    _PIPELINE: Sequence[Document] = (
        {
            "$match": {
                "$or": [
                    {"ns.coll": "queues"},
                    {"ns.coll": "tasks", "operationType": {"$in": ["insert", "delete"]}},
                    {
                        "ns.coll": "tasks",
                        "operationType": "update",
                        "updateDescription.updatedFields.status": {"$nin": [None, *_IN_HAND]},
                    },
                    {"ns.coll": "tasks", "operationType": "replace"},
                ]
            }
        },
        {"$project": {"_id": 1}},
    )

    def __init__(self, connect: Any, database_name: str) -> None:
        self._connect = connect
        self._database_name = database_name
        self._client: pymongo.MongoClient[Document] | None = None
        self._stream: Any = None
        self._has_streams = True
        self._is_closed = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._is_closed.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                if self._stream is None and self._has_streams:
                    self._open_stream()
                    return True  # what has changed before the stream was there is not in it
                if self._has_streams and self._has_change():
                    return True
            except driver.OperationFailure as error:
                # A standalone server, or no right to watch: it will not change while we look.
                log.info(
                    "changes are not announced by the store, it is looked at every %.1f s: %s", FALLBACK_SECONDS, error
                )
                self._has_streams = False
            except (driver.PyMongoError, OSError) as error:
                log.debug("the change stream was lost: %s", error)
                self._drop()
                self._is_closed.wait(min(left, FALLBACK_SECONDS))
            if not self._has_streams:
                self._is_closed.wait(min(left, FALLBACK_SECONDS))
                return not self._is_closed.is_set()
        self._drop()
        return False

    def close(self) -> None:
        self._is_closed.set()

    def _open_stream(self) -> None:
        self._client = self._connect()
        database = self._client[self._database_name]
        # The server answers after so long where nothing happens: how soon `close` and a timeout are seen.
        self._stream = database.watch(list(self._PIPELINE), max_await_time_ms=250)

    def _has_change(self) -> bool:
        if self._stream.try_next() is None:
            return False
        # Under load changes come by the hundred: one wake-up is enough for all that come within a moment.
        settled = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < settled and self._stream.try_next() is not None:
            pass
        return True

    def _drop(self) -> None:
        with contextlib.suppress(driver.PyMongoError):
            if self._stream is not None:
                self._stream.close()
            if self._client is not None:
                self._client.close()
        self._stream = self._client = None


# --- documents


def _guard(change: RunChange) -> Document:
    key = change.key
    statuses = [int(status) for status in change.statuses]
    return {
        "_id": key.task_id,
        "node": key.node,
        "claim.token": key.token,  # null matches where there is none
        "status": statuses[0] if len(statuses) == 1 else {"$in": statuses},
    }


def _update(set: Mapping[str, Any], unset: Sequence[str]) -> Document:
    for name in (*set, *unset):
        if not name or name.startswith("$") or "." in name or "\0" in name:
            raise StoreRefusedError(f'expected a field name without "." and not beginning with "$", found {name!r:.60}')
    update: Document = {}
    if set:
        update["$set"] = dict(set)
    if unset:
        update["$unset"] = dict.fromkeys(unset, "")
    return update


def _shows(document: Document | None, change: RunChange) -> bool:
    """Whether a document is as the change would have left it: it was carried out, now or earlier."""
    if document is None:
        return False
    if "status" not in change.set:  # no change of state: what must hold is that the run still owns the task
        return (
            document.get("node") == change.key.node
            and (document.get("claim") or {}).get("token") == change.key.token
            and document.get("status") in [int(status) for status in change.statuses]
        )
    # `run` tells this attempt from any other; `status`, `node` and `mtime` this change from the others of the attempt.
    names = [name for name in ("status", "node", "mtime", "run") if name in change.set]
    owner = "node" in change.set or document.get("node") == change.key.node
    return owner and all(_as_stored(change.set[name]) == document.get(name) for name in names)


def _as_stored(value: Any) -> Any:
    """A value as it comes back: BSON turns tuples into lists, enums into numbers."""
    return bson.decode(bson.encode({"value": value}), CodecOptions(tz_aware=True, tzinfo=UTC))["value"]


def _in_parts(changes: Sequence[RunChange]) -> Iterator[Sequence[RunChange]]:
    """Batches that one message can hold."""
    part: list[RunChange] = []
    size = 0
    for change in changes:
        own = sum(len(value) for value in change.set.values() if isinstance(value, (str, bytes))) + 1024
        if part and size + own > _BULK_BYTES:
            yield part
            part, size = [], 0
        part.append(change)
        size += own
    if part:
        yield part


def _condition(which: TaskFilter) -> Document:
    condition: Document = {}
    if which.queue is not None:
        condition["queue"] = which.queue
    if which.node is not None:
        condition["node"] = which.node
    if which.ids is not None:
        condition["_id"] = {"$in": list(which.ids)}
    if which.statuses is not None:
        exact: Document = {"status": {"$in": sorted(int(status) for status in which.statuses)}}
        if which.failed_too:
            condition["$or"] = [exact, {"status": {"$gt": int(Status.FAILED)}}]
        else:
            condition |= exact
    return condition


def _node_record(document: Document, now: datetime) -> NodeRecord:
    heartbeat = document.get("heartbeat")
    at = heartbeat.get("datetime") if isinstance(heartbeat, Mapping) else None
    session = document.get("session")
    return NodeRecord(
        id=str(document["_id"]),
        session=session if isinstance(session, str) else None,
        age_seconds=max(0.0, (now - at).total_seconds()) if isinstance(at, datetime) else None,
        document=document,
    )


def _file_id(task: TaskId, token: str, stream: str) -> str:
    return f"{task}:{token}:{stream}"


def _object_id(text: str) -> ObjectId | None:
    return ObjectId(text) if re.fullmatch("[0-9a-fA-F]{24}", text) else None


def _path_of(url: str) -> str | None:
    match = re.match(r"mongodb\+srv://[^/?]+/([^?]+)", url)
    return match[1] if match else None


# --- the driver

_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
_UNREACHABLE_CODES = frozenset({6, 7, 89, 91, 189, 9001, 10107, 11600, 11602, 13435, 13436, 64, 262, 50})


@contextlib.contextmanager
def _translated(store: MongoStore, duplicate: str = "") -> Iterator[None]:
    """The driver's exceptions as the host's (base, rule 3)."""
    where = store.description
    try:
        yield
    except StoreError:
        raise
    except (driver.DuplicateKeyError, driver.BulkWriteError) as error:
        raise _of_write_error(where, error, duplicate) from error
    except driver.DocumentTooLarge as error:
        raise StoreRefusedError(_TOO_LARGE) from error
    except driver.ConfigurationError as error:
        raise UsageError(f"{where}: {_harmless(error, store._url)}") from error
    except driver.OperationFailure as error:
        raise _of_operation(where, error) from error
    except driver.ConnectionFailure as error:
        raise StoreUnreachableError(
            f"{where} cannot be reached: {_short(error)}; is the server running there?"
        ) from error
    except driver.InvalidOperation as error:  # the client was closed
        raise StoreUnreachableError(f"{where} is not open") from error
    except (BSONError, OverflowError, driver.PyMongoError) as error:
        if "too large" in str(error).lower():
            raise StoreRefusedError(_TOO_LARGE) from error
        raise StoreRefusedError(f"{where} refuses a value: {_short(error)}") from error


_TOO_LARGE = (
    "expected a task document of at most 16777216 bytes, found a larger one; "
    "put large data into a file and its path into the parameters"
)


def _of_write_error(where: str, error: driver.OperationFailure, duplicate: str) -> Exception:
    details: Mapping[str, Any] = error.details or {}
    write_errors = details.get("writeErrors") or [details]
    codes = {one.get("code") for one in write_errors}
    if 11000 in codes or isinstance(error, driver.DuplicateKeyError):
        return DuplicateIdError(duplicate or f"{where}: an id exists already")
    concern = details.get("writeConcernErrors") or []
    if concern or codes & _UNREACHABLE_CODES:
        return StoreUnreachableError(f"{where} could not confirm a write: {_short(error)}")
    message = "; ".join(str(one.get("errmsg", ""))[:200] for one in write_errors[:1])
    return StoreRefusedError(f"{where} refuses a write: {message or _short(error)}")


def _of_operation(where: str, error: driver.OperationFailure) -> Exception:
    if error.code == _AUTHENTICATION_FAILED:
        return StoreRefusedError(f"{where} refuses the user or password; check both, and authSource")
    if error.code == _UNAUTHORIZED:
        return StoreRefusedError(f"{where} refuses for want of rights: {_short(error)}")
    if error.code in _UNREACHABLE_CODES or error.has_error_label("RetryableWriteError"):
        return StoreUnreachableError(f"{where} cannot answer now: {_short(error)}")
    if "BSONObj size" in str(error) or "too large" in str(error):
        return StoreRefusedError(_TOO_LARGE)
    return StoreRefusedError(f"{where} refuses: {_short(error)}")


def _short(error: Exception) -> str:
    """The driver's words without its topology dump."""
    return re.split(r", Timeout: |, full error: |, Topology | \(configured timeouts", str(error), maxsplit=1)[0][:300]


def _harmless(error: Exception, url: str) -> str:
    """The driver's words about a URI, without the URI."""
    password = re.search(r"://[^:@/]*:(.*)@", url)
    text = _short(error)
    return text.replace(password[1], "***") if password and password[1] else text
