"""When the last tasks of a queue ended, in indexes that are there only where somebody has asked.

Responsible for: these queries and their indexes. Must not know: who asks, and for what.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import ASCENDING, DESCENDING
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document, QueueId, whole_number
from disbatch_host.store.mongo import driver_errors, layout, reading
from disbatch_protocol.status import Status

# Of everything that ended but cancelled, terminated and orphaned tasks, and of the terminated ones. Two, of different
# keys, since a server before 6.0 has no index on "one of these", and one before 5.0 no two with the same keys.
BY_END = (("queue", ASCENDING), ("status", ASCENDING), ("mtime", ASCENDING))
BY_TERMINATION = (("queue", ASCENDING), ("mtime", ASCENDING), ("status", ASCENDING))
_CONDITIONS = {
    BY_END: {"status": {"$gte": int(Status.CONCLUDED)}},
    BY_TERMINATION: {"status": int(Status.TERMINATED)},
}
_OWN_STATUSES_MAX = 100  # of one queue that are looked at; a plugin has a handful
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class LastEnds:
    def __init__(self, tasks: Collection[Document]) -> None:
        self._tasks = tasks
        self._is_ready = False

    def find(self, queue: QueueId, *, failed: bool, since: datetime | None, limit: int) -> list[datetime]:
        """As `Store.last_ends` wants it."""
        if not self._is_ready:
            self._create_indexes()
            self._is_ready = True
        try:
            return self._found(queue, failed, since or _FIRST, limit)
        except driver.OperationFailure as error:
            self._is_ready = error.code not in driver_errors.NO_SUCH_INDEX  # somebody has dropped it
            raise

    def _found(self, queue: QueueId, failed: bool, since: datetime, limit: int) -> list[datetime]:
        if not failed:
            return self._ends(queue, int(Status.CONCLUDED), since, limit, BY_END)
        ends = self._ends(queue, int(Status.TERMINATED), since, limit, BY_TERMINATION)
        for status in self._failures(queue):
            ends += self._ends(queue, status, since, limit, BY_END)
        return sorted(ends, reverse=True)[:limit]

    def _failures(self, queue: QueueId) -> Iterator[int]:
        """The statuses of its failed tasks, found by steps through the index."""
        last = int(Status.CONCLUDED)
        for _ in range(_OWN_STATUSES_MAX):
            which = {"queue": {"$eq": queue}, "status": {"$gt": last}}
            found = self._tasks.find_one(which, {"status": 1, "_id": 0}, sort=[("status", ASCENDING)], hint=[*BY_END])
            status = None if found is None else whole_number(found.get("status"))
            if status is None:
                return
            yield status
            last = status

    def _ends(self, queue: QueueId, status: int, since: datetime, limit: int, index: layout.Keys) -> list[datetime]:
        which: Document = {"queue": {"$eq": queue}, "status": status, "mtime": {"$gte": since}}
        found: Any = self._tasks.find(which, {"mtime": 1, "_id": 0}).sort("mtime", DESCENDING).limit(limit)
        try:
            return [one["mtime"] for one in found.hint([*index]) if isinstance(one["mtime"], datetime)]
        except reading.NOT_DECODED:  # a date of another program that is none here
            return []

    def _create_indexes(self) -> None:
        with pymongo.timeout(layout.BUILD_SECONDS):
            for keys, condition in _CONDITIONS.items():
                self._tasks.create_index([*keys], partialFilterExpression=condition)
