"""What the ended tasks of a batch tell together: attempts, the slowest, the first start and the last end.

Responsible for: reading them in a given time, saying of how many tasks that is, and the form of it in a summary. Must
not know: when a batch is done, how this is shown.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId, whole_number
from disbatch_host.store.contract import Store
from disbatch_protocol.status import ENDED

_SLOWEST = 5
_PAGE_MAX = 2000  # tasks that are read at once; the first page is of one, each next one twice as large


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """Of the tasks that were looked at; there may have been no time for all."""

    looked_at: int  # tasks
    attempts: int  # that were made
    slowest: Sequence[tuple[TaskId, float]]  # seconds of the last attempt
    first_start: datetime | None
    last_end: datetime | None

    @property
    def run_seconds(self) -> float | None:
        """From the first start to the last end; None if nothing ran."""
        if self.first_start is None or self.last_end is None:
            return None
        return max(0.0, (self.last_end - self.first_start).total_seconds())

    def seconds_since(self, moment: datetime | None) -> float | None:
        """From this moment to the last end."""
        if moment is None or self.last_end is None:
            return None
        return max(0.0, (self.last_end - moment).total_seconds())

    def to_summary(self) -> Document:
        """For the summary of a batch."""
        moments = {"first_start": self.first_start, "last_end": self.last_end}
        return {
            "looked_at": self.looked_at,
            "attempts": self.attempts,
            "slowest": self.slowest_json(),
            **{name: value for name, value in moments.items() if value is not None},
        }

    def slowest_json(self) -> list[Document]:
        return [{"_id": str(task_id), "seconds": round(seconds, 3)} for task_id, seconds in self.slowest]


def from_summary(summary: Mapping[str, Any] | None) -> BatchFacts | None:
    """What was frozen; None for a summary of a version that did not."""
    if summary is None or (looked_at := whole_number(summary.get("looked_at"))) is None:
        return None
    slowest = summary.get("slowest")
    return BatchFacts(
        looked_at=looked_at,
        attempts=whole_number(summary.get("attempts")) or 0,
        slowest=[
            (str(one.get("_id")), float(one["seconds"]))
            for one in (slowest if isinstance(slowest, list) else ())
            if isinstance(one, Mapping) and isinstance(one.get("seconds"), (int, float))
        ],
        first_start=_moment(summary.get("first_start")),
        last_end=_moment(summary.get("last_end")),
    )


def look_at(store: Store, batch_id: str, *, seconds: float) -> BatchFacts:
    """Look at its ended tasks for about so long; at one at least."""
    look = Look(batch_id, seconds)
    look.go_on(store, seconds)
    return look.facts()


class Look:
    """A look at the ended tasks of a batch that is taken in pieces, for those who have others to serve in between."""

    def __init__(self, batch_id: str, seconds: float) -> None:
        """`seconds`: that all pieces together may take."""
        self._which = TaskFilter(batch=batch_id, statuses=frozenset(map(int, ENDED)), or_failed=True)
        self._left_seconds = seconds
        self._cursor: str | None = None
        self._size = 1
        self.is_over = False
        self._looked_at = self._attempts = 0
        self._slowest: list[tuple[float, str, TaskId]] = []
        self._first_start: datetime | None = None
        self._last_end: datetime | None = None

    def go_on(self, store: Store, seconds: float) -> bool:
        """Look for about so long; returns whether it is over: all were seen, or there is no time for more."""
        began = time.monotonic()
        until = began + min(seconds, self._left_seconds)
        while not self.is_over:
            page = store.find_page(
                self._which, limit=self._size, newest_first=False, cursor=self._cursor, with_parameters=False
            )
            for task in page.tasks:
                self._see(task)
            self._cursor, self._size = page.next, min(2 * self._size, _PAGE_MAX)
            self.is_over = page.next is None
            if time.monotonic() > until:
                break
        self._left_seconds -= time.monotonic() - began
        self.is_over = self.is_over or self._left_seconds <= 0
        return self.is_over

    def _see(self, task: Task) -> None:
        self._looked_at += 1
        self._attempts += task.last_attempt
        for run in (*task.attempts[:1], task.run):  # the first start may be that of an earlier attempt
            self._see_moments(run)
        seconds = task.run.get("seconds")
        if isinstance(seconds, (int, float)):
            entry = (float(seconds), str(task.id), task.id)
            if len(self._slowest) < _SLOWEST:
                heapq.heappush(self._slowest, entry)
            else:
                heapq.heappushpop(self._slowest, entry)

    def _see_moments(self, run: Any) -> None:
        if not isinstance(run, Mapping):
            return
        started, ended = _moment(run.get("started")), _moment(run.get("ended"))
        if started is None:
            return  # it was cancelled or expired before it ran
        if self._first_start is None or started < self._first_start:
            self._first_start = started
        if ended is not None and (self._last_end is None or ended > self._last_end):
            self._last_end = ended

    def facts(self) -> BatchFacts:
        return BatchFacts(
            looked_at=self._looked_at,
            attempts=self._attempts,
            slowest=[(task_id, seconds) for seconds, _, task_id in sorted(self._slowest, reverse=True)],
            first_start=self._first_start,
            last_end=self._last_end,
        )


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
