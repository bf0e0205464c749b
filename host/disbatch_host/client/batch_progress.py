"""How far a batch has come: counts, rate, the remaining time, its slowest tasks.

Responsible for: these numbers, and saying where they are not of all tasks, since there may be millions. Must not know:
how they are shown.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.decide import counts
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_protocol.status import ENDED, Status

COUNT_SECONDS = 0.3  # for counting; of more tasks, "about" is said
_LOOK_SECONDS = 0.7  # for what single tasks tell
_SLOWEST = 5
_SUMMED = ("concluded", "failed", "terminated", "cancelled", "orphaned")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """A batch and its tasks, as they are now."""

    batch: Batch
    total: int  # tasks
    is_counted: bool  # False: there was no time to count all; the numbers are at least so high
    by_word: Mapping[str, int]  # `counts.COLUMNS`
    ended: int
    per_second: float | None  # ends, since the first of its tasks that was looked at started
    left_seconds: float | None  # until all have ended, at this rate
    looked_at: int  # tasks; what follows is of these
    attempts: int  # that were made
    slowest: Sequence[tuple[TaskId, float]]  # seconds of the last attempt
    behind_failure: int  # Blocked, since a task that they wait for did not conclude

    @property
    def percent(self) -> float | None:
        return 100 * self.ended / self.total if self.total else None

    def to_json(self) -> Document:
        numbers = {name: self.by_word[name] for name in counts.COLUMNS}
        return {
            "total": self.total,
            "is_counted": self.is_counted,
            "ended": self.ended,
            **numbers,
            "percent": None if self.percent is None else round(self.percent, 2),
            "per_second": None if self.per_second is None else round(self.per_second, 3),
            "left_seconds": None if self.left_seconds is None else round(self.left_seconds, 1),
            "looked_at": self.looked_at,
            "attempts": self.attempts,
            "slowest": [{"_id": str(task_id), "seconds": round(seconds, 3)} for task_id, seconds in self.slowest],
            "behind_failure": self.behind_failure,
        }


def progress_of(store: Store, batch: Batch, *, look_seconds: float = _LOOK_SECONDS) -> BatchProgress:
    """In about a second, however many tasks there are. Tasks that were deleted since it was done count by its
    summary."""
    counted = store.count_batch(batch.id, budget_seconds=COUNT_SECONDS)
    words, total = dict(counts.totals(counted.by_status)), sum(counted.by_status.values())
    if batch.state is BatchState.DONE and counted.is_whole and total < batch.summed("total"):
        total = batch.summed("total")
        words |= {name: batch.summed(name) for name in _SUMMED}
    elif not counted.is_whole:
        total = max(total, batch.total or 0)
    ended = counts.ended(words)
    details = _Details(store, batch, look_seconds)
    per_second = details.per_second(ended, batch.done_at or store.now())
    left = (total - ended) / per_second if per_second and batch.state is not BatchState.DONE and total > ended else None
    behind = 0
    if counted.by_status.get(int(Status.BLOCKED)):
        blocked = frozenset({int(Status.BLOCKED)})
        behind = store.count_tasks(TaskFilter(batch=batch.id, statuses=blocked, error_code="after_failed"))
    return BatchProgress(
        batch=batch,
        total=total,
        is_counted=counted.is_whole,
        by_word=words,
        ended=ended,
        per_second=per_second,
        left_seconds=left,
        looked_at=details.looked_at,
        attempts=details.attempts,
        slowest=details.slowest(),
        behind_failure=behind,
    )


class _Details:
    """What the ended tasks of a batch tell, as far as there is time."""

    def __init__(self, store: Store, batch: Batch, seconds: float) -> None:
        self.looked_at = self.attempts = 0
        self._first_start: datetime | None = None
        self._slowest: list[tuple[float, str, TaskId]] = []
        which = TaskFilter(batch=batch.id, statuses=frozenset(map(int, ENDED)), or_failed=True)
        deadline = time.monotonic() + seconds
        for task in store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=True):
            self._see(task)
            if time.monotonic() > deadline:
                break

    def _see(self, task: Task) -> None:
        self.looked_at += 1
        self.attempts += task.last_attempt
        run: Mapping[str, Any] = task.run
        started, seconds = run.get("started"), run.get("seconds")
        if isinstance(started, datetime) and (self._first_start is None or started < self._first_start):
            self._first_start = started
        if isinstance(seconds, (int, float)):
            entry = (float(seconds), str(task.id), task.id)
            if len(self._slowest) < _SLOWEST:
                heapq.heappush(self._slowest, entry)
            else:
                heapq.heappushpop(self._slowest, entry)

    def slowest(self) -> list[tuple[TaskId, float]]:
        return [(task_id, seconds) for seconds, _, task_id in sorted(self._slowest, reverse=True)]

    def per_second(self, ended: int, until: datetime) -> float | None:
        if self._first_start is None or not ended:
            return None
        seconds = (until - self._first_start).total_seconds()
        return ended / seconds if seconds > 0 else None
