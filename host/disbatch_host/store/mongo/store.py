"""The protocols of `contract` on collections `queues`, `tasks`, `nodes` and the GridFS bucket `tasks`.

Responsible for: the connection, the queries that nothing else needs, and translating the driver's exceptions; its parts
do everything else. Must not know: who calls, what a change means.

Rules:
1. Writes are acknowledged by a majority and journaled; a claim reads its own writes from the primary.
2. Every hot query is covered by an index of `layout` (tests hold their plans).
3. A write whose answer was lost is sent again once, by the driver or by `updates`, and by callers as often as needed:
   every write here can be made twice.
4. Time is the server's: it dates heartbeats and computes their age itself, and `now` follows it by the monotonic clock,
   so that neither the clocks of nodes nor their jumps matter.
5. The parts raise the driver's exceptions, so each call of them is in `_translated`, where these end; none of its types
   leaves this package, except for ids and values that are in documents.
6. Documents come from anybody. One that cannot be used is left where it is and does not stop the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pymongo
from bson import json_util
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING, WriteConcern
from pymongo import errors as driver
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from disbatch_host import __version__
from disbatch_host.clock import Clock, to_milliseconds
from disbatch_host.documents.changes import OutputChunk, PassedOver, RunChange, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.failure_counts import FailureCounts
from disbatch_host.documents.records import Document, NodeRecord, Queue, QueueId, Task, TaskId, whole_number
from disbatch_host.errors import StoreRefusedError, UsageError
from disbatch_host.store import paging
from disbatch_host.store.contract import OnClaim
from disbatch_host.store.contract.answers import Access, BatchCounts, Counted, StoreCondition
from disbatch_host.store.mongo import conditions, counting, driver_errors, forms, layout, pages, reading
from disbatch_host.store.mongo.batches import Batches
from disbatch_host.store.mongo.claims import Claims
from disbatch_host.store.mongo.creation import Creation
from disbatch_host.store.mongo.due import Due
from disbatch_host.store.mongo.failures import Failures
from disbatch_host.store.mongo.follow_ups import FollowUps
from disbatch_host.store.mongo.ids import IdSource
from disbatch_host.store.mongo.last_ends import LastEnds
from disbatch_host.store.mongo.limits import Limits
from disbatch_host.store.mongo.nodes import Nodes
from disbatch_host.store.mongo.output_files import OutputFiles
from disbatch_host.store.mongo.passed_over import PassedOverTasks
from disbatch_host.store.mongo.promotion import Promotion
from disbatch_host.store.mongo.queues import Queues
from disbatch_host.store.mongo.run_changes import RunChanges
from disbatch_host.store.mongo.server_clock import ServerClock
from disbatch_host.store.mongo.task_changes import TaskChanges
from disbatch_host.store.mongo.unique_keys import Keys
from disbatch_host.store.mongo.watcher import MongoWatcher
from disbatch_host.store.url import redact
from disbatch_protocol.status import ENDED, Status

DEFAULT_DATABASE = "disbatch"
SELECT_SECONDS = 3.5  # for a server to be found; contract: an unreachable MongoDB is reported within 5 s
SOCKET_SECONDS = 20.0  # for one answer; a server that hangs must not hold up a node forever
LOOK_SECONDS = 3.0  # likewise, where somebody only looks at the store
_PAGE = 500  # documents that a cursor gets in one trip
# The same without parameters, and of followers, which wait for their turn in a call of 0.2 s: the server reads the
# parameters all the same, and ten of 8 MiB take 30 ms.
_LIGHT_PAGE, _FOLLOWERS_PAGE = 50, 10
_IDS_IN_CONDITION = 10_000  # a condition is a document of 16 MB at most


class MongoStore:
    """A store in a database of a MongoDB server, replica set or sharded cluster."""

    def __init__(self, url: str, clock: Clock, access: Access = Access.CREATE) -> None:
        self._only_looks = access is Access.LOOK
        self._url = url
        self._clock = clock
        self._description = redact(url)
        self._client: pymongo.MongoClient[Document] | None = None
        self._server_clock = ServerClock(clock, self._ask_clock)
        self._ids = IdSource(self._server_clock)
        self._has_index: dict[tuple[tuple[str, int], ...], bool] = {}  # those that were looked for
        is_srv = url.startswith("mongodb+srv:")
        try:
            parsed = {} if is_srv else pymongo.uri_parser.parse_uri(url, validate=True, warn=False)
        except OSError as error:  # a certificate file that the URI names
            raise UsageError(f"{self._description}: {driver_errors.of_file(error)}") from None
        except driver_errors.BAD_URL as error:
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

    @property
    def may_act_late(self) -> bool:
        return True  # the server may be slow

    @property
    def claims_read_queues(self) -> bool:
        return False

    @property
    def finds_by_parent(self) -> bool:
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
                self._tasks = self._database["tasks"]
                self._notes = self._database[layout.LAYOUT_COLLECTION]
                self._make_parts()
                if not self._only_looks:
                    layout.check(self._database, self.description)
                    layout.create_indexes(self._database)
                self._server_clock.follow()
            except BaseException:
                self.close()
                raise

    def _make_parts(self) -> None:
        database, tasks = self._database, self._tasks
        self._keys = Keys(database["disbatch_keys"], tasks, self.now)
        self._queues = Queues(database["queues"])
        self._batches = Batches(database["batches"], tasks)
        self._nodes = Nodes(database["nodes"])
        self._output = OutputFiles(database, self.now)
        self._passed_over = passed_over = PassedOverTasks(tasks, self._clock)
        self._due = Due(tasks, self._clock)
        self._failures = Failures(tasks)
        self._last_ends = LastEnds(tasks)
        follow_ups = FollowUps(tasks, self._ids, passed_over, self._queue_id, self._clock)
        self._creation = Creation(tasks, self._keys, self._clock)
        self._task_changes = TaskChanges(tasks, self._keys, passed_over)
        self._promotion = Promotion(tasks, follow_ups, passed_over)
        self._run_changes = RunChanges(tasks, self._output, follow_ups)
        limits = Limits(database["disbatch_limits"])
        self._claims = Claims(tasks, limits, self._run_changes, self._output, passed_over, self.now, self._clock)

    def _connect(self) -> pymongo.MongoClient[Document]:
        defaults: dict[str, Any] = {
            "appname": f"disbatch-host {__version__}",
            "serverSelectionTimeoutMS": int(SELECT_SECONDS * 1000),
            "connectTimeoutMS": int(SELECT_SECONDS * 1000),
            "socketTimeoutMS": int((LOOK_SECONDS if self._only_looks else SOCKET_SECONDS) * 1000),
        }
        # The driver prefers these to the URL's options; people expect the opposite.
        given = parse_qsl(self._url.rpartition("?")[2])
        said = {name.lower() for name, _ in given}
        options = {name: value for name, value in defaults.items() if name.lower() not in said}
        try:
            return pymongo.MongoClient(self._url, retryWrites=True, tz_aware=True, **options)
        except driver_errors.BAD_OPTION:  # some options of a URL the driver checks only by using them
            names = " or ".join(name for name, value in given if not driver_errors.is_option_fine(name, value))
            what = f"its option {names}" if names else "one of its options"
            raise UsageError(f"{self._description}: {what} has a value that the driver cannot use") from None

    def _translated(self, duplicate: str = "") -> contextlib.AbstractContextManager[None]:
        return driver_errors.translated(self.description, self._url, duplicate)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self._run_changes.together():
            yield
            with self._translated():
                self._run_changes.write_staged()

    @property
    def answers_at_once(self) -> bool:
        return False  # a server that has gone is found out by waiting

    def be_patient(self, is_patient: bool) -> None:
        """Nothing to do: nobody waits for a turn."""

    def hurry(self) -> None:
        """Nothing to do: no answer is waited for much longer than SOCKET_SECONDS, twice."""

    def now(self) -> datetime:
        with self._translated():
            return to_milliseconds(self._server_clock.now())

    def condition(self) -> StoreCondition:
        assert self._client is not None
        with self._translated():
            return conditions.condition_of(self._client, self._database)

    def _ask_clock(self) -> datetime:
        assert self._client is not None
        at: datetime = self._client.admin.command("hello")["localTime"]
        return at

    def parse_id(self, text: str) -> TaskId | None:
        return forms.object_id(text) or text or None

    def extended_json(self, value: object) -> object:
        """Relaxed Extended JSON, as MongoDB's own tools write it."""
        return orjson.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))

    def queues(self) -> list[Queue]:
        with self._translated():
            return self._queues.all()

    def find_queue(self, text: str) -> Queue | None:
        with self._translated():
            return self._queues.find(text)

    def insert_queue(self, document: Document) -> QueueId:
        with self._translated(duplicate=f"queue {document.get('_id')!r} exists already; choose another id"):
            return self._queues.insert(document)

    def update_queue(
        self,
        queue: QueueId,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any] | None = None,
    ) -> bool:
        with self._translated():
            return self._queues.update(queue, set, unset, only_if)

    def delete_queue(self, queue: QueueId) -> bool:
        with self._translated():
            return self._queues.delete(queue)

    def new_ids(self, count: int) -> list[TaskId]:
        with self._translated():
            return list(self._ids.take(count))

    def insert_tasks(self, documents: Sequence[Document], *, again: bool = False) -> list[TaskId]:
        if not documents:
            return []
        new = self.new_ids(len(documents))
        copies = [{"_id": new_id, **document} for new_id, document in zip(new, documents, strict=True)]
        self._claims.forget_ahead()
        with self._translated():
            return self._creation.insert(copies, again=again)

    def change_tasks(self, changes: Sequence[TaskChange], *, one_by_one: bool = False) -> set[TaskId]:
        self._claims.forget_ahead()
        with self._translated():
            return self._task_changes.carry_out(changes, one_by_one=one_by_one)

    def get_task(self, task: TaskId) -> Task | None:
        with self._translated():
            try:
                found = self._tasks.find_one({"_id": task})
            except reading.NOT_DECODED:
                return self._unreadable(task)
        return None if found is None else Task.from_document(found)

    def _unreadable(self, task: TaskId) -> Task:
        """A task whose document cannot be read, with those of its fields that can be."""
        document: Document = {"_id": task}
        with contextlib.suppress(*reading.NOT_DECODED):
            document |= self._tasks.find_one({"_id": task}, {**forms.NOT_LARGE, "queue": 1, "ctime": 1}) or {}
        return dataclasses.replace(Task.from_document(document), fault=reading.FAULT)

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
        projection = {
            **({} if with_output else forms.NO_OUTPUT),
            **({} if with_parameters else forms.NO_PARAMETERS),
        } or None

        def find(fields: Any, more: Document | None = None, skip: int = 0) -> Any:
            condition = {**forms.condition(which), **forms.NOT_ODD_ID, **(more or {})}
            found = self._tasks.find(condition, fields, batch_size=_PAGE if with_parameters else _LIGHT_PAGE)
            if which.after is not None and in_any_order:
                # Not left to the server, which tries its indexes on a hundred tasks each time: they may be large.
                found = found.hint(list(layout.BY_AWAITED_TASK)).batch_size(_FOLLOWERS_PAGE)
            if not in_any_order:
                # If no index gives the order, documents with their output may be too much to sort in memory.
                found = found.sort("_id", DESCENDING if newest_first else ASCENDING).allow_disk_use(True)
            return found.skip(skip)

        return itertools.islice(self._each_task(find, projection, limit), limit)

    def _each_task(self, find: Any, projection: Any, limit: int | None) -> Iterator[Task]:
        count = 0
        try:
            for document in self._all_of(find(projection), limit):
                count += 1
                yield Task.from_document(document)
        except reading.UnreadableError:  # and so is the rest of the answer that holds it
            with self._translated():
                for task_id, read in reading.each(partial(find, skip=count), self._tasks, projection):
                    yield self._unreadable(task_id) if read is None else Task.from_document(read)

    def _all_of(self, found: Any, limit: int | None) -> Iterator[Document]:
        """The documents of a cursor, which is closed together with the iterator."""
        with found if limit is None else found.limit(limit):
            while limit != 0:  # to the server, 0 means all
                with self._translated():
                    try:
                        document = next(found, None)
                    except reading.NOT_DECODED as error:
                        raise reading.UnreadableError(f"a document of this answer cannot be read: {error}") from error
                if document is None:
                    return
                yield document

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
        after = paging.position_of(cursor, pages.read_position)
        projection = {**forms.NO_OUTPUT, **({} if with_parameters else forms.NO_PARAMETERS)}
        descending = newest_first is not paging.is_backward(cursor)
        with self._translated():
            index = tuple(pages.index_of(which))
            if index not in self._has_index:
                self._has_index[index] = layout.has_index(self._tasks, index)
            documents = pages.Documents(
                self._tasks, which, projection, self._unreadable,
                descending=descending, after=after, index=index if self._has_index[index] else None,
            )  # fmt: skip
            look = paging.Look(
                limit=limit, is_selective=documents.is_selective, budget_seconds=budget_seconds, cursor=cursor,
                write=pages.write_position,
            )  # fmt: skip
            return look.page(documents)

    def ids_beginning(self, text: str, limit: int = 2) -> list[TaskId]:
        with self._translated():
            return list(pages.ids_beginning(self._tasks, text, limit))

    def count_tasks(self, which: TaskFilter) -> int:
        with self._translated():
            return self._tasks.count_documents(forms.condition(which))

    def count_within(self, which: TaskFilter, *, budget_seconds: float) -> Counted:
        with self._translated():
            return counting.count_within(self._tasks, forms.condition(which), budget_seconds)

    def count_by_status(self) -> dict[QueueId, dict[int, int]]:
        # The sort makes the server walk the index, which has everything that is asked for.
        pipeline: list[Document] = [
            {"$sort": {"status": 1, "queue": 1}},
            {"$group": {"_id": {"queue": "$queue", "status": "$status"}, "count": {"$sum": 1}}},
        ]
        counts: dict[QueueId, dict[int, int]] = {}
        with self._translated():
            try:
                groups = list(self._tasks.aggregate(pipeline))
            except reading.NOT_DECODED:  # a queue that no queue's id can be
                groups = list(self._tasks.aggregate([forms.HAS_READABLE_QUEUE, *pipeline]))
            for group in groups:
                key = group["_id"]
                status = whole_number(key.get("status"))
                if status is not None and (key.get("queue") is None or forms.is_usable(key["queue"])):
                    of_queue = counts.setdefault(key.get("queue"), {})
                    of_queue[status] = of_queue.get(status, 0) + group["count"]
        return counts

    def count_failures(self, which: TaskFilter, *, seconds: float, by_hour: bool = False) -> FailureCounts:
        with self._translated():
            return self._failures.count(which, seconds, by_hour=by_hour)

    def last_ends(self, queue: QueueId, *, failed: bool, since: datetime | None, limit: int) -> list[datetime]:
        with self._translated():
            return self._last_ends.find(queue, failed=failed, since=since, limit=limit)

    def delete_tasks(
        self, tasks: Sequence[TaskId], *, statuses: frozenset[int] | None = None, or_failed: bool = False
    ) -> int:
        deleted = 0
        self._claims.forget_ahead()
        with self._translated():
            undone = self._batches.undone()
            for start in range(0, len(tasks), _IDS_IN_CONDITION):
                ids = list(tasks[start : start + _IDS_IN_CONDITION])
                keyed = self._tasks.find(
                    {"_id": {"$in": ids}, "unique_key": {"$type": "string"}}, {"queue": 1, "unique_key": 1}
                )
                keys = {one["_id"]: key for one in keyed if (key := forms.key_of(one)) is not None}
                locks = self._keys.locks_of(keys)  # as they are before anybody can know that the task is gone
                free = {"awaited": {"$ne": True}, **forms.NOT_OWING, **undone}
                which = {"_id": {"$in": ids}, **free, **forms.status_condition(statuses, or_failed)}
                deleted += self._tasks.delete_many(which).deleted_count
                # Things that go with them go afterwards, also for those that an earlier try deleted.
                left = {one["_id"] for one in self._tasks.find({"_id": {"$in": ids}}, {"_id": 1})}
                gone = [task_id for task_id in ids if task_id not in left]
                self._keys.release([(keys[one], locks[one]) for one in gone if one in locks])
                self._output.delete_of_tasks(gone)
        return deleted

    def ended_before(self, queue: QueueId, moment: datetime, limit: int) -> list[TaskId]:
        # Nothing ended before it was created, and an id tells when that was: the index has the old ones together.
        which: Document = {
            "queue": {"$eq": queue},
            "_id": {"$lt": ObjectId.from_datetime(moment)},
            "mtime": {"$lt": moment},
            **forms.NOT_OWING,
        }
        with self._translated():
            which |= self._batches.undone()
            for status in (*({"$eq": int(one)} for one in sorted(ENDED)), {"$gt": int(Status.FAILED)}):
                # Followers of a failed task may still wait for it to be run again.
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
                # Within each priority the index has the task first that was created first. A missing priority is not
                # among them.
                with contextlib.suppress(*reading.NOT_DECODED):  # those of others are found all the same
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
                raise StoreRefusedError(f"expected a condition in Extended JSON: {words}") from error
            # In a stable order, so that a caller that starts over finds its place.
            found = self._database[collection].find(query, batch_size=_PAGE).sort("_id", ASCENDING)
            return self._all_of(found.allow_disk_use(True), limit)

    def read_note(self, name: str) -> Document | None:
        with self._translated():
            found = self._notes.find_one({"_id": forms.note_id(name)})
        return None if found is None else found.get("document")

    def note_names(self, prefix: str, limit: int = 1000) -> list[str]:
        first = forms.note_id(prefix)
        which = {"_id": {"$gte": first, "$lt": f"{first}{chr(0x10FFFF)}"}}
        with self._translated():
            found = self._notes.find(which, {"_id": 1}).sort("_id", ASCENDING).limit(limit)
            return [one["_id"].removeprefix(forms.note_id("")) for one in found]

    def write_note(
        self,
        name: str,
        document: Document | None,
        *,
        is_new: bool = False,
        replacing: Mapping[str, Any] | None = None,
    ) -> bool:
        which: dict[str, Any] = {"_id": forms.note_id(name)}
        which |= {f"document.{field}": {"$eq": value} for field, value in (replacing or {}).items()}
        with self._translated():
            if document is None:
                return self._notes.delete_one(which).deleted_count > 0
            if not is_new:
                written = self._notes.replace_one(which, {"document": document}, upsert=replacing is None)
                return replacing is None or written.matched_count > 0
            try:
                self._notes.insert_one({"_id": forms.note_id(name), "document": document})
            except driver.DuplicateKeyError:
                return False
            return True

    def read_output(self, task: TaskId, token: str, stream: str, *, first: int = 0) -> Iterator[bytes]:
        for number in itertools.count(first):
            with self._translated():
                piece = self._output.piece(task, token, stream, number)
            if piece is None:
                return
            yield piece

    def insert_batch(self, document: Document) -> bool:
        with self._translated():
            return self._batches.insert(document)

    def get_batch(self, batch_id: str) -> Document | None:
        with self._translated():
            return self._batches.get(batch_id)

    def find_batches(
        self,
        *,
        states: Collection[str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Document]:
        with self._translated():
            return self._batches.find(states, prefix, limit, newest_first=newest_first)

    def batch_ids(self, states: Collection[str] | None = None) -> list[tuple[datetime | None, str]]:
        with self._translated():
            return self._batches.ids(states)

    def watched_batches(self, limit: int) -> list[Document]:
        with self._translated():
            return self._batches.watched(limit)

    def change_batch(
        self,
        batch_id: str,
        set: Mapping[str, Any],
        unset: Sequence[str] = (),
        *,
        only_if: Mapping[str, Any],
    ) -> bool:
        with self._translated():
            return self._batches.change(batch_id, set, unset, only_if)

    def delete_batch(self, batch_id: str, *, only_if: Mapping[str, Any]) -> bool:
        with self._translated():
            return self._batches.delete(batch_id, only_if)

    def count_batch(self, batch_id: str, *, budget_seconds: float | None = None) -> BatchCounts:
        with self._translated():
            return self._batches.counts(batch_id, budget_seconds)

    def is_batch_unfinished(self, batch_id: str) -> bool:
        with self._translated():
            return self._batches.is_unfinished(batch_id)

    def nodes(self) -> list[NodeRecord]:
        with self._translated():
            return sorted(self._nodes.find({}), key=lambda node: node.id)

    def get_node(self, node_id: str) -> NodeRecord | None:
        with self._translated():
            found = self._nodes.find({"_id": node_id})
        return found[0] if found else None

    def put_node(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        with self._translated():
            if not self._nodes.put(document, replacing=replacing):
                return False
            self._nodes.complete()
            self._queues.complete()
            return True

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        with self._translated():
            return self._nodes.heartbeat(node_id, session, set)

    def request_of_node(self, node_id: str, name: str, value: Document | None) -> bool:
        with self._translated():
            return self._nodes.request(node_id, name, value)

    def remove_node(self, node_id: str, session: str | None) -> bool:
        with self._translated():
            return self._nodes.remove(node_id, session)

    def waiting_queues(self) -> set[QueueId]:
        with self._translated():
            try:
                waiting = self._tasks.distinct("queue", {"status": int(Status.CREATED)})
            except reading.NOT_DECODED:
                waiting = [queue.id for queue in self._queues.all()]
            return self._claims.claimable({queue for queue in waiting if forms.is_usable(queue)})

    def claim(self, node_id: str, wanted: Sequence[Want], token: str, on_claim: OnClaim | None = None) -> list[Task]:
        with self._translated():
            return self._claims.carry_out(node_id, wanted, token, on_claim)

    def commit(self, changes: Sequence[RunChange], chunks: Sequence[OutputChunk] = ()) -> set[RunKey]:
        with self._translated():
            return self._run_changes.commit(changes, chunks)

    def _queue_id(self, text: str) -> QueueId:
        """The id that this text means, which need not exist yet."""
        queue = self.find_queue(text) if forms.object_id(text) is not None else None
        return text if queue is None else queue.id

    def promote_due(self, limit: int = 1000) -> int:
        now = self.now()
        with self._translated():
            self._passed_over.look()
            promoted = self._promotion.carry_out(limit, now)
        if promoted:
            self._claims.forget_ahead()
        return promoted

    def passed_over(self) -> list[PassedOver]:
        return self._passed_over.report()

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        with self._translated():
            self._claims.hold(node_id, in_hand)

    def due(self, node_id: str, limit: int = 500) -> list[Task]:
        now = self.now()
        with self._translated():
            return self._due.find(node_id, limit, now)

    def has_unfinished(
        self, queues: Sequence[QueueId], *, due_before: datetime | None = None, besides: Collection[TaskId] = ()
    ) -> bool:
        can_run: Document = {"_id": {"$nin": [*self._passed_over.ids(), *besides]}, **forms.NOT_ODD_ID}
        with self._translated():
            for queue in queues:
                in_hand = {"status": {"$in": forms.IN_HAND}, "queue": queue}
                # One that names a node although it waits cannot be claimed: it waits for a person.
                waiting = {"status": int(Status.CREATED), "queue": queue, "node": forms.UNCLAIMED}
                blocked = {
                    "status": int(Status.BLOCKED),
                    "queue": queue,
                    "not_before": {"$exists": True} if due_before is None else {"$lte": due_before},
                    "after": forms.NOT_AFTER,
                }
                for which in (in_hand, waiting, blocked):
                    if self._tasks.find_one({**which, **can_run}, {"_id": 1}) is not None:
                        return True
        return False

    def written_by_others(self) -> None:
        return None

    def watch(self, *, ends: bool = True) -> MongoWatcher:
        if ends:
            return MongoWatcher(self._connect, self._database_name, ends=True)
        # A node's has no client of its own: the threads of one cost more than an idle watcher does.
        return MongoWatcher(self._opened, self._database_name, ends=False, is_shared=True)

    def _opened(self) -> pymongo.MongoClient[Document]:
        if self._client is None:
            raise driver.InvalidOperation("the store is closed")
        return self._client


def _path_of(url: str) -> str | None:
    match = re.match(r"mongodb\+srv://[^/?]+/([^?]+)", url)
    return match[1] if match else None
