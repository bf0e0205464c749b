"""How far a batch has come: counts, rate, the remaining time, its slowest tasks.

Responsible for: these numbers, and saying where they are not of all tasks, since there may be millions. Must not know:
how they are shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from disbatch_host.decide import counts
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document
from disbatch_host.store import batch_facts
from disbatch_host.store.batch_facts import BatchFacts
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

COUNT_SECONDS = 0.3  # for counting; of more tasks, "about" is said
_LIST_SECONDS = 2.0  # for counting the batches of a list
_LOOK_SECONDS = 0.7  # for what single tasks tell
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
    facts: BatchFacts  # of a batch that is done, as they were then; else of ended tasks, as far as there was time
    behind_failure: int  # Blocked, since a task that they wait for did not conclude

    @property
    def percent(self) -> float | None:
        return 100 * self.ended / self.total if self.total else None

    @property
    def since_creation_seconds(self) -> float | None:
        """From its creation to the last end, once it is done."""
        return self.facts.seconds_since(self.batch.ctime) if self.batch.state is BatchState.DONE else None

    @property
    def is_looked_at(self) -> bool:
        """Whether `facts` are of all tasks that have ended."""
        return self.is_counted and self.facts.looked_at >= self.ended

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
            "looked_at": self.facts.looked_at,
            "attempts": self.facts.attempts,
            "slowest": self.facts.slowest_json(),
            "run_seconds": _rounded(self.facts.run_seconds),
            "since_creation_seconds": _rounded(self.since_creation_seconds),
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
    facts = facts_of(store, batch, look_seconds=look_seconds)
    per_second = _per_second(facts, ended, batch.done_at or store.now())
    goes_on = batch.state is not BatchState.DONE and total > ended and not _is_paused(store, batch)
    left = (total - ended) / per_second if per_second and goes_on else None
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
        facts=facts,
        behind_failure=behind,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNow:
    """The tasks of a batch as they are now, in three numbers."""

    total: int
    ended: int
    failed: int
    is_counted: bool  # False: there was no time to count all; the numbers are at least so high

    def to_json(self) -> Document:
        return {"total": self.total, "ended": self.ended, "failed": self.failed, "is_counted": self.is_counted}


def now_of(store: Store, batches: Iterable[Batch], *, seconds: float = _LIST_SECONDS) -> Iterator[BatchNow | None]:
    """For each batch that goes on, its numbers; None for one that is done, whose summary has them, and where the time
    for all of them, `seconds`, is over."""
    deadline = time.monotonic() + seconds
    for one in batches:
        left = deadline - time.monotonic()
        if one.state is BatchState.DONE or left <= 0:
            yield None
            continue
        counted = store.count_batch(one.id, budget_seconds=min(left, COUNT_SECONDS))
        words, total = counts.totals(counted.by_status), sum(counted.by_status.values())
        yield BatchNow(
            total=total if counted.is_whole else max(total, one.total or 0),
            ended=counts.ended(words),
            failed=words["failed"],
            is_counted=counted.is_whole,
        )


def facts_of(store: Store, batch: Batch, *, look_seconds: float = _LOOK_SECONDS) -> BatchFacts:
    """What its ended tasks tell. Of a batch that is done it is in the summary, unless an older version wrote that."""
    frozen = batch_facts.from_summary(batch.summary) if batch.state is BatchState.DONE else None
    return frozen or batch_facts.look_at(store, batch.id, seconds=look_seconds)


def _is_paused(store: Store, batch: Batch) -> bool:
    """Whether the queue that its source filled is paused: how long that lasts nobody knows."""
    name = batch.source.get("queue")
    queue = store.find_queue(name) if isinstance(name, str) else None
    return queue is not None and queue.paused is not None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _per_second(facts: BatchFacts, ended: int, until: datetime) -> float | None:
    if facts.first_start is None or not ended:
        return None
    seconds = (until - facts.first_start).total_seconds()
    return ended / seconds if seconds > 0 else None
