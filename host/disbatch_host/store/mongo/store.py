"""The cluster's store: any MongoDB that users have, in the documents of den-1.0.

Responsible for: the interface of `base` on collections `queues`, `tasks`, `nodes` and the GridFS bucket `tasks`. Must
not know: who calls, what a change means.

Rules:
1. Writes are acknowledged by a majority and journaled; a claim reads from the primary what it has just written.
2. Every hot query is covered by an index of `layout` (tests hold their plans).
3. A write whose answer was lost is sent again by the driver once, and by our callers as often as needed: every write
   here can be made twice.
4. Time is the server's: it dates heartbeats and tells their age itself, and `now` follows it by the monotonic clock, so
   that neither the clocks of nodes nor their jumps matter.
5. The driver's exceptions end in `_translated`; none of its types leaves this package, but for ids and values that are
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pymongo
from bson import json_util
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING, ReturnDocument, UpdateOne, WriteConcern
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from disbatch_host import __version__
from disbatch_host.clock import Clock, to_milliseconds
from disbatch_host.errors import StoreRefusedError, UsageError
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
from disbatch_host.store.base import Begin
from disbatch_host.store.mongo import driver_errors, forms, layout, limits, unique_keys
from disbatch_host.store.mongo.watcher import MongoWatcher
from disbatch_host.store.open import redact
from disbatch_protocol.status import ENDED, UNFINISHED, Status

log = logging.getLogger(__name__)

DEFAULT_DATABASE = "disbatch"
SELECT_SECONDS = 3.5  # for a server to be found; contract: an unreachable MongoDB is said within 5 s of the command
SOCKET_SECONDS = 20.0  # for one answer; a server that is stopped must not hold a node for ever
CLOCK_SECONDS = 10.0  # for how long the server's clock is followed without asking again
_PIECES_BYTES = 8 * 2**20  # of output pieces in one write: the driver copies them twice before it sends them
_PAGE = 500
_IDS_IN_CONDITION = 10_000  # a condition is a document of 16 MB at most
_CLAIM_TRIES = 3  # in one call, where another node was faster
_CLAIM_SPREAD = 4  # of how many times as many tasks as are wanted a further try picks
_TICKS = 2**16  # in a second: how fine ids are dated
_DOUBT_SECONDS = 30.0  # a claim whose answer was lost is carried out within it, or never: SOCKET_SECONDS, and a bit


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
        self._staged: _Staged | None = None  # what `commit` leaves to the next write of a `together`
        self._in_doubt: dict[tuple[str, QueueId], tuple[int, float]] = {}  # see `_in_hand`
        is_srv = url.startswith("mongodb+srv:")
        try:
            parsed = {} if is_srv else pymongo.uri_parser.parse_uri(url, validate=True, warn=False)
        except OSError as error:  # a file of certificates that the URI names
            raise UsageError(f"{self._description}: {driver_errors.of_file(error)}") from None
        except (driver.InvalidURI, driver.ConfigurationError, ValueError) as error:
            raise UsageError(
                f"expected mongodb://host/database, found {self._description}: {driver_errors.harmless(error, url)}"
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
        with self._translated():
            self._client = client = self._connect()
            try:
                self._database = client.get_database(
                    self._database_name,
                    codec_options=forms.CODEC,
                    write_concern=WriteConcern(w="majority", j=True),
                    read_concern=ReadConcern("local"),
                    read_preference=ReadPreference.PRIMARY,
                )
                self._tasks, self._queues = self._database["tasks"], self._database["queues"]
                self._nodes = self._database["nodes"]
                self._files, self._chunks = self._database["tasks.files"], self._database["tasks.chunks"]
                self._notes = self._database[layout.LAYOUT_COLLECTION]
                self._keys = unique_keys.Keys(self._database["disbatch_keys"], self._tasks, self.now)
                self._limits = limits.Limits(self._database["disbatch_limits"])
                layout.check(self._database, self.description)
                layout.create_indexes(self._database)
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

    def _translated(self, duplicate: str = "") -> contextlib.AbstractContextManager[None]:
        return driver_errors.translated(self.description, self._url, duplicate)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        # No transaction: those are for replica sets only, and cost more than they save here.
        self._staged = _Staged()
        try:
            yield
            with self._translated():
                self._write_staged()
        finally:
            self._staged = None

    def _write_staged(self) -> None:
        """Write by itself what a `commit` has left."""
        changes, refused = self._take_staged()
        if changes:
            refused |= self._carry_out(changes)

    def _take_staged(self) -> tuple[Sequence[RunChange], set[RunKey]]:
        return self._staged.take() if self._staged is not None else ((), set())

    def hurry(self) -> None:
        """Nothing to do: no answer is waited for much longer than SOCKET_SECONDS."""

    def now(self) -> datetime:
        if self._clock.monotonic() - self._server_asked > CLOCK_SECONDS:
            with self._translated():
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
        return forms.object_id(text) or text or None

    def extended_json(self, value: object) -> object:
        """Relaxed Extended JSON, as MongoDB's own tools write it."""
        return orjson.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))

    # --- queues

    def queues(self) -> list[Queue]:
        with self._translated():
            found = [Queue.from_document(document) for document in self._queues.find(forms.USABLE_ID)]
        return sorted(found, key=lambda queue: str(queue.id))

    def find_queue(self, text: str) -> Queue | None:
        with self._translated():
            found = self._queues.find_one({"_id": text})
            object_id = forms.object_id(text)
            if found is None and object_id is not None:
                found = self._queues.find_one({"_id": object_id})
        return None if found is None else Queue.from_document(found)

    def insert_queue(self, document: Document) -> QueueId:
        with self._translated(duplicate=f"queue {document.get('_id')!r} exists already; choose another id"):
            return self._queues.insert_one(dict(document)).inserted_id

    def update_queue(self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str] = ()) -> bool:
        with self._translated():
            return self._queues.update_one({"_id": queue}, forms.update(set, unset)).matched_count > 0

    def delete_queue(self, queue: QueueId) -> bool:
        with self._translated():
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
        with self._translated(duplicate="a task with one of these ids exists already"):
            return self._insert(copies, again=again)

    def _insert(self, documents: Sequence[Document], *, again: bool) -> list[TaskId]:
        began = self._clock.monotonic()
        ids = [document["_id"] for document in documents]
        keys = [forms.key_of(document) for document in documents]
        # Of an earlier call, what it has created stays what is meant, whoever has the key by now.
        keyed = [task_id for task_id, key in zip(ids, keys, strict=True) if key is not None] if again else []
        there = {one["_id"] for one in self._tasks.find({"_id": {"$in": keyed}}, {"_id": 1})} if keyed else set()
        first: dict[forms.Key, int] = {}  # of several of one call, the first one asks for the key
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
        waits_for = list({one for document in created for one in forms.after(document)})
        self._mark_awaited(waits_for)
        ours = {lock.task: key for key, lock in locks.items() if lock.mark is not None}
        try:
            self._create(created, ours, again=again)
        except driver.ConnectionFailure:
            raise  # they may be there or still come, so the keys stay theirs; see `unique_keys.Keys`
        except Exception:
            with contextlib.suppress(driver.PyMongoError):
                found = self._tasks.find({"_id": {"$in": list(ours)}}, {"queue": 1, "unique_key": 1})
                created_ids = {one["_id"] for one in found if forms.key_of(one) == ours[one["_id"]]}
                self._keys.release([(key, lock) for key, lock in locks.items() if lock.task not in created_ids])
            raise
        self._mark_awaited(waits_for)
        if ours and self._clock.monotonic() - began > unique_keys.KEY_SECONDS / 2:
            instead = self._withdraw_overtaken(ours)
            ids = [instead.get(task_id, task_id) for task_id in ids]
        return ids

    def _create(self, documents: Sequence[Document], keys: Mapping[TaskId, forms.Key], *, again: bool) -> None:
        """Insert them. One that is there already is fine where that is what an earlier call has done, or, of those with
        a key, somebody else for this one (`unique_keys.Keys`, rule 3)."""
        try:
            if documents:
                self._tasks.insert_many(documents, ordered=False)
        except driver.BulkWriteError as error:
            failures = error.details.get("writeErrors", ())
            doubles = {documents[one["index"]]["_id"] for one in failures if driver_errors.is_same_id(one)}
            if error.details.get("writeConcernErrors") or len(doubles) < len(failures):
                raise
            if not again:
                found = self._tasks.find({"_id": {"$in": list(doubles)}}, {"queue": 1, "unique_key": 1})
                if doubles - {one["_id"] for one in found if forms.key_of(one) == keys.get(one["_id"], ())}:
                    raise

    def _withdraw_overtaken(self, keys: Mapping[TaskId, forms.Key]) -> dict[TaskId, TaskId]:
        """This process stood still for so long that others took the tasks that it was about to create for lost, and
        their keys over: take them back where nobody has begun with them. Instead of which there is which other."""
        instead: dict[TaskId, TaskId] = {}
        holders = self._keys.holders(list(keys.values()))
        for task_id, key in keys.items():
            holder = holders.get(key, task_id)
            if holder != task_id:
                untouched = {"_id": task_id, "status": {"$in": forms.WAITING}, "node": forms.UNCLAIMED, "claim": None}
                if self._tasks.delete_one(untouched).deleted_count:
                    instead[task_id] = holder
        return instead

    def _mark_awaited(self, tasks: Sequence[TaskId]) -> None:
        for start in range(0, len(tasks), _IDS_IN_CONDITION):
            writes = [
                UpdateOne({"_id": one, **forms.NOT_MARKED}, {"$set": {"awaited": True}, "$unset": {"telling": ""}})
                for one in tasks[start : start + _IDS_IN_CONDITION]
            ]
            self._tasks.bulk_write(writes, ordered=False)

    def change_tasks(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        refused: set[TaskId] = set()
        with self._translated():
            for start in range(0, len(changes), _PAGE):
                part = changes[start : start + _PAGE]
                told = [change for change in part if change.set.get("awaited") is False]
                refused |= self._change([change for change in part if change.set.get("awaited") is not False])
                refused |= self._tell(told) if told else set()
        return refused

    def _change(self, changes: Sequence[TaskChange]) -> set[TaskId]:
        if not changes:
            return set()
        keys, refused = self._keys_of_retried([change.task_id for change in changes if forms.may_revive(change)])
        locks = self._keys.take({key: task_id for task_id, key in keys.items()}, to_retry=True)
        refused |= {task_id for task_id, key in keys.items() if locks[key].task != task_id}
        written = [change for change in changes if change.task_id not in refused]
        writes = []
        for change in written:
            guard = forms.guard_of_task(change)
            lock = locks[keys[change.task_id]] if change.task_id in keys else None
            if lock is not None and lock.until is not None:
                # Not a moment later than others wait for it: by the server's clock, when it carries the change out.
                last = lock.until - timedelta(seconds=unique_keys.RETRY_MARGIN_SECONDS)
                guard["$expr"] = {"$lt": ["$$NOW", {"$literal": last}]}
            writes.append(UpdateOne(guard, forms.update_of_task(change)))
        if writes and self._tasks.bulk_write(writes, ordered=False).matched_count < len(writes):
            refused |= self._unseen(written)
        self._keys.end_retry([(key, locks[key]) for key in keys.values()])
        return refused

    def _keys_of_retried(self, tasks: Sequence[TaskId]) -> tuple[dict[TaskId, forms.Key], set[TaskId]]:
        """The keys of those of them that have one, one task of each; and the others of the same keys."""
        keys: dict[TaskId, forms.Key] = {}
        others: set[TaskId] = set()
        if tasks:
            which = {"_id": {"$in": list(tasks)}, "unique_key": {"$type": "string"}}
            for document in self._tasks.find(which, {"queue": 1, "unique_key": 1}):
                key = forms.key_of(document)
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
                forms.guard_of_task(change),
                forms.update(
                    {**{name: change.set[name] for name in change.set if name != "awaited"}, "telling": token}, ()
                ),
            )
            for change in changes
        ]
        self._tasks.bulk_write(announced, ordered=False)
        untold: set[TaskId] = set()
        is_told: Document = {"error.code": "after_failed"}
        # Who knows that it has concluded does not wait for it any more, nor does who does not mind how it ends.
        ignorant_of: dict[int | None, Document] = {
            int(Status.CONCLUDED): {},
            int(Status.ORPHANED): {"$nor": [is_told]},
            None: {"$nor": [{**is_told, "after_any": {"$ne": True}}]},
        }
        ended: dict[int | None, list[TaskId]] = {}
        for change in changes:
            (status, *others) = change.statuses
            ended.setdefault(status if status in ignorant_of and not others else None, []).append(change.task_id)
        for kind, ids in ended.items():
            which = {"after": {"$in": ids}, "status": int(Status.BLOCKED), **ignorant_of[kind]}
            for follower in self._tasks.find(which, {"after": 1}).limit(_PAGE):
                untold |= {one for one in forms.after(follower) if one in ids}
        told = [change for change in changes if change.task_id not in untold]
        writes = [
            UpdateOne(
                {**forms.guard_of_task(change), "telling": token},
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
        return {change.task_id for change in changes if not forms.shows_change(documents.get(change.task_id), change)}

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
        with self._translated():
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
        projection = None if with_output else forms.NO_OUTPUT
        with self._translated():
            found = self._tasks.find(forms.condition(which), projection, batch_size=_PAGE)
            if not in_any_order:
                # Where no index gives the order, documents with their output may be more than the server sorts in
                # memory.
                found = found.sort("_id", DESCENDING if newest_first else ASCENDING).allow_disk_use(True)
        return map(Task.from_document, self._all_of(found, limit))

    def _all_of(self, found: Any, limit: int | None) -> Iterator[Document]:
        """The documents of a cursor, which is closed with the iterator."""
        with found if limit is None else found.limit(limit):
            while limit != 0:  # to the server, 0 means all
                with self._translated():
                    document = next(found, None)
                if document is None:
                    return
                yield document

    def count_tasks(self, which: TaskFilter) -> int:
        with self._translated():
            return self._tasks.count_documents(forms.condition(which))

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        # The sort makes the server walk the index, which has all that is asked for.
        pipeline: list[Document] = [
            {"$sort": {"status": 1, "queue": 1}},
            {"$group": {"_id": {"queue": "$queue", "status": "$status"}, "count": {"$sum": 1}}},
        ]
        counts: dict[QueueId, dict[int, int]] = {}
        with self._translated():
            for group in self._tasks.aggregate(pipeline):
                key = group["_id"]
                status = whole_number(key.get("status"))
                if status is not None and forms.is_usable(key.get("queue")):
                    of_queue = counts.setdefault(key.get("queue"), {})
                    of_queue[status] = of_queue.get(status, 0) + group["count"]
        return counts

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, failed_too: bool = False
    ) -> int:
        deleted = 0
        with self._translated():
            for start in range(0, len(tasks), _IDS_IN_CONDITION):
                ids = list(tasks[start : start + _IDS_IN_CONDITION])
                keyed = self._tasks.find(
                    {"_id": {"$in": ids}, "unique_key": {"$type": "string"}}, {"queue": 1, "unique_key": 1}
                )
                keys = {one["_id"]: key for one in keyed if (key := forms.key_of(one)) is not None}
                locks = self._keys.locks_of(keys)  # as they are before anybody can know that the task is gone
                which = {"_id": {"$in": ids}, "awaited": {"$ne": True}, **forms.status_condition(statuses, failed_too)}
                deleted += self._tasks.delete_many(which).deleted_count
                # What goes with them goes afterwards, and with those as well that an earlier try has deleted.
                left = {one["_id"] for one in self._tasks.find({"_id": {"$in": ids}}, {"_id": 1})}
                gone = [task_id for task_id in ids if task_id not in left]
                self._keys.release([(keys[one], locks[one]) for one in gone if one in locks])
                self._delete_files(
                    [one["_id"] for one in self._files.find({"metadata.task_id": {"$in": gone}}, {"_id": 1})]
                )
        return deleted

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        # Nothing has ended before it was created, and an id tells when that was: the index has the old ones together.
        which = {
            "queue": {"$eq": queue},
            "_id": {"$lt": ObjectId.from_datetime(moment)},
            "mtime": {"$lt": moment},
        }
        with self._translated():
            for status in (*({"$eq": int(one)} for one in sorted(ENDED)), {"$gt": int(Status.FAILED)}):
                # Followers of what has failed may still wait for its being run again.
                free = {"$ne": True} if status == {"$eq": int(Status.CONCLUDED)} else {"$exists": False}
                found = self._tasks.find({**which, "status": status, "awaited": free}, {"_id": 1})
                found = found.hint(layout.BY_STATUS).limit(limit)
                if ids := [one["_id"] for one in found]:
                    return ids
        return []

    def oldest_waiting(self) -> dict[QueueId, datetime]:
        oldest: dict[QueueId, datetime] = {}
        with self._translated():
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
        with self._translated():
            try:
                query = json_util.loads(orjson.dumps(condition))
            except (TypeError, ValueError) as error:  # such as {"$oid": 5}
                words = driver_errors.short(error)
                raise StoreRefusedError(f"expected a condition in Extended JSON, found none: {words}") from error
            # In an order that stays the same, so that whoever has to begin anew finds the place.
            found = self._database[collection].find(query, batch_size=_PAGE).sort("_id", ASCENDING)
            return self._all_of(found.allow_disk_use(True), limit)

    # --- notes

    def read_note(self, name: str) -> Document | None:
        with self._translated():
            found = self._notes.find_one({"_id": forms.note_id(name)})
        return None if found is None else found.get("document")

    def write_note(self, name: str, document: Document | None, *, is_new: bool = False) -> bool:
        with self._translated():
            if document is None:
                return self._notes.delete_one({"_id": forms.note_id(name)}).deleted_count > 0
            if not is_new:
                self._notes.replace_one({"_id": forms.note_id(name)}, {"document": document}, upsert=True)
                return True
            try:
                self._notes.insert_one({"_id": forms.note_id(name), "document": document})
            except driver.DuplicateKeyError:
                return False
            return True

    def read_output(self, task: TaskId, token: str, stream: str) -> Iterator[bytes]:
        file_id = forms.file_id(task, token, stream)
        for number in itertools.count():
            with self._translated():
                found = self._chunks.find_one({"files_id": file_id, "n": number})
            if found is None:
                return
            yield bytes(found["data"])

    def delete_output(self, task: TaskId, token: str) -> None:
        with self._translated():
            self._delete_files([forms.file_id(task, token, stream) for stream in ("stdout", "stderr")])

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
        with self._translated():
            return [forms.node_record(one["document"], one["now"]) for one in self._nodes.aggregate(pipeline)]

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        # Our own session: the answer to an earlier try was lost. A null stands for the missing session of another
        # program's node.
        sessions = [] if document.get("session") is None else [document["session"]]
        if replacing is not None:
            sessions.append(replacing.session)
        whole = {"$mergeObjects": [{"$literal": document}, {"heartbeat": forms.dated(document.get("heartbeat"))}]}
        key = {"_id": document["_id"], "session": {"$in": sessions}}
        with self._translated():
            try:
                # Where nobody is to be replaced, whoever is there already makes the insert fail.
                result = self._nodes.update_one(key, [{"$replaceWith": whole}], upsert=replacing is None)
            except driver.DuplicateKeyError:
                return False
            return result.matched_count > 0 or result.upserted_id is not None

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        forms.check_names(set)
        fields = {name: {"$literal": value} for name, value in set.items()}
        key = {"_id": node_id, "session": session}
        update = [{"$set": {**fields, "heartbeat": forms.dated(set.get("heartbeat"))}}]
        with self._translated():
            found = self._nodes.find_one_and_update(
                key, update, projection={"requests": 1}, return_document=ReturnDocument.AFTER
            )
        if found is None:
            return None
        requests = found.get("requests")
        return requests if isinstance(requests, Mapping) else {}

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        forms.check_names([name])
        place = f"requests.{name}"
        update = {"$unset": {place: ""}} if value is None else {"$set": {place: value}}
        with self._translated():
            return self._nodes.update_one({"_id": node_id}, update).matched_count > 0

    def remove_node(self, node_id: str, session: str | None) -> bool:
        with self._translated():
            return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0

    # --- the hot path of a node

    def waiting_queues(self) -> set[QueueId]:
        with self._translated():
            waiting = self._tasks.distinct("queue", {"status": int(Status.CREATED)})
        return {queue for queue in waiting if forms.is_usable(queue)}

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
        with self._translated():
            if any(want.maxtotal is not None for want in wanted):
                self._write_staged()  # a place is free for others when what had it has ended
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
        found = self._tasks.count_documents({"node": node_id, "status": {"$in": forms.IN_HAND}, "queue": queue})
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
            "node": forms.UNCLAIMED,
            **forms.USABLE_ID,
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
            if all(forms.is_before_zero_or_missing(row.get("priority")) for row in rows):
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
                "node": forms.UNCLAIMED,
                "mtime": {"$eq": document.get("mtime")},  # every change of state sets it
            }
            if change is None:
                writes.append(UpdateOne(free, {"$set": mark}))
            else:
                changes.append(change)
                writes.append(UpdateOne(free, forms.update({**mark, **change.set}, change.unset)))
        # What has ended first: nobody shall see more in this node's hands than it may have.
        staged, refused = self._take_staged()
        before = self._writes_of(staged)
        result = self._tasks.bulk_write([*before, *writes], ordered=bool(before))
        if result.matched_count < len(before) + len(writes):
            refused |= self._refused(staged) if staged else set()
            marked = {"_id": {"$in": list(tasks)}, "claim.token": token}
            won = {document["_id"] for document in self._tasks.find(marked, {"_id": 1})}
            tasks = {task_id: task for task_id, task in tasks.items() if task_id in won}
        self._forget_output([change for change in changes if change.key.task_id in tasks])
        return tasks

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        with self._translated():
            self._write_chunks(chunks)
            parts = list(forms.in_parts(changes))
            if self._staged is not None and self._staged.is_fresh and len(parts) == 1 and not _has_sequel(changes):
                return self._staged.put(parts[0])
            self._write_staged()  # in the order in which they came
            refused: set[RunKey] = set()
            for part in parts:
                refused |= self._carry_out(part)
            owing = [change.key.task_id for change in changes if change.creates and change.key not in refused]
            if owing:
                self._create_owed({"_id": {"$in": owing}, **forms.OWING})
            self._forget_output([change for change in changes if change.key not in refused])
            return refused

    def _carry_out(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Write changes that one message can hold; what was refused."""
        result = self._tasks.bulk_write(self._writes_of(changes), ordered=True)
        return self._refused(changes) if result.matched_count < len(changes) else set()

    def _writes_of(self, changes: Sequence[RunChange]) -> list[UpdateOne]:
        return [UpdateOne(forms.guard(change), forms.update(self._set_of(change), change.unset)) for change in changes]

    def _forget_output(self, changes: Iterable[RunChange]) -> None:
        self._delete_files(
            [
                forms.file_id(change.key.task_id, change.forget_output_of, stream)
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
        queue = self.find_queue(text) if forms.object_id(text) is not None else None
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
                is_other = any(
                    one.get("code") != driver_errors.DUPLICATE_KEY for one in error.details.get("writeErrors", ())
                )
                if is_other or error.details.get("writeConcernErrors"):
                    raise  # not confirmed by a majority: they may vanish again, so they stay owed
            # Only what was read above: others may have gone on from there, and the task may owe something else by now.
            paid = {"follow_ups._id": tasks[0]["_id"]} if tasks else forms.OWING
            self._tasks.update_one({"_id": document["_id"], **paid}, {"$unset": {"follow_ups": ""}})
            created += len(tasks)
        return created

    def _refused(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """Which of a batch were not carried out: the server tells only how many."""
        ids = list({change.key.task_id for change in changes})
        documents = {one["_id"]: one for one in self._tasks.find({"_id": {"$in": ids}}, forms.NOT_LARGE)}
        # Of several changes of one run the last one decides: what it has left is what can be seen.
        last = {change.key: change for change in changes}
        return {key for key, change in last.items() if not forms.shows(documents.get(key.task_id), change)}

    def _write_chunks(self, chunks: Sequence[OutputChunk]) -> None:
        """As GridFS keeps files, so that any GridFS reader can read them. Written twice is written once."""
        if not chunks:
            return
        files: dict[str, UpdateOne] = {}
        for chunk in chunks:
            token = chunk.key.token or ""
            file_id = forms.file_id(chunk.key.task_id, token, chunk.stream)
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
            self._chunks.bulk_write([forms.piece(chunk) for chunk in chunks[start : start + per_write]], ordered=False)
        self._files.bulk_write(list(files.values()), ordered=False)

    def promote_due(self, limit: int = 1000) -> int:
        now = self.now()
        due = {"status": int(Status.BLOCKED), "not_before": {"$lte": now}, "after": forms.NOT_AFTER}
        with self._translated():
            created = self._create_owed(forms.OWING)
            ids = [one["_id"] for one in self._tasks.find(due, {"_id": 1}).sort("not_before").limit(limit)]
            if not ids:
                return created
            update = {
                "$set": {"status": int(Status.CREATED), "node": NOBODY, "mtime": now},
                "$unset": {"not_before": ""},
            }
            return created + self._tasks.update_many({"_id": {"$in": ids}, **due}, update).modified_count

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        with self._translated():
            self._write_staged()
            self._limits.hold(
                node_id, {queue: self._in_hand(node_id, queue, count) for queue, count in in_hand.items()}
            )

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        waiting = {"$in": forms.WAITING}
        is_asked = {"$exists": True}
        kinds: list[Document] = [
            {"status": int(Status.RUNNING), "node": node_id, "cancel.at": is_asked},
            {"status": {"$in": [int(Status.ORPHANED), *forms.WAITING]}, "cancel.at": is_asked},
            # A status that is no number is none that anything could come of.
            {"awaited": True, "status": {"$nin": sorted(int(one) for one in UNFINISHED), "$type": "number"}},
            {"status": waiting, "expires": {"$lte": self.now()}},
        ]
        with self._translated():
            # Nothing but the kinds: so the server looks for the index of each by itself, and finds its own.
            found = self._tasks.find({"$or": kinds}, forms.NO_OUTPUT).limit(limit * len(kinds))
            tasks: dict[str, list[Task]] = {"cancel": [], "awaited": [], "expires": []}
            for document in found:
                if not forms.is_usable(document["_id"]):
                    continue
                kind = "cancel" if "cancel" in document else "awaited" if document.get("awaited") is True else "expires"
                tasks[kind].append(Task.from_document(document))
        return [task for of_kind in tasks.values() for task in of_kind[:limit]]

    def has_unfinished(self, queues: Sequence[QueueId]) -> bool:
        active = [int(Status.CREATED), *forms.IN_HAND]
        with self._translated():
            for queue in queues:
                if self._tasks.find_one({"status": {"$in": active}, "queue": queue}, {"_id": 1}) is not None:
                    return True
                blocked = {
                    "status": int(Status.BLOCKED),
                    "queue": queue,
                    "not_before": {"$exists": True},
                    "after": forms.NOT_AFTER,
                }
                if self._tasks.find_one(blocked, {"_id": 1}) is not None:
                    return True
        return False

    def written_by_others(self) -> None:
        return None

    def watch(self, *, ends: bool = True) -> MongoWatcher:
        return MongoWatcher(self._connect, self._database_name, ends=ends)


def _path_of(url: str) -> str | None:
    match = re.match(r"mongodb\+srv://[^/?]+/([^?]+)", url)
    return match[1] if match else None


def _has_sequel(changes: Sequence[RunChange]) -> bool:
    """Whether more is to be done when they are written."""
    return any(change.creates or change.forget_output_of is not None for change in changes)


class _Staged:
    """The changes of a `commit` that the next write takes with it."""

    def __init__(self) -> None:
        self.is_fresh = True  # only the first commit may be left: who makes another one looks at what it says
        self._changes: Sequence[RunChange] = ()
        self._refused: set[RunKey] = set()

    def put(self, changes: Sequence[RunChange]) -> set[RunKey]:
        """What is refused of them stands in the answer when they are written."""
        self.is_fresh, self._changes, self._refused = False, changes, set()
        return self._refused

    def take(self) -> tuple[Sequence[RunChange], set[RunKey]]:
        changes, self._changes = self._changes, ()
        return changes, self._refused
