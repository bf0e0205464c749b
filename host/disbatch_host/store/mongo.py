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
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
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
from pymongo import ASCENDING, DESCENDING, DeleteOne, ReturnDocument, UpdateOne, WriteConcern
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
    TaskChange,
    TaskFilter,
    TaskId,
    Want,
    whole_number,
)
from disbatch_host.store.base import SCHEMA_VERSION, Begin
from disbatch_host.store.open import redact, without_secrets
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import UNFINISHED, Status, is_finished

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
_KEY_SECONDS = 60.0  # so long a holder of a `unique_key` that is not there counts as being created
_RETRY_SECONDS = 10.0  # so long a task that holds its `unique_key` to be run again may take to become unfinished
_RETRY_MARGIN_SECONDS = 2.0  # the clocks of a cluster's servers may differ by so much
_RETRY_POLL_SECONDS = 0.02  # how often it is asked what has become of such a task
_DOUBT_SECONDS = 30.0  # a claim whose answer was lost is carried out within it, or never: SOCKET_SECONDS, and a bit

_UNCLAIMED = {"$in": [NOBODY, None]}  # null matches a missing field as well (den-1.0, claim rule)
_IN_HAND = [int(Status.CLAIMED), int(Status.RUNNING)]
_WAITING = [int(Status.BLOCKED), int(Status.CREATED)]
_NOT_AFTER: Document = {"$in": [None, []]}  # it waits for no other task; null matches a missing field as well
# A document as an id cannot be the key of a run, and nobody could type it.
_USABLE_ID = {"_id": {"$not": {"$type": "object"}}}
_DUPLICATE_KEY = 11000  # the server's code for it
_OWING = {"follow_ups._id": {"$exists": True}}
_NO_OUTPUT = {"stdout": 0, "stderr": 0}
# Of a task that others wait for: it has to be marked, or is just being told to be nobody's any more (`_tell`).
_NOT_MARKED = {"$or": [{"awaited": {"$ne": True}}, {"telling": {"$exists": True}}]}
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
    # What is due. Those that wait for another task as well come after all others, and are not looked at.
    ((("after", ASCENDING), ("not_before", ASCENDING)), {"partialFilterExpression": {"not_before": {"$exists": True}}}),
    # Who waits for a task.
    ((("after", ASCENDING), ("_id", ASCENDING)), {"partialFilterExpression": {"after": {"$exists": True}}}),
    # What `due` asks for: one index for each of its kinds, with only those in it that have the field.
    ((("status", ASCENDING), ("node", ASCENDING)), {"partialFilterExpression": {"cancel.at": {"$exists": True}}}),
    ((("awaited", ASCENDING), ("status", ASCENDING)), {"partialFilterExpression": {"awaited": True}}),
    ((("status", ASCENDING), ("expires", ASCENDING)), {"partialFilterExpression": {"expires": {"$exists": True}}}),
    # Conclusions whose follow-up tasks are not all there yet: nearly always none.
    ((("follow_ups._id", ASCENDING),), {"partialFilterExpression": {"follow_ups._id": {"$exists": True}}}),
)
_INDEXES_OF_BEFORE = ("not_before_1",)  # that older layouts of ours had; another takes its place


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
        self._in_doubt: dict[tuple[str, QueueId], tuple[int, float]] = {}  # see `_in_hand`
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
                self._notes = self._database[_LAYOUT_COLLECTION]
                self._keys = _Keys(self._database["disbatch_keys"], self._tasks, self.now)
                self._limits = _Limits(self._database["disbatch_limits"])
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
        if version is not None and version < SCHEMA_VERSION:
            with _only_looking("the layout's version is not raised"):
                # An older program would promote what waits for another task, so it must not start here any more.
                self._database[_LAYOUT_COLLECTION].update_one({"_id": "layout"}, {"$max": {"version": SCHEMA_VERSION}})
                for name in _INDEXES_OF_BEFORE:
                    with contextlib.suppress(driver.OperationFailure):  # it is not there
                        self._tasks.drop_index(name)
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

    def new_ids(self, count: int) -> list[TaskId]:
        self.now()  # the server's clock dates the ids
        return list(self._new_ids(count))

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        if not documents:
            return []
        new = self.new_ids(len(documents))
        copies = [{"_id": new_id, **document} for new_id, document in zip(new, documents, strict=True)]
        with _translated(self, duplicate="a task with one of these ids exists already"):
            return self._insert(copies, again=again)

    def _insert(self, documents: Sequence[Document], *, again: bool) -> list[TaskId]:
        began = self._clock.monotonic()
        ids = [document["_id"] for document in documents]
        keys = [_key_of(document) for document in documents]
        # Of an earlier call, what it has created stays what is meant, whoever has the key by now.
        keyed = [task_id for task_id, key in zip(ids, keys, strict=True) if key is not None] if again else []
        there = {one["_id"] for one in self._tasks.find({"_id": {"$in": keyed}}, {"_id": 1})} if keyed else set()
        first: dict[_Key, int] = {}  # of several of one call, the first one asks for the key
        for place, key in enumerate(keys):
            if key is not None and ids[place] not in there:
                first.setdefault(key, place)
        locks = self._keys.take({key: ids[place] for key, place in first.items()})
        created: list[Document] = []
        for place, (document, key) in enumerate(zip(documents, keys, strict=True)):
            if key is not None and ids[place] not in there:
                ids[place] = locks[key].task
                if locks[key].mark is None or first[key] != place:
                    continue
            created.append({**document, "_id": ids[place]})
        # Before: whoever dies after the insert leaves a mark. After: a sweep in between may have found nobody to tell,
        # and taken the mark.
        waits_for = list({one for document in created for one in _after(document)})
        self._mark_awaited(waits_for)
        ours = {lock.task: key for key, lock in locks.items() if lock.mark is not None}
        try:
            self._create(created, ours, again=again)
        except driver.ConnectionFailure:
            raise  # they may be there or still come, so the keys stay theirs; see `_Keys`
        except Exception:
            with contextlib.suppress(driver.PyMongoError):
                found = self._tasks.find({"_id": {"$in": list(ours)}}, {"queue": 1, "unique_key": 1})
                created_ids = {one["_id"] for one in found if _key_of(one) == ours[one["_id"]]}
                self._keys.release([(key, lock) for key, lock in locks.items() if lock.task not in created_ids])
            raise
        self._mark_awaited(waits_for)
        if ours and self._clock.monotonic() - began > _KEY_SECONDS / 2:
            instead = self._withdraw_overtaken(ours)
            ids = [instead.get(task_id, task_id) for task_id in ids]
        return ids

    def _create(self, documents: Sequence[Document], keys: Mapping[TaskId, _Key], *, again: bool) -> None:
        """Insert them. One that is there already is fine where that is what an earlier call has done, or, of those with
        a key, somebody else for this one (`_Keys`, rule 3)."""
        try:
            if documents:
                self._tasks.insert_many(documents, ordered=False)
        except driver.BulkWriteError as error:
            failures = error.details.get("writeErrors", ())
            doubles = {documents[one["index"]]["_id"] for one in failures if _is_same_id(one)}
            if error.details.get("writeConcernErrors") or len(doubles) < len(failures):
                raise
            if not again:
                found = self._tasks.find({"_id": {"$in": list(doubles)}}, {"queue": 1, "unique_key": 1})
                if doubles - {one["_id"] for one in found if _key_of(one) == keys.get(one["_id"], ())}:
                    raise

    def _withdraw_overtaken(self, keys: Mapping[TaskId, _Key]) -> dict[TaskId, TaskId]:
        """This process stood still for so long that others took the tasks that it was about to create for lost, and
        their keys over: take them back where nobody has begun with them. Instead of which there is which other."""
        instead: dict[TaskId, TaskId] = {}
        holders = self._keys.holders(list(keys.values()))
        for task_id, key in keys.items():
            holder = holders.get(key, task_id)
            if holder != task_id:
                untouched = {"_id": task_id, "status": {"$in": _WAITING}, "node": _UNCLAIMED, "claim": None}
                if self._tasks.delete_one(untouched).deleted_count:
                    instead[task_id] = holder
        return instead

    def _mark_awaited(self, tasks: Sequence[TaskId]) -> None:
        for start in range(0, len(tasks), _IDS_IN_CONDITION):
            writes = [
                UpdateOne({"_id": one, **_NOT_MARKED}, {"$set": {"awaited": True}, "$unset": {"telling": ""}})
                for one in tasks[start : start + _IDS_IN_CONDITION]
            ]
            self._tasks.bulk_write(writes, ordered=False)

    def change_tasks(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        refused: set[TaskId] = set()
        with _translated(self):
            for start in range(0, len(changes), _PAGE):
                part = changes[start : start + _PAGE]
                told = [change for change in part if change.set.get("awaited") is False]
                refused |= self._change([change for change in part if change.set.get("awaited") is not False])
                refused |= self._tell(told) if told else set()
        return refused

    def _change(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        if not changes:
            return set()
        keys, refused = self._keys_of_retried([change.task_id for change in changes if _may_revive(change)])
        locks = self._keys.take({key: task_id for task_id, key in keys.items()}, to_retry=True)
        refused |= {task_id for task_id, key in keys.items() if locks[key].task != task_id}
        written = [change for change in changes if change.task_id not in refused]
        writes = []
        for change in written:
            guard = _guard_of_task(change)
            lock = locks[keys[change.task_id]] if change.task_id in keys else None
            if lock is not None and lock.until is not None:
                # Not a moment later than others wait for it: by the server's clock, when it carries the change out.
                last = lock.until - timedelta(seconds=_RETRY_MARGIN_SECONDS)
                guard["$expr"] = {"$lt": ["$$NOW", {"$literal": last}]}
            writes.append(UpdateOne(guard, _update_of_task(change)))
        if writes and self._tasks.bulk_write(writes, ordered=False).matched_count < len(writes):
            refused |= self._unseen(written)
        self._keys.end_retry([(key, locks[key]) for key in keys.values()])
        return refused

    def _keys_of_retried(self, tasks: Sequence[TaskId]) -> tuple[dict[TaskId, _Key], set[TaskId]]:
        """The keys of those of them that have one, one task of each; and the others of the same keys."""
        keys: dict[TaskId, _Key] = {}
        others: set[TaskId] = set()
        if tasks:
            which = {"_id": {"$in": list(tasks)}, "unique_key": {"$type": "string"}}
            for document in self._tasks.find(which, {"queue": 1, "unique_key": 1}):
                key = _key_of(document)
                if key in keys.values():
                    others.add(document["_id"])
                elif key is not None:
                    keys[document["_id"]] = key
        return keys, others

    def _tell(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        """Take the mark `awaited` from tasks whose followers have been told, so that none is overlooked that was
        created while they were told: the change is announced in the task (`telling`), then is looked for followers that
        know nothing, then it is made where the announcement still stands. A follower that is created before the look is
        found by it; the mark that is set after the insert of any other takes the announcement away. Whoever dies in
        between leaves the task `awaited`."""
        token = ObjectId()
        announced = [
            UpdateOne(
                _guard_of_task(change),
                _update({**{name: change.set[name] for name in change.set if name != "awaited"}, "telling": token}, ()),
            )
            for change in changes
        ]
        self._tasks.bulk_write(announced, ordered=False)
        conclude = [change.task_id for change in changes if change.statuses == {int(Status.CONCLUDED)}]
        others = [change.task_id for change in changes if change.statuses != {int(Status.CONCLUDED)}]
        untold: set[TaskId] = set()
        # A task that waits for one that has concluded does so no more when it knows; for one that has failed, it says
        # so, unless it does not mind.
        parts: list[tuple[list[TaskId], Document]] = [
            (conclude, {}),
            (others, {"$or": [{"error.code": {"$ne": "after_failed"}}, {"after_any": True}]}),
        ]
        for ids, ignorant in parts:
            if ids:
                which = {"after": {"$in": ids}, "status": int(Status.BLOCKED), **ignorant}
                for follower in self._tasks.find(which, {"after": 1}).limit(_PAGE):
                    untold |= {one for one in _after(follower) if one in ids}
        told = [change for change in changes if change.task_id not in untold]
        writes = [
            UpdateOne(
                {**_guard_of_task(change), "telling": token},
                {"$set": {"awaited": False}, "$unset": {"telling": "", **dict.fromkeys(change.unset, "")}},
            )
            for change in told
        ]
        if writes and self._tasks.bulk_write(writes, ordered=False).matched_count < len(writes):
            untold |= self._unseen(told)
        return untold

    def _unseen(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        """Which of a batch were not carried out, as far as can be seen: the server tells only how many."""
        names = {name for change in changes for name in (*change.set, *change.unset)}
        ids = [change.task_id for change in changes]
        found = self._tasks.find({"_id": {"$in": ids}}, dict.fromkeys(names, 1))
        documents = {document["_id"]: document for document in found}
        return {change.task_id for change in changes if not _shows_change(documents.get(change.task_id), change)}

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
        self,
        which: TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = True,
        in_any_order: bool = False,
    ) -> Iterator[Task]:
        projection = None if with_output else _NO_OUTPUT
        with _translated(self):
            found = self._tasks.find(_condition(which), projection, batch_size=_PAGE)
            if not in_any_order:
                # Where no index gives the order, documents with their output may be more than the server sorts in
                # memory.
                found = found.sort("_id", DESCENDING if newest_first else ASCENDING).allow_disk_use(True)
        return map(Task.from_document, self._all_of(found, limit))

    def _all_of(self, found: Any, limit: int | None) -> Iterator[Document]:
        """The documents of a cursor, which is closed with the iterator."""
        with found if limit is None else found.limit(limit):
            while limit != 0:  # to the server, 0 means all
                with _translated(self):
                    document = next(found, None)
                if document is None:
                    return
                yield document

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

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, failed_too: bool = False
    ) -> int:
        deleted = 0
        with _translated(self):
            for start in range(0, len(tasks), _IDS_IN_CONDITION):
                ids = list(tasks[start : start + _IDS_IN_CONDITION])
                keyed = self._tasks.find(
                    {"_id": {"$in": ids}, "unique_key": {"$type": "string"}}, {"queue": 1, "unique_key": 1}
                )
                keys = {one["_id"]: key for one in keyed if (key := _key_of(one)) is not None}
                locks = self._keys.locks_of(keys)  # as they are before anybody can know that the task is gone
                which = {"_id": {"$in": ids}, "awaited": {"$ne": True}, **_status_condition(statuses, failed_too)}
                deleted += self._tasks.delete_many(which).deleted_count
                # What goes with them goes afterwards, and with those as well that an earlier try has deleted.
                left = {one["_id"] for one in self._tasks.find({"_id": {"$in": ids}}, {"_id": 1})}
                gone = [task_id for task_id in ids if task_id not in left]
                self._keys.release([(keys[one], locks[one]) for one in gone if one in locks])
                self._delete_files(
                    [one["_id"] for one in self._files.find({"metadata.task_id": {"$in": gone}}, {"_id": 1})]
                )
        return deleted

    def oldest_waiting(self) -> dict[QueueId, datetime]:
        oldest: dict[QueueId, datetime] = {}
        with _translated(self):
            for queue in self.waiting_queues():
                waiting = {"status": int(Status.CREATED), "queue": {"$eq": queue}}
                # Of each priority the index has the one first that was created first. A missing one is not among them.
                priorities = [one for one in self._tasks.distinct("priority", waiting) if one is not None]
                for priority in (None, *priorities):
                    first = self._tasks.find_one(
                        {**waiting, "priority": {"$eq": priority}}, {"ctime": 1}, sort=[("_id", ASCENDING)]
                    )
                    ctime = first.get("ctime") if first is not None else None
                    if isinstance(ctime, datetime):
                        oldest[queue] = min(ctime, oldest.get(queue, ctime))
        return oldest

    def documents_of(self, collection: str, condition: Document, limit: int | None = None) -> Iterator[Document]:
        with _translated(self):
            try:
                query = json_util.loads(orjson.dumps(condition))
            except (TypeError, ValueError) as error:  # such as {"$oid": 5}
                raise StoreRefusedError(
                    f"expected a condition in MongoDB's Extended JSON, found one that is none: {_short(error)}"
                ) from error
            # In an order that stays the same, so that whoever has to begin anew finds the place.
            found = self._database[collection].find(query, batch_size=_PAGE).sort("_id", ASCENDING)
            return self._all_of(found.allow_disk_use(True), limit)

    # --- notes

    def read_note(self, name: str) -> Document | None:
        with _translated(self):
            found = self._notes.find_one({"_id": _note_id(name)})
        return None if found is None else found.get("document")

    def write_note(self, name: str, document: Document | None) -> None:
        with _translated(self):
            if document is None:
                self._notes.delete_one({"_id": _note_id(name)})
            else:
                self._notes.replace_one({"_id": _note_id(name)}, {"document": document}, upsert=True)

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

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        _check_names(set)
        fields = {name: {"$literal": value} for name, value in set.items()}
        key = {"_id": node_id, "session": session}
        update = [{"$set": {**fields, "heartbeat": _dated(set.get("heartbeat"))}}]
        with _translated(self):
            found = self._nodes.find_one_and_update(
                key, update, projection={"requests": 1}, return_document=ReturnDocument.AFTER
            )
        if found is None:
            return None
        requests = found.get("requests")
        return requests if isinstance(requests, Mapping) else {}

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        _check_names([name])
        place = f"requests.{name}"
        update = {"$unset": {place: ""}} if value is None else {"$set": {place: value}}
        with _translated(self):
            return self._nodes.update_one({"_id": node_id}, update).matched_count > 0

    def remove_node(self, node_id: str, session: str | None) -> bool:
        with _translated(self):
            return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        with _translated(self):
            waiting = self._tasks.distinct("queue", {"status": int(Status.CREATED)})
        return {queue for queue in waiting if _is_usable(queue)}

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, begin: Begin | None = None) -> list[Task]:
        """The spec's second way, in batches: find what is free, write the claim (and what `begin` wants written) into
        each that still is, and where not all were, ask which carry the mark.

        A task without priority counts as 0. Where another node was faster, what is missing is picked at random from
        the next ones, so that two nodes do not go on fighting for the same: the order is then only about kept.
        """
        got: list[list[Task]] = [[] for _ in wanted]
        most = [want.count for want in wanted]
        granted: dict[int, int] = {}  # of those that have a limit over all nodes
        dates: dict[QueueId, datetime] = {}  # of the claims of queues with a rate: when the server has granted them
        open_places = list(range(len(wanted)))
        with _translated(self):
            try:
                for attempt in range(_CLAIM_TRIES):
                    found: dict[int, list[Document]] = {}
                    for place in open_places:
                        want = wanted[place]
                        left = most[place] - len(got[place])
                        if attempt == 0:
                            found[place] = self._waiting(want, left)
                            if want.maxtotal is not None or want.rate is not None:
                                in_hand = self._in_hand(node_id, want.queue, want.in_hand)
                                granted[place] = left = len(found[place])  # perhaps, should the answer be lost
                                granted[place] = left = self._limits.grant(node_id, want, left, in_hand, dates)
                                most[place], found[place] = left, found[place][:left]
                        else:
                            ids = [one["_id"] for one in self._waiting(want, left * _CLAIM_SPREAD, {"priority": 1})]
                            picked = sorted(random.sample(range(len(ids)), min(left, len(ids))))
                            found[place] = self._documents([ids[number] for number in picked])
                    chosen = list(itertools.chain.from_iterable(found.values()))
                    won = self._take(chosen, node_id, token, begin, dates)
                    for place, documents in found.items():
                        got[place] += [won[one["_id"]] for one in documents if one["_id"] in won]
                    # All that was found was won: that is enough, or nothing more waits.
                    open_places = [place for place in found if any(one["_id"] not in won for one in found[place])]
                    if not open_places:
                        break
                for place, count in granted.items():
                    if len(got[place]) < count:  # others were faster: the places are theirs
                        self._give_back(node_id, wanted[place], len(got[place]))
            except BaseException:
                until = self._clock.monotonic() + _DOUBT_SECONDS
                self._in_doubt |= {(node_id, wanted[place].queue): (count, until) for place, count in granted.items()}
                raise
        return list(itertools.chain.from_iterable(got))

    def _give_back(self, node_id: str, want: Want, got: int) -> None:
        """The places of a queue that were granted and not needed."""
        if want.maxtotal is not None:
            self._limits.tell(node_id, want.queue, self._in_hand(node_id, want.queue, want.in_hand) + got)

    def _in_hand(self, node_id: str, queue: QueueId, known: int) -> int:
        """How many tasks of a queue a node has in hand at most. It knows only of those whose claim it has got an answer
        to: after an answer was lost, the store says how many there are, and for a while there may be more to come."""
        if (node_id, queue) not in self._in_doubt:
            return known
        more, until = self._in_doubt[node_id, queue]
        found = self._tasks.count_documents({"node": node_id, "status": {"$in": _IN_HAND}, "queue": queue})
        if self._clock.monotonic() < until:
            return max(known, found) + more
        if found <= known:  # those that it did not know of were given back
            del self._in_doubt[node_id, queue]
        return max(known, found)

    def _waiting(self, want: Want, count: int, projection: Document | None = None) -> list[Document]:
        """The first of a queue that are free, a missing priority being 0."""
        waiting = {
            "status": int(Status.CREATED),
            "queue": {"$eq": want.queue, "$not": {"$type": "array"}},  # a list would match each of its elements
            "node": _UNCLAIMED,
            **_USABLE_ID,
        }

        def find(
            priority: Document, order: Sequence[tuple[str, int]], limit: int, fields: Document | None = projection
        ) -> list[Document]:
            # To the server, a limit of 0 means all.
            found = self._tasks.find({**waiting, **priority}, fields).sort(list(order)).limit(limit)
            return list(found) if limit > 0 else []

        by_age = [("_id", ASCENDING)]
        by_priority = [("priority", DESCENDING), *by_age]
        chosen: dict[TaskId, Document] = {}
        if not want.newest_first:
            rows = find({}, by_priority, count)
            if all(_is_before_zero_or_missing(row.get("priority")) for row in rows):
                return rows
            # In the index a missing one comes after all numbers. Where there are others of 0 or less, or of no number,
            # ask for each part of the order by itself; the index serves each.
            for part, order in (({"$gt": 0}, by_priority), ({"$in": [0, None]}, by_age), ({"$lt": 0}, by_priority)):
                chosen |= {row["_id"]: row for row in find({"priority": part}, order, count - len(chosen))}
            chosen |= {row["_id"]: row for row in rows if row["_id"] not in chosen}  # at last those of no number
            return list(chosen.values())[:count]
        # The index has the newest last within a priority: it is read backwards, from one priority to the next.
        newest = [("_id", DESCENDING)]
        head = find({}, by_priority, min(count, 1), {"priority": 1})
        if not head:
            return []
        if head[0].get("priority") is None:  # and so all others
            return find({"priority": None}, newest, count)
        for part in ({"$gt": 0}, {"$in": [0, None]}, {"$lt": 0}):
            if "$in" in part:
                chosen |= {row["_id"]: row for row in find({"priority": part}, newest, count - len(chosen))}
                continue
            bounds: Document = dict(part)
            while len(chosen) < count and (head := find({"priority": bounds}, by_priority, 1, {"priority": 1})):
                highest = head[0]["priority"]
                rows = find({"priority": {"$eq": highest}}, newest, count - len(chosen))
                chosen |= {row["_id"]: row for row in rows}
                bounds["$lt"] = highest
        if len(chosen) < count:  # at last those of no number
            chosen |= {row["_id"]: row for row in find({}, by_priority, count) if row["_id"] not in chosen}
        return list(chosen.values())[:count]

    def _documents(self, ids: Sequence[TaskId]) -> list[Document]:
        """These tasks, in this order, as far as they are still there."""
        found = {document["_id"]: document for document in self._tasks.find({"_id": {"$in": list(ids)}})}
        return [found[task_id] for task_id in ids if task_id in found]

    def _take(
        self,
        documents: Sequence[Document],
        node_id: str,
        token: str,
        begin: Begin | None,
        dates: Mapping[QueueId, datetime],
    ) -> dict[TaskId, Task]:
        """Claim those of these tasks that are still free and as they were read."""
        if not documents:
            return {}
        now = self.now()
        tasks: dict[TaskId, Task] = {}
        changes: list[RunChange] = []
        writes: list[UpdateOne] = []
        for document in documents:
            claim = {"token": token, "at": dates.get(document["queue"], now)}
            mark = {"status": int(Status.CLAIMED), "node": node_id, "mtime": now, "claim": claim}
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
        due = {"status": int(Status.BLOCKED), "not_before": {"$lte": now}, "after": _NOT_AFTER}
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

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        with _translated(self):
            self._limits.hold(
                node_id, {queue: self._in_hand(node_id, queue, count) for queue, count in in_hand.items()}
            )

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        waiting = {"$in": _WAITING}
        is_asked = {"$exists": True}
        kinds: list[Document] = [
            {"status": int(Status.RUNNING), "node": node_id, "cancel.at": is_asked},
            {"status": {"$in": [int(Status.ORPHANED), *_WAITING]}, "cancel.at": is_asked},
            # A status that is no number is none that anything could come of.
            {"awaited": True, "status": {"$nin": sorted(int(one) for one in UNFINISHED), "$type": "number"}},
            {"status": waiting, "expires": {"$lte": self.now()}},
        ]
        with _translated(self):
            # Nothing but the kinds: so the server looks for the index of each by itself, and finds its own.
            found = self._tasks.find({"$or": kinds}, _NO_OUTPUT).limit(limit * len(kinds))
            tasks: dict[str, list[Task]] = {"cancel": [], "awaited": [], "expires": []}
            for document in found:
                if not _is_usable(document["_id"]):
                    continue
                kind = "cancel" if "cancel" in document else "awaited" if document.get("awaited") is True else "expires"
                tasks[kind].append(Task.from_document(document))
        return [task for of_kind in tasks.values() for task in of_kind[:limit]]

    def has_unfinished(self, queues: Sequence[QueueId]) -> bool:
        active = [int(Status.CREATED), *_IN_HAND]
        with _translated(self):
            for queue in queues:
                if self._tasks.find_one({"status": {"$in": active}, "queue": queue}, {"_id": 1}) is not None:
                    return True
                blocked = {
                    "status": int(Status.BLOCKED),
                    "queue": queue,
                    "not_before": {"$exists": True},
                    "after": _NOT_AFTER,
                }
                if self._tasks.find_one(blocked, {"_id": 1}) is not None:
                    return True
        return False

    def written_by_others(self) -> None:
        return None

    def watch(self, *, ends: bool = True) -> MongoWatcher:
        return MongoWatcher(self._connect, self._database_name, ends=ends)


_Key = tuple[QueueId, str]  # a queue, and the `unique_key` of one of its tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lock:
    """Which task has a key, as `_Keys.take` has left it."""

    task: TaskId
    mark: ObjectId | None  # of what was written for the caller; None: another unfinished task has the key
    until: datetime | None = None  # by when a task that is run again has to be unfinished


class _Keys:
    """Which task has a `unique_key`: a document for each key of a queue, {task, at, mark, retrying_until}.

    No unique index on tasks could say it: it would have to know which are unfinished, and on a sharded collection it
    would have to begin with the shard key. So whoever creates a task with a key takes the key first.

    1. Every write gets a new `mark`, and every change is made only where the mark is still the one that was read: of
       several that want to change one lock, one does, and the others read again.
    2. First the lock is read, then the task that it names. The task can have become unfinished only after the lock had
       been touched for it (5), so a task that is finished and a mark that is still the same mean that nobody has it.
    3. The task that is named is not there, and the lock is younger than `_KEY_SECONDS`: somebody is about to create it,
       or has died. Whoever comes creates a task under the same id. If the first one lives, its insert finds the id
       there, and both have the same task; if not, nobody was told of a task that never came.
    4. It is not there, and the lock is older: it was deleted, or it was never created. The key is taken over. Should
       who was about to create it only have stood still, it looks for that after its insert (`_withdraw_overtaken`).
    5. A finished task is run again: its lock is touched first, and says until when the task becomes unfinished
       (`retrying_until`). Whoever reads the lock in between waits for what becomes of it; the change of the task is
       made only while it is not that late yet, by the server's clock. Who dies in between delays others for that long.
    6. A task that ends leaves its lock, which costs nothing; one that is deleted takes it along.
    """

    def __init__(self, locks: Any, tasks: Any, now: Callable[[], datetime]) -> None:
        self._locks = locks
        self._tasks = tasks
        self._now = now

    def take(self, wanted: Mapping[_Key, TaskId], *, to_retry: bool = False) -> dict[_Key, _Lock]:
        """Give each key to its task, where no other unfinished one has it. `to_retry`: the tasks have ended, and are
        about to be run again; else they are about to be created, each under the id that comes back."""
        taken: dict[_Key, _Lock] = {}
        left = dict(wanted)
        while left:
            until = self._now() + timedelta(seconds=_RETRY_SECONDS) if to_retry else None
            new = {key: _Lock(task=task, mark=ObjectId(), until=until) for key, task in left.items()}
            held = self._insert(new)
            taken |= {key: lock for key, lock in new.items() if key not in held}
            changes: dict[_Key, tuple[_Lock, Document]] = {}
            found = self._find(held)
            which = {"_id": {"$in": [one["task"] for one in found.values()]}}
            holders = {one["_id"]: one for one in self._tasks.find(which, {"status": 1, "queue": 1, "unique_key": 1})}
            now = self._now()
            is_waiting = False
            for key, document in found.items():  # what is not found was released just now: insert it again
                holder, own = document["task"], new[key]
                retrying_until = document.get("retrying_until")
                if holder in holders:
                    status = whole_number(holders[holder].get("status"))
                    if _key_of(holders[holder]) != key:  # a task without it has got the id
                        changes[key] = own, document
                    elif status is not None and not is_finished(status):
                        taken[key] = _Lock(task=holder, mark=None)
                    elif holder != left[key] and isinstance(retrying_until, datetime) and retrying_until > now:
                        is_waiting = True
                    else:
                        changes[key] = own, document
                elif holder != left[key] and now - document["at"] < timedelta(seconds=_KEY_SECONDS):
                    if to_retry:
                        taken[key] = _Lock(task=holder, mark=None)
                    else:
                        changes[key] = _Lock(task=holder, mark=own.mark), document
                else:
                    changes[key] = own, document
            taken |= self._change(changes)
            left = {key: task for key, task in left.items() if key not in taken}
            if is_waiting:
                time.sleep(_RETRY_POLL_SECONDS)
        return taken

    def _insert(self, locks: Mapping[_Key, _Lock]) -> list[_Key]:
        """Take those that nobody has; which of them somebody has."""
        keys = list(locks)
        try:
            self._locks.insert_many(
                [{"_id": _lock_id(key), **self._fields(lock)} for key, lock in locks.items()], ordered=False
            )
        except driver.BulkWriteError as error:
            failures = error.details.get("writeErrors", ())
            if error.details.get("writeConcernErrors") or not all(_is_same_id(one) for one in failures):
                raise
            return [keys[one["index"]] for one in failures]
        return []

    def _change(self, changes: Mapping[_Key, tuple[_Lock, Document]]) -> dict[_Key, _Lock]:
        """Write each lock over the document that was read of it; those where nobody was faster."""
        if not changes:
            return {}
        writes = []
        for key, (lock, document) in changes.items():
            fields = self._fields(lock)
            update: Document = {"$set": fields}
            if "retrying_until" not in fields:
                update["$unset"] = {"retrying_until": ""}
            writes.append(UpdateOne({"_id": _lock_id(key), "mark": document.get("mark")}, update))
        self._locks.bulk_write(writes, ordered=False)
        now = self._find(list(changes))
        return {key: lock for key, (lock, _) in changes.items() if key in now and now[key].get("mark") == lock.mark}

    def _fields(self, lock: _Lock) -> Document:
        until = {} if lock.until is None else {"retrying_until": lock.until}
        return {"task": lock.task, "at": self._now(), "mark": lock.mark, **until}

    def _find(self, keys: Sequence[_Key]) -> dict[_Key, Document]:
        if not keys:
            return {}
        found = self._locks.find({"_id": {"$in": [_lock_id(key) for key in keys]}})
        return {(one["_id"]["queue"], one["_id"]["key"]): one for one in found}

    def holders(self, keys: Sequence[_Key]) -> dict[_Key, TaskId]:
        """Which task has each of these keys now."""
        return {key: document["task"] for key, document in self._find(keys).items()}

    def locks_of(self, keys: Mapping[TaskId, _Key]) -> dict[TaskId, _Lock]:
        """Of these tasks, those that have their keys."""
        found = self._find(list(keys.values()))
        return {
            task_id: _Lock(task=task_id, mark=found[key].get("mark"))
            for task_id, key in keys.items()
            if key in found and found[key]["task"] == task_id
        }

    def release(self, locks: Iterable[tuple[_Key, _Lock]]) -> None:
        """Remove locks that nobody has touched since."""
        writes = [DeleteOne({"_id": _lock_id(key), "mark": lock.mark}) for key, lock in locks if lock.mark is not None]
        if writes:
            self._locks.bulk_write(writes, ordered=False)

    def end_retry(self, locks: Iterable[tuple[_Key, _Lock]]) -> None:
        """What was to become of the tasks has become of them: nobody need wait any more."""
        writes = [
            UpdateOne(
                {"_id": _lock_id(key), "mark": lock.mark},
                {"$set": {"mark": ObjectId()}, "$unset": {"retrying_until": ""}},
            )
            for key, lock in locks
            if lock.mark is not None
        ]
        if writes:
            self._locks.bulk_write(writes, ordered=False)


def _lock_id(key: _Key) -> Document:
    return {"queue": key[0], "key": key[1]}


class _Limits:
    """What holds over all nodes: a document for each queue that has such a limit, {held, rate_from, granted,
    granted_at}.

    `held.<node>` is how many of the queue's tasks a node may have in hand: never less than it has. It is written before
    tasks are claimed and lowered after they have ended, so the sum is never below the truth, whoever dies in between.
    Absolute numbers: a write whose answer was lost does no harm when it is made again.

    `rate_from`, in milliseconds of the server's clock: from when on a whole burst could be granted if nothing were
    granted until then (GCRA, "theoretical arrival time"). Each grant moves it by one interval.
    """

    def __init__(self, limits: Any) -> None:
        self._limits = limits

    def grant(
        self, node_id: str, want: Want, count: int, in_hand: int, dates: MutableMapping[QueueId, datetime]
    ) -> int:
        """How many of `count` tasks this node may claim now, beside the `in_hand` that it has. With a rate, `dates` has
        then the moment of the grant: by it, the rate holds exactly, however long the claim itself takes."""
        if count <= 0:
            if want.maxtotal is not None:
                self.tell(node_id, want.queue, in_hand)
            return 0
        granted: Any = count
        if want.maxtotal is not None:
            held = {"$objectToArray": {"$ifNull": ["$held", {}]}}
            others = {"$filter": {"input": held, "cond": {"$ne": ["$$this.k", node_id]}}}
            of_others = {"$sum": {"$map": {"input": others, "in": "$$this.v"}}}
            granted = {"$max": [0, {"$min": [count, {"$subtract": [want.maxtotal - in_hand, of_others]}]}]}
        stages: list[Document] = [{"$set": {"granted": granted}}]
        if want.rate is not None:
            stages += [*_rate_stages(want.rate), {"$set": {"granted_at": "$$NOW"}}]
        if want.maxtotal is not None:
            stages.append({"$set": {"held": {"$mergeObjects": ["$held", {node_id: {"$add": [in_hand, "$granted"]}}]}}})
        for is_last in (False, True):
            try:
                document = self._limits.find_one_and_update(
                    {"_id": want.queue},
                    stages,
                    projection={"granted": 1, "granted_at": 1},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except driver.DuplicateKeyError:  # another node has made the document at the same moment
                if is_last:
                    raise
            else:
                if want.rate is not None:
                    dates[want.queue] = document["granted_at"]
                return int(document["granted"])
        raise AssertionError("the loop returns or raises")

    def tell(self, node_id: str, queue: QueueId, in_hand: int) -> None:
        """The node has so many of this queue in hand."""
        place = f"held.{node_id}"
        if in_hand > 0:
            self._limits.update_one({"_id": queue}, {"$set": {place: in_hand}}, upsert=True)
        else:
            self._limits.update_one({"_id": queue, place: {"$exists": True}}, {"$unset": {place: ""}})

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        place = f"held.{node_id}"
        left = [queue for queue, count in in_hand.items() if count > 0]
        self._limits.update_many({"_id": {"$nin": left}, place: {"$exists": True}}, {"$unset": {place: ""}})
        for queue in left:
            self.tell(node_id, queue, in_hand[queue])


def _rate_stages(rate: Rate) -> list[Document]:
    """Of what is `granted` so far, no more than the rate allows now."""
    interval = rate.interval_seconds * 1000
    burst = rate.burst
    now = {"$toDouble": {"$toLong": "$$NOW"}}
    # Not before now: what was not used is not saved up. And not further away than grants alone can move it: a clock
    # that was wrong, or a rate that was slower, must not stop the queue for long.
    begin = {"$min": [{"$max": [{"$ifNull": ["$rate_from", 0.0]}, now]}, {"$add": [now, burst * interval]}]}
    allowed = {"$floor": {"$add": [burst, {"$divide": [{"$subtract": [now, "$rate_from"]}, interval]}]}}
    return [
        {"$set": {"rate_from": begin}},
        {"$set": {"granted": {"$max": [0, {"$min": ["$granted", allowed]}]}}},
        {"$set": {"rate_from": {"$add": ["$rate_from", {"$multiply": ["$granted", interval]}]}}},
    ]


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
    same = {
        "queue": which.queue,
        "node": which.node,
        "unique_key": which.unique_key,
        "error.code": which.error_code,
        "after": which.after,
        "parent": which.parent,
    }
    condition: Document = {name: value for name, value in same.items() if value is not None}
    if which.ids is not None:
        condition["_id"] = {"$in": list(which.ids)}
    for name, since, before in (
        ("ctime", which.created_since, which.created_before),
        ("mtime", which.changed_since, which.changed_before),
    ):
        bounds = {"$gte": since, "$lt": before}
        if since is not None or before is not None:
            condition[name] = {operator: moment for operator, moment in bounds.items() if moment is not None}
    return condition | _status_condition(which.statuses, which.failed_too)


def _status_condition(statuses: frozenset[int] | None, failed_too: bool) -> Document:
    if statuses is None:
        return {}
    exact = sorted(int(status) for status in statuses)
    condition: Document = {"status": exact[0] if len(exact) == 1 else {"$in": exact}}
    return {"$or": [condition, {"status": {"$gt": int(Status.FAILED)}}]} if failed_too else condition


def _guard_of_task(change: TaskChange) -> Document:
    guard: Document = {"_id": change.task_id, **_status_condition(change.statuses, change.failed_too)}
    if change.mtime is not None:
        guard["mtime"] = change.mtime
    return guard


def _update_of_task(change: TaskChange) -> Any:
    plain = _update(change.set, change.unset)
    if "status" not in change.set or "awaited" in change.set:
        return plain
    # One update, so that nobody can die in between: who waits for its end waits for the next one. Among those that end
    # without a run, an Orphaned one has been told as such, and its followers are told anew.
    is_awaited_anew = change.set["status"] in _WAITING or int(Status.ORPHANED) in change.statuses
    if not is_awaited_anew:
        return plain
    fields = {name: {"$literal": value} for name, value in change.set.items()}
    awaited = {"$cond": [{"$eq": [{"$type": "$awaited"}, "missing"]}, "$$REMOVE", True]}
    return [{"$set": {**fields, "awaited": awaited}}, {"$unset": ["telling", *change.unset]}]


def _may_revive(change: TaskChange) -> bool:
    """Whether it may make a task unfinished that was not."""
    status = change.set.get("status")
    return status in UNFINISHED and (change.failed_too or any(is_finished(one) for one in change.statuses))


def _shows_change(document: Document | None, change: TaskChange) -> bool:
    """Whether a task is as the change would have left it. One that is run again may have moved on since."""
    if document is None:
        return False
    if "retried" in change.set:
        return bool(document.get("retried") == _as_stored(change.set["retried"]))
    return all(name in document and document[name] == _as_stored(value) for name, value in change.set.items()) and all(
        name not in document for name in change.unset
    )


def _after(document: Mapping[str, Any]) -> list[TaskId]:
    """The ids of the tasks that it waits for."""
    after = document.get("after")
    return [one for one in after if _is_usable(one)] if isinstance(after, (list, tuple)) else []


def _key_of(document: Mapping[str, Any]) -> _Key | None:
    queue, key = document.get("queue"), document.get("unique_key")
    return (queue, key) if isinstance(key, str) and _is_usable(queue) else None


def _is_same_id(failure: Mapping[str, Any]) -> bool:
    """Whether an insert has failed because the id is there already. An index of another program may be unique, too."""
    return failure.get("code") == _DUPLICATE_KEY and failure.get("keyPattern", {"_id": 1}) == {"_id": 1}


def _note_id(name: str) -> str:
    return f"note:{name}"  # the layout's version is in the same collection


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
