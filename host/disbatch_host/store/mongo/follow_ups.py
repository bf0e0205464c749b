"""The tasks that the end of another creates, each exactly once.

Responsible for: writing them with the end that creates them, and creating them from there. Must not know: which end
creates which.

Rules:
1. Only a single document is changed as a whole on every kind of server. So new tasks are kept in the document of the
   task that creates them (`follow_ups`), with their ids, from the write of its end until they exist.
2. They are created first, and only then removed from there: a node that dies in between leaves them to the next, and
   the ids are fixed, so nothing is created twice. A task that still owes some is not deleted. A process that stood
   still after it has read a debt reads it once more: others may have paid it, and the tasks may have ended and been
   deleted, so that their ids are free.
3. One that the server refuses (an index or a validator of another program) would be refused again each time. It is
   noted, whole and with the reason, in `refused_follow_ups` of the task that asked for it, and is no longer owed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson.objectid import ObjectId
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.clock import Clock
from disbatch_host.documents.changes import RunChange
from disbatch_host.documents.records import Document, QueueId
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.mongo import driver_errors, forms, reading
from disbatch_host.store.mongo.ids import IdSource
from disbatch_host.store.mongo.passed_over import PassedOverTasks

log = logging.getLogger(__name__)

_AT_ONCE = 500  # documents that owe, in one call
_STALE_SECONDS = 0.5  # from when on a debt is read once more; tasks are not created, run and deleted in so short a time


class FollowUps:
    """Creates these tasks. `queue_id` returns the id of the queue that a text means, as a person types it."""

    def __init__(
        self,
        tasks: Collection[Document],
        ids: IdSource,
        passed_over: PassedOverTasks,
        queue_id: Callable[[str], QueueId],
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._passed_over = passed_over
        self._ids = ids
        self._queue_id = queue_id

    def with_owed(self, change: RunChange) -> Mapping[str, Any]:
        """The fields that a change sets, with the tasks that it creates."""
        if not change.creates:
            return change.set
        ids = self._ids.take(len(change.creates))
        queues = {name: self._queue_id(name) for name in {one["queue"] for one in change.creates}}
        owed = [
            {"_id": new_id, **one, "queue": queues[one["queue"]]}
            for new_id, one in zip(ids, change.creates, strict=True)
        ]
        return {**change.set, "follow_ups": owed}

    def create_of(self, changes: Sequence[RunChange]) -> None:
        """Create the tasks that these changes, which were carried out, still owe."""
        owing = [change.key.task_id for change in changes if change.creates]
        if owing:
            self._create({"_id": {"$in": owing}, **forms.OWING})

    def create_all(self) -> int:
        """Create the tasks that anybody still owes; returns how many."""
        return self._create(self.owing())

    def owing(self) -> Document:
        """A condition: that tasks are owed which the server has not refused."""
        passed_over = self._passed_over.ids()
        return {**forms.OWING, "_id": {"$nin": passed_over}} if passed_over else forms.OWING

    def _create(self, which: Document) -> int:
        created = 0

        def find(fields: Any, more: Document | None = None) -> Any:
            return self._tasks.find({**which, **(more or {})}, fields, limit=_AT_ONCE)

        read_at = self._clock.monotonic()
        documents, _ = reading.all_of(find, self._tasks, {"follow_ups": 1})
        for document in documents:
            owed = document.get("follow_ups")
            if not isinstance(owed, list):
                continue  # another program's
            tasks = [one for one in owed if isinstance(one, dict) and isinstance(one.get("_id"), ObjectId)]
            # Only the ones read above: others may have gone on from there, and the task may owe something else now.
            paid = {"_id": document["_id"], "follow_ups._id": tasks[0]["_id"]}
            is_stale = self._clock.monotonic() - read_at > _STALE_SECONDS
            if is_stale and self._tasks.find_one(paid, {"_id": 1}) is None:
                continue
            refused = self._insert(tasks)
            change: Document = {"$unset": {"follow_ups": ""}}
            for place, why in refused.items():
                log.error("task %s: its follow-up task %d is not created: %s", document["_id"], place + 1, why)
            if refused:
                noted = [{"task": tasks[place], "why": f"disbatch-host: {why}"} for place, why in refused.items()]
                change["$push"] = {"refused_follow_ups": {"$each": noted}}
            self._pay(paid, change)
            created += len(tasks) - len(refused)
        return created

    def _insert(self, tasks: Sequence[Document]) -> dict[int, StoreRefusedError]:
        """Create the tasks, as far as they do not exist. Returns those that are refused, by their positions."""
        try:
            self._tasks.insert_many([dict(one) for one in tasks], ordered=False)
        except driver.BulkWriteError as error:
            found = driver_errors.refusals(error)
            if not found:
                raise  # not confirmed by a majority: they may vanish again, so they are still owed
            is_there = {one["index"] for one in error.details["writeErrors"] if driver_errors.is_same_id(one)}
            return {place: why for place, why in found.items() if place not in is_there}
        return {}

    def _pay(self, paid: Document, change: Document) -> None:
        try:
            self._tasks.update_one(paid, change)
        except driver.WriteError as error:
            if not driver_errors.is_refusal(error):
                raise
            # What it owes exists or is noted in the log, so it may stay in its document.
            why = driver_errors.refusal(error.details or {})
            self._passed_over.add({paid["_id"]: f"its follow-up tasks stay in its document: {why}"})
