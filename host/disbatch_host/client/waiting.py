"""Waiting until tasks have ended.

Responsible for: checking often enough to notice soon and seldom enough to cost little, and the final tally.
Must not know: how progress and results are shown.

Rules:
1. However many tasks are waited for, querying takes at most about a tenth of the time: each look covers some
   of them in turn, and continues as long as nearly all of those have ended.
2. Only ids and statuses are kept, and the reasons of the first tasks that did not conclude.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from disbatch_host.client.finding import find_task
from disbatch_host.client.history import reason_in_short
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Task, TaskId
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import UNFINISHED, Status

NAMED_MAX = 20  # tasks named at the end
_LOOK_SECONDS = 0.5  # between looks, unless the store wakes us
_LOOK_BUSY_SECONDS = 0.05  # of these, at most, for looks that find little
_IDS_IN_LOOK = 1000  # per query
_WORTHWHILE = 0.9  # ended: look at the next ones at once

_UNFINISHED = frozenset(int(status) for status in UNFINISHED)
_BAD = frozenset(int(status) for status in (Status.FAILED, Status.TERMINATED, Status.CANCELLED, Status.ORPHANED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the wait has come."""

    done: int  # tasks that ended, in any way
    failed: int  # of these, those that did not conclude
    total: int


OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTask:
    """A task that ended but did not conclude: failed, terminated, cancelled or orphaned."""

    id: TaskId
    status: int
    reason: str  # in short; empty if there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The state of the tasks at the end of a wait."""

    done: int  # that ended
    failed: int  # of these, those that did not conclude
    unfinished: int  # above 0 only after a timeout
    first_failed: tuple[FailedTask, ...] = ()  # some of them, at most 20
    first_unfinished: tuple[TaskId, ...] = ()
    statuses: Mapping[TaskId, int] = field(default_factory=dict, repr=False)  # of tasks named by id, ended ones first

    @property
    def all_concluded(self) -> bool:
        return not self.failed and not self.unfinished


def wait_for_tasks(
    store: Store, ids: Iterable[TaskId], *, deadline: float | None = None, on_progress: OnProgress | None = None
) -> Waited:
    """Wait until all of them have ended, or the monotonic clock has reached the deadline.

    Raises NotFoundError for the first that does not exist, and if one is deleted meanwhile."""
    tasks = _Tasks(store, ids)
    tell = on_progress or (lambda progress: None)
    _look_until(store, deadline, lambda: tasks.look(tell))
    return tasks.waited()


def wait_for_queue(
    store: Store, queue: Queue, *, deadline: float | None = None, on_progress: OnProgress | None = None
) -> Waited:
    """Wait until the queue has no unfinished tasks, including any that are created meanwhile. Counts the tasks that
    end during the wait."""
    tasks = _TasksOfQueue(store, queue)
    tell = on_progress or (lambda progress: None)
    _look_until(store, deadline, lambda: tasks.look(tell))
    return tasks.waited()


def wait_for_ends(
    store: Store, ids: Iterable[TaskId], on_ended: Callable[[int], object] = lambda count: None
) -> list[Task]:
    """Wait until these tasks have ended or been deleted; returns those that were not cancelled. `on_ended` gets the
    number since the last call."""
    left = set(ids)
    others: list[Task] = []
    watcher = store.watch()
    try:
        while left:
            found = {one.id: one for one in _tasks_now(store, left)}
            ended = {one for one in left if one not in found or statuses.is_finished(found[one].status)}
            others += [found[one] for one in ended if one in found and found[one].status != Status.CANCELLED]
            left -= ended
            on_ended(len(ended))
            if left:
                watcher.wait(_LOOK_SECONDS)
    finally:
        watcher.close()
    return others


def _tasks_now(store: Store, ids: Iterable[TaskId]) -> Iterator[Task]:
    for some in _in_pieces(list(ids)):
        yield from store.find_tasks(TaskFilter(ids=some), with_output=False)


