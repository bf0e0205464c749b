"""Why tasks failed: the newest failures, grouped by error code.

Responsible for: finding them among millions of other tasks without reading those, and grouping them. Must not know:
how they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.client.history import code_of_error
from disbatch_host.decide.words import error_in_short
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import QueueId, Task
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

FAILURES_MAX = 500  # newest failed tasks whose reasons are counted
_PLACES_MAX = 25  # pairs of queue and status searched for failures, those with the most first

Places = Mapping[tuple[QueueId, int], int]  # failed tasks per pair of queue and status


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """One reason why tasks failed."""

    code: str
    count: int
    queues: tuple[str, ...]  # the most frequent first
    message: str  # of the newest one
    example: str = ""  # the id of that task

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "count": self.count, "queues": list(self.queues), "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The reasons of the newest failures, the most frequent first."""

    reasons: Sequence[FailureFacts] = ()
    seen: int = 0  # tasks that were read for the reasons
    total: int = 0  # all failed tasks


def find_failures(store: Store, *, queue: QueueId | None = None, limit: int = FAILURES_MAX) -> Failures:
    """The reasons of the newest failures, of one queue or of all; reads about `limit` tasks. Raises StoreError."""
    by_status = store.count_by_status()
    if queue is not None:
        by_status = {queue_id: counts for queue_id, counts in by_status.items() if queue_id == queue}
    return failures_in(store, places_of(by_status), limit=limit)


def places_of(by_status: Mapping[QueueId, Mapping[int, int]]) -> Places:
    """Where failed tasks are, terminated ones among them. Orphaned ones have no reason of their own: they were lost."""
    return {
        (queue_id, status): count
        for queue_id, counts in by_status.items()
        for status, count in counts.items()
        if count and statuses.is_failed(status)
    }


def failures_in(store: Store, places: Places, *, limit: int = FAILURES_MAX) -> Failures:
    """The reasons of the newest failures in these places. Each place is queried by itself, to match the store's index:
    this never searches for a few failed tasks among millions of others."""
    most = sorted(places, key=lambda place: places[place], reverse=True)[:_PLACES_MAX]
    found: list[Task] = []
    for queue_id, status in most:
        which = TaskFilter(queue=queue_id, statuses=frozenset({status}))
        share = max(1, limit // len(most))
        found += store.find_tasks(which, limit=share, newest_first=True, with_output=False)
    return Failures(reasons=failures_of(found), seen=len(found), total=sum(places.values()))


def failures_of(tasks: Sequence[Task]) -> tuple[FailureFacts, ...]:
    """The reasons of failed tasks, the most frequent first."""
    by_code: dict[str, list[Task]] = {}
    for task in tasks:
        by_code.setdefault(code_of_error(task), []).append(task)
    return tuple(
        _facts_of(code, ones) for code, ones in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _facts_of(code: str, tasks: Sequence[Task]) -> FailureFacts:
    newest = max(tasks, key=_when)
    return FailureFacts(
        code=code,
        count=len(tasks),
        queues=tuple(name for name, _ in Counter(str(one.queue) for one in tasks).most_common()),
        message=error_in_short(newest.document),
        example=str(newest.id),
    )


def _when(task: Task) -> float:
    mtime = task.document.get("mtime")
    return mtime.timestamp() if isinstance(mtime, datetime) else 0.0
