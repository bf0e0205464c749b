"""The tasks that the end of another creates, each exactly once.

Responsible for: writing them with the end that creates them, and creating them from there. Must not know: which end
creates which.

Rules:
1. Only a single document is changed as a whole on every kind of server. So new tasks are kept in the document of the
   task that creates them (`follow_ups`), with their ids, from the write of its end until they exist.
2. They are created first, and only then removed from there: a node that dies in between leaves them to the next, and
   the ids are fixed, so nothing is created twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson.objectid import ObjectId
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.changes import RunChange
from disbatch_host.documents.records import Document, QueueId
from disbatch_host.store.mongo import driver_errors, forms
from disbatch_host.store.mongo.ids import IdSource

_AT_ONCE = 500  # documents that owe, in one call


class FollowUps:
    """Creates these tasks. `queue_id` returns the id of the queue that a text means, as a person types it."""

    def __init__(self, tasks: Collection[Document], ids: IdSource, queue_id: Callable[[str], QueueId]) -> None:
        self._tasks = tasks
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
        return self._create(forms.OWING)

    def _create(self, which: Document) -> int:
        created = 0
        for document in self._tasks.find(which, {"follow_ups": 1}).limit(_AT_ONCE):
            owed = document.get("follow_ups")
            if not isinstance(owed, list):
                continue  # another program's
            tasks = [one for one in owed if isinstance(one, dict) and isinstance(one.get("_id"), ObjectId)]
            try:
                self._tasks.insert_many(tasks, ordered=False)
            except driver.BulkWriteError as error:
                is_other = any(
                    one.get("code") != driver_errors.DUPLICATE_KEY for one in error.details.get("writeErrors", ())
                )
                if is_other or error.details.get("writeConcernErrors"):
                    raise  # not confirmed by a majority: they may vanish again, so they are still owed
            # Only the ones read above: others may have gone on from there, and the task may owe something else now.
            paid = {"_id": document["_id"], "follow_ups._id": tasks[0]["_id"]}
            self._tasks.update_one(paid, {"$unset": {"follow_ups": ""}})
            created += len(tasks)
        return created