def _in_pieces(ids: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    return (ids[start : start + _IDS_IN_LOOK] for start in range(0, len(ids), _IDS_IN_LOOK))


def _look_until(store: Store, deadline: float | None, has_ended: Callable[[], bool]) -> None:
    """Wait until it has ended or the time is up."""
    watcher = store.watch()
    try:
        while True:
            began = time.monotonic()
            if has_ended():
                return
            # On a busy store the watcher wakes us at once, again and again.
            pause = min(_LOOK_SECONDS, (time.monotonic() - began) * _LOOK_SECONDS / _LOOK_BUSY_SECONDS)
            left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return
            woken_at = time.monotonic() + min(pause, left)
            watcher.wait(left)
            time.sleep(max(0.0, woken_at - time.monotonic()))
    finally:
        watcher.close()


def _failed_task(task: Task) -> FailedTask:
    return FailedTask(id=task.id, status=task.status, reason=reason_in_short(task))


class _Tasks:
    """Tasks by id."""

    def __init__(self, store: Store, given: Iterable[TaskId]) -> None:
        """Raises NotFoundError for the first that does not exist."""
        self._store = store
        self._status_of: dict[TaskId, int] = {}  # as last seen
        self._failed = 0
        self._first_failed: list[FailedTask] = []
        texts: dict[TaskId, str] = {}
        for text in map(str, given):
            task_id = store.parse_id(text)
            if task_id is None:
                find_task(store, text)  # raises NotFoundError
            texts[task_id] = text
        for some in _in_pieces(list(texts)):
            found = self._note(some)
            for task_id in some:
                if task_id not in found:
                    find_task(store, texts[task_id])
        self._total = len(texts)
        self._open = deque(one for one in texts if not statuses.is_finished(self._status_of[one]))  # in turn

    def look(self, tell: OnProgress) -> bool:
        """Look at some of the unfinished tasks; whether all have ended."""
        began, left = time.monotonic(), len(self._open)
        self._tell(tell)
        while left > 0 and time.monotonic() - began < _LOOK_BUSY_SECONDS:
            some = [self._open.popleft() for _ in range(min(left, _IDS_IN_LOOK))]
            left -= len(some)
            if len(self._note(some)) < len(some):
                raise NotFoundError("a task that was waited for no longer exists; somebody deleted it")
            still_open = [one for one in some if not statuses.is_finished(self._status_of[one])]
            self._open.extend(still_open)
            if len(still_open) <= (1 - _WORTHWHILE) * len(some):
                began = time.monotonic()
            self._tell(tell)
        return not self._open

    def waited(self) -> Waited:
        still_open = set(self._open)
        order = (*(one for one in self._status_of if one not in still_open), *self._open)
        return Waited(
            done=self._total - len(self._open),
            failed=self._failed,
            unfinished=len(self._open),
            first_failed=tuple(self._first_failed),
            first_unfinished=tuple(self._open)[:NAMED_MAX],
            statuses={one: self._status_of[one] for one in order},
        )

    def _tell(self, tell: OnProgress) -> None:
        tell(Progress(done=self._total - len(self._open), failed=self._failed, total=self._total))

    def _note(self, ids: Sequence[TaskId]) -> set[TaskId]:
        """Record the current statuses; returns the ids that exist."""
        found = set()
        for task in self._store.find_tasks(TaskFilter(ids=ids), with_output=False, in_any_order=True):
            if task.id in found:  # a task that changes meanwhile may come twice
                continue
            found.add(task.id)
            self._status_of[task.id] = task.status
            if statuses.is_finished(task.status) and task.status != Status.CONCLUDED:
                self._failed += 1
                if len(self._first_failed) < NAMED_MAX:
                    self._first_failed.append(_failed_task(task))
        return found


class _TasksOfQueue:
    """All tasks of a queue."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._since = store.now()
        self._unfinished = TaskFilter(queue=queue.id, statuses=_UNFINISHED)
        self._bad = TaskFilter(queue=queue.id, statuses=_BAD, or_failed=True)
        self._concluded = TaskFilter(queue=queue.id, statuses=frozenset({int(Status.CONCLUDED)}))
        self._left = store.count_tasks(self._unfinished)
        self._ended_before, self._bad_before = self._ended(), store.count_tasks(self._bad)
        self._resume_at = 0.0

    def look(self, tell: OnProgress) -> bool:
        """Whether nothing is unfinished; after a slow look, the next ones are skipped for a while."""
        began = time.monotonic()
        if began < self._resume_at:
            return False
        self._left = self._store.count_tasks(self._unfinished)
        done = self._done()
        failed = max(0, self._store.count_tasks(self._bad) - self._bad_before)
        tell(Progress(done=done, failed=failed, total=done + self._left))
        took = time.monotonic() - began
        self._resume_at = began + took * _LOOK_SECONDS / _LOOK_BUSY_SECONDS
        return self._left == 0

    def waited(self) -> Waited:
        failed, count = self._failed_since(self._since)
        unfinished: tuple[TaskId, ...] = ()
        if self._left:
            found = self._store.find_tasks(self._unfinished, limit=NAMED_MAX, with_output=False, in_any_order=True)
            unfinished = tuple(task.id for task in found)
        return Waited(
            done=self._done(),
            failed=count,
            unfinished=self._left,
            first_failed=tuple(map(_failed_task, failed)),
            first_unfinished=unfinished,
        )

    def _done(self) -> int:
        """The number that ended since the start. Tasks that are retried or deleted meanwhile lower it, but never
        below 0."""
        return max(0, self._ended() - self._ended_before)

    def _ended(self) -> int:
        return self._store.count_tasks(self._concluded) + self._store.count_tasks(self._bad)

    def _failed_since(self, since: datetime) -> tuple[list[Task], int]:
        """Some of the tasks that ended since then without concluding, and their number."""
        bad = self._bad
        which = TaskFilter(queue=bad.queue, statuses=bad.statuses, or_failed=True, changed_since=since)
        count = self._store.count_tasks(which)
        return list(self._store.find_tasks(which, limit=NAMED_MAX, with_output=False)) if count else [], count
