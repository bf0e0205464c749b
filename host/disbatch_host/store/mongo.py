"""The cluster's store: any MongoDB that users have, in the documents of den-1.0.

Responsible for: the interface of `base` on collections `queues`, `tasks`, `nodes` and the GridFS bucket `tasks`. Must
not know: who calls, what a change means. The only module that imports pymongo.

Rules:
1. Writes are acknowledged by a majority and journaled; a claim reads from the primary what it has just written.
2. Every hot query is covered by an index of `_INDEXES` (tests hold their plans), and there are few of them: each costs
   every write.
3. A write whose answer was lost is sent again by the driver once, and by our callers as often as needed: every write
   here can be made twice.
4. Time is the server's: it dates heartbeats and tells their age itself, and `now` follows it by the monotonic clock, so
   that neither the clocks of nodes nor their jumps matter.
5. The driver's exceptions end in `_translated`; none of its types leaves this module, but for ids and values that are
   in documents.
6. Documents come from anybody. One that cannot be used is left where it is and stops no other.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import bson
import orjson
import pymongo
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING, UpdateOne, WriteConcern
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

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
    whole_number,
)
from disbatch_host.store.base import SCHEMA_VERSION, Begin
from disbatch_host.store.open import redact, without_secrets
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

DEFAULT_DATABASE = "disbatch"
SELECT_SECONDS = 3.5  # for a server to be found; contract: an unreachable MongoDB is said within 5 s of the command
SOCKET_SECONDS = 20.0  # for one answer; a server that is stopped must not hold a node for ever
CLOCK_SECONDS = 10.0  # for how long the server's clock is followed without asking again
FALLBACK_SECONDS = 0.5  # between two wake-ups where the server has no change streams (standalone)
_SETTLE_SECONDS = 0.005  # changes within it make one wake-up
_LAYOUT_COLLECTION = "disbatch_host"
_BULK_BYTES = 32 * 2**20  # of one write; the server takes 48 MB
_PIECES_BYTES = 8 * 2**20  # of output pieces in one write: the driver copies them twice before it sends them
_PAGE = 500
_IDS_IN_CONDITION = 10_000  # a condition is a document of 16 MB at most
_CLAIM_TRIES = 3  # in one call, where another node was faster
_CLAIM_SPREAD = 4  # of how many times as many tasks as are wanted a further try picks
_TICKS = 2**16  # in a second: how fine ids are dated

_UNCLAIMED = {"$in": [NOBODY, None]}  # null matches a missing field as well (den-1.0, claim rule)
_IN_HAND = [int(Status.CLAIMED), int(Status.RUNNING)]
# A document as an id cannot be the key of a run, and nobody could type it.
_USABLE_ID = {"_id": {"$not": {"$type": "object"}}}
_DUPLICATE_KEY = 11000  # the server's code for it
_OWING = {"follow_ups._id": {"$exists": True}}
_NOT_LARGE = {"status": 1, "node": 1, "mtime": 1, "run": 1, "claim": 1}

# Documents of others may hold dates that Python does not have and text that is no UTF-8; such a value comes as a
# DatetimeMS and with U+FFFD, instead of making every query fail that meets it.
_CODEC = CodecOptions[Document](
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)

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
    # Conclusions whose follow-up tasks are not all there yet: nearly always none.
    ((("follow_ups._id", ASCENDING),), {"partialFilterExpression": {"follow_ups._id": {"$exists": True}}}),
)


class MongoStore:
    """A store in a database of a MongoDB server, replica set or sharded cluster."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._description = redact(url)
        self._client: pymongo.MongoClient[Document] | None = None
        self._server_time = datetime.fromtimestamp(0, UTC)  # when it was last asked
        self._server_asked = float("-inf")  # when that was, by the monotonic clock
        self._last_tick = 0
        is_srv = url.startswith("mongodb+srv:")
        try:
            parsed = {} if is_srv else pymongo.uri_parser.parse_uri(url, validate=True, warn=False)
        except OSError as error:  # a file of certificates that the URI names
            raise UsageError(f"{self._description}: {_of_file(error)}") from None
        except (driver.InvalidURI, driver.ConfigurationError, ValueError) as error:
            raise UsageError(
                f"expected mongodb://host/database, found {self._description}: {_harmless(error, url)}"
            ) from None
        if parsed.get("collection"):
            name = f"{parsed['database']}.{parsed['collection']}"
            raise UsageError(f"expected the name of a database, found {name!r}; it cannot hold a dot")
        self._database_name = parsed.get("database") or _path_of(url) or DEFAULT_DATABASE

    @property
    def description(self) -> str:
        return self._description

    @property
    def is_clock_local(self) -> bool:
        return False

    def open(self) -> None:
        if self._client is not None:
            return
        with _translated(self):
            self._client = client = self._connect()
            try:
                self._database = client.get_database(
                    self._database_name,
                    codec_options=_CODEC,
                    write_concern=WriteConcern(w="majority", j=True),
                    read_concern=ReadConcern("local"),
                    read_preference=ReadPreference.PRIMARY,
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
        defaults: dict[str, Any] = {
            "appname": f"disbatch-host {__version__}",
            "serverSelectionTimeoutMS": int(SELECT_SECONDS * 1000),
            "connectTimeoutMS": int(SELECT_SECONDS * 1000),
            "socketTimeoutMS": int(SOCKET_SECONDS * 1000),
        }
        # The driver prefers these to what the URL says; people expect the opposite.
        said = {name.lower() for name, _ in parse_qsl(self._url.rpartition("?")[2])}
        options = {name: value for name, value in defaults.items() if name.lower() not in said}
        return pymongo.MongoClient(self._url, retryWrites=True, tz_aware=True, **options)

    def _check_layout(self) -> None:
        found = self._database[_LAYOUT_COLLECTION].find_one({"_id": "layout"})
        if found is None:
            # A race with another first node is harmless: both want the same document.
            with contextlib.suppress(driver.DuplicateKeyError), _only_looking("the layout's version is not written"):
                self._database[_LAYOUT_COLLECTION].insert_one({"_id": "layout", "version": SCHEMA_VERSION})
            return
        version = whole_number(found.get("version"))
        if version is None or version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.description} has layout {found.get('version')!r:.40}, this program knows {SCHEMA_VERSION} at "
                "most; "
                "install a newer disbatch-host"
            )

    def _create_indexes(self) -> None:
        gridfs: Sequence[tuple[Any, Any, dict[str, Any]]] = (
            (self._chunks, (("files_id", ASCENDING), ("n", ASCENDING)), {"unique": True}),  # as every driver makes it
            (self._files, (("metadata.task_id", ASCENDING),), {}),  # to delete a task's output with it
        )
        for collection, keys, options in (*((self._tasks, *index) for index in _INDEXES), *gridfs):
            try:
                with _only_looking("indexes are not created"):
                    collection.create_index(list(keys), **options)
            except driver.OperationFailure as error:
                if error.code not in _INDEX_CONFLICTS:
                    raise
                # One on the same fields serves as well, if at a higher price; dropping it is for who has made it.
                log.warning("an index of another program is left as it is: %s", _short(error))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def together(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # transactions are for replica sets only, and cost more than they save here

    def hurry(self) -> None:
        """Nothing to do: no answer is waited for much longer than SOCKET_SECONDS."""

    def now(self) -> datetime:
        if self._clock.monotonic() - self._server_asked > CLOCK_SECONDS:
            with _translated(self):
                self._follow_clock()
        return to_milliseconds(self._now())

    def _now(self) -> datetime:
        return self._server_time + timedelta(seconds=self._clock.monotonic() - self._server_asked)

    def _follow_clock(self) -> None:
        assert self._client is not None
        before = self._clock.monotonic()
        server: datetime = self._client.admin.command("hello")["localTime"]
        # The server has read its clock in the middle of the call, as far as anybody can tell.
        self._server_asked = (before + self._clock.monotonic()) / 2
        self._server_time = server if server.tzinfo is not None else server.replace(tzinfo=UTC)

    def parse_id(self, text: str) -> TaskId | None:
        return _object_id(text) or text or None

    def extended_json(self, value: object) -> object:
        """Relaxed Extended JSON, as MongoDB's own tools write it."""
        return orjson.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))

    # --- queues

    def queues(self) -> list[Queue]:
        with _translated(self):
            found = [Queue.from_document(document) for document in self._queues.find(_USABLE_ID)]
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
        self.now()  # the server's clock dates the ids
        with _translated(self, duplicate="a task with one of these ids exists already"):
            copies = [
                {"_id": new_id, **document}
                for new_id, document in zip(self._new_ids(len(documents)), documents, strict=True)
            ]
            self._tasks.insert_many(copies)
        return [copy["_id"] for copy in copies]

    def _new_ids(self, count: int) -> list[ObjectId]:
        """Ids that sort after all made before, by whichever process: tasks are first in, first out.

        The driver's own are in order within one process only; those of two that push within one second are mixed. So
        here: seconds, as in any ObjectId, and their fraction, by the server's clock; then 3 random bytes, then a
        counter.
        """
        self._last_tick = max(int(self._now().timestamp() * _TICKS), self._last_tick + 1)
        prefix = self._last_tick.to_bytes(6, "big") + os.urandom(3)
        return [ObjectId(prefix + number.to_bytes(3, "big")) for number in range(count)]

    def get_task(self, task: TaskId) -> Task | None:
        with _translated(self):
            found = self._tasks.find_one({"_id": task})
        return None if found is None else Task.from_document(found)

    def find_tasks(
        self, which: TaskFilter, *, limit: int | None = None, newest_first: bool = False, with_output: bool = True
    ) -> Iterator[Task]:
        projection = None if with_output else {"stdout": 0, "stderr": 0}
        with _translated(self):
            found = self._tasks.find(_condition(which), projection, batch_size=_PAGE)
            # Where no index gives the order, documents with their output may be more than the server sorts in memory.
            found = found.sort("_id", DESCENDING if newest_first else ASCENDING).allow_disk_use(True)
        with found if limit is None else found.limit(limit):
            while limit != 0:  # to the server, 0 means all
                with _translated(self):
                    document = next(found, None)
                if document is None:
                    return
                yield Task.from_document(document)

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
                status = whole_number(key.get("status"))
                if status is not None and _is_usable(key.get("queue")):
                    of_queue = counts.setdefault(key.get("queue"), {})
                    of_queue[status] = of_queue.get(status, 0) + group["count"]
        return counts

    def delete_tasks(self, tasks: Sequence[TaskId]) -> int:
        deleted = 0
        with _translated(self):
            for start in range(0, len(tasks), _IDS_IN_CONDITION):
                ids = list(tasks[start : start + _IDS_IN_CONDITION])
                self._delete_files(
                    [one["_id"] for one in self._files.find({"metadata.task_id": {"$in": ids}}, {"_id": 1})]
                )
                deleted += self._tasks.delete_many({"_id": {"$in": ids}}).deleted_count
        return deleted

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
        return sorted(self._find_nodes({}), key=lambda node: node.id)

    def get_node(self, node_id: str) -> NodeRecord | None:
        found = self._find_nodes({"_id": node_id})
        return found[0] if found else None

    def _find_nodes(self, condition: Document) -> list[NodeRecord]:
        # The server's clock comes with the documents: whether a node is dead is decided by one clock alone.
        pipeline: list[Document] = [{"$match": condition}, {"$project": {"document": "$$ROOT", "now": "$$NOW"}}]
        with _translated(self):
            return [_node_record(one["document"], one["now"]) for one in self._nodes.aggregate(pipeline)]

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        # Our own session: the answer to an earlier try was lost. A null stands for the missing session of another
        # program's node.
        sessions = [] if document.get("session") is None else [document["session"]]
        if replacing is not None:
            sessions.append(replacing.session)
        whole = {"$mergeObjects": [{"$literal": document}, {"heartbeat": _dated(document.get("heartbeat"))}]}
        key = {"_id": document["_id"], "session": {"$in": sessions}}
        with _translated(self):
            try:
                # Where nobody is to be replaced, whoever is there already makes the insert fail.
                result = self._nodes.update_one(key, [{"$replaceWith": whole}], upsert=replacing is None)
            except driver.DuplicateKeyError:
                return False
            return result.matched_count > 0 or result.upserted_id is not None

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> bool:
        _check_names(set)
        fields = {name: {"$literal": value} for name, value in set.items()}
        key = {"_id": node_id, "session": session}
        with _translated(self):
            update = [{"$set": {**fields, "heartbeat": _dated(set.get("heartbeat"))}}]
            return self._nodes.update_one(key, update).matched_count > 0

    def remove_node(self, node_id: str, session: str | None) -> bool:
        with _translated(self):
            return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        with _translated(self):
            waiting = self._tasks.distinct("queue", {"status": int(Status.CREATED)})
        return {queue for queue in waiting if _is_usable(queue)}

    def claim(
        self, node_id: str, wanted: Sequence[tuple[QueueId, int]], token: str, begin: Begin | None = None
    ) -> list[Task]:
        """The spec's second way, in batches: find what is free, write the claim (and what `begin` wants written) into
        each that still is, and where not all were, ask which carry the mark.

        A task without priority counts as 0. Where another node was faster, what is missing is picked at random from
        the next ones, so that two nodes do not go on fighting for the same: the order is then only about kept.
        """
        got: list[list[Task]] = [[] for _ in wanted]
        open_places = list(range(len(wanted)))
        with _translated(self):
            for attempt in range(_CLAIM_TRIES):
                found: dict[int, list[Document]] = {}
                for place in open_places:
                    queue, count = wanted[place]
                    left = count - len(got[place])
                    if attempt == 0:
                        found[place] = self._waiting(queue, left)
                    else:
                        ids = [one["_id"] for one in self._waiting(queue, left * _CLAIM_SPREAD, {"priority": 1})]
                        picked = sorted(random.sample(range(len(ids)), min(left, len(ids))))
                        found[place] = self._documents([ids[number] for number in picked])
                won = self._take(list(itertools.chain.from_iterable(found.values())), node_id, token, begin)
                for place, documents in found.items():
                    got[place] += [won[one["_id"]] for one in documents if one["_id"] in won]
                # All that was found was won: that is enough, or nothing more waits.
                open_places = [place for place in found if any(one["_id"] not in won for one in found[place])]
                if not open_places:
                    break
        return list(itertools.chain.from_iterable(got))

    def _waiting(self, queue: QueueId, count: int, projection: Document | None = None) -> list[Document]:
        """The first of a queue that are free, a missing priority being 0."""
        waiting = {
            "status": int(Status.CREATED),
            "queue": {"$eq": queue, "$not": {"$type": "array"}},  # a list would match each of its elements
            "node": _UNCLAIMED,
            **_USABLE_ID,
        }

        def find(priority: Document, order: Sequence[tuple[str, int]], limit: int) -> list[Document]:
            # To the server, a limit of 0 means all.
            found = self._tasks.find({**waiting, **priority}, projection).sort(list(order)).limit(limit)
            return list(found) if limit > 0 else []

        by_age = [("_id", ASCENDING)]
        by_priority = [("priority", DESCENDING), *by_age]
        rows = find({}, by_priority, count)
        if all(_is_before_zero_or_missing(row.get("priority")) for row in rows):
            return rows
        # In the index a missing one comes after all numbers. Where there are others of 0 or less, or of no number, ask
        # for each part of the order by itself; the index serves each.
        chosen: dict[TaskId, Document] = {}
        for part, order in (({"$gt": 0}, by_priority), ({"$in": [0, None]}, by_age), ({"$lt": 0}, by_priority)):
            chosen |= {row["_id"]: row for row in find({"priority": part}, order, count - len(chosen))}
        chosen |= {row["_id"]: row for row in rows if row["_id"] not in chosen}  # at last those of no number
        return list(chosen.values())[:count]

    def _documents(self, ids: Sequence[TaskId]) -> list[Document]:
        """These tasks, in this order, as far as they are still there."""
        found = {document["_id"]: document for document in self._tasks.find({"_id": {"$in": list(ids)}})}
        return [found[task_id] for task_id in ids if task_id in found]

    def _take(self, documents: Sequence[Document], node_id: str, token: str, begin: Begin | None) -> dict[TaskId, Task]:
        """Claim those of these tasks that are still free and as they were read."""
        if not documents:
            return {}
        now = self.now()
        mark = {"status": int(Status.CLAIMED), "node": node_id, "mtime": now, "claim": {"token": token, "at": now}}
        tasks: dict[TaskId, Task] = {}
        changes: list[RunChange] = []
        writes: list[UpdateOne] = []
        for document in documents:
            tasks[document["_id"]] = task = Task.from_document({**document, **mark})
            change = begin(task) if begin is not None else None
            free = {
                "_id": document["_id"],
                "status": int(Status.CREATED),
                "node": _UNCLAIMED,
                "mtime": {"$eq": document.get("mtime")},  # every change of state sets it
            }
            if change is None:
                writes.append(UpdateOne(free, {"$set": mark}))
            else:
                changes.append(change)
                writes.append(UpdateOne(free, _update({**mark, **change.set}, change.unset)))
        if self._tasks.bulk_write(writes, ordered=False).matched_count < len(writes):
            marked = {"_id": {"$in": list(tasks)}, "claim.token": token}
            won = {document["_id"] for document in self._tasks.find(marked, {"_id": 1})}
            tasks = {task_id: task for task_id, task in tasks.items() if task_id in won}
        self._forget_output([change for change in changes if change.key.task_id in tasks])
        return tasks

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        with _translated(self):
            self._write_chunks(chunks)
            refused: set[RunKey] = set()
            for part in _in_parts(changes):
                writes = [UpdateOne(_guard(change), _update(self._set_of(change), change.unset)) for change in part]
                result = self._tasks.bulk_write(writes, ordered=True)
                if result.matched_count < len(part):
                    refused |= self._refused(part)
            owing = [change.key.task_id for change in changes if change.creates and change.key not in refused]
            if owing:
                self._create_owed({"_id": {"$in": owing}, **_OWING})
            self._forget_output([change for change in changes if change.key not in refused])
            return refused

    def _forget_output(self, changes: Iterable[RunChange]) -> None:
        self._delete_files(
            [
                _file_id(change.key.task_id, change.forget_output_of, stream)
                for change in changes
                if change.forget_output_of is not None
                for stream in ("stdout", "stderr")
            ]
        )

    def _set_of(self, change: RunChange) -> Mapping[str, Any]:
        """What a change sets; the tasks that it creates stand in the task's own document until they are there, since
        only a single document is changed as a whole on every kind of server."""
        if not change.creates:
            return change.set
        self.now()  # the server's clock dates the ids
        ids = self._new_ids(len(change.creates))
        queues = {name: self._queue_id(name) for name in {one["queue"] for one in change.creates}}
        owed = [
            {"_id": new_id, **one, "queue": queues[one["queue"]]}
            for new_id, one in zip(ids, change.creates, strict=True)
        ]
        return {**change.set, "follow_ups": owed}

    def _queue_id(self, text: str) -> QueueId:
        """The id that is meant by this text, which need not be there yet."""
        queue = self.find_queue(text) if _object_id(text) is not None else None
        return text if queue is None else queue.id

    def _create_owed(self, which: Document, limit: int = _PAGE) -> int:
        """Create the follow-up tasks that stand in these documents, and only then take them out: whoever dies in
        between leaves them for the next, and their ids are given, so nothing is created twice."""
        created = 0
        for document in self._tasks.find(which, {"follow_ups": 1}).limit(limit):
            owed = document.get("follow_ups")
            if not isinstance(owed, list):
                continue
            tasks = [one for one in owed if isinstance(one, dict) and one.get("_id") is not None]
            try:
                self._tasks.insert_many(tasks, ordered=False)
            except driver.BulkWriteError as error:
                is_other = any(one.get("code") != _DUPLICATE_KEY for one in error.details.get("writeErrors", ()))
                if is_other or error.details.get("writeConcernErrors"):
                    raise  # not confirmed by a majority: they may vanish again, so they stay owed
            # Only what was read above: others may have gone on from there, and the task may owe something else by now.
            paid = {"follow_ups._id": tasks[0]["_id"]} if tasks else _OWING
            self._tasks.update_one({"_id": document["_id"], **paid}, {"$unset": {"follow_ups": ""}})
            created += len(tasks)
        return created

    def _refused(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Which of a batch were not carried out: the server tells only how many."""
        ids = list({change.key.task_id for change in changes})
        documents = {one["_id"]: one for one in self._tasks.find({"_id": {"$in": ids}}, _NOT_LARGE)}
        # Of several changes of one run the last one decides: what it has left is what can be seen.
        last = {change.key: change for change in changes}
        return {key for key, change in last.items() if not _shows(documents.get(key.task_id), change)}

    def _write_chunks(self, chunks: Sequence[OutputChunk]) -> None:
        """As GridFS keeps files, so that any GridFS reader can read them. Written twice is written once."""
        if not chunks:
            return
        files: dict[str, UpdateOne] = {}
        for chunk in chunks:
            token = chunk.key.token or ""
            file_id = _file_id(chunk.key.task_id, token, chunk.stream)
            fields = {
                "chunkSize": OUTPUT_CHUNK_SIZE,
                "filename": f"{chunk.key.task_id}/{chunk.stream}",
                "metadata": {"task_id": chunk.key.task_id, "token": token, "stream": chunk.stream},
            }
            file = {
                "$set": fields,
                "$max": {"length": chunk.number * OUTPUT_CHUNK_SIZE + len(chunk.data)},  # an old piece may come again
                "$setOnInsert": {"uploadDate": self.now()},
            }
            files[file_id] = UpdateOne({"_id": file_id}, file, upsert=True)
        per_write = _PIECES_BYTES // OUTPUT_CHUNK_SIZE
        for start in range(0, len(chunks), per_write):
            self._chunks.bulk_write([_piece(chunk) for chunk in chunks[start : start + per_write]], ordered=False)
        self._files.bulk_write(list(files.values()), ordered=False)

    def promote_due(self, limit: int = 1000) -> int:
        now = self.now()
        due = {"status": int(Status.BLOCKED), "not_before": {"$lte": now}}
        with _translated(self):
            created = self._create_owed(_OWING)
            ids = [one["_id"] for one in self._tasks.find(due, {"_id": 1}).sort("not_before").limit(limit)]
            if not ids:
                return created
            update = {
                "$set": {"status": int(Status.CREATED), "node": NOBODY, "mtime": now},
                "$unset": {"not_before": ""},
            }
            return created + self._tasks.update_many({"_id": {"$in": ids}, **due}, update).modified_count

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

    def written_by_others(self) -> None:
        return None

    def watch(self, *, ends: bool = True) -> MongoWatcher:
        return MongoWatcher(self._connect, self._database_name, ends=ends)


class MongoWatcher:
    """A change stream over tasks that become claimable, queues, and the ends of tasks; used by its own thread."""

    def __init__(self, connect: Any, database_name: str, *, ends: bool) -> None:
        # What wakes: something to claim, something that has ended where that is asked for, a queue that has changed.
        # The steps in between, and heartbeats, wake nobody.
        wanted: Any = {"$nin": [None, *_IN_HAND]} if ends else int(Status.CREATED)
        self._pipeline: Sequence[Document] = (
            {
                "$match": {
                    "$or": [
                        {"ns.coll": "queues"},
                        {"ns.coll": "tasks", "operationType": {"$in": ["insert", "delete", "replace"]}},
                        {
                            "ns.coll": "tasks",
                            "operationType": "update",
                            "updateDescription.updatedFields.status": wanted,
                        },
                    ]
                }
            },
            {"$project": {"_id": 1}},
        )
        self._connect = connect
        self._database_name = database_name
        self._client: pymongo.MongoClient[Document] | None = None
        self._stream: Any = None
        self._has_streams = True
        self._is_closed = threading.Event()
        self._in_use = threading.Lock()

    def wait(self, timeout_seconds: float) -> bool:
        with self._in_use:
            has_changed = self._wait(time.monotonic() + timeout_seconds)
        if self._is_closed.is_set():
            self.close()
        return has_changed

    def _wait(self, deadline: float) -> bool:
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
            except (driver.PyMongoError, OSError) as error:
                self._drop()
                if isinstance(error, driver.OperationFailure) and error.code in _NO_STREAMS:
                    log.info("the store announces no changes, it is looked at every %.1f s", FALLBACK_SECONDS)
                    log.debug("why it announces none: %s", error)
                    self._has_streams = False
                else:
                    log.debug("the change stream was lost: %s", error)
                    self._is_closed.wait(min(left, FALLBACK_SECONDS))
            if not self._has_streams:
                self._is_closed.wait(min(left, FALLBACK_SECONDS))
                return not self._is_closed.is_set()
        return False

    def close(self) -> None:
        self._is_closed.set()
        # A thread that waits still has the connection in hand; it lets go of it when it sees that it shall end.
        if self._in_use.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._in_use.release()

    def _open_stream(self) -> None:
        self._client = self._connect()
        database = self._client[self._database_name]
        # The server answers after so long where nothing happens: how soon `close` and a timeout are seen.
        self._stream = database.watch(list(self._pipeline), max_await_time_ms=250)

    def _has_change(self) -> bool:
        if self._stream.try_next() is None:
            if not self._stream.alive:  # as after the database was dropped: it would say nothing for ever, at once
                self._drop()
            return False
        # Under load changes come by the hundred: one wake-up is enough for all that come within a moment.
        settled = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < settled and self._stream.try_next() is not None:
            pass
        return True

    def _drop(self) -> None:
        with contextlib.suppress(driver.PyMongoError, OSError):  # it is gone in any case
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
    _check_names((*set, *unset))
    update: Document = {}
    if set or not unset:  # a change of nothing still asks whether its guard holds
        update["$set"] = dict(set)
    if unset:
        update["$unset"] = dict.fromkeys(unset, "")
    return update


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not name or name.startswith("$") or "." in name or "\0" in name:
            raise StoreRefusedError(f'expected a field name without "." and not beginning with "$", found {name!r:.60}')


def _shows(document: Document | None, change: RunChange) -> bool:
    """Whether a document is as the change would have left it: it was carried out, now or earlier."""
    if document is None:
        return False
    key, touched = change.key, {*change.set, *change.unset}
    claim = document.get("claim")
    token = claim.get("token") if isinstance(claim, Mapping) else None
    if "node" not in touched and document.get("node") != key.node:
        return False
    if "claim" not in touched and token != key.token:
        return False
    if "status" not in touched and document.get("status") not in [int(status) for status in change.statuses]:
        return False
    # `run` tells this attempt from any other; `status`, `node`, `claim` and `mtime` this change from the others of the
    # attempt. What the plugin has said is left out: it may be large, and tells nothing more.
    return all(
        document.get(name) == _as_stored(change.set[name]) if name in change.set else name not in document
        for name in _NOT_LARGE
        if name in touched
    )


def _as_stored(value: Any) -> Any:
    """A value as it comes back: BSON turns tuples into lists, enums into numbers."""
    return bson.decode(bson.encode({"value": value}), _CODEC)["value"]


def _in_parts(changes: Sequence[RunChange]) -> Iterator[Sequence[RunChange]]:
    """Batches that one message can hold."""
    part: list[RunChange] = []
    size = 0
    for change in changes:
        own = sum(len(value) for value in change.set.values() if isinstance(value, (str, bytes))) + 1024
        own += len(bson.encode({"": change.creates}, codec_options=_CODEC)) if change.creates else 0
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


def _dated(heartbeat: Any) -> Document:
    """The expression for a heartbeat at the server's time. Strings that begin with "$" are text."""
    fields = dict(heartbeat) if isinstance(heartbeat, Mapping) else {}
    return {"$mergeObjects": [{"datetime": "$$NOW"}, {"$literal": fields}]}


def _is_before_zero_or_missing(priority: Any) -> bool:
    return priority is None or (type(priority) in (int, float, Int64) and priority > 0)


def _is_usable(queue: Any) -> bool:
    """Whether it can be a queue's id: a document of another program may hold anything there."""
    try:
        hash(queue)
    except TypeError:
        return False
    return True


def _piece(chunk: OutputChunk) -> UpdateOne:
    key = {"files_id": _file_id(chunk.key.task_id, chunk.key.token or "", chunk.stream), "n": chunk.number}
    return UpdateOne(key, {"$set": {"data": bson.Binary(chunk.data)}}, upsert=True)


def _file_id(task: TaskId, token: str, stream: str) -> str:
    return f"{task}:{token}:{stream}"


def _object_id(text: str) -> ObjectId | None:
    return ObjectId(text) if re.fullmatch("[0-9a-fA-F]{24}", text) else None


def _path_of(url: str) -> str | None:
    match = re.match(r"mongodb\+srv://[^/?]+/([^?]+)", url)
    return match[1] if match else None


# --- the driver

_UNAUTHORIZED = 13
_AUTHENTICATION_CODES = frozenset({11, 18, 8000})  # no such user, wrong password, Atlas's own for both
# Network, shutdown, change of primary, write not confirmed in time; a cursor or a plan that has gone meanwhile.
_UNREACHABLE_CODES = frozenset(
    {6, 7, 43, 50, 64, 89, 91, 133, 134, 175, 189, 237, 262, 9001, 10107, 11600, 11601, 11602, 13435, 13436}
)
_INDEX_CONFLICTS = frozenset({67, 85, 86})  # the same fields with other options or under another name
_NO_STREAMS = frozenset({13, 20, 59, 8000, 40324, 40573})  # standalone, or no right to watch: it stays so
_TOO_LARGE_CODES = frozenset({10334, 17280, 17419, 17420})


@contextlib.contextmanager
def _only_looking(what_is_left_out: str) -> Iterator[None]:
    """Somebody who may only read looks at a cluster: what is missing there is made by its nodes."""
    try:
        yield
    except driver.OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        log.debug("%s, there is no right to: %s", what_is_left_out, error)


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
        if "DNS" in str(error):  # of a mongodb+srv:// name, which is looked up before anything else
            raise StoreUnreachableError(f"{where} cannot be reached: {_harmless(error, store._url)}") from None
        raise UsageError(f"{where}: {_harmless(error, store._url)}") from error
    except driver.OperationFailure as error:
        raise _of_operation(where, error) from error
    except driver.ConnectionFailure as error:
        raise StoreUnreachableError(
            f"{where} cannot be reached: {_short(error)}; is the server running there?"
        ) from error
    except OSError as error:  # a file that the URI names; the network's errors are the driver's own
        raise UsageError(f"{where}: {_of_file(error)}") from None
    except driver.InvalidOperation as error:  # the client was closed
        raise StoreUnreachableError(f"{where} is not open") from error
    except (BSONError, OverflowError, UnicodeError, driver.PyMongoError) as error:
        if "too large" in str(error).lower():
            raise StoreRefusedError(_TOO_LARGE) from error
        raise StoreRefusedError(f"{where} refuses a value: {_short(error)}") from error
    except RecursionError as error:
        raise StoreRefusedError(f"{where} refuses a value: it is nested too deeply") from error


_TOO_LARGE = (
    "expected a task document of at most 16777216 bytes, found a larger one; "
    "put large data into a file and its path into the parameters"
)


def _of_write_error(where: str, error: driver.OperationFailure, duplicate: str) -> Exception:
    details: Mapping[str, Any] = error.details or {}
    write_errors = details.get("writeErrors") or [details]
    codes = {one.get("code") for one in write_errors}
    if _DUPLICATE_KEY in codes or isinstance(error, driver.DuplicateKeyError):
        return DuplicateIdError(duplicate or f"{where}: an id exists already")
    concern = details.get("writeConcernErrors") or []
    if concern or codes & _UNREACHABLE_CODES:
        return StoreUnreachableError(f"{where} could not confirm a write: {_short(error)}")
    message = "; ".join(str(one.get("errmsg", ""))[:200] for one in write_errors[:1])
    if codes & _TOO_LARGE_CODES or "BSONObj size" in message:
        return StoreRefusedError(_TOO_LARGE)
    return StoreRefusedError(f"{where} refuses a write: {message or _short(error)}")


def _of_operation(where: str, error: driver.OperationFailure) -> Exception:
    if error.code in _AUTHENTICATION_CODES:
        return StoreRefusedError(f"{where} refuses the user or password; check both, and authSource")
    if error.code == _UNAUTHORIZED:
        return StoreRefusedError(f"{where} refuses for want of rights: {_short(error)}")
    if error.code in _UNREACHABLE_CODES or error.has_error_label("RetryableWriteError"):
        return StoreUnreachableError(f"{where} cannot answer now: {_short(error)}")
    if error.code in _TOO_LARGE_CODES or "BSONObj size" in str(error) or "too large" in str(error):
        return StoreRefusedError(_TOO_LARGE)
    return StoreRefusedError(f"{where} refuses: {_short(error)}")


def _short(error: Exception) -> str:
    """The driver's words without its topology dump."""
    return re.split(r", Timeout: |, full error: |, Topology | \(configured timeouts", str(error), maxsplit=1)[0][:300]


def _of_file(error: OSError) -> str:
    return f"{error.strerror or error}: {os.strerror(error.errno)}" if error.errno else str(error)


def _harmless(error: Exception, url: str) -> str:
    """The driver's words about a URI, without the URI's secrets and in words for who has typed it."""
    text = without_secrets(_short(error), url)
    if "RFC 3986" in text:
        return "in user and password, percent-encode : / ? # [ ] @ (a slash is %2F)"
    return re.split(r"[.,;]? (?:Refer to|See|Supported options)", text, maxsplit=1)[0]
