"""Waiting tasks that are passed over: nothing can be done with them as they are, and the others must not wait for them.

Responsible for: remembering them until they change, and counting those whose ids cannot be used. Must not know: what
was tried with them, and why it failed, beyond the words for it.

Rules:
1. A task is passed over until its document changes. A validator or an index may change as well, which no document
   shows, so it is tried again after `AGAIN_SECONDS`.
2. Looking costs little: a bounded number of documents, once in `LOOK_SECONDS`.
3. The memory is bounded. Queues for which it has no room left rest until some of their tasks change.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.clock import Clock
from disbatch_host.documents.changes import PassedOver
from disbatch_host.documents.records import Document, QueueId, TaskId
from disbatch_host.store.mongo import forms, layout, reading

log = logging.getLogger(__name__)

AGAIN_SECONDS = 300.0
LOOK_SECONDS = 10.0
_LOOKED_AT = 100  # tasks in one look
_SMALL_BYTES = 2**16  # of a larger document only the size and a few fields are compared
_MOST = 5000  # tasks remembered; each is named in every claim of its queue
_COUNTED = 1000  # tasks with odd ids; more are not counted
_COUNT_MILLISECONDS = 250  # that the count may take; without an answer in time it is left as it was
_ODD_ID = "its _id is of a type that no task id can have"
_DAMAGED_ID = "its _id is text that is not UTF-8"
_RAW = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)


@dataclass(slots=True, kw_only=True)
class _Culprit:
    queue: QueueId
    why: str
    mark: int | None  # tells its document from any other
    again_at: float  # by the monotonic clock


class PassedOverTasks:
    """The memory of one store. Its clock is only asked for the monotonic time."""

    def __init__(self, tasks: Collection[Document], clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._culprits: dict[TaskId, _Culprit] = {}  # the one that was looked at longest ago first
        self._odd_ids: Counter[QueueId] = Counter()
        self._damaged_ids: dict[QueueId, int] = {}  # as last met at the head of each queue
        self._logged: set[tuple[QueueId, str]] = set()
        self._looked_at = float("-inf")

    def __contains__(self, task: TaskId) -> bool:
        return task in self._culprits

    def add(self, reasons: Mapping[TaskId, str]) -> None:
        """Pass over these tasks, each for its reason."""
        marks = self._marks(list(reasons)) if reasons else {}
        again_at = self._clock.monotonic() + AGAIN_SECONDS
        for task, (queue, mark) in marks.items():
            if len(self._culprits) < _MOST:
                self._culprits[task] = _Culprit(queue=queue, why=reasons[task], mark=mark, again_at=again_at)
            self._log(queue, reasons[task], task)

    def see_damaged(self, queue: QueueId, count: int) -> None:
        """A claim has met so many tasks of this queue whose ids are damaged text."""
        if count:
            self._damaged_ids[queue] = count
        elif self._damaged_ids:
            self._damaged_ids.pop(queue, None)

    def ids(self) -> list[TaskId]:
        return list(self._culprits)

    def ids_of(self, queue: QueueId) -> Sequence[TaskId]:
        """Its tasks that are passed over."""
        if not self._culprits:
            return ()
        return [task for task, culprit in self._culprits.items() if culprit.queue == queue]

    def must_rest(self, queue: QueueId) -> bool:
        """Whether nothing of the queue is tried at present: too many of its tasks are passed over."""
        return len(self._culprits) >= _MOST and any(one.queue == queue for one in self._culprits.values())

    def report(self) -> list[PassedOver]:
        """See `Store.passed_over`."""
        counts = Counter((one.queue, one.why) for one in self._culprits.values())
        return [
            *(PassedOver(queue, count, why) for (queue, why), count in counts.items()),
            *(PassedOver(queue, count, _ODD_ID) for queue, count in self._odd_ids.items()),
            *(PassedOver(queue, count, _DAMAGED_ID) for queue, count in self._damaged_ids.items()),
        ]

    def look(self) -> None:
        """Look for those that have changed, and count those with odd ids, unless that was just done."""
        now = self._clock.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._forget_changed(now)
        self._count_odd_ids()

    def _forget_changed(self, now: float) -> None:
        some = list(self._culprits)[:_LOOKED_AT]
        marks = self._marks(some) if some else {}
        for task in some:
            culprit = self._culprits.pop(task)
            if task in marks and marks[task][1] == culprit.mark and now < culprit.again_at:
                self._culprits[task] = culprit  # at the end: the others come first at the next look

    def _marks(self, ids: Sequence[TaskId]) -> dict[TaskId, tuple[QueueId, int | None]]:
        """The queue of each of these tasks, and a number that tells its document from any other."""
        size = {"$bsonSize": "$$ROOT"}
        in_short = {"size": size, "mtime": "$mtime", "status": "$status", "run": "$run"}
        pipeline: list[Document] = [
            {"$match": {"_id": {"$in": list(ids)}}},
            {"$project": {"queue": 1, "document": {"$cond": [{"$lte": [size, _SMALL_BYTES]}, "$$ROOT", in_short]}}},
        ]
        # Not decoded: the driver may be unable to.
        found = self._tasks.with_options(codec_options=_RAW).aggregate(pipeline)
        return {one["_id"]: (_queue_of(one), hash(one["document"].raw)) for one in found}

    def _count_odd_ids(self) -> None:
        """The index has odd ids apart from the others, so this costs by the number of queues and priorities."""
        counts: Counter[QueueId] = Counter()
        options: dict[str, Any] = {"hint": dict(layout.BY_STATUS), "maxTimeMS": _COUNT_MILLISECONDS}
        for odd in forms.ODD_IDS:
            pipeline: list[Document] = [
                {"$match": {"status": {"$in": forms.WAITING}, **odd}},
                {"$limit": _COUNTED},
                {"$group": {"_id": "$queue", "count": {"$sum": 1}}},
            ]
            try:
                found = list(self._tasks.aggregate(pipeline, **options))
            except (driver.OperationFailure, *reading.NOT_DECODED) as error:
                log.debug("tasks with odd ids were not counted: %s", error)
                return
            counts.update({one["_id"]: one["count"] for one in found if forms.is_usable(one["_id"])})
        self._odd_ids = counts

    def _log(self, queue: QueueId, why: str, task: TaskId) -> None:
        """Log the first task of each queue for each reason: there may be many."""
        if (queue, why) not in self._logged:
            self._logged.add((queue, why))
            log.error("queue %s: task %s is passed over: %s", queue, task, why)


def _queue_of(document: Mapping[str, Any]) -> QueueId:
    queue = document.get("queue")
    return queue if forms.is_usable(queue) else None
